"""What can be told of records, in the order of their days, from their keys and numbers alone.

Each day is compared with all days before it and with nothing later, so that a day that was accepted stays so. Bins are
cut from the first days that have rows enough, for the same reason.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import wasserstein_distance

Array = np.ndarray[Any, Any]

PARTS = 256  # of the same size, that numbers are cut into to measure distances
BINS = 10  # of which the PSI is made
FAR = 999.0  # the greatest distance that is told
COMMON = 50  # categories that have a bin of their own


@dataclass(frozen=True)
class Profile:
    """The profiles of all days as one table, without the columns that only a report needs."""

    table: pa.Table
    paths: list[Path]
    day: Array
    """Of each record its day's number."""
    train: Array
    """Whether a record is a training row."""

    @property
    def dates(self) -> list[str]:
        return [path.stem.removeprefix("date=") for path in self.paths]

    def count(self, flags: Array) -> Array:
        """How many records of each day are flagged."""
        return np.bincount(self.day[flags], minlength=len(self.paths))

    def tally(self, codes: Array, width: int) -> Array:
        """Training rows by day and by code; codes below 0 are not counted."""
        chosen = self.train & (codes >= 0)
        flat = self.day[chosen] * width + codes[chosen]
        return np.bincount(flat, minlength=len(self.paths) * width).reshape(len(self.paths), width)

    def missing(self, column: str) -> Array:
        """Which records have nothing there."""
        return self.table[column].is_null().to_numpy()

    def numbers(self, column: str) -> Array:
        """A number column as float64; NaN where it is missing."""
        return self.table[column].cast(pa.float64()).to_numpy()

    def codes(self, column: str) -> tuple[Array, pa.Array]:
        """A number for each different value in the order of first appearance, -1 where it is missing; and those."""
        found = pc.dictionary_encode(self.table[column].combine_chunks())
        return pc.fill_null(found.indices, -1).to_numpy(zero_copy_only=False), found.dictionary

    def first(self, flags: Array, days: Array, most: int) -> Array:
        """The numbers of the first flagged records of each of these days."""
        rows = np.flatnonzero(flags & days[self.day])
        day = self.day[rows]
        nth = np.arange(len(rows)) - np.searchsorted(day, day)
        return rows[nth < most]

    def point_out(self, flags: dict[str, dict[int, str]]) -> pd.DataFrame:
        """Records by number, the newest day's first: ``date``, ``source``, ``key`` and a column a flag.

        ``flags`` has of each name what is shown of which record.
        """
        found = []
        rows = np.unique([row for shown in flags.values() for row in shown]).astype(int)
        for day in reversed(np.unique(self.day[rows])):
            start = np.searchsorted(self.day, day)
            chosen = rows[self.day[rows] == day]
            some = pq.read_table(self.paths[day], columns=["source", "key"]).take(chosen - start).to_pydict()
            for row, source, key in zip(chosen, some["source"], some["key"], strict=True):
                seen = {name: shown.get(int(row)) for name, shown in flags.items()}
                found.append({"date": self.dates[day], "source": source, "key": key.hex(), **seen})
        return pd.DataFrame(found, columns=["date", "source", "key", *flags], dtype=object)


def load(paths: list[Path], columns: list[str], words: list[str]) -> Profile:
    """The profiles at these paths: key, label, split, ``personal`` and ``columns``, of which ``words`` hold words.

    Raises:
        ValueError: a profile lacks a column.
    """
    wanted = ["key", "label", "split", "personal", *columns]
    tables = []
    for path in paths:
        there = pq.read_schema(path).names
        if missing := [column for column in wanted if column not in there]:
            raise ValueError(
                f"{path} has no column {missing[0]}: that day was taken when params.yaml named other columns. Name "
                "those again, or begin a data set under another name"
            )
        tables.append(pq.read_table(path, columns=wanted, read_dictionary=["label", "split", "personal", *words]))
    table = pa.concat_tables(tables).unify_dictionaries()
    day = np.repeat(np.arange(len(paths), dtype=np.int32), [one.num_rows for one in tables])
    return Profile(table, paths, day, pc.equal(table["split"].cast(pa.string()), "train").to_numpy())


