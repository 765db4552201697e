"""Follow the ledger in one thread: read, fetch, verify, load, warm, prove, swap, drop.

The event loop never waits for any of it. A release that fails is refused for this order and the old one goes on. When
the store is away, what serves goes on serving, and a new process serves its last known releases from its local copies.
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

from nightshift.releases.errors import (
    FormatTooNew,
    ReleaseCorrupt,
    ReleaseError,
    ReleaseUnknown,
    ReleaseUnsigned,
    StoreUnavailable,
)
from nightshift.releases.ledger import Ledger, Order
from nightshift.releases.manifest import short
from nightshift.releases.marks import Marks, retired, retirement
from nightshift.releases.registry import Registry
from nightshift.releases.signing import UNSIGNED, Trust
from nightshift.serving.canary import Tallies
from nightshift.serving.engine import Engine, drop
from nightshift.serving.last_known import LastKnown
from nightshift.serving.model import LoadedModel, ReleaseRefused, load
from nightshift.serving.processes import Peers

POLL_S = 2.0
_DRAIN_S = 30.0  # how long an old model may be kept by requests before that is worth a line in the log
_QUICK_S = 0.005  # what answers so fast is not slow, whatever the champion takes: measured times scatter

log = logging.getLogger("nightshift.serving")


class _Overtaken(Exception):
    """Another process of this endpoint is at a newer order already."""


class Follower:
    """``copies`` is the folder of local copies.

    With ``trust`` only what one of its keys signed is loaded.
    """

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
        self.trust = trust
        self._last_known = LastKnown(copies, registry.store.url)
        self.problem: str | None = None
        self.read_at = time.time()  # when the ledger was last read whole; before that, since when it was not
        self.counts: Counter[tuple[str, ...]] = Counter()  # ("swaps", model) and ("refused", model, kind of fault)
        self._read_once = False
        self._known: set[str] = set()  # models with an order
        self._sequence: dict[str, int] = {}
        self._refused: dict[str, dict[str, Any]] = {}  # the newest refusal of each model, as /status shows it
        self.tallies = Tallies()
        self._signers: dict[str, str] = {}  # per digest the id of the trusted key that signed it
        self._trying: dict[str, Order] = {}  # per model the canary's order
        self._never_again: set[tuple[str, int]] = set()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow the ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    def refresh(self) -> None:
        """Read the ledger now instead of at the next poll."""
        self._wake.set()

    @property
    def ready(self) -> bool:
        """True once the ledger (or, without it, the local copies) was read and something serves, if anything should."""
        return self._read_once and (self.problem is None or bool(self.engine.names()))

    def status(self) -> dict[str, Any]:
        """Per model the digest that serves, the order it serves by, and the newest refusal; and the store's problem."""
        models = {
            name: {
                "serving": self.engine.serving(name),
                "signed_by": self._signers.get(self.engine.serving(name) or ""),
                "sequence": self._sequence.get(name),
                "refused": self._refused.get(name),
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
        return all(said and said["ready"] for said in await self.peers.ask("status"))

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
        except ReleaseError as error:
            problem = error.message
        for name in sorted(self._known):
            try:
                self._follow(name)
                self._follow_canary(name)
            except _Overtaken:
                self.refresh()
            except (ReleaseError, OSError) as error:  # the store is away, this disk is full, an entry is unreadable
                problem = f"{name}: {error.message if isinstance(error, ReleaseError) else error}"
        if problem:
            self._serve_last_known()
        if problem != self.problem:
            log.warning(problem) if problem else log.info("the registry answers again")
        self.problem = problem
        if problem is None:
            self.read_at = time.time()
        self._read_once = True

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.step()
            except Exception:
                log.exception("following the ledger failed; what serves goes on, and it is tried again")
            self._wake.wait(POLL_S)

    def _follow(self, name: str) -> None:
        marks = self.marks.of(name)
        ended = retired(marks)
        self.engine.tombstones[name] = {digest or "": str(retirement(marks, name, digest)) for digest in ended}
        if None in ended:
            self._end(name)
            return
        for order in self.ledger.candidates(name):
            if self.engine.serving(name) == order.digest:
                if self._sequence.get(name) != order.sequence:
                    self._remember(name, order.digest, order.sequence)
                return
            if (name, order.sequence) in self._never_again:
                continue
            loaded = self._agreed(order)
            if loaded:
                self._serve(loaded, order.sequence)
                return

    def _follow_canary(self, name: str) -> None:
        """Try the canary that the ledger wants tried, and stop trying another."""
        order = self.ledger.canary(name)
        champion = self.engine.serving(name)
        trying = self._trying.get(name)
        if order is None or champion in (None, order.digest) or (name, order.sequence) in self._never_again:
            order = None
        if trying and (order is None or order.sequence != trying.sequence):
            self._end_canary(name)
            trying = None
        if order is None or trying or order.canary is None:
            return
        loaded = self._agreed(order)
        if loaded is None:
            return
        self.tallies.begin(name, order.sequence)
        self._trying[name] = order
        self.engine.try_out(loaded, order.canary.weight)
        log.info(
            "%s: %s answers %g of the requests by order %d", name, loaded.version, order.canary.weight, order.sequence
        )

    def _end_canary(self, name: str) -> None:
        self.tallies.end(name)
        order = self._trying.pop(name)
        log.info("%s: %s is tried no longer", name, short(order.digest))
        self._drop(name, self.engine.end_canary(name))

    def _agreed(self, order: Order) -> LoadedModel | None:
        """The release of this order, loaded, if every process of this endpoint can serve it; else it is refused."""
        loaded, fault, kind = None, "", "another process"
        try:
            loaded = self._load(order.model, order.digest)
            fault = self._too_slow(order, loaded)
            kind = "slow" if fault else kind
        except (StoreUnavailable, OSError):
            raise  # says nothing about the release
        except Exception as error:
            fault, kind = str(getattr(error, "message", None) or error), _kind(error)
        agreed = self.peers.agree(order.model, order.sequence, fault)
        if agreed is None:
            raise _Overtaken
        if agreed or loaded is None:
            self._refuse(order, agreed or fault, kind)
            return None
        return loaded

    def _too_slow(self, order: Order, loaded: LoadedModel) -> str:
        """Why measured latency forbids it, in words: its golden requests against the champion's, on this machine."""
        served = self.engine.served(order.model)
        if order.slower is None or served is None or loaded.seconds <= _QUICK_S:
            return ""
        times = loaded.seconds / max(served.champion.seconds, _QUICK_S / order.slower)
        if times <= order.slower:
            return ""
        took, before = loaded.seconds * 1000, served.champion.seconds * 1000
        return (
            f"its golden request takes {took:.1f} ms, the champion's {before:.1f}: {order.slower:g} times are allowed"
        )

    def _end(self, name: str) -> None:
        """A model that was retired answers no more."""
        if self._trying.get(name):
            self._end_canary(name)
        old = self.engine.stop(name)
        if not old:
            return
        log.info("%s", self.engine.tombstones[name][""])
        self._sequence.pop(name, None)
        self._last_known.keep({known: last for known, last in self._last_known.read().items() if known != name})
        self._drop(name, old)

    def _drop(self, name: str, old: "Sequence[weakref.ref[LoadedModel]]") -> None:
        if old and not drop(old, _DRAIN_S):
            log.warning("%s: requests still hold the old release after %.0f s", name, _DRAIN_S)

    def _load(self, name: str, digest: str) -> LoadedModel:
        folder = self.registry.fetch(name, digest, self.copies)
        if self.trust:  # before anything of it is executed
            self._signers[digest] = self.trust.demand(self.registry, folder, name, digest).id
        return load(folder, name, digest)

    def _refuse(self, order: Order, reason: str, kind: str) -> None:
        self.counts["refused", order.model, kind] += 1
        self._never_again.add((order.model, order.sequence))
        self._refused[order.model] = {
            "sequence": order.sequence,
            "digest": order.digest,
            "reason": reason,
            "kind": kind,
        }
        kept = self.engine.serving(order.model)
        going_on = f"{short(kept)} goes on" if kept else "nothing serves"
        log.error(
            "%s: order %d (%s) refused, %s: %s", order.model, order.sequence, short(order.digest), going_on, reason
        )

    def _serve(self, loaded: LoadedModel, sequence: int) -> None:
        self.tallies.end(loaded.name)
        self._trying.pop(loaded.name, None)
        old = self.engine.swap(loaded)
        self.counts["swaps", loaded.name] += 1
        log.info("%s: serving %s by order %d", loaded.name, loaded.version, sequence)
        self._remember(loaded.name, loaded.digest, sequence)
        self._drop(loaded.name, old)

    def _remember(self, name: str, digest: str, sequence: int) -> None:
        self._sequence[name] = sequence
        refused = self._refused.get(name)
        if refused and refused["sequence"] < sequence:
            del self._refused[name]
        self._last_known.keep({**self._last_known.read(), name: {"digest": digest, "sequence": sequence}})

    def _serve_last_known(self) -> None:
        for name, last in self._last_known.read().items():
            if self.engine.serving(name):
                continue
            try:
                loaded = self._load(name, last["digest"])
            except Exception as error:
                log.error("%s: the local copy of %s does not serve: %s", name, last.get("digest"), error)
                continue
            log.warning("%s: its order cannot be read; serving its last known release", name)
            self._serve(loaded, last["sequence"])


def _kind(error: Exception) -> str:
    """The kind of fault for which a release is refused, as the metrics count it."""
    kinds = {
        ReleaseCorrupt: "corrupt",
        ReleaseUnknown: "missing",
        ReleaseUnsigned: UNSIGNED,
        FormatTooNew: "too new",
        ReleaseRefused: "program",
    }
    return next((kind for of, kind in kinds.items() if isinstance(error, of)), "other")
