"""The resolved graph of a commit, read by DVC in a child process once per content of what decides it."""

import hashlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nightshift.engine import lock, rules
from nightshift.engine.dvc_index import FORMAT
from nightshift.engine.key import EMPTY_LISTING
from nightshift.engine.repository import Repository
from nightshift.engine.settings import child_environment, setting
from nightshift.engine.workspace import unpack
from nightshift.errors import NightshiftError
from nightshift.releases.store import Store


def of_tree(root: Path, blobs: Mapping[str, str], store: Store, *, keep: bool = True) -> dict[str, Any]:
    """The graph of the commit whose tree is in ``root`` and whose files have these blob ids; kept for the next."""
    key = _key(root, blobs)
    if key is not None:
        try:
            cached: dict[str, Any] = json.loads(store.get(key))
            return cached
        except KeyError:
            pass
    graph = of_folder(root)
    if key is not None and keep:
        store.put_new(key, json.dumps(graph).encode())
    return graph


def of_revision(revision: str) -> dict[str, Any]:
    """The graph of a commit of NIGHTSHIFT_REPO, and what tells whether another commit has the same.

    Returns:
        What ``of_folder`` does; ``commit``: its id; ``made_of``: path to blob id (or None) of the files that decide it,
        None when only DVC knows them; ``tracked``: .dvc file to its blob id and the paths that it names; ``schedule``:
        that of params.yaml, or None; ``wrong``: a line for each reason why one of its stages cannot be run.

    Raises:
        NightshiftError: there is no such commit, or DVC cannot read it.
    """
    with Repository.open(setting("NIGHTSHIFT_REPO")) as repository, tempfile.TemporaryDirectory() as scratch:
        commit = repository.find(revision)
        if commit is None:
            raise NightshiftError(f"the repository has no {revision}", "`git log` shows what there is")
        root, blobs = Path(scratch) / "tree", repository.blobs(commit)
        unpack(repository.archive(commit), root)
        graph = of_folder(root)
        deciding = _deciding(root, blobs)
        files: dict[str, dict[str, Any]] = {f: {"blob": blobs[f], "outs": []} for f in blobs if f.endswith(".dvc")}
        for path, out in tracked(root, blobs).items():
            files[out["file"]]["outs"].append(path)
        return graph | {
            "commit": commit,
            "made_of": None if deciding is None else {path: blobs.get(path) for path in sorted(deciding)},
            "tracked": files,
            "schedule": _load(root / "params.yaml").get("schedule"),
            "approvals": _approvals(_load(root / "params.yaml")),
            "wrong": [
                f"{rules.sentence(name, graph['stages'][name], refusal)}; next: {refusal['cure']}"
                for name, refusals in graph["refused"].items()
                if name in graph["stages"]
                for refusal in refusals
            ],
        }


def of_folder(root: Path) -> dict[str, Any]:
    """The graph of the project in ``root`` (see ``dvc_index.read``), read in a child process.

    Raises:
        NightshiftError: DVC cannot read it; its words.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "nightshift.engine", "graph", "--root", str(root)],
        env=child_environment(DVC_SITE_CACHE_DIR=str(root.with_name("site"))),
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip() or f"graph exited with {done.returncode}").removeprefix("error: ")
        words, _, step = said.partition("\n  next: ")
        raise NightshiftError(words, step)
    graph: dict[str, Any] = json.loads(done.stdout)
    return graph


def tracked(root: Path, files: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The outputs of the commit's .dvc files: path from the root to the file that names it and its entry there."""
    found = {}
    for file in sorted(files):
        if not file.endswith(".dvc"):
            continue
        document = lock.load((root / file).read_bytes())
        for out in document.get("outs", []):
            path = Path(Path(file).parent, document.get("wdir", "."), out["path"]).as_posix()
            found[path] = {"file": file, "entry": out}
    return found


def first_entry(path: str) -> dict[str, Any]:
    """What ``tracked`` would say of a data set without a snapshot; ``dvc add`` cannot make one beside others."""
    entry = {"md5": EMPTY_LISTING, "nfiles": 0, "hash": "md5", "path": path}
    return {"file": "data.dvc", "entry": entry, "new": True}


def _key(root: Path, blobs: Mapping[str, str]) -> str | None:
    """Where the graph is kept; None when it is not known what decides it."""
    deciding = _deciding(root, blobs)
    if deciding is None:
        return None
    parts = [str(FORMAT), importlib.metadata.version("dvc")]
    parts += [f"{name} {blobs.get(name)}" for name in sorted(deciding)]
    parts += sorted(f"{path} {_kind(out['entry'])}" for path, out in tracked(root, blobs).items())
    return f"graphs/{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}.json"


def _deciding(root: Path, blobs: Mapping[str, str]) -> set[str] | None:
    """The files whose content decides the graph, beside the paths in .dvc files; None when only DVC knows them."""
    deciding = {file for file in blobs if Path(file).name == ".dvcignore"}
    deciding |= {file for file in blobs if file.endswith(".dvc") and set(_load(root / file)) & {"deps", "frozen"}}
    for file in blobs:
        if Path(file).name != "dvc.yaml":
            continue
        document = _load(root / file)
        named = {"params.yaml", *_named(document.get("vars"))}
        for stage in (document.get("stages") or {}).values():
            body = (stage or {}).get("do") or stage or {}
            if body.get("wdir"):
                return None  # templates, vars and params are looked up there
            named |= {name for item in body.get("params") or [] if isinstance(item, dict) for name in item}
            named |= {*_named((stage or {}).get("vars")), *_named(body.get("vars"))}
        deciding |= {file, *(Path(Path(file).parent, name).as_posix() for name in named)}
    # A file name that is itself templated is known to DVC only.
    if any("${" in name or (name not in blobs and Path(name).name != "params.yaml") for name in deciding):
        return None
    return deciding


def _kind(entry: Mapping[str, Any]) -> str:
    """What of an entry decides whether a worker can fetch it; its hash does not."""
    return " ".join(str(entry.get(name)) for name in ("hash", "cache", "push", "remote"))


def _approvals(params: dict[str, Any]) -> list[str]:
    """The models whose releases a person approves; what else is wrong with params.yaml is said elsewhere."""
    models = params.get("models")
    entries = models.items() if isinstance(models, dict) else ()
    policies = {name: entry.get("deploy") for name, entry in entries if isinstance(entry, dict)}
    return sorted(name for name, how in policies.items() if isinstance(how, dict) and how.get("policy") == "approval")


def _load(file: Path) -> dict[str, Any]:
    return (yaml.safe_load(file.read_bytes()) or {}) if file.exists() else {}


def _named(items: Any) -> list[str]:
    return [item.partition(":")[0] for item in items or [] if isinstance(item, str)]
