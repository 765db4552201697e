"""What is demanded of images: of each record, and of each day, so that a long history cannot hide a bad one."""

from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity as Severity

from pipelines.params.records import Records
from pipelines.params.validate import Validate
from pipelines.statistics.drift import by_day

SHARES = {"quarantined", "least_label", "outliers", "repeated_share"}
"""Columns of ``days`` that are shares of 1; the others are counts."""


def days(profile: pd.DataFrame, quarantined: dict[str, int], records: Records, demands: Validate) -> pd.DataFrame:
    """One row a day: what ``suites`` asks about.

    ``profile`` holds the profiles of all days in order, with a column ``date``; ``quarantined`` counts by date.
    """
    date, train = profile["date"], profile["split"] == "train"
    labels = profile.drop_duplicates(["key", "label"])["key"]
    flags = {
        "train": train,
        "test": ~train,
        "outliers": ~profile["mean"].between(*demands.mean) | (profile["std"] < demands.min_std),
        "repeated": profile["key"].duplicated(),
        "contradicted": profile["key"].isin(labels[labels.duplicated()]),
        "leaked": train & profile["key"].isin(profile["key"][~train]),
    }
    found = pd.DataFrame(flags).groupby(date, sort=True).sum()
    found.insert(0, "rows", found["train"] + found["test"])
    lost = pd.Series(quarantined, dtype="int64").reindex(found.index, fill_value=0)
    found["quarantined"] = lost / (lost + found["rows"])
    found["outliers"] = found["outliers"] / found["rows"]
    found["repeated_share"] = found["repeated"] / found["rows"]
    # A day of test rows only has no balance to speak of: its share is null, which fails nothing.
    rows = {name: counts.reindex(found.index).to_numpy() for name, counts in distributions(profile, records).items()}
    found["least_label"] = rows["label"].min(axis=1) / found["train"].where(found["train"] > 0)
    least = demands.drift.min_rows
    found["label_shift"] = by_day(rows["label"], least)
    found["pixel_shift"] = np.fmax(by_day(rows["mean"], least), by_day(rows["std"], least))
    return found.reset_index()


def distributions(profile: pd.DataFrame, records: Records) -> dict[str, pd.DataFrame]:
    """What a shift is judged by: the training rows by date (rows) and by bin (columns), of each.

    ``label`` in the data set's order; ``mean`` and ``std`` of an image's pixels in 16 equal steps of 0 to 256, each
    called by its lower end.
    """
    train = profile[profile["split"] == "train"]
    found = {"label": pd.crosstab(train["date"], train["label"]).reindex(columns=records.labels, fill_value=0)}
    for column in ("mean", "std"):
        steps = (train[column] // 16).astype("int64") * 16
        found[column] = pd.crosstab(train["date"], steps).reindex(columns=range(0, 256, 16), fill_value=0)
    return {name: counts.reindex(profile["date"].unique(), fill_value=0) for name, counts in found.items()}


def suites(records: Records, demands: Validate) -> dict[str, list[Expectation]]:
    """Critical refuses the snapshot, warning warns, info only points out records."""
    height, width, channels = records.shape
    low, high = demands.mean
    of_records = [
        *(_not_null(column, f"Every record has a {column}") for column in ("key", "label", "split")),
        _in_set("label", records.labels, "Every label is one of the data set's"),
        _in_set("split", ["train", "test"], "Every record is a train or a test row"),
        _in_set("height", [height], f"Every image is {height} pixels high"),
        _in_set("width", [width], f"Every image is {width} pixels wide"),
        _in_set("channels", [channels], f"Every image has {channels} channel(s)"),
        _between("mean", "info", f"An image's mean is within {low:g} and {high:g}", min_value=low, max_value=high),
        _between("std", "info", f"An image's deviation is at least {demands.min_std:g}", min_value=demands.min_std),
    ]
    rows, quarantined = demands.min_rows, demands.max_quarantined
    share, outliers = demands.min_label_share, demands.max_outliers
    of_days = [
        _between("rows", "critical", f"A day has at least {rows:,} rows", min_value=rows),
        _between(
            "quarantined",
            "critical",
            f"At most {quarantined:.1%} of a day's records are quarantined",
            max_value=quarantined,
        ),
        _between(
            "least_label", "critical", f"Each label has at least {share:.1%} of a day's training rows", min_value=share
        ),
        _between(
            "outliers",
            "critical",
            f"At most {outliers:.1%} of a day's images are too dark, too bright or blank",
            max_value=outliers,
        ),
        _between(
            "repeated_share",
            "critical",
            f"At most {demands.max_repeated:.0%} of a day's images were there before",
            max_value=demands.max_repeated,
        ),
        *(
            _between(column, severity, f"A day's {what} shift by a PSI of at most {most:g}", max_value=most)
            for column, what in (("label_shift", "labels"), ("pixel_shift", "pixels"))
            for severity, most in (("critical", demands.drift.stop), ("warning", demands.drift.warn))
        ),
        _between("repeated", "warning", "No image is there twice", max_value=0),
        _between("contradicted", "warning", "No image has two labels", max_value=0),
        _between("leaked", "warning", "No training row is also a test row", max_value=0),
    ]
    return {"records": of_records, "days": of_days}


def _not_null(column: str, description: str) -> Expectation:
    return gxe.ExpectColumnValuesToNotBeNull(column=column, severity=Severity.CRITICAL, description=description)


def _in_set(column: str, values: list[Any], description: str) -> Expectation:
    return gxe.ExpectColumnValuesToBeInSet(
        column=column, value_set=values, severity=Severity.CRITICAL, description=description
    )


def _between(
    column: str, severity: str, description: str, *, min_value: float | None = None, max_value: float | None = None
) -> Expectation:
    return gxe.ExpectColumnValuesToBeBetween(
        column=column,
        min_value=min_value,
        max_value=max_value,
        severity=Severity(severity),
        description=description,
    )
