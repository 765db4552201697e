"""Single flight: of all runs that need a stage with the same inputs, one computes it and the others wait.

A lease is the object ``leases/<key>.json``, replaced by its holder every few seconds as a sign of life, and by others
only as they last saw it (compare and set). It saves work and decides nothing: that fragments are created once and that
the same inputs give the same bytes holds also for two who compute at once, because a lease was lost.
"""

import json
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nightshift.engine import process
from nightshift.engine.report import say
from nightshift.releases.errors import ReleaseError
from nightshift.releases.store import Store

PATIENCE = 3  # signs of life that a holder may miss
TELL_S = 60


@contextmanager
def lease(store: Store, key: str, who: str, every_s: float) -> Iterator[None]:
    """Hold the lease of a key; waits while another holds it and lives, and says for whom.

    Args:
        who: the holder, for those who wait.
        every_s: seconds between two signs of life.
    """
    mine = _Lease(store, f"leases/{key}.json", who, every_s)
    mine.take()
    stop = threading.Event()
    beat = threading.Thread(target=mine.beat, args=(stop,), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        mine.give_back()


class _Lease:
    def __init__(self, store: Store, path: str, who: str, every_s: float):
        self.store, self.path, self.every_s = store, path, every_s
        self._holds = {"who": f"{who} on {platform.node()}", "holder": secrets.token_hex(8), "every_s": every_s}
        self._holds["process"] = process.me()
        self._beats = 0
        self._version: str | None = None  # of the object that we put last; None: not ours (any more)

    def take(self) -> None:
        begun = since = time.monotonic()
        seen, told = None, float(-TELL_S)
        while not self._version:
            found, version = self._read()
            now = time.monotonic()
            if version != seen:
                seen, since = version, now
            # By our own clock and what we saw ourselves: clocks of two machines are not compared.
            if not found or now - since > PATIENCE * found["every_s"] or process.is_gone(found["process"]):
                self._version = self.store.swap(self.path, self._content(), version)
                if self._version and found:
                    say(f"{found['who']} is gone; its work is done here")
            else:
                if now - begun - told >= TELL_S:
                    told = now - begun
                    say(f"{found['who']} computes it from the same inputs: waiting for that, {told:.0f} s so far")
                time.sleep(min(1, self.every_s))

    def beat(self, stop: threading.Event) -> None:
        content = self._content()
        while not stop.wait(self.every_s):
            try:
                self._version = self.store.swap(self.path, content, self._version)
            except ReleaseError:
                continue  # the same bytes again: the store knows them if only its answer was lost
            if not self._version:
                say("another run took this one for dead and computes it too; this one goes on")
                return
            content = self._content()

    def give_back(self) -> None:
        if self._version:
            try:
                self.store.swap(self.path, b"{}", self._version)
            except ReleaseError as error:
                say(f"the lease could not be given back, and runs out by itself: {error.message}")

    def _read(self) -> tuple[dict[str, Any] | None, str | None]:
        """Who holds it (None: nobody), and the object's version (None: there is none)."""
        try:
            content, version = self.store.read(self.path)
        except KeyError:
            return None, None
        try:
            return json.loads(content) or None, version
        except ValueError:
            return None, version

    def _content(self) -> bytes:
        self._beats += 1
        return json.dumps(self._holds | {"beats": self._beats}, indent=1).encode()
