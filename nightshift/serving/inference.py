"""From an admitted request to the model's results: what waits is bounded in time, what waits together runs together.

A request is counted from its headers on. Were it counted when its body is whole, a backlog would stand uncounted in the
sockets; were the bound a number of requests, what suits a model of 0.2 ms would be fifteen seconds of work for one of
60 ms. So each model has a lane that knows what a request costs, and refuses at the headers what would wait too long.

Of models of up to 2 ms all requests that one turn of the event loop has made ready run as one batch: nobody waits for
a batch to fill. Who was alone in the turn before is likely to be so again, and waits for nothing. It is not only the
program that is cheaper so (46 to 37 µs an item for a small convolutional network): between two runs of it the caches
would be filled with something else (198 to 159 µs a request at 32 connections). A batch runs in the event loop, or,
from 1 ms on, beside it in a thread, since ONNX Runtime lets go of the lock: meanwhile the next one is read. Slower
models run in threads, one per core, each request by itself.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary, ref

import numpy as np

from nightshift.serving.call import Call
from nightshift.serving.lane import Asked, Lane, too_late
from nightshift.serving.model import LoadedModel
from nightshift.serving.tensors import ask_again, batch_of
from nightshift.serving.turn import Turn

WAIT_S = 0.1  # the longest wait for the turn that a request is let in for
_QUIET_S = 1.0  # without a request, after which what a turn takes is learned anew; without a big one, for its memory
_BIG = 10  # golden requests that take as long as a request which may have taken much memory


class _Ran(NamedTuple):
    """A batch: when it began, what it took by the clock and of a core, and the results of each request."""

    started: float
    seconds: float
    spent: float
    parts: list[list[np.ndarray]]


class Inference:
    """One for all protocols of a process. Not thread-safe: the event loop's."""

    def __init__(self, turn: Turn, wait_s: float = WAIT_S, threads: int | None = None):
        self._turn = turn
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
        lane.crowd = max(lane.crowd, lane.inside)
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
        elif model.can_batch and _has_rows(arrays, call.items) and lane.is_shared(self._turn.number()):
            ready = asyncio.get_running_loop().create_future()
            lane.waiting.append(Asked(call, arrays, tuple(names), ready, time.perf_counter(), timeout))
            if not lane.will_flush:
                lane.will_flush = True
                asyncio.get_running_loop().call_soon(self._flush, model, lane)
            results = await ready
        else:
            weighed = lane.in_doubt
            _, call.computed, spent, (results,) = _run_alone(model, arrays, names, weighed)
            call.batch = call.items
            lane.learn(call.items, spent, weighed)
        call.output_names, call.results = names, results
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

        def work() -> _Ran:
            waited = time.perf_counter() - since
            if timeout and waited > timeout:
                raise too_late(waited)
            return _run_alone(model, arrays, names)

        # The pool's own queue: a thread that has to ask the event loop for work waits for a turn of it, or three.
        try:
            ran = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            if time.perf_counter() - since > _BIG * model.seconds:
                self._give_back_soon(model, lane)
        call.waited, call.computed, call.batch = ran.started - since, ran.seconds, call.items
        lane.learn(call.items, ran.spent)
        return ran.parts[0]

    def _give_back_soon(self, model: LoadedModel, lane: Lane) -> None:
        """What a request may have taken of the memory; not at once, for who sends the next such one needs it again."""

        def give_back(model: "ref[LoadedModel]") -> None:
            if still_there := model():
                asyncio.get_running_loop().run_in_executor(self._pool, still_there.give_back)

        if lane.giving_back:
            lane.giving_back.cancel()
        lane.giving_back = asyncio.get_running_loop().call_later(_QUIET_S, give_back, ref(model))

    def _flush(self, model: LoadedModel, lane: Lane) -> None:
        """Run what is ready, together where it fits together."""
        batch = lane.next_batch()
        run = partial(_run_together, model, batch)
        # While more wait than one batch, turns are long: a thread would wait for two of them, and for Python's lock.
        if lane.runs_beside(_items(batch)) and not lane.waiting:
            running = asyncio.get_running_loop().run_in_executor(self._pool, run)
            running.add_done_callback(lambda ran: self._flushed(model, lane, batch, ran.result))
        else:
            self._flushed(model, lane, batch, run)

    def _flushed(self, model: LoadedModel, lane: Lane, batch: list[Asked], run: Callable[[], _Ran]) -> None:
        """What is left runs in the next turn, so that between two batches others are let in or refused."""
        if batch:
            _answer(model, lane, batch, run)
        lane.will_flush = bool(lane.waiting)
        if lane.waiting:
            asyncio.get_running_loop().call_soon(self._flush, model, lane)

    def _lane(self, model: LoadedModel) -> Lane:
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = Lane(model, self._threads)
        return lane


def _run_alone(model: LoadedModel, arrays: dict[str, np.ndarray], names: Sequence[str], weighed: bool = True) -> _Ran:
    """Not ``weighed``, it is said to have taken of a core what it took by the clock, which is no less."""
    started = time.perf_counter()
    spent = time.thread_time() if weighed else 0.0
    results = model.run(arrays, names)
    seconds = time.perf_counter() - started
    return _Ran(started, seconds, time.thread_time() - spent if weighed else seconds, [results])


def _has_rows(arrays: dict[str, np.ndarray], items: int) -> bool:
    """Whether all inputs have so many rows: those of another request would else be given to the wrong one."""
    return len(arrays) == 1 or all(len(array) == items for array in arrays.values())


def _model(call: Call) -> LoadedModel:
    if call.model is None:
        raise ValueError("the call was not routed to a model")
    return call.model


def _run_together(model: LoadedModel, batch: list[Asked]) -> _Ran:
    if len(batch) == 1:
        return _run_alone(model, batch[0].arrays, batch[0].names)
    items = _items(batch)
    together = {name: np.concatenate([asked.arrays[name] for asked in batch]) for name in batch[0].arrays}
    ran = _run_alone(model, together, batch[0].names)
    (results,), parts, at = ran.parts, [], 0
    if any(len(result) != items for result in results):
        raise ValueError(f"{model.name} has not one row of every output for each row of its inputs")
    for asked in batch:
        parts.append([result[at : at + asked.call.items] for result in results])
        at += asked.call.items
    return ran._replace(parts=parts)


def _answer(model: LoadedModel, lane: Lane, batch: list[Asked], run: Callable[[], _Ran]) -> None:
    """Give each of a batch its part of what ``run`` tells, or of what it raises."""
    try:
        ran = run()
    except Exception as error:
        if len(batch) > 1:  # one of them may be at fault: each answers for itself
            for asked in batch:
                _answer(model, lane, [asked], partial(_run_together, model, [asked]))
        else:
            batch[0].ready.set_exception(error)
        return
    items = _items(batch)
    lane.learn(items, ran.spent)
    for asked, results in zip(batch, ran.parts, strict=True):
        call = asked.call
        call.waited, call.batch = ran.started - asked.since, items
        call.computed = ran.seconds * call.items / items
        asked.ready.set_result(results)


def _items(batch: list[Asked]) -> int:
    return sum(asked.call.items for asked in batch)
