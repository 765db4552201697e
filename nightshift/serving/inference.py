"""From an admitted request to the model's results: what waits is bounded in time, what waits together runs together.

A request is counted from its headers on. Were it counted when its body is whole, a backlog would stand uncounted in the
sockets; were the bound a number of requests, what suits a model of 0.2 ms would be fifteen seconds of work for one of
60 ms. So each model has a lane that knows what a request costs, and refuses at the headers what would wait too long.

Models of up to 2 ms run in the event loop, and of these all requests that one turn of it has made ready run as one
batch: nobody waits for a batch to fill. Who was alone in the turn before is likely to be so again, and waits for
nothing. It is not only the program that is cheaper so (46 to 37 µs an item for a small convolutional network): between
two runs of it the caches would be filled with something else (198 to 159 µs a request at 32 connections). Slower models
run in threads, one per core; ONNX Runtime lets go of the lock.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from nightshift.serving.call import Call
from nightshift.serving.model import LoadedModel
from nightshift.serving.tensors import RequestError, ask_again, batch_of

WAIT_S = 0.1  # the longest wait for the turn that a request is let in for
_INLINE_S = 0.002  # an item's cost up to which a model runs in the event loop
_TURN_S = 0.005  # the most that one batch may hold up the loop
_MAX_BATCH = 32  # items; more wins nothing
_FORGET = 0.1  # weight of the newest cost in the running mean
_QUIET_S = 1.0  # without a request, after which what a turn takes is learned anew
_FORGET_TURN = 0.01  # of the newest turn: a batch's requests end together, so most turns are short and a few long


class _Asked(NamedTuple):
    call: Call
    arrays: dict[str, np.ndarray]
    names: tuple[str, ...]
    ready: "asyncio.Future[list[np.ndarray]]"
    since: float
    timeout: float


class Lane:
    """The requests of one loaded model. ``cost`` is what one item takes of a core in seconds: not by the clock, which
    would blame the model for what else the machine does. ``turn`` is the seconds by which one more request makes the
    next one wait, by the clock and with all that surrounds the model.

    It does not hold the model, which must be free to go once it is swapped out and its last request has ended.
    """

    def __init__(self, model: LoadedModel, threads: int):
        self.cost = max(model.seconds, 1e-5)
        self.threads = threads
        self.forget_turn()
        self.inside = 0  # admitted and not yet answered
        self.left = 0.0  # when the last one was answered
        self.waiting: deque[_Asked] = deque()
        self.flush_at_end = False
        self.came = self.came_before = 0  # requests of this turn of the loop, and of the last one that had any

    def next_turn(self) -> None:
        self.came_before, self.came = self.came, 0

    def is_shared(self) -> bool:
        """Whether the request that wants to run now is likely to have company in this turn."""
        self.came += 1
        if self.came == 1:
            asyncio.get_running_loop().call_soon(self.next_turn)
        return self.came > 1 or self.came_before > 1 or bool(self.waiting)

    def in_thread(self, items: int) -> bool:
        return self.cost * items > _INLINE_S

    def forget_turn(self) -> None:
        """Back to what the model alone costs, as if every thread had work."""
        self.turn = self.cost / (self.threads if self.in_thread(1) else 1)

    def learn(self, items: int, seconds: float) -> None:
        self.cost += _FORGET * (seconds / max(items, 1) - self.cost)

    def answered(self, since: float, items: int, batch: int) -> None:
        """One request of so many items that was here ``since`` then, and ran in a batch: what passed since it or the
        one before it left is its turn. The first of a batch to leave has had the turns of all. Who left threads idle
        had the turns of those that could have run beside it, or a burst after it would be refused too soon.
        """
        now = time.perf_counter()
        passed = now - max(self.left, since)
        if self.in_thread(items):
            passed *= min(self.inside + 1, self.threads) / self.threads
        # A stall is not a turn; what has become slower is believed step by step.
        turn = min(passed, 10 * self.turn * min(batch, _MAX_BATCH))
        self.turn += _FORGET_TURN * (turn - self.turn)
        self.left = now


class Inference:
    """One for all protocols of a process. Not thread-safe: the event loop's."""

    def __init__(self, wait_s: float = WAIT_S, threads: int | None = None):
        self._wait = wait_s
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="infer")
        self._lanes: WeakKeyDictionary[LoadedModel, Lane] = WeakKeyDictionary()

    @property
    def in_flight(self) -> int:
        return sum(lane.inside for lane in self._lanes.values())

    def admit(self, call: Call) -> None:
        """Let a request of ``call.model`` in, until ``leave``. Raises RequestError 503 if its turn is too far away."""
        model = _model(call)
        lane = self._lane(model)
        if not lane.inside and time.perf_counter() - lane.left > _QUIET_S:
            lane.forget_turn()  # it may have been of a few requests that were a thousand times as big
        ahead = lane.inside * lane.turn
        if ahead > self._wait and lane.inside >= self._threads:
            said = f"{model.name} has {ahead:.1f} s of requests to answer first; ask again"
            raise ask_again(said)
        lane.inside += 1
        call.lane = lane

    def leave(self, call: Call) -> None:
        """The end of a request, however it ended; nothing happens to one that was not admitted."""
        lane = call.lane
        if lane is not None:
            call.lane = None
            lane.inside -= 1
            if call.batch:
                lane.answered(call.arrived or call.started, call.items, call.batch)

    async def run(
        self, call: Call, arrays: dict[str, np.ndarray], names: Sequence[str], timeout: float = 0.0
    ) -> list[np.ndarray]:
        """The outputs of these names, of an admitted request. ``timeout`` in seconds (0: none): who waited longer for
        the turn gets 503.

        Raises RequestError.
        """
        model, lane = _model(call), call.lane
        if lane is None:
            raise ValueError("the call was not admitted")
        call.items, call.inputs = batch_of(arrays), arrays
        if lane.in_thread(call.items):
            results = await self._in_thread(model, lane, call, arrays, names, timeout)
        elif model.can_batch and _has_rows(arrays, call.items) and lane.is_shared():
            ready = asyncio.get_running_loop().create_future()
            lane.waiting.append(_Asked(call, arrays, tuple(names), ready, time.perf_counter(), timeout))
            if not lane.flush_at_end:
                lane.flush_at_end = True
                asyncio.get_running_loop().call_soon(_flush, model, lane)
            results = await ready
        else:
            started = time.perf_counter()
            results, spent = _run_alone(model, arrays, names)
            call.computed, call.batch = time.perf_counter() - started, call.items
            lane.learn(call.items, spent)
        call.outputs = dict(zip(names, results, strict=True))
        return results

    async def _in_thread(
        self,
        model: LoadedModel,
        lane: Lane,
        call: Call,
        arrays: dict[str, np.ndarray],
        names: Sequence[str],
        timeout: float,
    ) -> list[np.ndarray]:
        since = time.perf_counter()

        def work() -> tuple[float, float, list[np.ndarray], float]:
            """When it began, what it took by the clock, the results, and what they took of a core."""
            started = time.perf_counter()
            if timeout and started - since > timeout:
                raise _too_late(started - since)
            results, spent = _run_alone(model, arrays, names)
            return started, time.perf_counter() - started, results, spent

        # The pool's own queue: a thread that has to ask the event loop for work waits for a turn of it, or three.
        started, call.computed, results, spent = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        call.waited, call.batch = started - since, call.items
        lane.learn(call.items, spent)
        return results

    def _lane(self, model: LoadedModel) -> Lane:
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = Lane(model, self._threads)
        return lane


