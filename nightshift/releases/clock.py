"""The time by the clock of a store: one clock for all who write there, however wrong their machines' own are.

It is asked for once, by an object that is put, looked at and removed; from then on the seconds are counted, so that a
machine whose clock is set, or goes back, changes nothing.
"""

import secrets
import time
from datetime import datetime, timedelta

from nightshift.releases.store import Store


class Clock:
    """Call it for the time. Needs the right to write; on S3 it is right to a second."""

    def __init__(self, store: Store):
        self._store = store
        self._asked: tuple[datetime, float] | None = None

    def __call__(self) -> datetime:
        if self._asked is None:
            since, key = time.monotonic(), f"clocks/{secrets.token_hex(8)}"
            self._store.put(key, b"")
            try:
                self._asked = self._store.written(key)[key], since
            finally:
                self._store.delete(key)
        at, since = self._asked
        return at + timedelta(seconds=time.monotonic() - since)
