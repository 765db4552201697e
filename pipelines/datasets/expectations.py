"""What the suites of all readers share: the shape of their answer, and expectations in one line each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity as Severity

from pipelines.datasets.daily import Cut, Profile, identities, word_bins
from pipelines.params.records import LIKELY
from pipelines.params.validate import Numbers, Validate
from pipelines.statistics.drift import by_day

SHOWN = 20  # records of a day that a rule points out

# Columns of ``days`` that the report shows of whatever records, with their headings: before and after a reader's own.
FIRST = {"rows": "rows", "train": "train", "test": "test", "quarantined": "quarantined", "least_label": "rarest label"}
SHIFT = {"label_shift": "label shift (PSI)"}
LAST = {"repeated": "there twice", "contradicted": "two labels", "leaked": "also in test"}


class Frames(NamedTuple):
    """What Great Expectations is asked about, and what the report draws."""

    records: pd.DataFrame
    """Records (all, or those that a rule points out), with ``date``, ``source`` and ``key``."""
    days: pd.DataFrame
    """A row a day, with ``date``, ``rows``, ``train``, ``test`` and ``repeated``."""
    shares: set[str]
    """Columns of ``days`` that are shares of 1; the others are counts and sizes."""
    distributions: dict[str, pd.DataFrame]
    """What a shift is judged by: training rows by date and by bin; ``label`` in the data set's order."""


class Sheet:
    """A row a day, filled column by column, and the records that those columns count: what ``Frames`` is made of."""

    def __init__(self, profile: Profile, labels: list[str], quarantined: dict[str, int], demands: Validate):
        codes, names = profile.codes("label")
        place = np.array([labels.index(name) if name in labels else -1 for name in names.to_pylist()], int)
        self._profile, self._least = profile, demands.drift.min_rows
        counts = profile.tally(place[codes], len(labels))
        rows, train = (profile.count(flags) for flags in (np.ones(len(codes), bool), profile.train))
        lost = np.array([quarantined.get(date, 0) for date in profile.dates])
        keys, _ = profile.codes("key")
        found = {name: profile.count(flags) for name, flags in identities(keys, codes, profile.train).items()}
        # A day of test rows only has no balance to speak of: its share is null, which fails nothing.
        least = counts.min(1) / np.where(train > 0, train, np.nan)
        self._days: dict[str, Any] = {
            "date": profile.dates,
            **{"rows": rows, "train": train, "test": rows - train, "quarantined": lost / (lost + rows)},
            **{"repeated_share": found["repeated"] / rows, "least_label": least},
            **{"label_shift": by_day(counts, self._least), "label_strange": profile.count(place[codes] < 0)},
            **found,
        }
        self._shares = {"quarantined", "repeated_share", "least_label"}
        self._distributions: dict[str, tuple[Any, list[str]]] = {"label": (counts, labels)}
        self._lines, lines = profile.codes("personal")
        self._holds = [{*line.splitlines()} for line in lines.to_pylist()]
        self._flags: dict[str, dict[int, str]] = {}

    def share(self, name: str, flags: Any, most: float, show: Callable[[int], str]) -> None:
        """Of each day the share of flagged records; those of days with more than ``most`` are pointed out."""
        self._days[name] = self._profile.count(flags) / self._days["rows"]
        self._shares.add(name)
        self._point_out(name, flags, self._days[name] > most, show)

    def number(self, name: str, values: Any, demands: Numbers) -> None:
        """How far a day's numbers lie from those before: ``shift``, ``distance`` and ``outliers``."""
        cut = Cut.of(self._profile, values, self._least)
        counts, bins = cut.bins()
        self._distributions[name] = counts, bins
        self._days[f"{name} shift"] = by_day(counts, self._least)
        self._days[f"{name} distance"] = cut.distance(self._least)
        low, high = (fence[self._profile.day] for fence in cut.fences(demands.outliers.fence, self._least))
        far = (values < low) | (values > high)
        self.share(f"{name} outliers", far, demands.outliers.max, lambda row: f"{values[row]:g}")

    def words(self, name: str, codes: Any, words: Any) -> None:
        """How far the shares of a day's words lie from those before: ``shift``."""
        counts, common = word_bins(self._profile, codes, self._least)
        bins = [*(self.show(name, str(words[code])) for code in common), "others", "missing"]
        self._distributions[name] = counts, bins
        self._days[f"{name} shift"] = by_day(counts, self._least)

    def show(self, column: str, word: str) -> str:
        """The word, unless the column seems to hold personal data somewhere."""
        return "not shown" if any(f"{column}: {kind}" in held for held in self._holds for kind in LIKELY) else word

    def personal(self, columns: list[str]) -> None:
        """How many records of a day seem to hold personal data, by column and kind."""
        every = np.ones(len(self._profile.paths), bool)
        for name in (f"{column}: {kind}" for column in columns for kind in LIKELY):
            told = [
                *(name in held for held in self._holds),
                False,
            ]  # the last: of none, whose code is -1
            holds = np.array(told)[self._lines]
            self._days[name] = self._profile.count(holds)
            self._point_out(name, holds, every, lambda _: "not shown")

    def frames(self) -> Frames:
        """All of it."""
        found = {
            name: pd.DataFrame(counts, index=pd.Index(self._profile.dates, name="date"), columns=bins)
            for name, (counts, bins) in self._distributions.items()
        }
        return Frames(self._profile.point_out(self._flags), pd.DataFrame(self._days), self._shares, found)

    def _point_out(self, name: str, flags: Any, days: Any, show: Callable[[int], str]) -> None:
        self._flags[name] = {int(row): show(row) for row in self._profile.first(flags, days, SHOWN)}


