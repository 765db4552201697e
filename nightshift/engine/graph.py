"""The resolved graph of a commit, read by DVC in a child process once per content of what decides it."""

import hashlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nightshift.engine import lock
from nightshift.engine.dvc_index import FORMAT
from nightshift.engine.key import EMPTY_LISTING
from nightshift.engine.settings import child_environment
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
        raise NightshiftError((done.stderr.strip() or f"graph exited with {done.returncode}").removeprefix("error: "))
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
    deciding = {"params.yaml"}
    for file in blobs:
        if Path(file).name != "dvc.yaml":
            continue
        document = yaml.safe_load((root / file).read_bytes()) or {}
        deciding |= {file, *_named(document.get("vars"))}
        for stage in (document.get("stages") or {}).values():
            body = (stage or {}).get("do") or stage or {}
            params = [name for item in body.get("params") or [] if isinstance(item, dict) for name in item]
            deciding |= {*_named((stage or {}).get("vars")), *_named(body.get("vars")), *params}
    # A file name that is itself templated is known to DVC only.
    if any("${" in name or (name not in blobs and name != "params.yaml") for name in deciding):
        return None
    parts = [str(FORMAT), importlib.metadata.version("dvc")]
    parts += [f"{name} {blobs.get(name)}" for name in sorted(deciding)]
    parts += sorted(tracked(root, blobs))
    return f"graphs/{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}.json"


def _named(items: Any) -> list[str]:
    return [item.partition(":")[0] for item in items or [] if isinstance(item, str)]
