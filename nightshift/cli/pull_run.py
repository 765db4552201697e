"""``nightshift pull-run RUN``: the exact state of a run, on a branch of this checkout or in a folder of its own."""

import json as json_
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from nightshift.cli.connect import take_settings
from nightshift.engine import lock, overrides
from nightshift.engine.journal import Journal, find
from nightshift.engine.record import branch_name, merged
from nightshift.engine.repository import Repository
from nightshift.errors import NightshiftError, Refused
from nightshift.stack import repository as checkouts
from nightshift.stack.settings import Stack, find_root


def pull_run(
    run: Annotated[str, typer.Argument(help="Airflow's run id, or dag/run where several DAGs have it.")],
    into: Annotated[
        Path | None, typer.Option(help="A folder that is not there yet. Default: this checkout, on a new branch.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One object instead of text.")] = False,
) -> None:
    """Bring a run's commit, overrides, lock entries, champions and data; edits are never overwritten."""
    root = find_root()
    take_settings("worker")
    journal = find(run)
    base, fragments = journal.base(), journal.fragments()
    branch = branch_name("runs", journal.dag, journal.run)
    unfinished = [name for name in base["order"] if name in base["stages"] and name not in fragments["stages"]]
    if into is None:
        _refuse_edits(root)
    commit = state(Repository(root), journal, base, fragments, unfinished)
    if into is None:
        folder, back = root, _switch(root, branch, commit)
        _bring(root, back)
    else:
        folder, back = into.resolve(), f"rm -rf {into}"
        _clone(root, folder, branch, commit)
    status = set(json_.loads(_dvc(folder, "status", "--json").stdout or "{}"))
    if wrong := sorted(status & set(fragments["stages"])):
        raise NightshiftError(f"brought, but `dvc status` names {', '.join(wrong)}, which this run has", back)
    done = {
        "dag": journal.dag,
        "run": journal.run,
        "folder": str(folder),
        "branch": branch,
        "commit": commit,
        "based_on": base["commit"],
        "overrides": base.get("overrides") or {},
        "unfinished": unfinished,
        "elsewhere": sorted(status - set(unfinished)),
        "back": back,
    }
    typer.echo(json_.dumps(done, indent=2, ensure_ascii=False) if json else "\n".join(_lines(done)))


def state(
    repository: Repository,
    journal: Journal,
    base: dict[str, Any],
    fragments: dict[str, dict[str, dict[str, Any]]],
    unfinished: list[str],
) -> str:
    """A commit on the run's base with all that the run found; stages that it did not finish have no lock entry.

    Raises:
        NightshiftError: no remote of the checkout has the run's base.
    """
    known = repository.find(base["commit"])
    for remote in repository.git("remote").decode().split() if known is None else ():
        repository.git("fetch", "--quiet", remote)
        known = known or repository.find(base["commit"])
    if known is None:
        raise NightshiftError(
            f"neither this checkout nor its remotes have commit {base['commit'][:12]}, which the run is based on",
            "`git remote add` the repository that the nights run on, then type this again",
        )
    files, _, _ = merged(repository, known, base, fragments)
    if base.get("overrides"):
        files["params.yaml"] = overrides.params_of(journal.tree())
    recorded = files.get("dvc.lock") or repository.show(known, "dvc.lock")
    if recorded and unfinished:
        files["dvc.lock"] = lock.without(recorded, unfinished)
    return repository.commit(known, files, f"The state of run {journal.dag}/{journal.run}\n") or known


def _refuse_edits(root: Path) -> None:
    """Raises Refused when tracked files of Git or of DVC have edits."""
    edited = checkouts.edited(root)
    changed = json_.loads(_dvc(root, "data", "status", "--json").stdout or "{}").get("uncommitted", {})
    edited += [str(path) for kind in ("modified", "renamed") for path in changed.get(kind, ())]
    if edited:
        raise Refused(
            f"this checkout has edits: {', '.join(edited)}",
            "`git stash` or `dvc commit` them, or bring the run elsewhere: --into DIR",
        )


def _switch(root: Path, branch: str, commit: str) -> str:
    """The checkout on the run's branch, made or found; returns what to type to go back."""
    repository = Repository(root)
    was = checkouts.git(root, "symbolic-ref", "--short", "HEAD", check=False).stdout.strip()
    before = was or f"--detach {checkouts.git(root, 'rev-parse', '--short', 'HEAD').stdout.strip()}"
    standing = repository.find(f"refs/heads/{branch}")
    if standing is None:
        checkouts.git(root, "branch", "--quiet", "--no-track", branch, commit)
    elif not repository.same_tree(standing, commit):
        raise Refused(
            f"branch {branch} is here already and has something else: a person's commits, or the run as it was before",
            f"git branch -m {branch} <another name>, then type this again",
        )
    checkouts.git(root, "switch", "--quiet", branch)
    return f"git switch {before} && dvc checkout" if was != branch else f"it was on {branch} before"


def _clone(root: Path, folder: Path, branch: str, commit: str) -> None:
    """A clone of the checkout on the run's branch, with its settings and its cache; it appears whole or not at all."""
    if folder.exists():
        raise Refused(f"{folder} is there already", "name a folder that is not, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        checkouts.git(root, "clone", "--quiet", "--no-checkout", str(root), str(made))
        checkouts.git(root, "push", "--quiet", str(made), f"{commit}:refs/heads/{branch}")
        checkouts.git(made, "switch", "--quiet", branch)
        if (root / ".dvc" / "config.local").exists():
            shutil.copy(root / ".dvc" / "config.local", made / ".dvc" / "config.local")
        _dvc(made, "cache", "dir", "--local", _dvc(root, "cache", "dir").stdout.strip())
        _bring(made, "mend it, then type this again")
        made.chmod(0o755)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _bring(folder: Path, back: str) -> None:
    """The data and outputs that the folder's commit names, out of the cache or else the remote."""
    data = checkouts.git(folder, "ls-files", "*.dvc").stdout.splitlines()
    done = _dvc(folder, "pull", "--quiet", *data, *lock.entries(folder), check=False)
    if done.returncode:
        raise NightshiftError(f"not all of the run's data could be brought: {done.stderr.strip()[-500:]}", back)


def _dvc(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise NightshiftError(f"dvc {' '.join(arguments)} failed in {folder}: {done.stderr.strip()[-500:]}")
    return done


def _lines(done: dict[str, Any]) -> list[str]:
    given = f", with {overrides.said(done['overrides'])}" if done["overrides"] else ""
    lines = [
        f"{done['dag']}/{done['run']} is in {done['folder']}, on branch {done['branch']}",
        f"  based on   {done['based_on'][:12]}{given}",
    ]
    if done["unfinished"]:
        lines.append(f"  not run    {', '.join(done['unfinished'])}: the run did not finish them; `dvc repro` does")
    if done["elsewhere"]:
        lines.append(
            f"  not of it  {', '.join(done['elsewhere'])}: other DAGs' stages, not of this state; `dvc status`"
        )
    if not done["unfinished"] and not done["elsewhere"]:
        lines.append("  dvc        up to date: `dvc repro` has nothing to do")
    lines.append(f"  to go back {done['back']}")
    if Stack.exists(Path(done["folder"])):
        lines.append("             before the next night: the nights of a stack run the branch that is checked out")
    return lines