def of_every_day(demands: Validate, what: str) -> list[Expectation]:
    """What is asked of a day whatever its records are; ``what`` names them, in the plural, with an s."""
    lost, share, again = demands.max_quarantined, demands.min_label_share, demands.max_repeated
    return [
        between("rows", "critical", f"A day has at least {demands.min_rows:,} rows", min_value=demands.min_rows),
        between("quarantined", "critical", f"At most {lost:.1%} of a day's records are quarantined", max_value=lost),
        between(
            "least_label", "critical", f"Each label has at least {share:.1%} of a day's training rows", min_value=share
        ),
        between(
            "repeated_share", "critical", f"At most {again:.0%} of a day's {what} were there before", max_value=again
        ),
        *at_most("label_shift", "A day's labels shift by a PSI of", demands.drift.warn, demands.drift.stop),
        between("repeated", "warning", f"No {what[:-1]} is there twice", max_value=0),
        between("contradicted", "warning", f"No {what[:-1]} has two labels", max_value=0),
        between("leaked", "warning", "No training row is also a test row", max_value=0),
    ]


def known_labels() -> Expectation:
    """Of a ``Sheet``: params.yaml still has the labels that ingest let in."""
    return between("label_strange", "critical", "Every label is one of the data set's", max_value=0)


def at_most(column: str, what: str, warn: float, stop: float) -> list[Expectation]:
    """A size of each day that warns above ``warn`` and refuses above ``stop``."""
    return [
        between(column, severity, f"{what} at most {most:g}", max_value=most)
        for severity, most in (("critical", stop), ("warning", warn))
    ]


def of_personal(column: str) -> list[Expectation]:
    """Warns where records seem to hold personal data; their number is told, never a value."""
    return [
        between(f"{column}: {kind}", "warning", f"There is no likely {kind} in {column}", max_value=0)
        for kind in LIKELY
    ]


def of_number(column: str, demands: Numbers) -> list[Expectation]:
    """What is asked of a day's numbers by those of the days before it (``daily.Numbers``)."""
    most, reach = demands.outliers.max, demands.outliers.fence
    return [
        *at_most(f"{column} shift", f"A day's {column} shifts by a PSI of", demands.drift.warn, demands.drift.stop),
        *at_most(
            f"{column} distance",
            f"A day's {column} lies from that before, in standard deviations,",
            demands.distance.warn,
            demands.distance.stop,
        ),
        between(
            f"{column} outliers",
            "warning",
            f"At most {most:.1%} of a day's {column} is over {reach:g} interquartile ranges off the quartiles before",
            max_value=most,
        ),
    ]


def pointed_out(flag: str, description: str) -> Expectation:
    """Info: shows the records that the sheet pointed out."""
    said = f"{description} (of a day at most {SHOWN} are named)"
    return gxe.ExpectColumnValuesToBeNull(column=flag, severity=Severity.INFO, description=said)


def not_null(column: str, description: str) -> Expectation:
    """Critical."""
    return gxe.ExpectColumnValuesToNotBeNull(column=column, severity=Severity.CRITICAL, description=description)


def in_set(column: str, values: list[Any], description: str) -> Expectation:
    """Critical."""
    return gxe.ExpectColumnValuesToBeInSet(
        column=column, value_set=values, severity=Severity.CRITICAL, description=description
    )


def between(
    column: str, severity: str, description: str, *, min_value: float | None = None, max_value: float | None = None
) -> Expectation:
    """Null fails nothing."""
    return gxe.ExpectColumnValuesToBeBetween(
        column=column,
        min_value=min_value,
        max_value=max_value,
        severity=Severity(severity),
        description=description,
    )
