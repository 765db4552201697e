"""What was used: requests, items and seconds of computing, per day, key, model and version.

    usage/<day>/<instance>.json    the sums of one process for one day (UTC), overwritten by that process alone

Counting is three additions. A thread writes the sums every ten seconds, so a killed process loses at most those, and no
process can lose another's.
"""

import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from nightshift.releases.errors import ReleaseError
from nightshift.releases.manifest import refuse_newer
from nightshift.releases.store import Store

FORMAT = 1
FLUSH_S = 10.0
_KEPT_DAYS = 32  # of sums that could not be written yet

log = logging.getLogger("nightshift.serving")


def instance() -> str:
    """A name that no other process has, ever."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


class Usage:
    """One process's sums. ``count`` is called by the event loop, the rest by a thread."""

    def __init__(self, store: Store | None, instance: str):
        self.store = store
        self.instance = instance
        self._days: dict[int, dict[tuple[str, str, str], list[float]]] = {}  # by days since 1970
        self._written: dict[int, int] = {}  # requests of the day when it was last written
        self._past: dict[str, tuple[datetime, dict[str, int]]] = {}

    def count(self, key: str, model: str, version: str, items: int, computed: float) -> None:
        """One answered request; ``computed`` in seconds."""
        sums = self._days.setdefault(int(time.time()) // 86400, {})
        row = sums.get((key, model, version))
        if row is None:
            row = sums[(key, model, version)] = [0, 0, 0.0]
        row[0] += 1
        row[1] += items
        row[2] += computed

    def flush(self) -> None:
        """Write the sums that grew. Raises ReleaseError when the store is away: they are kept and written later."""
        today = int(time.time()) // 86400
        for day in sorted(self._days)[:-_KEPT_DAYS]:
            log.error("usage of %s could not be written for %d days and is lost", _day(day), _KEPT_DAYS)
            self._days.pop(day)
        for day, sums in sorted(self._days.items()):
            rows = list(sums.items())
            requests = int(sum(row[0] for _, row in rows))
            if self.store is not None and self._written.get(day) != requests:
                self.store.put(f"usage/{_day(day)}/{self.instance}.json", self._document(day, rows))
                self._written[day] = requests
            if day < today - 1:  # a clock may go back over midnight, and then must not begin yesterday's sums anew
                self._days.pop(day)
                self._written.pop(day, None)

    def of_others(self, since: date) -> Iterator[tuple[date, str, int]]:
        """Day, key and requests since then of all other processes, also of those that this one's place was before."""
        if self.store is None:
            return
        today, objects = datetime.now(UTC).date(), self.store.written("usage/")
        for key, written in objects.items():
            day, who = _parts(key)
            if day is None or day < since or who == self.instance:
                continue
            known = self._past.get(key)
            if known is None or known[0] != written or day >= today:
                rows = _rows(self.store.get(key), key)
                requests: dict[str, int] = {}
                for row in rows:
                    requests[row.key] = requests.get(row.key, 0) + row.requests
                known = self._past[key] = (written, requests)
            yield from ((day, name, count) for name, count in known[1].items())
        self._past = {key: past for key, past in self._past.items() if key in objects}

    def _document(self, day: int, rows: Iterable[tuple[tuple[str, str, str], list[float]]]) -> bytes:
        said = [
            {
                "key": key,
                "model": model,
                "version": version,
                "requests": int(requests),
                "items": int(items),
                "compute_seconds": round(seconds, 6),
            }
            for (key, model, version), (requests, items, seconds) in rows
        ]
        return json.dumps({"format": FORMAT, "day": _day(day), "instance": self.instance, "rows": said}).encode()


@dataclass(frozen=True)
class Row:
    """What one key used of one version of a model; ``key`` is empty where none was asked for."""

    key: str
    model: str
    version: str
    requests: int
    items: int
    compute_seconds: float


def read(store: Store, first: date, last: date) -> list[Row]:
    """The rows of all processes from the first to the last day (UTC), both included."""
    found = []
    for key in store.list("usage/"):
        day, _ = _parts(key)
        if day is not None and first <= day <= last:
            found += _rows(store.get(key), key)
    return found


def sums(rows: Iterable[Row], by: Iterable[str]) -> dict[tuple[str, ...], Row]:
    """The rows added up, by some of ``key``, ``model`` and ``version``; what is not asked for is empty in them."""
    asked, found = tuple(by), dict[tuple[str, ...], Row]()
    for row in rows:
        where = tuple(getattr(row, name) for name in asked)
        old = found.get(where) or Row("", "", "", 0, 0, 0.0)
        found[where] = Row(
            **{name: getattr(row, name) if name in asked else "" for name in ("key", "model", "version")},
            requests=old.requests + row.requests,
            items=old.items + row.items,
            compute_seconds=old.compute_seconds + row.compute_seconds,
        )
    return dict(sorted(found.items()))


class Price(BaseModel):
    """What a model costs, in the table's currency."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_1000_requests: Decimal = Field(default=Decimal(0), ge=0)
    per_1000_items: Decimal = Field(default=Decimal(0), ge=0)
    per_compute_second: Decimal = Field(default=Decimal(0), ge=0)

    def of(self, row: Row) -> Decimal:
        whole = self.per_1000_requests * row.requests + self.per_1000_items * row.items
        return whole / 1000 + self.per_compute_second * Decimal(str(round(row.compute_seconds, 6)))


class Prices(BaseModel):
    """The table; ``"*"`` is every model that has no price of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str
    prices: Mapping[str, Price]

    def of(self, row: Row) -> Decimal:
        price = self.prices.get(row.model) or self.prices.get("*")
        return price.of(row) if price else Decimal(0)


def _day(number: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=number)).isoformat()


def _parts(key: str) -> tuple[date | None, str]:
    parts = key.split("/")
    try:
        return date.fromisoformat(parts[1]), parts[2].removesuffix(".json")
    except (IndexError, ValueError):
        return None, ""


def _rows(data: bytes, where: str) -> list[Row]:
    try:
        document: dict[str, Any] = json.loads(data)
        refuse_newer(document, where, FORMAT)
        names = Row.__dataclass_fields__
        return [Row(**{name: row[name] for name in names}) for row in document["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{where} is no record of usage: {error!r}", "move it away and tell its writer") from error
