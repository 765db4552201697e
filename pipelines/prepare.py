"""Rows to train on and frozen rows, of the validated snapshot: ``python -m pipelines.prepare DATASET``

Reads the whole history. A record is in one place only: the day that brought it first keeps it, and one that is frozen
is never trained on while its edition of frozen rows judges. The same partitions give the same bytes.
"""

import argparse
import hashlib
import importlib
import json
import shutil
import sys
from bisect import bisect_left
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.datasets import attributes
from pipelines.params.prepare import Prepare
from pipelines.params.section import ParamsError, at, read
from pipelines.params.toolchain import demand

FROZEN = ("test", "confirm", "publish")
SPLITS = ("train", "val", *FROZEN)

NO_ROWS = {
    "official": "With `split: official` the source marks its test rows (column split, or a folder test/); land some "
    "and ingest again",
    "hash": "With `split: hash` keys share out the rows: land more and ingest again",
    "time": "With `split: time` the newest frozen.days days judge and the days before them are trained on: land a day "
    "of each and ingest again",
}

Place = tuple[int, int, int, str]
"""Partition, row in it, class, key."""


class PrepareError(Exception):
    """The snapshot may not or cannot be prepared; the message says why and what to do."""


@dataclass(frozen=True)
class Split:
    """Which rows go where, in the order of days and keys.

    ``edition`` is the first day of the frozen rows that judge, "start" for those from the beginning; ``waiting`` counts
    renewed ones that are too few yet, ``retired`` those of earlier editions that the source marked and nobody uses.
    """

    rows: dict[str, list[Place]]
    duplicates: int
    edition: str
    waiting: int
    retired: int


