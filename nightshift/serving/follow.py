"""Follow the ledger in one thread: read, load what it wants (``load``), swap, drop.

The event loop never waits for any of it. A release that fails is refused for this order and the old one goes on; a
proven one that fails is tried again. When the store is away, what serves goes on serving, and a new process serves its
last known releases from its local copies.
"""

import logging
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nightshift.releases.errors import ReleaseError
from nightshift.releases.ledger import Ledger, Order
from nightshift.releases.manifest import short
from nightshift.releases.marks import Marks, retired, retirement
from nightshift.releases.registry import Registry
from nightshift.releases.signing import Trust
from nightshift.serving.canary import Tallies
from nightshift.serving.engine import Engine, drop
from nightshift.serving.last_known import LastKnown
from nightshift.serving.load import Loader, Overtaken, said
from nightshift.serving.model import LoadedModel
from nightshift.serving.processes import Peers

POLL_S = 2.0
_DRAIN_S = 30.0  # how long an old model may be kept by requests before that is worth a line in the log

log = logging.getLogger("nightshift.serving")


class Follower:
    """``copies`` is the folder of local copies; with ``trust`` only what one of its keys signed is loaded."""

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        engine: Engine,
        copies: Path,
        peers: Peers | None = None,
        trust: Trust | None = None,
    ):
        self.peers = peers or Peers()
        self.peers.answers |= {"status": self._of_process, "refresh": self.refresh}
        self.registry = registry
        self.ledger = ledger
        self.marks = Marks(registry.store)
        self.engine = engine
        self.copies = copies
        self.loader = Loader(registry, engine, copies, self.peers, trust)
        self._last_known = LastKnown(copies, registry.store.url)
        self.problem: str | None = None
        self.read_at = time.time()  # when the ledger was last read whole; before that, since when it was not
        self.swaps: Counter[str] = Counter()  # by model
        self.engine.is_complete = False
        self._missing: set[str] = set()  # models that have a champion, or may have one, and none answers
        self._known: set[str] = set()  # models with an order
        self._sequence: dict[str, int] = {}
        self.tallies = Tallies()
        self._trying: dict[str, Order] = {}  # per model the canary's order
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow the ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    def refresh(self) -> None:
        """Read the ledger now instead of at the next poll, and try again what failed."""
        self.loader.try_again()
        self._wake.set()

    @property
    def ready(self) -> bool:
        """True once the ledger (or, without it, the local copies) was read and every champion serves."""
        return self.engine.is_complete and not self._missing and (self.problem is None or bool(self.engine.names()))

    def status(self) -> dict[str, Any]:
        """Per model the digest that serves, the order it serves by, and the newest refusal; and the store's problem."""
        models = {
            name: {
                "serving": self.engine.serving(name),
                "signed_by": self.loader.signers.get(self.engine.serving(name) or ""),
                "sequence": self._sequence.get(name),
                "refused": self.loader.refused.get(name),
                "canary": self._canary_status(name),
                "retired": self.engine.tombstones.get(name, {}).get(""),
            }
            for name in sorted(self._known | set(self.engine.names()))
        }
        return {"models": models, "problem": self.problem}

    async def refresh_all(self) -> None:
        """As ``refresh``, in every process of this endpoint."""
        await self.peers.ask("refresh")

    async def all_ready(self) -> bool:
        """Whether every process of this endpoint is ready."""
        return all(one and one["ready"] for one in await self.peers.ask("status"))

    async def status_of_all(self) -> dict[str, Any]:
        """The status of the process that is asked, and under ``processes`` that of each (None: it is silent)."""
        return {**self.status(), "processes": await self.peers.ask("status")}

    def _of_process(self) -> dict[str, Any]:
        return {"process": self.peers.number, "pid": os.getpid(), "ready": self.ready, **self.status()}

    def _canary_status(self, name: str) -> dict[str, Any] | None:
        order, counts = self._trying.get(name), self.tallies.of(name)
        if order is None or counts is None or order.canary is None:
            return None
        return {
            "digest": order.digest,
            "sequence": order.sequence,
            "weight": order.canary.weight,
            "counts": counts,
        }

    def step(self) -> None:
        """One reading of the ledger and all that follows from it; never raises."""
        problem: str | None = None
        try:
            self._known = set(self.ledger.models())
            lost = set(self._last_known.read()) - self._known
            if lost:  # a ledger never forgets: it was emptied, or its folder is not mounted
                problem = f"{self.registry.store.url} has no orders of {min(lost)}, which was served by it before"
                self.ledger.forget()
                self.marks.forget()
        except ReleaseError as error:
            problem = error.message
        wanted = set(self._known)  # as long as it is not known that nothing is wanted of one
        for name in sorted(self._known):
            try:
                if not self._follow(name):
                    wanted.discard(name)
                self._follow_canary(name)
            except Overtaken:
                self._wake.set()
            except Exception as error:  # the store is away, this disk is full, an entry is unreadable
                problem = f"{name}: {said(error)}"
        if not (self._known or problem or self.engine.is_complete):
            log.warning(
                "%s has no orders: nothing serves until a night or `nightshift promote MODEL DIGEST` orders a release",
                self.registry.store.url,
            )
        if problem != self.problem:
            log.warning(problem) if problem else log.info("it is over: %s", self.problem)
        self.problem = problem
        if problem:  # which the status tells before what serves in spite of it
            self._serve_last_known()
        else:
            self.read_at = time.time()
        self._missing = {name for name in wanted if self.engine.serving(name) is None}
        self.engine.is_complete = True

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.step()
            except Exception:
                log.exception("following the ledger failed; what serves goes on, and it is tried again")
            self._wake.wait(POLL_S)

    def _follow(self, name: str) -> bool:
        """Serve what the ledger wants of this model; whether it names a champion."""
        marks = self.marks.of(name)
        ended = retired(marks)
        self.engine.tombstones[name] = {digest or "": str(retirement(marks, name, digest)) for digest in ended}
        if None in ended:
            self._end(name)
            return False
        candidates = list(self.ledger.candidates(name))
        has_champion = any(outcome for _, outcome in candidates)
        if self.engine.serving(name) is None:  # the champion first: what is not proven is measured against it
            candidates.sort(key=lambda one: one[1] is None)
        failed: Exception | None = None
        for order, outcome in candidates:
            if self.engine.serving(name) == order.digest:
                if self._sequence.get(name) != order.sequence:
                    if outcome is None:  # others may wait for this vote
                        self.peers.vote(name, order.sequence)
                    self._last_known.note(name, order.digest, order.sequence)
                    self._follows(name, order.sequence)
                return has_champion
            try:
                loaded = self.loader.agreed(order) if outcome is None else self.loader.proven(order)
            except Exception as error:  # of a champion: another release may serve in its place
                if outcome is None:
                    raise
                failed = error
                continue
            if loaded:
                self._serve(loaded, order.sequence)
                if outcome and len(candidates) > 1:
                    self._wake.set()  # the others are still to be looked at
                return has_champion
        if failed:
            raise failed
        return has_champion

    def _follow_canary(self, name: str) -> None:
        """Try the canary that the ledger wants tried, and stop trying another."""
        order = self.ledger.canary(name)
        trying = self._trying.get(name)
        if order and self.engine.serving(name) in (None, order.digest):
            order = None
        if trying and (order is None or order.sequence != trying.sequence):
            self._end_canary(name)
            trying = None
        if order is None or trying or order.canary is None:
            return
        loaded = self.loader.agreed(order)
        if loaded is None:
            return
        # The status names a canary only while it answers: who has read that asks it at once.
        self.engine.try_out(loaded, order.canary.weight)
        self.tallies.begin(name, order.sequence)
        self._trying[name] = order
        log.info(
            "%s: %s answers %g of the requests by order %d", name, loaded.version, order.canary.weight, order.sequence
        )

    def _end_canary(self, name: str) -> None:
        old = self.engine.end_canary(name)  # before the status tells: who reads that there is none asks at once
        self.tallies.end(name)
        order = self._trying.pop(name)
        log.info("%s: %s is tried no longer", name, short(order.digest))
        self._drop(name, old)

    def _end(self, name: str) -> None:
        """A model that was retired answers no more."""
        if self._trying.get(name):
            self._end_canary(name)
        self._last_known.forget(name)  # before it stops: who has seen it gone does not find it again after a kill
        old = self.engine.stop(name)
        if not old:
            return
        log.info("%s", self.engine.tombstones[name][""])
        self._sequence.pop(name, None)
        self._drop(name, old)

    def _drop(self, name: str, old: "Sequence[weakref.ref[LoadedModel]]") -> None:
        if old and not drop(old, _DRAIN_S):
            log.warning("%s: requests still hold the old release after %.0f s", name, _DRAIN_S)

    def _serve(self, loaded: LoadedModel, sequence: int) -> None:
        self.tallies.end(loaded.name)
        self._trying.pop(loaded.name, None)
        # Before it serves: who has seen it serve finds it again after a kill, also while the store is away.
        self._last_known.note(loaded.name, loaded.digest, sequence)
        old = self.engine.swap(loaded)
        self.swaps[loaded.name] += 1
        log.info("%s: serving %s by order %d", loaded.name, loaded.version, sequence)
        self._follows(loaded.name, sequence)
        self._drop(loaded.name, old)
        self.loader.tidy(loaded.name)

    def _follows(self, name: str, sequence: int) -> None:
        self._sequence[name] = sequence
        self.loader.forget_refusals(name, before=sequence)

    def _serve_last_known(self) -> None:
        for name, last in self._last_known.read().items():
            if self.engine.serving(name):
                continue
            try:
                loaded, sequence = self.loader.load(name, last["digest"]), int(last["sequence"])
            except Exception as error:
                log.error("%s: what served last does not serve (%s): %s", name, last, error)
                continue
            log.warning("%s: its order cannot be read; serving its last known release", name)
            self._serve(loaded, sequence)
