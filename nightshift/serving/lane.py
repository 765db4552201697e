"""The requests of one loaded model: how many are here, what they cost, and which of those that wait run together."""

import math
import time
from asyncio import Future, TimerHandle
from collections import deque
from typing import NamedTuple

import numpy as np

from nightshift.serving.call import Call
from nightshift.serving.model import LoadedModel
from nightshift.serving.tensors import RequestError, ask_again

_INLINE_S = 0.002  # a request's cost up to which it runs in the event loop, or in a batch
_BESIDE_S = 0.001  # a batch's cost from which on it is worth to wake a thread for it
_TURN_S = 0.005  # the most that one batch may take
_MAX_BATCH = 32  # items; more wins nothing
_FADE = 0.99  # of the crowd, at each batch
_DOUBTFUL = 1.2  # times the cost
_FORGET = 0.1  # weight of the newest cost in the running mean
_FORGET_TURN = 0.01  # of the newest turn: a batch's requests end together, so most turns are short and a few long


class Asked(NamedTuple):
    """A request that waits ``since`` then, by ``time.perf_counter()``, for its turn, and not longer than ``timeout``
    seconds (0: as long as need be).
    """

    call: Call
    arrays: dict[str, np.ndarray]
    names: tuple[str, ...]
    ready: "Future[list[np.ndarray]]"
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
        self.in_doubt = True  # whether the next run alone is weighed, which is a call of the system: 1 % of a small one
        self.threads = threads
        self.forget_turn()
        self.inside = 0  # admitted and not yet answered
        self.crowd = 0.0  # the most that were inside lately
        self.left = 0.0  # when the last one was answered
        self.waiting: deque[Asked] = deque()
        self.will_flush = False  # at the end of this turn, or when the batch has run that runs beside
        self.giving_back: TimerHandle | None = None  # of what its last big request took of the memory
        self.last = 0  # turn of the loop that had requests
        self.came = self.came_before = 0  # requests of it, and of the one before that had any

    def is_shared(self, turn: int) -> bool:
        """Whether the request that wants to run in this turn is likely to have company in it."""
        if turn != self.last:
            self.last, self.came_before, self.came = turn, self.came, 0
        self.came += 1
        return self.came > 1 or self.came_before > 1 or self.will_flush

    def next_batch(self) -> list[Asked]:
        """Of those that wait the first ones, as many as fit together, without who has waited too long."""
        most = min(_MAX_BATCH, int(_TURN_S / self.cost))
        half = math.ceil(self.crowd / 2)
        if self.runs_beside(half):  # the other half is read meanwhile; were they one batch, nobody would be left
            most = min(most, half)
        self.crowd = max(self.inside, self.crowd * _FADE)
        batch = [self.waiting.popleft()]
        items = batch[0].call.items
        while self.waiting and self.waiting[0].names == batch[0].names:
            items += self.waiting[0].call.items
            if items > most:
                break
            batch.append(self.waiting.popleft())
        now = time.perf_counter()
        for asked in batch:
            if asked.timeout and now - asked.since > asked.timeout:
                asked.ready.set_exception(too_late(now - asked.since))
        return [asked for asked in batch if not asked.ready.done()]

    def runs_beside(self, items: int) -> bool:
        """Whether a batch of so many runs in a thread."""
        return self.cost * items > _BESIDE_S

    def in_thread(self, items: int) -> bool:
        """Whether a request of so many runs in a thread, by itself."""
        return self.cost * items > _INLINE_S

    def forget_turn(self) -> None:
        """Back to what the model alone costs, as if every thread had work."""
        self.turn = self.cost / (self.threads if self.in_thread(1) else 1)

    def learn(self, items: int, seconds: float, weighed: bool = True) -> None:
        """From a run that took so long of a core, or, not ``weighed``, may have taken less: then it is believed if it
        was cheaper than those before, and if it was much dearer the next one is weighed.
        """
        each = seconds / max(items, 1)
        self.in_doubt = not weighed and each > _DOUBTFUL * self.cost
        if weighed or each < self.cost:
            self.cost += _FORGET * (each - self.cost)

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


def too_late(waited: float) -> RequestError:
    return ask_again(f"it waited {waited:.3f} s for its turn, longer than its timeout")
