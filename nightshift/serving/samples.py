"""A sample of what was asked and answered, chosen by lot and written to the store (``sample_files``) off the hot path.

Nothing is kept unless the endpoint is told a rate. It is the endpoint's setting and not the release's: what may be kept
of people's inputs is decided where they are received, and may change without a new release. The event loop draws a lot
(0.1 µs) and copies the few that it chose; a thread writes a file a minute, or when 8 MB wait. While the store is away
32 MB wait, and the oldest beyond that are dropped and counted. Once an hour the same thread removes the days that are
too old by the store's clock, also when nothing is kept any more.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from weakref import WeakKeyDictionary

import numpy as np

from nightshift.releases.clock import Clock
from nightshift.releases.errors import ReleaseError
from nightshift.releases.manifest import Tensor
from nightshift.releases.store import Store
from nightshift.serving import sample_files
from nightshift.serving.call import Call
from nightshift.serving.model import LoadedModel
from nightshift.serving.sample_files import Kept, Row

FLUSH_S = 60.0
FLUSH_BYTES = 8 << 20
MOST_BYTES = 32 << 20
FIELDS = ("inputs", "outputs", "key")  # what can be left out whole; one tensor is named input:NAME or output:NAME
FORGET_S = 3600.0
_PATIENCE_S = 10.0
_ROW_BYTES = 500  # of a call beside its tensors, about

log = logging.getLogger("nightshift.serving")


@dataclass(frozen=True)
class Plan:
    """What is kept: a share from 0 to 1 for all models, others for some; what is left out of the samples, of all
    models under "" and of some under their names; and for how many days.
    """

    rate: float = 0.0
    rates: Mapping[str, float] | None = None
    leave_out: Mapping[str, frozenset[str]] = field(default_factory=dict)
    days: int = 90

    def __bool__(self) -> bool:
        """Whether anything is kept at all."""
        return self.rate > 0 or any((self.rates or {}).values())

    def of(self, model: str) -> float:
        return (self.rates or {}).get(model, self.rate)

    def left_out(self, model: str) -> frozenset[str]:
        nothing: frozenset[str] = frozenset()
        return self.leave_out.get("", nothing) | self.leave_out.get(model, nothing)


def plan(rates: Iterable[str], leave_out: Iterable[str], days: int) -> Plan:
    """The plan as typed: ``0.01`` or ``MODEL=0.5``; FIELDS, ``input:NAME`` or ``output:NAME``, or one of these after
    ``MODEL=``. ValueError says what is wrong.
    """
    everywhere, some = 0.0, dict[str, float]()
    for text in rates:
        model, equals, number = text.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = -1
        if not 0 <= rate <= 1 or bool(equals) != bool(model):
            raise ValueError(f"{text!r} is no rate: a number from 0 to 1, or MODEL=NUMBER")
        if model:
            some[model] = rate
        else:
            everywhere = rate
    left_out: dict[str, frozenset[str]] = {}
    for text in leave_out:
        model, equals, what = text.partition("=")
        if not equals or ":" in model:  # that of a tensor's name
            model, what = "", text
        kind, _, tensor = what.partition(":")
        fits = what in FIELDS or (kind in ("input", "output") and tensor)
        if not fits or text.startswith("="):
            raise ValueError(f"{text!r} cannot be left out: {', '.join(FIELDS)}, input:NAME, output:NAME, or MODEL=…")
        left_out[model] = left_out.get(model, frozenset()) | {what}
    return Plan(everywhere, some, left_out, days)


class Samples:
    """``watch`` is called by the event loop; one thread writes, from ``start`` until ``stop``."""

    def __init__(self, store: Store, instance: str, plan: Plan):
        self.written = 0
        self.dropped = 0
        self._store, self._instance, self._plan = store, instance, plan
        self._waiting: deque[tuple[Row, int]] = deque()
        self._size = 0
        self._lock = threading.Lock()  # taken for what is sampled only
        self._unsent: tuple[str, bytes, int] | None = None  # key, file, rows: sent again under the same name
        self._problem = False
        self._clock, self._forget_at = Clock(store), 0.0
        self._left_out: WeakKeyDictionary[LoadedModel, frozenset[str]] = WeakKeyDictionary()
        self._wake, self._stop = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="write samples", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what waits; not longer than some seconds, in case the store does not answer."""
        self._stop = True
        self._wake.set()
        self._thread.join(_PATIENCE_S)

    def watch(self, call: Call) -> None:
        model = call.model
        if model is None or call.inputs is None or random.random() >= self._plan.of(model.name):  # noqa: S311
            return
        row = self._row(call, model)
        size = _ROW_BYTES + sum(map(_bytes, (*row.inputs, *row.outputs)))
        if size > FLUSH_BYTES:
            self.dropped += 1
            return
        with self._lock:
            self._waiting.append((row, size))
            self._size += size
            while self._size > MOST_BYTES:
                self._size -= self._waiting.popleft()[1]
                self.dropped += 1
        if self._size >= FLUSH_BYTES:
            self._wake.set()

    def _row(self, call: Call, model: LoadedModel) -> Row:
        signature = model.manifest.signature
        left_out = self._left_out.get(model)
        if left_out is None:
            left_out = self._left_out[model] = _left_out(model, self._plan)
        return Row(
            time=time.time(),
            request_id=call.id,
            model=model.name,
            digest=model.digest,
            role=call.role,
            key=None if "key" in left_out else call.key,
            protocol=call.protocol,
            verb=call.verb,
            items=call.items,
            inputs=_keep(call.inputs or {}, signature.inputs, "input", left_out),
            outputs=_keep(call.outputs, signature.outputs, "output", left_out),
            status=call.status,
            milliseconds=call.seconds * 1000,
            error=call.error or None,
        )

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(FLUSH_S)
            self._wake.clear()
            self._flush()
            if not self._stop and time.monotonic() >= self._forget_at:
                self._forget()
                self._forget_at = time.monotonic() + FORGET_S

    def _forget(self) -> None:
        """Remove the days that are too old; what cannot be removed now is looked for again in an hour."""
        try:
            if self._store.folders("samples"):
                since = self._clock().date() - timedelta(days=self._plan.days)
                if removed := sample_files.forget(self._store, since, lambda: self._stop):
                    log.info("samples of before %s are removed: %d files", since, removed)
        except ReleaseError as error:
            log.warning("old samples cannot be removed now: %s", error.message)
        except Exception:
            log.exception("old samples cannot be removed now")

    def _flush(self) -> None:
        """Write all that waits, or as much as the store takes."""
        try:
            while self._unsent or self._waiting:
                if self._unsent is None:
                    self._unsent = self._next()
                key, file, rows = self._unsent
                self._store.put_new(key, file)  # False: it is there since a put whose answer was lost
                self._unsent = None
                self.written += rows
            if self._problem:
                log.info("samples are written again; %d were dropped so far", self.dropped)
            self._problem = False
        except ReleaseError as error:
            if not self._problem:
                log.warning("samples wait, and the oldest will be dropped: %s", error.message)
            self._problem = True
        except Exception:
            log.exception("a sample cannot be written; it is dropped")
            self._unsent = None

    def _next(self) -> tuple[str, bytes, int]:
        """The oldest that wait, of one day and not more than one file is to hold."""
        rows: list[Row] = []
        size = 0
        with self._lock:
            while self._waiting and size < FLUSH_BYTES:
                row, more = self._waiting[0]
                if rows and sample_files.day(row.time) != sample_files.day(rows[0].time):
                    break
                self._waiting.popleft()
                rows.append(row)
                size += more
            self._size -= size
        try:
            return sample_files.key(rows[0].time, rows[-1].time, self._instance), sample_files.write(rows), len(rows)
        except Exception:
            self.dropped += len(rows)
            raise


