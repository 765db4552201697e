"""Digests that DVC also computes, computed without DVC; contract tests compare them with DVC's own."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

EMPTY_LISTING = "d751713988987e9331980363e24189ce.dir"  # md5 of "[]": a folder without files


def run_key(cmd: Any, deps: Mapping[str, str], params: Mapping[str, Mapping[str, Any]], outs: Iterable[str]) -> str:
    """The run-cache key of a stage: sha256 hex over what decides its outputs.

    Args:
        cmd: the resolved command, a string or a list of them.
        deps: path to md5 (a folder's ends in ``.dir``), relative to the root.
        params: file to key to value.
        outs: paths, relative to the root.
    """
    wanted: dict[str, Any] = {
        "cmd": cmd,
        "deps": [{"path": path, "hash": "md5", "md5": deps[path]} for path in sorted(deps)],
        "outs": sorted(outs),
    }
    if params:
        wanted["params"] = params
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()


def md5(content: bytes) -> str:
    """The md5 by which DVC names a file."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def file_md5(file: Path) -> str:
    """The same of a file, of any size."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def listing(files: Mapping[str, str]) -> tuple[str, bytes]:
    """A folder's digest and its listing, from the md5 of each file by its path in the folder."""
    entries = [{"md5": files[path], "relpath": path} for path in sorted(files)]
    content = json.dumps(entries, sort_keys=True).encode()
    return md5(content) + ".dir", content
