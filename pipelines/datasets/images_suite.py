"""What is demanded of images: of each record, and of each day, so that a long history cannot hide a bad one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from great_expectations.expectations.expectation import Expectation

from pipelines.datasets.daily import identities
from pipelines.datasets.expectations import (
    FIRST,
    LAST,
    SHIFT,
    Frames,
    at_most,
    between,
    in_set,
    not_null,
    of_every_day,
)
from pipelines.datasets.images_params import Records, Validate
from pipelines.statistics.drift import by_day

SHARES = {"quarantined", "least_label", "outliers", "repeated_share"}

COLUMNS = {**FIRST, "outliers": "outliers", **SHIFT, "pixel_shift": "pixel shift (PSI)", **LAST}


def frames(profiles: list[Path], quarantined: dict[str, int], records: Records, demands: Validate) -> Frames:
    """What ``suites`` asks about, of all days; ``quarantined`` counts by date."""
    days_of = [
        pd.read_parquet(path, columns=[name for name in pq.read_schema(path).names if name != "picture"]).assign(
            date=path.stem.removeprefix("date=")
        )
        for path in profiles
    ]
    profile = pd.concat(days_of, ignore_index=True)
    found = distributions(profile, records)
    return Frames(profile, _days(profile, quarantined, found, demands), SHARES, found)


def _days(
    profile: pd.DataFrame, quarantined: dict[str, int], distributions: dict[str, pd.DataFrame], demands: Validate
) -> pd.DataFrame:
    date, train = profile["date"], profile["split"] == "train"
    flags = {
        "train": train,
        "test": ~train,
        "outliers": ~profile["mean"].between(*demands.mean) | (profile["std"] < demands.min_std),
        **identities(pd.factorize(profile["key"])[0], pd.factorize(profile["label"])[0], train.to_numpy()),
    }
    found = pd.DataFrame(flags).groupby(date, sort=True).sum()
    found.insert(0, "rows", found["train"] + found["test"])
    lost = pd.Series(quarantined, dtype="int64").reindex(found.index, fill_value=0)
    found["quarantined"] = lost / (lost + found["rows"])
    found["outliers"] = found["outliers"] / found["rows"]
    found["repeated_share"] = found["repeated"] / found["rows"]
    # A day of test rows only has no balance to speak of: its share is null, which fails nothing.
    rows = {name: counts.reindex(found.index).to_numpy() for name, counts in distributions.items()}
    found["least_label"] = rows["label"].min(axis=1) / found["train"].where(found["train"] > 0)
    least = demands.drift.min_rows
    found["label_shift"] = by_day(rows["label"], least)
    found["pixel_shift"] = np.fmax(by_day(rows["brightness"], least), by_day(rows["contrast"], least))
    return found.reset_index()


def distributions(profile: pd.DataFrame, records: Records) -> dict[str, pd.DataFrame]:
    """What a shift is judged by: the training rows by date (rows) and by bin (columns), of each.

    ``label`` in the data set's order; ``brightness`` and ``contrast``, which are mean and deviation of an image's
    pixels, in 16 equal steps of 0 to 256, each called by its lower end.
    """
    train = profile[profile["split"] == "train"]
    found = {"label": pd.crosstab(train["date"], train["label"]).reindex(columns=records.labels, fill_value=0)}
    for name, column in (("brightness", "mean"), ("contrast", "std")):
        steps = (train[column] // 16).astype("int64") * 16
        found[name] = pd.crosstab(train["date"], steps).reindex(columns=range(0, 256, 16), fill_value=0)
    return {name: counts.reindex(profile["date"].unique(), fill_value=0) for name, counts in found.items()}


def suites(records: Records, demands: Validate) -> dict[str, list[Expectation]]:
    """Critical refuses the snapshot, warning warns, info only points out records."""
    height, width, channels = records.shape
    low, high = demands.mean
    of_records = [
        *(not_null(column, f"Every record has a {column}") for column in ("key", "label", "split")),
        in_set("label", records.labels, "Every label is one of the data set's"),
        in_set("split", ["train", "test"], "Every record is a train or a test row"),
        in_set("height", [height], f"Every image is {height} pixels high"),
        in_set("width", [width], f"Every image is {width} pixels wide"),
        in_set("channels", [channels], f"Every image has {channels} channel(s)"),
        between("mean", "info", f"An image's mean is within {low:g} and {high:g}", min_value=low, max_value=high),
        between("std", "info", f"An image's deviation is at least {demands.min_std:g}", min_value=demands.min_std),
    ]
    outliers = demands.max_outliers
    of_days = [
        *of_every_day(demands, "images"),
        between(
            "outliers",
            "critical",
            f"At most {outliers:.1%} of a day's images are too dark, too bright or blank",
            max_value=outliers,
        ),
        *at_most("pixel_shift", "A day's pixels shift by a PSI of", demands.drift.warn, demands.drift.stop),
    ]
    return {"records": of_records, "days": of_days}
