"""What was decided about days: validation held one, or a person let one in or took one out.

Each decision is ``{"date", "checksum", "landed", "state", "reason"}`` about exactly one day's files; ``state`` is held
(left out), accepted (taken, and marked so for validation) or dropped (left out, and taken out of a snapshot
that has it).
"""

from typing import Any


class Decisions:
    """The decisions about one data set's days, by what names their files."""

    def __init__(self, decided: list[dict[str, Any]]):
        self._all = [{"state": "held", **decision} for decision in decided]
        self._by_files = {(one["date"], one["checksum"]): one for one in self._all}
        self._by_listing = {(one["date"], one.get("landed")): one for one in self._all if one["state"] != "accepted"}

    def leaves(self, day: str, report: dict[str, Any], *, checksum: str | None = None, landed: str = "") -> bool:
        """Whether this day is left out, by its files' checksum or, without reading them, by how they are listed.

        The report names a held day every night; of one that a person dropped nothing is left to say.
        """
        key = (day, landed) if checksum is None else (day, checksum)
        found = (self._by_listing if checksum is None else self._by_files).get(key)
        if found is None or found["state"] == "accepted":
            return False
        if found["state"] == "held":
            report["held"].append({name: found[name] for name in ("date", "checksum", "reason")})
        return True

    def let_in(self, day: str, checksum: str) -> str | None:
        """Why a person let this day in; None when nobody did."""
        found = self._by_files.get((day, checksum))
        return str(found["reason"]) if found and found["state"] == "accepted" else None

    def dropped(self, days: dict[str, Any]) -> list[dict[str, str]]:
        """The days of the snapshot (its index) that a person takes out, as long as their files are those named."""
        return [
            {"date": one["date"], "reason": one["reason"]}
            for one in self._all
            if one["state"] == "dropped" and days.get(one["date"], {}).get("checksum") == one["checksum"]
        ]
