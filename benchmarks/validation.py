"""Validation of a table of a million rows, against Great Expectations alone over the same rows, in the same run.

The rows are ingested first, in so many days. Then, in turn and in processes of their own: the stage ``validate`` as it
is, and a bare program that reads the partitions with pandas and asks Great Expectations fifteen things of the frame.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks import measure

LABELS = ["no", "yes"]
COLUMNS = {
    "amount": "number",
    "age": "number",
    "balance": "number",
    "country": "category",
    "channel": "category",
    "note": "text",
    "member": "boolean",
    "joined": "date",
}
COUNTRIES, CHANNELS = ["de", "fr", "it", "us"], ["app", "phone", "shop"]

BARE = """
import sys
from pathlib import Path
import pandas as pd
import great_expectations as gx
import great_expectations.expectations as gxe
from great_expectations.data_context.types.base import ProgressBarsConfig
frame = pd.concat([pd.read_parquet(path) for path in sorted(Path(sys.argv[1]).glob("date=*.parquet"))])
context = gx.get_context(mode="ephemeral")
context.variables.progress_bars = ProgressBarsConfig(globally=False)
names = ["amount", "age", "balance", "country", "channel", "note", "joined"]
expectations = [gxe.ExpectColumnValuesToNotBeNull(column=name) for name in names] + [
    gxe.ExpectTableRowCountToBeBetween(min_value=500),
    gxe.ExpectColumnValuesToBeUnique(column="key"),
    gxe.ExpectColumnValuesToBeInSet(column="label", value_set=["no", "yes"]),
    gxe.ExpectColumnValuesToBeInSet(column="country", value_set=["de", "fr", "it", "us"]),
    gxe.ExpectColumnValuesToBeInSet(column="channel", value_set=["app", "phone", "shop"]),
    gxe.ExpectColumnValuesToBeBetween(column="age", min_value=0, max_value=120),
    gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0, max_value=1e6),
    gxe.ExpectColumnMeanToBeBetween(column="age", min_value=30, max_value=50),
]
batch = context.data_sources.add_pandas("s").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
suite = context.suites.add(gx.ExpectationSuite(name="suite", expectations=expectations))
definition = context.validation_definitions.add(gx.ValidationDefinition(name="v", data=batch, suite=suite))
result = definition.run(batch_parameters={"dataframe": frame})
assert result.success and len(result.results) == 15, result
"""

COUNT = """
from pipelines.datasets.rows_params import Records, Validate
from pipelines.datasets.rows_suite import suites
path = ("datasets", "rows")
print(len(suites(Records.load(*path, "records"), Validate.load(*path, "validate"))["days"]))
"""


@dataclass(frozen=True)
class Taken:
    """Seconds on the clock and of CPU, and the most memory that was resident, in bytes."""

    wall: float
    cpu: float
    memory: int


def run(command: list[str], folder: Path) -> Taken:
    """A command in a process of its own."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=folder, env=measure.environment(), stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(command)[:100]} exited with {process.returncode}:\n{said.read().decode()[-3000:]}")
    return Taken(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def land(folder: Path, rows: int, days: int) -> None:
    """A day's file each."""
    for day in range(days):
        draw, count = np.random.default_rng(day), rows // days
        table = pa.table(
            {
                "amount": draw.lognormal(3, 1, count).round(2),
                "age": np.clip(draw.normal(40, 12, count), 0, 120).round(),
                "balance": draw.normal(0, 1000, count).round(2),
                "country": draw.choice(COUNTRIES, count),
                "channel": draw.choice(CHANNELS, count),
                "note": [f"order {n:08} of the shop" for n in draw.integers(0, 10**8, count)],
                "member": draw.random(count) < 0.3,
                "joined": draw.integers(0, 1.7e15, count).astype("M8[us]"),
                "label": draw.choice(LABELS, count),
            }
        )
        path = folder / f"date=2026-{day // 28 + 1:02}-{day % 28 + 1:02}" / "rows.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path)


def checkout(folder: Path, landing: Path) -> int:
    """A params.yaml and the stages; returns how many expectations validation has of such rows."""
    params = yaml.safe_load((measure.ROOT / "params.yaml").read_text())
    asked = {
        "amount": {"range": [0, 1e6]},
        "age": {"range": [0, 120]},
        "country": {"values": COUNTRIES},
        "channel": {"values": CHANNELS},
    }
    params["datasets"] = {
        "rows": {
            "reader": "rows",
            "landing": str(landing),
            "freshness_days": None,
            "records": {"labels": LABELS, "columns": COLUMNS},
            "validate": {
                "min_rows": 500,
                "max_quarantined": 0.01,
                "max_repeated": 0.5,
                "min_label_share": 0.05,
                "max_missing": 0.05,
                "drift": {"warn": 0.1, "stop": 0.5, "min_rows": 300},
                "distance": {"warn": 0.2, "stop": 1.0},
                "outliers": {"fence": 3.0, "max": 0.05},
                "columns": asked,
            },
            "prepare": {
                "split": "hash",
                "val": 0.1,
                "frozen": {"share": 0.2, "confirm": 0.4, "publish": 0.2, "least": 1000, "renewed": []},
            },
        }
    }
    measure.copy(folder, "tests", "docs", "benchmarks", "nightshift")
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    done = subprocess.run([sys.executable, "-c", COUNT], cwd=folder, capture_output=True, text=True, check=True)
    return int(done.stdout)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightshift-validation-") as scratch:
        root, landing = Path(scratch, "checkout"), Path(scratch, "landing")
        root.mkdir()
        land(landing, args.rows, args.days)
        asked = checkout(root, landing)
        ingested = run([sys.executable, "-m", "pipelines.ingest", "rows", "--until", "2026-12-31"], root)
        commands = {
            f"validate, {asked} expectations": [sys.executable, "-m", "pipelines.validate", "rows"],
            "Great Expectations alone, 15": [sys.executable, "-c", BARE, str(root / "data" / "rows")],
        }
        found: dict[str, list[Taken]] = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                found[name].append(run(command, root))
        print(f"{args.rows:,} rows of {args.days} days, {len(COLUMNS)} columns; {measure.load()}")
        for name, taken in {"ingest of all of them": [ingested], **found}.items():
            cost = measure.told(name, [measure.Cost(one.wall, one.cpu) for one in taken])
            print(f"{cost}   {max(one.memory for one in taken) / 1e6:,.0f} MB resident at most")
        ours, bare = (statistics.median(one.cpu for one in taken) for taken in found.values())
        print(f"ratio of CPU seconds: {ours / bare:.2f}")


if __name__ == "__main__":
    main()