def _left_out(model: LoadedModel, plan: Plan) -> frozenset[str]:
    """What is left out of this model's samples. A name that none of its tensors has may be a slip, and what was to be
    hidden is among the others: they are all left out.
    """
    left_out = plan.left_out(model.name)
    for kind, names in (("input", model.inputs), ("output", model.outputs)):
        for each in sorted(left_out):
            named, _, tensor = each.partition(":")
            if named == kind and tensor not in names:
                log.warning(
                    "%s has no %s %r to leave out of its samples (it has %s): all its %ss are left out; "
                    "say MODEL=%s if another model is meant",
                    *(model.name, kind, tensor, ", ".join(names), kind, each),
                )
                left_out |= {f"{kind}s"}
    return left_out


def _keep(
    arrays: Mapping[str, np.ndarray], tensors: Sequence[Tensor], kind: str, left_out: frozenset[str]
) -> list[Kept]:
    """Copies: the request's own arrays are views of its body, or of the answers of a batch."""
    kept = []
    for tensor in tensors:
        values = arrays.get(tensor.name)
        if values is not None:
            hidden = f"{kind}s" in left_out or f"{kind}:{tensor.name}" in left_out
            kept.append(Kept(tensor.name, tensor.datatype, values.shape, None if hidden else values.copy()))
    return kept


def _bytes(kept: Kept) -> int:
    if kept.values is None:
        return 0
    return kept.values.nbytes + (sum(map(len, kept.values.flat)) if kept.datatype == "BYTES" else 0)