def _run_alone(
    model: LoadedModel, arrays: dict[str, np.ndarray], names: Sequence[str]
) -> tuple[list[np.ndarray], float]:
    """The results, and what they took of a core in seconds."""
    spent = time.thread_time()
    return model.run(arrays, names), time.thread_time() - spent


def _has_rows(arrays: dict[str, np.ndarray], items: int) -> bool:
    """Whether all inputs have so many rows: those of another request would else be given to the wrong one."""
    return len(arrays) == 1 or all(len(array) == items for array in arrays.values())


def _model(call: Call) -> LoadedModel:
    if call.model is None:
        raise ValueError("the call was not routed to a model")
    return call.model


def _too_late(waited: float) -> RequestError:
    return ask_again(f"it waited {waited:.3f} s for its turn, longer than its timeout")


def _flush(model: LoadedModel, lane: Lane) -> None:
    """Run what this turn of the loop has made ready, together where it fits together; what is left runs in the next
    turn, so that between two batches others are let in or refused.
    """
    batch = [lane.waiting.popleft()]
    items = batch[0].call.items
    most = min(_MAX_BATCH, max(1, int(_TURN_S / lane.cost)))
    while lane.waiting and lane.waiting[0].names == batch[0].names:
        if items + lane.waiting[0].call.items > most:
            break
        batch.append(lane.waiting.popleft())
        items += batch[-1].call.items
    lane.flush_at_end = bool(lane.waiting)
    if lane.waiting:
        asyncio.get_running_loop().call_soon(_flush, model, lane)
    now = time.perf_counter()
    for asked in batch:
        if asked.timeout and now - asked.since > asked.timeout and not asked.ready.done():
            asked.ready.set_exception(_too_late(now - asked.since))
    _run_together(model, lane, [asked for asked in batch if not asked.ready.done()])


def _run_together(model: LoadedModel, lane: Lane, batch: list[_Asked]) -> None:
    if not batch:
        return
    items = sum(asked.call.items for asked in batch)
    started, spent = time.perf_counter(), time.thread_time()
    try:
        if len(batch) == 1:
            parts = [model.run(batch[0].arrays, batch[0].names)]
        else:
            together = {name: np.concatenate([asked.arrays[name] for asked in batch]) for name in batch[0].arrays}
            results, parts, at = model.run(together, batch[0].names), [], 0
            if any(len(result) != items for result in results):
                raise ValueError(f"{model.name} has not one row of every output for each row of its inputs")
            for asked in batch:
                parts.append([result[at : at + asked.call.items] for result in results])
                at += asked.call.items
    except Exception as error:
        if len(batch) > 1:  # one of them may be at fault: each answers for itself
            for asked in batch:
                _run_together(model, lane, [asked])
        else:
            batch[0].ready.set_exception(error)
        return
    seconds = time.perf_counter() - started
    lane.learn(items, time.thread_time() - spent)
    for asked, results in zip(batch, parts, strict=True):
        call = asked.call
        call.waited, call.batch = started - asked.since, items
        call.computed = seconds * call.items / items
        asked.ready.set_result(results)
