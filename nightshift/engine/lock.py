"""dvc.lock and .dvc files as text: read into plain values, changed entry by entry, written as DVC writes them.

Never merged line by line: that mixes two runs' hashes into one entry, and DVC calls the result up to date.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def load(content: bytes | str | None) -> dict[str, Any]:
    """Plain values by the same parser that DVC uses (YAML 1.2); nothing is an empty mapping."""
    return YAML(typ="safe", pure=True).load(content or "") or {}


def entries(root: Path) -> dict[str, Any]:
    """The entries of the dvc.lock in ``root`` by stage; none when there is no such file."""
    file = root / "dvc.lock"
    found: dict[str, Any] = load(file.read_bytes()).get("stages", {}) if file.exists() else {}
    return found


def merge_lock(content: bytes | None, entries: Mapping[str, Any], order: Sequence[str] = ()) -> bytes:
    """dvc.lock with these stages' entries set.

    A new entry goes where ``dvc repro`` on an empty lock would have written it (``order``), so that the file does not
    depend on which run recorded first.
    """
    document = _round_trip().load(content or b"") or {}
    if not document:
        document = _round_trip().load("schema: '2.0'\nstages: {}\n")
        document["stages"].fa.set_block_style()
    stages = document["stages"]
    rank = {name: number for number, name in enumerate(order)}
    for name in sorted(entries, key=lambda name: rank.get(name, len(rank))):
        if name in stages:
            stages[name] = entries[name]
            continue
        later = [i for i, other in enumerate(stages) if rank.get(other, -1) > rank.get(name, len(rank))]
        stages.insert(later[0] if later else len(stages), name, entries[name])
    return _dump(document)


def without(content: bytes, names: Sequence[str]) -> bytes:
    """dvc.lock without these stages' entries: DVC calls them changed."""
    document = _round_trip().load(content)
    for name in names:
        document["stages"].pop(name, None)
    return _dump(document)


def merge_data(content: bytes | None, outs: Mapping[str, Any]) -> bytes:
    """A .dvc file with these outputs set, by the path that the file gives them."""
    document = _round_trip().load(content or b"") or {"outs": []}
    at = {out["path"]: number for number, out in enumerate(document["outs"])}
    for path, entry in outs.items():
        if path in at:
            document["outs"][at[path]] = entry
        else:
            document["outs"].append(entry)
    return _dump(document)


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.default_flow_style = False
    return yaml


def _dump(document: Any) -> bytes:
    stream = io.BytesIO()
    _round_trip().dump(document, stream)
    return stream.getvalue()