def prepare(dataset: str, root: Path = Path()) -> dict[str, Any]:
    """Writes ``artifacts/datasets/<dataset>`` and returns the content of its ``dataset.json``.

    Each split is a folder: the reader's own file (of images ``x.npy``, uint8 ``[n, height, width, channels]``),
    ``y.npy`` int64 ``[n]`` and ``keys.txt``, a key a line; ``sha256`` in ``dataset.json`` is over the three, in this
    order. ``partitions`` there is each day's file by its md5, so that a release can be followed back to the days that
    made it. Where records have attributes, ``test/attributes.json`` holds each of them, a value for each row.

    Raises:
        ParamsError, PrepareError: the outputs are as before.
    """
    file = root / "params.yaml"
    params = Prepare.load("datasets", dataset, "prepare", file=file)
    name = at(read(file), "datasets", dataset, "reader", file=file)
    reader = importlib.import_module(f"pipelines.datasets.{name}")
    sections = importlib.import_module(f"pipelines.datasets.{name}_params")
    records = sections.Records.load("datasets", dataset, "records", file=file)
    _demand_passed(dataset, root)
    partitions = sorted((root / "data" / dataset).glob("date=*.parquet"))
    found = assign(partitions, records.labels, params)
    rows = found.rows
    for split in SPLITS:
        if not rows[split]:
            raise PrepareError(f"{dataset}: the snapshot has no {split} rows. {NO_ROWS[params.split]}")
    per_day = {split: _per_day(places, partitions) for split, places in rows.items()}
    target = root / "artifacts" / "datasets" / dataset
    part = target.with_name(f".{dataset}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(part, rows, partitions, reader, records)
        if records.attributes:
            groups = _attributes(rows["test"], partitions, records.attributes)
            (part / "test" / "attributes.json").write_text(json.dumps(groups, ensure_ascii=False) + "\n")
        described = {
            "labels": records.labels,
            **reader.described(records),
            "days": [_day(path) for path in partitions],
            "partitions": {_day(path): _md5(path) for path in partitions},
            "dropped": found.duplicates,
            "frozen": {
                "split": params.split,
                "share": params.frozen.share,
                "edition": found.edition,
                "waiting": found.waiting,
                "retired": found.retired,
                "least": params.frozen.least,
                "newest": max(day for split in FROZEN for day in per_day[split]),
                "trained_until": max(day for split in ("train", "val") for day in per_day[split]),
            },
            "splits": {
                split: {"rows": len(rows[split]), "sha256": _sha256(part / split, reader.FEATURES)} for split in SPLITS
            },
            # Rows are in the order of days, so these counts say which day each row is of.
            "rows_per_day": per_day,
        }
        (part / "dataset.json").write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
    except OSError as error:
        raise PrepareError(
            f"{target} cannot be written ({error.strerror or error}): free some space, run again"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return described


def assign(partitions: list[Path], labels: list[str], params: Prepare) -> Split:
    """Decide each record's place by its key, its day and what the source says of it."""
    classes = {label: i for i, label in enumerate(labels)}
    place_of: dict[str, Place] = {}
    marked: set[str] = set()
    seen = 0
    for p, path in enumerate(partitions):
        columns = pq.read_table(path, columns=["key", "label", "split"]).to_pydict()
        for row, (key, label, split) in enumerate(zip(*columns.values(), strict=True)):
            if label not in classes:
                raise PrepareError(f"{path} has the label {label!r}, and params.yaml's records.labels has not")
            seen += 1
            as_test = params.split == "official" and split == "test" and key not in marked
            if as_test:
                marked.add(key)
            if as_test or key not in place_of:
                place_of[key] = (p, row, classes[label], key)
    frozen = params.frozen
    starts = ["start", *(renewal.from_ for renewal in frozen.renewed)]
    if frozen.share is not None:
        marked = {key for key in place_of if _part("frozen", key) < frozen.share}
    if frozen.days is not None and partitions:
        starts = [(date.fromisoformat(_day(partitions[-1])) - timedelta(days=frozen.days - 1)).isoformat()]
        marked = {key for key, place in place_of.items() if _day(partitions[place[0]]) >= starts[0]}
    editions: dict[str, list[Place]] = {start: [] for start in starts}
    rows: dict[str, list[Place]] = {split: [] for split in SPLITS}
    open_: list[Place] = []
    for place in sorted(place_of.values()):
        if place[3] in marked:
            editions[_edition(partitions[place[0]], starts)].append(place)
        else:
            open_.append(place)
    edition = next((start for start in reversed(starts) if len(editions[start]) >= frozen.least), starts[0])
    before = [place for start in starts[: starts.index(edition)] for place in editions[start]]
    waiting = sum(len(editions[start]) for start in starts[starts.index(edition) + 1 :])
    if params.split == "hash":  # they were only ever lent to the judging; what a source marks is never trained on
        open_, before = sorted(open_ + before), []
    for place in open_:
        rows["val" if _part("val", place[3]) < params.val else "train"].append(place)
    for place in editions[edition]:
        part = _part("share", place[3])
        share = "confirm" if part < frozen.confirm else "publish" if part < frozen.confirm + frozen.publish else "test"
        rows[share].append(place)
    return Split(rows, seen - len(place_of), edition, waiting, len(before))


def _per_day(places: list[Place], partitions: list[Path]) -> dict[str, int]:
    counts = Counter(_day(partitions[place[0]]) for place in places)
    return dict(sorted(counts.items()))


def _part(purpose: str, key: str) -> float:
    """From 0 to 1, by the key alone: no later day moves a row to another split."""
    return int(hashlib.sha256(f"{purpose}:{key}".encode()).hexdigest()[:8], 16) / 2**32


def _edition(partition: Path, starts: list[str]) -> str:
    """The edition of a partition's frozen rows: the last that had begun on its day."""
    return next((start for start in reversed(starts[1:]) if start <= _day(partition)), starts[0])


def _day(partition: Path) -> str:
    return partition.stem.removeprefix("date=")


def _write(folder: Path, rows: dict[str, list[Place]], partitions: list[Path], reader: Any, records: Any) -> None:
    """The three files of each split; one partition in memory at a time."""
    with ExitStack() as files:
        append = {}
        for split, places in rows.items():
            (folder / split).mkdir(parents=True)
            append[split] = files.enter_context(reader.features(folder / split, len(places), records))
            np.save(folder / split / "y.npy", np.array([label for _, _, label, _ in places], np.int64))
            (folder / split / "keys.txt").write_text("".join(f"{key}\n" for *_, key in places))
        for p, path in enumerate(partitions):
            try:
                content = reader.content(path, records)
            except ValueError as error:
                raise PrepareError(f"{path}: {error}: correct params.yaml, or replace that day's files") from None
            for split, places in rows.items():
                # Places are sorted by partition, so its rows are one run.
                start, end = (bisect_left(places, which, key=itemgetter(0)) for which in (p, p + 1))
                append[split](content, [row for _, row, _, _ in places[start:end]])


def _attributes(places: list[Place], partitions: list[Path], names: list[str]) -> dict[str, list[str]]:
    """Each attribute of the rows at these places."""
    found: dict[str, list[str]] = {name: [] for name in names}
    for p, of_day in groupby(places, key=itemgetter(0)):
        values, rows = attributes.read(partitions[p], names), [row for _, row, _, _ in of_day]
        for name in names:
            found[name] += [values[name][row] for row in rows]
    return found


def _demand_passed(dataset: str, root: Path) -> None:
    path = root / "artifacts" / "validations" / dataset / "verdict.json"
    if not path.is_file():
        raise PrepareError(f"{path} is not there: type `dvc repro validate@{dataset}` first")
    verdict = json.loads(path.read_text())
    if verdict["verdict"] == "refuse":
        reasons = "; ".join(item["message"] for item in verdict["failed"] if item["severity"] == "critical")
        raise PrepareError(
            f"{dataset}: validation refused this snapshot: {reasons}. See {path.with_name('report.html')}"
        )


def _md5(path: Path) -> str:
    """The name that DVC gives the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _sha256(folder: Path, features: str) -> str:
    digest = hashlib.sha256()
    for name in (features, "y.npy", "keys.txt"):
        with (folder / name).open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def main(argv: list[str] | None = None) -> int:
    """0 done, 1 failed or refused, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.prepare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset")
    dataset = parser.parse_args(argv).dataset
    try:
        demand("numpy", "pyarrow")
        described = prepare(dataset)
    except (ParamsError, PrepareError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ParamsError) else 1
    counts = ", ".join(f"{described['splits'][split]['rows']:,} {split}" for split in SPLITS)
    left_out = f"; {described['dropped']:,} left out, they are there already" if described["dropped"] else ""
    print(f"{dataset}: {counts} rows from {len(described['days'])} day(s){left_out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
