"""What the suites of all readers share: the shape of their answer, and expectations in one line each."""

from typing import Any, NamedTuple

import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity as Severity

from pipelines.params.validate import Validate


class Frames(NamedTuple):
    """What Great Expectations is asked about, and what the report draws."""

    records: pd.DataFrame
    """Records (all, or those that a rule points out), with ``date``, ``source`` and ``key``."""
    days: pd.DataFrame
    """A row a day, with ``date``, ``rows``, ``train``, ``test`` and ``repeated``."""
    distributions: dict[str, pd.DataFrame]
    """What a shift is judged by: training rows by date and by bin; ``label`` in the data set's order."""


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


def at_most(column: str, what: str, warn: float, stop: float) -> list[Expectation]:
    """A size of each day that warns above ``warn`` and refuses above ``stop``."""
    return [
        between(column, severity, f"{what} at most {most:g}", max_value=most)
        for severity, most in (("critical", stop), ("warning", warn))
    ]


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
