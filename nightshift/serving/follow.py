"""Follow the ledger in one thread: read, fetch, verify, load, warm, prove, swap, drop.

The event loop never waits for any of it. A release that fails is refused for this order and the old one goes on; a
proven one that fails is tried again. When the store is away, what serves goes on serving, and a new process serves its
last known releases from its local copies.
"""

import contextlib
import logging
import os
import shutil
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
_AGAIN_S = 30.0  # after which a champion that does not load is tried again; whoever calls ``refresh`` does not wait
_COPIES = 3  # local copies of a model that are kept beside those that answer
_ABANDONED_S = 3600.0  # what a fetch that was killed left of a copy
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
        self.engine.is_complete = False
        self._missing: set[str] = set()  # models that have a champion, or may have one, and none answers
        self._known: set[str] = set()  # models with an order
        self._sequence: dict[str, int] = {}
        self._refused: dict[str, dict[str, Any]] = {}  # the newest refusal of each model, as /status shows it
        self.tallies = Tallies()
        self._signers: dict[str, str] = {}  # per digest the id of the trusted key that signed it
        self._trying: dict[str, Order] = {}  # per model the canary's order
        self._never_again: set[tuple[str, int]] = set()
        self._overtaken: set[tuple[str, int]] = set()
        self._failed: dict[tuple[str, int], tuple[float, Exception]] = {}  # proven orders: when to try again, and why
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
        self._failed.clear()
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
        wanted: set[str] = set()
        try:
            self._known = set(self.ledger.models())
            lost = set(self._last_known.read()) - self._known
            if lost:  # a ledger never forgets: it was emptied, or its folder is not mounted
                problem = f"{self.registry.store.url} has no orders of {min(lost)}, which was served by it before"
                self.ledger.forget()
                self.marks.forget()
        except ReleaseError as error:
            problem = error.message
        for name in sorted(self._known):
            wanted.add(name)
            try:
                if not self._follow(name):
                    wanted.discard(name)
                self._follow_canary(name)
            except _Overtaken:
                self._wake.set()
            except Exception as error:  # the store is away, this disk is full, an entry is unreadable
                problem = f"{name}: {_said(error)}"
        if problem:
            self._serve_last_known()
        if not (self._known or problem or self.engine.is_complete):
            log.warning(
                "%s has no orders: nothing serves until a night or `nightshift promote MODEL DIGEST` orders a release",
                self.registry.store.url,
            )
        if problem != self.problem:
            log.warning(problem) if problem else log.info("it is over: %s", self.problem)
        self.problem = problem
        if problem is None:
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
                    self._remember(name, order.digest, order.sequence)
                return has_champion
            if (name, order.sequence) in self._never_again:
                continue
            try:
                loaded = self._agreed(order) if outcome is None else self._proven(order)
            except (ReleaseError, OSError) as error:
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
        key = (order.model, order.sequence)
        agreed = self.peers.agree(*key, fault, may_be_overtaken=key not in self._overtaken)
        if agreed is None:  # once: what is newer may have been refused meanwhile
            self._overtaken.add(key)
            raise _Overtaken
        if agreed or loaded is None:
            self._refuse(order, agreed or fault, kind)
            return None
        return loaded

    def _proven(self, order: Order) -> LoadedModel:
        """The release of a proven order, loaded. It needs nobody's agreement, and was measured when it was proven.

        Raises what keeps it from serving, without a new try before its time.
        """
        key = (order.model, order.sequence)
        again, error = self._failed.get(key, (0.0, None))
        if error and time.monotonic() < again:
            raise error.with_traceback(None)
        try:
            return self._load(order.model, order.digest)
        except StoreUnavailable:
            raise  # says nothing about the release
        except Exception as error:
            if key not in self._failed and not isinstance(error, OSError):
                self._note_refusal(order, _said(error), _kind(error))
            self._failed[key] = (time.monotonic() + _AGAIN_S, error)
            raise

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
        with contextlib.suppress(OSError):
            os.utime(folder)  # the copies that were used last are kept
        if self.trust:  # before anything of it is executed
            self._signers[digest] = self.trust.demand(self.registry, folder, name, digest).id
        return load(folder, name, digest)

    def _refuse(self, order: Order, reason: str, kind: str) -> None:
        self._never_again.add((order.model, order.sequence))
        self._note_refusal(order, reason, kind)

    def _note_refusal(self, order: Order, reason: str, kind: str) -> None:
        self.counts["refused", order.model, kind] += 1
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
        self._tidy(loaded.name)

    def _tidy(self, name: str) -> None:
        """Remove the local copies that are of no use any more: a night makes one more."""
        served = self.engine.served(name)
        kept = {model.digest for model in served.loaded} if served else set()
        with contextlib.suppress(OSError):
            found = {folder: folder.stat().st_mtime for folder in (self.copies / name).iterdir()}
            others = [folder for folder in found if folder.name not in kept and not folder.name.startswith(".tmp-")]
            old = sorted(others, key=lambda folder: -found[folder])[_COPIES:]
            left = [folder for folder, at in found.items() if folder.name.startswith(".tmp-")
                    and at < time.time() - _ABANDONED_S]  # fmt: skip
            for folder in (*old, *left):
                shutil.rmtree(folder, ignore_errors=True)

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
                loaded, sequence = self._load(name, last["digest"]), int(last["sequence"])
            except Exception as error:
                log.error("%s: what served last does not serve (%s): %s", name, last, error)
                continue
            log.warning("%s: its order cannot be read; serving its last known release", name)
            self._serve(loaded, sequence)


def _said(error: Exception) -> str:
    """In words that are the same the next time, and so are told once."""
    if isinstance(error, ReleaseError):
        return f"{error.message}; {error.next_step}" if error.next_step else error.message
    return (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"


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
