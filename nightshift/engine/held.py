"""Days that validation refused, and what people decided about days.

    held/<dataset>/<date>.<checksum>.json      one day with exactly these files

Validation's refusal makes it *held*. A person lets it in (*accepted*: ingest takes it, and what validation says against
it is a warning from then on) or takes it out for good (*dropped*, also a day that is in the snapshot). Replaced files
are another checksum, about which nobody has decided anything. The object keeps every decision with who and why.
"""

import json
from datetime import UTC, datetime
from typing import Any

from nightshift.releases.store import Store

HELD, ACCEPTED, DROPPED = "held", "accepted", "dropped"


def days(store: Store, dataset: str) -> list[dict[str, Any]]:
    """Every day about which something was decided, oldest first: ``date``, ``checksum``, ``state``, ``reason``, …"""
    return [_read(store.get(key)) for key in store.list(f"held/{dataset}/")]


def hold(store: Store, day: dict[str, Any]) -> None:
    """Validation refused this day; what was decided about it before stays."""
    refused = {"state": HELD, "reason": day["reason"], "run": day["run"]}
    store.put_new(_key(day), _dump(day | {"state": HELD, "decisions": [refused]}))


def decide(store: Store, day: dict[str, Any], state: str, *, who: str, reason: str) -> dict[str, Any]:
    """A person's word on a day (``dataset``, ``date``, ``checksum``, ``landed``), kept beside the earlier ones.

    Returns:
        The object as it is now, with the decision as its ``reason``.
    """
    key = _key(day)
    decision = {"state": state, "who": who, "reason": reason, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    while True:
        try:
            data, version = store.read(key)
            before: dict[str, Any] = _read(data)
        except KeyError:
            before, version = {**day, "decisions": []}, None
        now = before | {"state": state, "reason": f"{state} by {who}: {reason}"}
        now["decisions"] = [*before["decisions"], decision]
        if store.swap(key, _dump(now), version):
            return now


def _key(day: dict[str, Any]) -> str:
    return f"held/{day['dataset']}/{day['date']}.{day['checksum']}.json"


def _read(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)
    return {"state": HELD, "decisions": []} | found  # as they were written before people could decide


def _dump(day: dict[str, Any]) -> bytes:
    return (json.dumps(day, indent=1, ensure_ascii=False) + "\n").encode()
