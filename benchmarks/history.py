"""``python -m benchmarks.history``: one more day on a history of 1,000 days against one more on a history of 10.

Real ingest of small image days, through the engine's verb as a night runs it, then ``dvc status`` in a checkout that
holds the whole history. The two histories take turns, so that a busy machine is busy for both.
"""

import datetime
import io
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from benchmarks import measure
from benchmarks.measure import Cost
from nightshift.engine.journal import Journal
from nightshift.engine.workspace import lay_data
from nightshift.stack.processes import Processes, free_ports
from nightshift.stack.s3 import EMPTY_LISTING, EMPTY_LISTING_KEY, INNER_PORTS, WORK, S3Server, new_secrets

HISTORIES = (10, 1000)
ROUNDS = 5
ROWS = 20
FIRST = datetime.date(2020, 1, 1)


class History:
    """A checkout whose data set has so many days, with a landing zone, a corner of S3 and a repository of its own."""

    def __init__(self, folder: Path, server: S3Server, days: int):
        self.days = days
        self.root, self.landing = folder / "checkout", folder / "landing"
        work = f"s3://{WORK}/history-{days}"
        self.env = measure.environment(
            **server.environment("admin") | {"NIGHTSHIFT_WORK": work},
            NIGHTSHIFT_HOME=str(folder / "home"),
            NIGHTSHIFT_REPO=str(folder / "bare.git"),
            NIGHTSHIFT_BRANCH="main",
            DVC_SITE_CACHE_DIR=str(folder / "site"),
        )
        measure.copy(self.root, "tests/", "docs/", "benchmarks/")
        self._only_mnist(f"{work}/dvc")
        server.client().put_object(Bucket=WORK, Key=f"history-{days}/{EMPTY_LISTING_KEY}", Body=EMPTY_LISTING)
        for number in range(days):
            self.land(number)
        measure.commit(self.root)
        measure.git(folder, "clone", "--quiet", "--bare", str(self.root), "bare.git")
        self.ingest("history")
        with mock.patch.dict(os.environ, self.env):
            fragment = Journal.open("ingest_mnist", "history").get("data/mnist.json")
        assert fragment, "the history was not taken"
        lay_data(self.root, fragment["outs"], fragment["files"])
        measure.git(self.root, "commit", "--quiet", "-am", f"{days} days")
        measure.git(self.root, "push", "--quiet", str(folder / "bare.git"), "main")
        (self.root / ".dvc" / "config.local").write_text(
            f'[cache]\n    dir = {folder / "home" / "cache"}\n    type = "reflink,copy"\n'
        )
        measure.run(["dvc", "checkout", "--quiet", "data.dvc"], self.root, self.env)
        self.status()

    def _only_mnist(self, remote: str) -> None:
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        params["datasets"] = {"mnist": params["datasets"]["mnist"] | {"landing": str(self.landing)}}
        params["models"] = {"mnist-mlp": params["models"]["mnist-mlp"]}
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        data = yaml.safe_load((self.root / "data.dvc").read_text())
        data["outs"] = [out for out in data["outs"] if out["path"].endswith("mnist")]
        (self.root / "data.dvc").write_text(yaml.safe_dump(data, sort_keys=False))
        (self.root / "champions" / "cifar10-cnn.json").unlink()
        config = f"[core]\n    remote = store\n    analytics = false\n['remote \"store\"']\n    url = {remote}\n"
        (self.root / ".dvc" / "config").write_text(config)

    def land(self, number: int, seed: int = 0) -> None:
        """A day of small random images; another seed is another content of the same day."""
        random = np.random.default_rng([number, seed])
        images = []
        for pixels in random.integers(0, 256, (ROWS, 28, 28), dtype=np.uint8):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            images.append(stream.getvalue())
        day = self.landing / f"date={FIRST + datetime.timedelta(number)}"
        day.mkdir(parents=True, exist_ok=True)
        labels = [str(row % 10) for row in range(ROWS)]
        pq.write_table(pa.table({"image": images, "label": labels}), day / "train.parquet")

    def ingest(self, run: str) -> Cost:
        """A run's ``begin`` (not counted) and its ingest."""
        engine, at = [sys.executable, "-m", "nightshift.engine"], ["--dag", "ingest_mnist", "--run", run]
        measure.run([*engine, "begin", *at, "--until", "2026-01-01"], self.root, self.env)
        return measure.run([*engine, "ingest", "mnist", *at], self.root, self.env)

    def one_more(self, round_: int) -> Cost:
        """The day after the history, each round with another content, into a run that begins at the history."""
        self.land(self.days, seed=1 + round_)
        cost = self.ingest(f"round-{round_}")
        with mock.patch.dict(os.environ, self.env):
            taken = (Journal.open("ingest_mnist", f"round-{round_}").get("ingest/mnist.json") or {})["taken"]
        assert len(taken) == 1, taken
        return cost

    def status(self, _: int = 0) -> Cost:
        return measure.run(["dvc", "status"], self.root, self.env)


def compared(name: str, histories: list[History], what: Callable[[History, int], Cost]) -> None:
    """Rounds in turns; prints each history's cost, and the ratio."""
    costs: dict[int, list[Cost]] = {history.days: [] for history in histories}
    for round_ in range(ROUNDS):
        for history in histories:
            costs[history.days].append(what(history, round_))
    for days, found in costs.items():
        print(measure.told(f"{name}, on {days:,} days", found))
    few, many = HISTORIES
    for kind in ("wall", "cpu"):
        least = min(getattr(cost, kind) for cost in costs[many]) / min(getattr(cost, kind) for cost in costs[few])
        middle = statistics.median(getattr(many_, kind) / getattr(few_, kind)
                                   for many_, few_ in zip(costs[many], costs[few], strict=True))  # fmt: skip
        print(f"  {kind}: {many:,} days cost {least:.2f} (min) {middle:.2f} (median of the rounds) times {few} days")


def main() -> None:
    """Print the two comparisons."""
    print(measure.load())
    with tempfile.TemporaryDirectory(prefix="nightshift-history-") as scratch:
        folder, processes = Path(scratch), Processes(Path(scratch))
        port, *inner = free_ports(1 + len(INNER_PORTS))
        server = S3Server(folder / "s3", port, dict(zip(INNER_PORTS, inner, strict=True)), new_secrets())
        server.start(processes)
        try:
            histories = [History(folder / str(days), server, days) for days in HISTORIES]
            compared("ingest of one more day", histories, History.one_more)
            compared("dvc status", histories, History.status)
        finally:
            processes.stop("s3")
    print(measure.load())


if __name__ == "__main__":
    main()
