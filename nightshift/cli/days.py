"""What ``accept`` and ``drop`` share: which day is meant, and a person's decision about it."""

import getpass
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from nightshift.cli.connect import take_settings
from nightshift.engine import held
from nightshift.engine.settings import setting
from nightshift.errors import NightshiftError
from nightshift.releases.store import open_store
from nightshift.stack.settings import find_root


class Decision(Enum):
    ACCEPT = held.ACCEPTED
    DROP = held.DROPPED


def decide(dataset: str, day: str, decision: Decision, reason: str) -> dict[str, Any]:
    """Put a person's decision about a day; returns the day as it is kept.

    Raises:
        NightshiftError: there is no such day to decide about, or no reason.
    """
    if not reason.strip():
        raise NightshiftError("a decision about a day needs a reason", "say why with --reason", exit_code=2)
    root = find_root()
    take_settings("deployer")
    store = open_store(setting("NIGHTSHIFT_WORK"))
    known = held.days(store, dataset)
    decided = [one for one in known if one["date"] == day]
    inside = _in_snapshot(root, dataset)
    meant: Mapping[str, Any] | None = decided[-1] if decided else None
    if decision is Decision.DROP and day in inside:
        meant = {"dataset": dataset, "date": day, **inside[day]}
    if meant is None or (decision is Decision.ACCEPT and meant["state"] == held.ACCEPTED):
        there = ", ".join(one["date"] for one in known if one["state"] == held.HELD) or "none"
        more = f"; in the snapshot of this checkout: {', '.join(inside) or 'none'}" if decision is Decision.DROP else ""
        what = "is let in already" if meant else "is not held"
        raise NightshiftError(
            f"{dataset} {day} {what} (held days: {there}{more})",
            "name one of these; a checkout that is behind: git pull && dvc pull",
            exit_code=2,
        )
    keys = ("dataset", "date", "checksum", "landed")
    return held.decide(
        store, {key: meant.get(key) for key in keys}, decision.value, who=getpass.getuser(), reason=reason
    )


def named(day: Mapping[str, Any]) -> str:
    return f"{day['dataset']} {day['date']}"


def _in_snapshot(root: Path, dataset: str) -> dict[str, dict[str, str]]:
    """The days of this checkout's snapshot: what names exactly these files.

    ``landed`` is computed as ``pipelines.ingest`` does, which is the checkout's own and nothing here imports; a test of
    ``drop`` holds the two together.
    """
    index = root / "data" / "profiles" / dataset / "index.json"
    try:
        partitions = json.loads(index.read_text())["partitions"]
    except FileNotFoundError:
        return {}
    found = {}
    for day, entry in partitions.items():
        files = sorted((file["name"], file["size"], file["etag"]) for file in entry["files"])
        landed = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        found[day] = {"checksum": entry["checksum"], "landed": landed}
    return found