def identities(keys: Array, labels: Array, train: Array) -> dict[str, Array]:
    """Which records were there before, have a key with two labels, or are trained on and in the test rows too.

    Args:
        keys: a number for each key, counted from 0 in the order in which keys first appear.
        labels: a number for each label.
        train: whether a record is a training row.
    """
    newest = np.maximum.accumulate(keys)
    first = np.concatenate([[True], keys[1:] > newest[:-1]])
    two, frozen = np.zeros((2, newest[-1] + 1), bool)
    two[keys[labels != labels[first][keys]]] = True
    frozen[keys[~train]] = True
    return {"repeated": ~first, "contradicted": two[keys], "leaked": train & frozen[keys]}


@dataclass(frozen=True)
class Cut:
    """One number of all records, cut into parts that had the same size in the first days."""

    edges: Array
    counts: Array
    """Training rows by day and part."""
    sums: Array
    """Their values' sums."""

    @classmethod
    def of(cls, profile: Profile, values: Array, least: int) -> Self:
        """Edges are quantiles of the first days' training rows, at least ``least`` where there are so many."""
        known = profile.train & ~np.isnan(values)
        until = int(np.searchsorted(np.cumsum(profile.count(known)), least))
        first = values[known & (profile.day <= until)]
        edges = np.unique(np.quantile(first, np.arange(1, PARTS) / PARTS)) if len(first) else np.empty(0)
        part = np.where(known, np.searchsorted(edges, values, side="right"), -1)
        width, days = len(edges) + 1, len(profile.paths)
        flat = profile.day[known] * width + part[known]
        sums = np.bincount(flat, weights=values[known], minlength=days * width).reshape(days, width)
        return cls(edges, profile.tally(part, width), sums)

    def bins(self) -> tuple[Array, list[str]]:
        """Training rows by day and by bin, several parts each, and the bins' lower ends."""
        starts = np.unique(np.arange(self.counts.shape[1]) * BINS // self.counts.shape[1], return_index=True)[1]
        lower = [f"from {self.edges[start - 1]:g}" if start else "below" for start in starts]
        return np.add.reduceat(self.counts, starts, axis=1), lower

    def distance(self, least: int) -> Array:
        """Wasserstein's distance of each day from all days before, in standard deviations of those.

        NaN where either side has fewer than ``least`` rows.
        """
        found = np.full(len(self.counts), np.nan)
        all_counts, all_sums = np.cumsum(self.counts, axis=0), np.cumsum(self.sums, axis=0)
        for day in range(1, len(self.counts)):
            n, m = self.counts[day], all_counts[day - 1]
            if n.sum() < least or m.sum() < least:
                continue
            here, before = self.sums[day][n > 0] / n[n > 0], all_sums[day - 1][m > 0] / m[m > 0]
            moved = wasserstein_distance(here, before, n[n > 0], m[m > 0])
            spread = np.sqrt(np.cov(before, fweights=m[m > 0], ddof=0)) if len(before) > 1 else 0.0
            # Of a number that never varied any other value is far away.
            found[day] = round(float(min(moved / spread, FAR)), 4) if spread else FAR * bool(moved)
        return found

    def fences(self, reach: float, least: int) -> tuple[Array, Array]:
        """Of each day the lowest and highest number that is no outlier, by the quartiles of all days before it.

        NaN where those have fewer than ``least`` rows or do not vary.
        """
        before = np.cumsum(self.counts, axis=0) - self.counts
        total = before.sum(1)
        low, high = np.full((2, len(before)), np.nan)
        if len(self.edges):
            for day in np.flatnonzero(total >= least):
                share = np.cumsum(before[day]) / total[day]
                q1, q3 = self.edges[np.minimum(np.searchsorted(share, [0.25, 0.75]), len(self.edges) - 1)]
                if q3 > q1:
                    low[day], high[day] = q1 - reach * (q3 - q1), q3 + reach * (q3 - q1)
        return low, high


def word_bins(profile: Profile, codes: Array, least: int) -> tuple[Array, list[int]]:
    """Training rows by day and by word: the commonest of the first days (their codes), all others, and missing ones."""
    known = profile.train & (codes >= 0)
    until = int(np.searchsorted(np.cumsum(profile.count(known)), least))
    first = np.bincount(codes[known & (profile.day <= until)])
    common = np.argsort(-first, kind="stable")[:COMMON]
    bins = np.full(int(codes.max(initial=-1)) + 2, len(common))
    bins[common], bins[-1] = np.arange(len(common)), len(common) + 1  # a missing word has code -1
    return profile.tally(bins[codes], len(common) + 2), common.tolist()
