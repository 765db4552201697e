"""From an order of the ledger to its release, loaded and proven on this machine; or why it does not serve.

What is not proven yet needs the word of every process of the endpoint, and is refused once and for all. A champion was
proven before: it is loaded by whoever can, and tried again by who cannot.
"""

import contextlib
import logging
import os
import shutil
import time
from collections import Counter
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
from nightshift.releases.ledger import Order
from nightshift.releases.manifest import short
from nightshift.releases.registry import Registry
from nightshift.releases.signing import UNSIGNED, Trust
from nightshift.serving import model
from nightshift.serving.engine import Engine
from nightshift.serving.model import LoadedModel
from nightshift.serving.processes import Peers

_AGAIN_S = 30.0  # after which a champion that does not load is tried again; ``try_again`` does not wait
_COPIES = 3  # local copies of a model that are kept beside those that answer
_ABANDONED_S = 3600.0  # what a fetch that was killed left of a copy
_STARVED = (OSError, MemoryError)  # this machine's faults, and none of a release
_QUICK_S = 0.005  # what answers so fast is not slow, whatever the champion takes: measured times scatter

log = logging.getLogger("nightshift.serving")


class Overtaken(Exception):
    """Another process of this endpoint is at a newer order already."""


class Loader:
    """For the follower's thread. ``copies`` is the folder of local copies.

    With ``trust`` only what one of its keys signed is loaded.
    """

    def __init__(self, registry: Registry, engine: Engine, copies: Path, peers: Peers, trust: Trust | None):
        self.copies = copies
        self.refused: dict[str, dict[str, Any]] = {}  # the newest refusal of each model, as /status shows it
        self.refusals: Counter[tuple[str, str]] = Counter()  # by model and kind of fault
        self.signers: dict[str, str] = {}  # per digest the id of the trusted key that signed it
        self._registry = registry
        self._engine = engine
        self._peers = peers
        self._trust = trust
        self._never_again: set[tuple[str, int]] = set()
        self._overtaken: set[tuple[str, int]] = set()
        self._failed: dict[tuple[str, int], tuple[float, Exception]] = {}  # champions: when to try again, and why

    def agreed(self, order: Order) -> LoadedModel | None:
        """The release of this order, loaded; None if a process of this endpoint cannot serve it: then never again.

        Raises Overtaken, and what says nothing about the release: the store is away, this disk or memory is full.
        """
        key = (order.model, order.sequence)
        if key in self._never_again:
            return None
        loaded, fault, kind = None, "", "another process"
        try:
            loaded = self.load(order.model, order.digest)
            fault = self._too_slow(order, loaded)
            kind = "slow" if fault else kind
        except (StoreUnavailable, *_STARVED):
            raise
        except Exception as error:
            fault, kind = str(getattr(error, "message", None) or error), _kind(error)
        agreed = self._peers.agree(*key, fault, may_be_overtaken=key not in self._overtaken)
        if agreed is None:  # once: what is newer may have been refused meanwhile
            self._overtaken.add(key)
            raise Overtaken
        if agreed or loaded is None:
            self._never_again.add(key)
            self._note_refusal(order, agreed or fault, kind)
            return None
        return loaded

    def proven(self, order: Order) -> LoadedModel:
        """The release of a proven order, loaded. It needs nobody's agreement, and was measured when it was proven.

        Raises what keeps it from serving, without a new try before its time.
        """
        key = (order.model, order.sequence)
        again, error = self._failed.get(key, (0.0, None))
        if error and time.monotonic() < again:
            raise error.with_traceback(None)
        try:
            loaded = self.load(order.model, order.digest)
        except StoreUnavailable:
            raise  # says nothing about the release
        except Exception as error:
            if key not in self._failed and not isinstance(error, _STARVED):
                self._note_refusal(order, said(error), _kind(error))
            self._failed[key] = (time.monotonic() + _AGAIN_S, error)
            raise
        self._failed.pop(key, None)
        return loaded

    def _too_slow(self, order: Order, loaded: LoadedModel) -> str:
        """Why measured latency forbids it, in words: its golden requests against the champion's, on this machine."""
        served = self._engine.served(order.model)
        if order.slower is None or served is None or loaded.seconds <= _QUICK_S:
            return ""
        times = loaded.seconds / max(served.champion.seconds, _QUICK_S / order.slower)
        if times <= order.slower:
            return ""
        took, before = loaded.seconds * 1000, served.champion.seconds * 1000
        return (
            f"its golden request takes {took:.1f} ms, the champion's {before:.1f}: {order.slower:g} times are allowed"
        )

    def load(self, name: str, digest: str) -> LoadedModel:
        """Raises ReleaseError, or what else keeps this release from serving here."""
        folder = self._registry.fetch(name, digest, self.copies)
        with contextlib.suppress(OSError):
            os.utime(folder)  # the copies that were used last are kept
        if self._trust:  # before anything of it is executed
            self.signers[digest] = self._trust.demand(self._registry, folder, name, digest).id
        return model.load(folder, name, digest)

    def try_again(self) -> None:
        """Let nothing that failed wait for its time."""
        self._failed.clear()

    def forget_refusals(self, name: str, before: int) -> None:
        """An order with this number serves: what was refused before it is of no interest."""
        refused = self.refused.get(name)
        if refused and refused["sequence"] < before:
            del self.refused[name]

    def tidy(self, name: str) -> None:
        """Remove the local copies that are of no use any more: a night makes one more."""
        served = self._engine.served(name)
        kept = {one.digest for one in served.loaded} if served else set()
        with contextlib.suppress(OSError):
            found = sorted((self.copies / name).iterdir(), key=lambda folder: -folder.stat().st_mtime)
            halves = [folder for folder in found if folder.name.startswith(".tmp-")]
            others = [folder for folder in found if folder not in halves and folder.name not in kept]
            abandoned = [half for half in halves if half.stat().st_mtime < time.time() - _ABANDONED_S]
            for folder in (*others[_COPIES:], *abandoned):
                shutil.rmtree(folder, ignore_errors=True)

    def _note_refusal(self, order: Order, reason: str, kind: str) -> None:
        self.refusals[order.model, kind] += 1
        self.refused[order.model] = {
            "sequence": order.sequence,
            "digest": order.digest,
            "reason": reason,
            "kind": kind,
        }
        kept = self._engine.serving(order.model)
        going_on = f"{short(kept)} goes on" if kept else "nothing serves"
        log.error(
            "%s: order %d (%s) refused, %s: %s", order.model, order.sequence, short(order.digest), going_on, reason
        )


def said(error: Exception) -> str:
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
        model.ReleaseRefused: "program",
    }
    return next((kind for of, kind in kinds.items() if isinstance(error, of)), "other")
