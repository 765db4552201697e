"""Begin: fix what a run is based on, once, so that all its tasks and their retries see the same."""

import datetime
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightshift.engine import graph, lock, night, overrides, plan
from nightshift.engine.journal import Journal
from nightshift.engine.key import md5
from nightshift.engine.objects import Objects, remote_url
from nightshift.engine.report import Receipt, say
from nightshift.engine.repository import Repository
from nightshift.engine.settings import branch, child_environment, home, setting
from nightshift.engine.workspace import workspace
from nightshift.errors import NightshiftError

CONF: dict[str, tuple[tuple[type, ...], Any, str]] = {
    "until": ((str, type(None)), None, "write it as YYYY-MM-DD"),
    "rerun": ((bool,), False, "write true or false"),
    "reason": ((str, type(None)), None, "write a sentence"),
    "params": ((list, type(None)), None, "write a list of texts, such as train.epochs=3"),
    "deploy": ((bool, type(None)), None, "write true or false, or leave it out"),
}


def begin(
    dag: str, run: str, conf: str | None, events: str | None, until: str | None, about: str | None = None
) -> Receipt:
    """Put the run's tree and base, create-only; a retry finds them and changes nothing.

    Args:
        conf: the run's form as JSON; its keys are those of ``CONF``.
        events: the asset events that started it, as JSON: a list with ``commit`` in each.
        until: the last day whose data counts, unless the form names one.
        about: what Airflow knows of the night, as JSON (see ``night.join``); without it the run belongs to none.

    Raises:
        NightshiftError: the form, params.yaml or the graph is wrong, or the snapshot is not in this remote.
    """
    happened = json.loads(events or "[]")
    asked = _asked(conf, happened)
    day = last_day(asked["until"] or until)
    journal = Journal.open(dag, run)
    if base := journal.get("base.json"):
        journal.check(base)
        return _receipt(base, "fixed before")
    with Repository.open(setting("NIGHTSHIFT_REPO")) as repository:
        tree = journal.get_tree()  # an attempt that died may have put it: then it fixes the commit
        commit = _commit_of(tree) if tree else _commit(repository, repository.tip(branch()), happened)
        content = repository.show(commit, "params.yaml") or b""
        blobs = repository.blobs(commit)
        archive = tree or repository.archive(commit)
    with workspace(home(), f"{dag}-{run}-begin", archive) as space:
        root = space.root
        if asked["params"]:
            (root / "params.yaml").write_bytes(content)  # without the overrides that an earlier attempt put
        resolved = graph.of_tree(root, blobs, journal.store)
        names = plan.mine(resolved, dag)
        if not names:
            raise NightshiftError(f"dvc.yaml at {commit[:12]} has no stage of DAG {dag}", "trigger another DAG")
        laid_over: dict[str, Any] = {}
        if asked["params"]:
            content, laid_over = overrides.lay(content, overrides.model_of(resolved, names, dag), asked["params"])
            (root / "params.yaml").write_bytes(content)
            archive = overrides.in_tree(archive, content)
        check_params(root, laid_over)
        if laid_over:
            blobs = blobs | {"params.yaml": md5(content)}  # no blob of the repository
            before, resolved = resolved, graph.of_tree(root, blobs, journal.store)
            overrides.same_but_values(before, resolved)
        base = {
            "dag": dag,
            "run": run,
            "commit": commit,
            "branch": branch(),
            "until": day,
            "conf": asked,
            "overrides": laid_over,
            **laid(root, blobs, resolved, names),
        }
        base["nights"] = _join(journal, json.loads(about), happened, base["params"]) if about else []
    for other in resolved["elsewhere"]:
        say(f"not run by nights, because it is not in the root's dvc.yaml: {other}")
    check_inputs(base, Objects(base["remote"], home() / "cache"))
    if not tree and not journal.put_tree(archive):
        return begin(dag, run, conf, events, until, about)  # another attempt was faster, maybe with another commit
    journal.put("base.json", base)
    return _receipt(journal.base(), "fixed")  # another attempt may have been faster: its base stands


