"""Who watches the calls of one process: metrics, access log and samples, and what the metrics ask others for."""

import asyncio
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from nightshift.releases.manifest import short
from nightshift.releases.store import Store
from nightshift.serving import metrics
from nightshift.serving.call import Call
from nightshift.serving.follow import Follower
from nightshift.serving.inference import Inference
from nightshift.serving.logs import AccessLog
from nightshift.serving.metrics import Fact, Metrics
from nightshift.serving.samples import Plan, Samples


class Watch:
    """``served`` is where samples go; without it there are none, with a plan that keeps nothing only old ones."""

    def __init__(
        self,
        follower: Follower,
        inference: Inference,
        access: AccessLog,
        served: Store | None,
        instance: str,
        plan: Plan,
    ):
        self.follower = follower
        self.inference = inference
        self.access = access
        self.peers = follower.peers
        self.metrics = Metrics(self._file(self.peers.number))
        self.peers.answers["metrics"] = self.metrics.counts
        self.metrics.facts.append(self._facts)
        self.samples = Samples(served, instance, plan) if served is not None else None
        self._plan = plan

    @property
    def watchers(self) -> list[Callable[[Call], None]]:
        """Each takes microseconds and never raises."""
        sampled = [self.samples.watch] if self.samples and self._plan else []
        return [self.metrics.watch, self.access.watch, *sampled]

    def start(self) -> None:
        self.access.start()
        if self.samples:
            self.samples.start()

    def stop(self) -> None:
        """Write what waits."""
        if self.samples:
            self.samples.stop()
        self.access.stop()

    async def text(self, accept: str | None) -> tuple[bytes, str]:
        """What Prometheus reads of all processes, and its content type; of a silent one, what it last told."""
        said = await self.peers.ask("metrics")
        counts = [counts or metrics.read(self._file(number)) for number, counts in enumerate(said)]
        return await asyncio.to_thread(metrics.text, counts, accept)

    def _file(self, number: int) -> Path | None:
        return self.peers.folder / f"{number}.counts" if self.peers.folder else None

    def _facts(self) -> Iterable[Fact]:
        status = self.follower.status()
        for name, model in status["models"].items():
            if digest := model["serving"]:
                yield "nightshift_serving", (name, "champion", short(digest), digest), 1
                yield "nightshift_order_sequence", (name, "champion"), model["sequence"] or 0
            if canary := model.get("canary"):
                digest = canary["digest"]
                yield "nightshift_serving", (name, "canary", short(digest), digest), 1
                yield "nightshift_order_sequence", (name, "canary"), canary["sequence"]
        for name, number in list(self.follower.swaps.items()):
            yield "nightshift_swaps", (name,), number
        for fault, number in list(self.follower.loader.refusals.items()):
            yield "nightshift_releases_refused", fault, number
        yield "nightshift_ledger_read_timestamp_seconds", (), self.follower.read_at
        yield "nightshift_store_problem", (), int(status["problem"] is not None)
        yield "nightshift_in_flight", (), self.inference.in_flight
        yield "nightshift_dropped", ("log lines",), self.access.dropped
        if self.samples:
            yield "nightshift_dropped", ("samples",), self.samples.dropped
            yield "nightshift_samples_written", (), self.samples.written
        free = _free(self.follower.copies)
        if free is not None:
            yield "nightshift_disk_free_bytes", (), free


def _free(folder: Path) -> int | None:
    """Bytes that are free where this folder is, or will be."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None
