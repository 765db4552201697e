"""What each loaded release has answered, as clients that were written for Triton ask for it (its statistics extension).

Prometheus reads ``metrics``; these are the same sums for one release, since it was loaded. What is not measured by
itself stands as zero: the reading of inputs and the writing of outputs are part of ``success`` only.
"""

from collections.abc import Iterable
from typing import Any

from nightshift.serving.call import Call
from nightshift.serving.model import LoadedModel
from nightshift.serving.processes import Peers

_VERBS = ("infer", "predict")
_NOTHING = {"count": 0, "ns": 0}


class Statistics:
    """The sums of one process, by digest; written by the event loop. Any process tells those of all."""

    def __init__(self, peers: Peers):
        self._peers = peers
        self._of: dict[str, list[float]] = {}
        peers.answers["statistics"] = lambda: self._of

    def watch(self, call: Call) -> None:
        """Count one call that ended."""
        model = call.model
        if model is None or call.verb not in _VERBS:
            return
        sums = self._of.get(model.digest)
        if sums is None:
            sums = self._of[model.digest] = [0.0] * 8
        if call.status != 200:
            sums[0] += 1
            sums[1] += call.seconds
            return
        sums[2] += 1
        sums[3] += call.seconds
        sums[4] += call.waited
        sums[5] += call.computed
        sums[6] += call.items
        sums[7] += call.items / call.batch  # its share of one run

    async def tell(self, models: Iterable[LoadedModel]) -> list[dict[str, Any]]:
        """In the extension's words what these releases have answered, in all processes together."""
        said = [each for each in await self._peers.ask("statistics") if each]
        return [_told(model, [each[model.digest] for each in said if model.digest in each]) for model in models]


def _told(model: LoadedModel, each: list[list[float]]) -> dict[str, Any]:
    failed, fail_s, count, success_s, waited_s, computed_s, items, runs = (
        [sum(column) for column in zip(*each, strict=True)] if each else [0.0] * 8
    )
    return {
        "name": model.name,
        "version": model.version,
        "inference_count": int(items),
        "execution_count": round(runs),
        "inference_stats": {
            "success": _duration(count, success_s),
            "fail": _duration(failed, fail_s),
            "queue": _duration(count, waited_s),
            "compute_input": _NOTHING,
            "compute_infer": _duration(count, computed_s),
            "compute_output": _NOTHING,
        },
    }


def _duration(count: float, seconds: float) -> dict[str, int]:
    return {"count": int(count), "ns": int(seconds * 1e9)}