def laid(root: Path, blobs: Mapping[str, str], resolved: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The part of a base that the commit alone decides: the plan of these stages, and what it is read from."""
    data = graph.tracked(root, blobs)
    data |= {path: graph.first_entry(path) for path in resolved["data"] if path not in data}
    found = {
        "remote": remote_url(root / ".dvc" / "config"),
        "params": _yaml(root / "params.yaml"),
        "order": list(resolved["stages"]),
        "data": data,
        **plan.lay(resolved, names, root, _yaml(root / "dvc.lock"), data),
    }
    return found | {"champions": {m: (root / plan.CHAMPIONS / f"{m}.json").read_text() for m in found["pin"]}}


def _join(journal: Journal, about: dict[str, Any], events: list[dict[str, Any]], params: dict[str, Any]) -> list[str]:
    """The names of the nights that this run is part of; each then knows that it has begun."""
    began = {"run": journal.run, "after": about["after"], "queues": about["queues"]}
    began |= {"good": params["notify"]["good"]} if "notify" in params else {}
    began |= {key: value for key, value in params.get("schedule", {}).items() if key == "late_after_hours"}
    nights = night.join(journal.store, journal.dag, journal.run, about, events)
    for one in nights:
        one.replace(f"runs/{journal.dag}", began)
    return [one.name for one in nights]


def _yaml(file: Path) -> dict[str, Any]:
    return lock.load(file.read_bytes() if file.exists() else None)


def _receipt(base: dict[str, Any], word: str) -> Receipt:
    message = f"{word}: commit {base['commit'][:12]} of {base['branch']}, data until {base['until']}"
    if base["conf"]["rerun"]:
        message += ", every stage computed again"
    if laid_over := base.get("overrides"):
        message += f", with {overrides.said(laid_over)}"
    details = {name: base.get(name) for name in ("commit", "until", "overrides")}
    return Receipt("done", message, details)


def _asked(conf: str | None, events: list[dict[str, Any]]) -> dict[str, Any]:
    """The run's form; a rerun and its reason reach the runs that the first one starts."""
    asked = _conf(conf)
    return asked | {
        "params": [text for text in asked["params"] or [] if text.strip()],
        "rerun": asked["rerun"] or any(event.get("rerun") for event in events),
        "reason": asked["reason"] or next((event["reason"] for event in events if event.get("reason")), None),
    }


def _conf(text: str | None) -> dict[str, Any]:
    given = json.loads(text or "{}")
    if unknown := sorted(set(given) - set(CONF)):
        raise NightshiftError(
            f"unknown in the run's form: {', '.join(unknown)}", f"known: {', '.join(CONF)}", exit_code=2
        )
    for name, value in given.items():
        kinds, _, wanted = CONF[name]
        if not isinstance(value, kinds) or (
            isinstance(value, list) and not all(isinstance(text, str) for text in value)
        ):
            raise NightshiftError(f"{name} in the run's form is {value!r}", wanted, exit_code=2)
    return {name: default for name, (_, default, _) in CONF.items()} | given


def last_day(text: str | None) -> str:
    """The last day that counts: the one named, else the last complete one (UTC)."""
    if not text:
        return (datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)).isoformat()
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise NightshiftError(f"{text!r} is no day", CONF["until"][2], exit_code=2) from None


def _commit(repository: Repository, tip: str, events: list[dict[str, Any]]) -> str:
    """The tip when it contains what the newest event recorded, else that commit (a side branch)."""
    named = [event["commit"] for event in events if event.get("commit")]
    if not named or repository.contains(tip, named[-1]):
        return tip
    if repository.find(named[-1]) is None:
        raise NightshiftError(f"the asset event names commit {named[-1][:12]}, which the repository does not have")
    return str(named[-1])


def _commit_of(tree: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(tree), mode="r:gz") as archive:
        return archive.pax_headers["comment"]


def check_params(root: Path, laid_over: Mapping[str, Any] | None = None) -> None:
    """params.yaml of a commit, by the commit's own code; ``laid_over`` are the overrides that it has.

    Raises:
        NightshiftError: it is not understood; a line for each mistake.
    """
    if not (root / "pipelines" / "params" / "__main__.py").exists():
        return
    command = [sys.executable, "-m", "pipelines.params"]
    done = subprocess.run(command, cwd=root, env=child_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr + done.stdout).strip()
        if laid_over:
            words = f"{said}\n(with {overrides.said(laid_over)})"
            raise NightshiftError(words, "trigger the run again with other params", exit_code=2)
        raise NightshiftError(said, "mend params.yaml, commit and push it, run again")


def check_inputs(base: dict[str, Any], objects: Objects) -> None:
    """What the run reads and does not make is in this remote; a listing is put last, so it stands for its files.

    Raises:
        NightshiftError: something is not there; says what, and the way out.
    """
    made = {out for stage in base["stages"].values() for out in stage["outs"]}
    read = {path for stage in base["stages"].values() for path in stage["generated"]} - made
    for path in sorted(read):
        digest = base["hashes"].get(path)
        if not digest:
            raise NightshiftError(
                f"{base['dag']} reads {path}, which no run has made yet", "run the DAG that makes it first"
            )
        if not objects.exists(digest):
            raise NightshiftError(
                f"the commit {base['commit'][:12]} names {path} as {digest}, which is not in {objects.url}",
                f"`dvc push {path}` from a machine that has it; or start without it: `git checkout "
                "<a commit before the first night> -- data.dvc`, remove dvc.lock, commit, push",
            )
