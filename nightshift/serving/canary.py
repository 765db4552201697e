"""What each process counts while a canary is tried: of the canary, and in the same time of its champion.

Only counts that grow, so that whoever judges (``nightshift.releases.canary``) may ask as often as it likes.
"""

from bisect import bisect_left
from typing import Any

import numpy as np

from nightshift.releases.canary import EDGES, MOST_ANSWERS
from nightshift.serving.call import Call

_NOT_THE_MODELS = frozenset({401, 403, 421, 429})  # refused before any model was asked


class Tally:
    """The counts of one order's canary and champion."""

    def __init__(self, sequence: int):
        self.sequence = sequence
        self.counts: dict[str, dict[str, Any]] = {role: _nothing() for role in ("champion", "canary")}

    def add(self, call: Call) -> None:
        counts = self.counts[call.role]
        counts["requests"] += 1
        if call.status >= 400:
            counts["errors"] += 1
            return
        counts["seconds"][bisect_left(EDGES, call.computed)] += 1
        answer = _answer(call.outputs)
        if answer is not None:
            counts["answers"][answer] = counts["answers"].get(answer, 0) + 1


class Tallies:
    """One per model whose canary is tried here; written by the event loop, begun and ended by the follower."""

    def __init__(self) -> None:
        self._of: dict[str, Tally] = {}

    def begin(self, model: str, sequence: int) -> None:
        self._of[model] = Tally(sequence)

    def end(self, model: str) -> None:
        self._of.pop(model, None)

    def of(self, model: str) -> dict[str, Any] | None:
        """The counts of each role, to be sent as JSON; None while no canary is tried."""
        tally = self._of.get(model)
        return tally.counts if tally else None

    def watch(self, call: Call) -> None:
        """Count one call that ended."""
        if not self._of or call.model is None or call.verb not in ("infer", "predict"):
            return
        tally = self._of.get(call.model.name)
        if tally and call.role in tally.counts and call.status not in _NOT_THE_MODELS:
            tally.add(call)


def _nothing() -> dict[str, Any]:
    return {"requests": 0, "errors": 0, "seconds": [0] * (len(EDGES) + 1), "answers": {}}


def _answer(outputs: dict[str, np.ndarray] | None) -> str | None:
    """The class that the first item of a request was given, by its number; None for what is no classification.

    One item of each: the items of a request are asked together, and alike.
    """
    if not outputs:
        return None
    first = next(iter(outputs.values()))
    if first.ndim != 2 or first.dtype.kind != "f" or not 1 < first.shape[1] <= MOST_ANSWERS or not len(first):
        return None
    return str(int(first[0].argmax()))
