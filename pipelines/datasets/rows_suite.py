"""What is demanded of tables: of each day and column, judged from one pass over the profiles.

Great Expectations is asked about a row a day, and about the few records that are pointed out: a million records would
cost it ten times the time and the memory of the pass.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from great_expectations.expectations.expectation import Expectation

from pipelines.datasets.daily import Profile, load
from pipelines.datasets.expectations import (
    FIRST,
    LAST,
    SHIFT,
    Frames,
    Sheet,
    at_most,
    between,
    known_labels,
    of_every_day,
    of_number,
    of_personal,
    pointed_out,
)
from pipelines.datasets.rows_params import Records, Validate
from pipelines.params.records import LIKELY

COLUMNS = {**FIRST, **SHIFT, **LAST}


def frames(profiles: list[Path], quarantined: dict[str, int], records: Records, demands: Validate) -> Frames:
    """What ``suites`` asks about, of all days; ``quarantined`` counts by date."""
    words = [name for name, kind in records.columns.items() if kind == "category"]
    profile = load(profiles, list(records.columns), words)
    sheet = Sheet(profile, records.labels, quarantined, demands)
    for name, kind in records.columns.items():
        _fill(sheet, profile, name, kind, demands)
    sheet.personal(records.scanned)
    return sheet.frames()


def _fill(sheet: Sheet, profile: Profile, name: str, kind: str, demands: Validate) -> None:
    """What is told of one column."""
    asked, lost = demands.of(name)
    missing = profile.missing(name)
    sheet.share(f"{name} missing", missing, lost, lambda _: "missing")
    if kind == "category":
        codes, values = profile.codes(name)
        sheet.words(name, codes, values)
        if asked.values:
            known = pc.is_in(values, pa.array(asked.values)).to_numpy(zero_copy_only=False)
            strange = ~np.append(known, True)  # the last is for missing values, whose code is -1: they are told above
            sheet.share(
                f"{name} outside",
                strange[codes],
                asked.max_outside,
                lambda row: sheet.show(name, str(values[codes[row]])),
            )
    elif kind == "boolean":
        sheet.words(name, np.where(missing, -1, profile.numbers(name) == 1).astype(int), ["no", "yes"])
    elif kind != "date":  # days move on by themselves
        numbers = profile.numbers(name)
        sheet.number(name, numbers, demands)
        if asked.range:
            outside = (numbers < asked.range[0]) | (numbers > asked.range[1])
            sheet.share(f"{name} outside", outside, asked.max_outside, lambda row: f"{numbers[row]:g}")


def suites(records: Records, demands: Validate) -> dict[str, list[Expectation]]:
    """Critical refuses the snapshot, warning warns, info only points out records."""
    of_days = [*of_every_day(demands, "rows"), known_labels()]
    of_records = []
    for name, kind in records.columns.items():
        asked, lost = demands.of(name)
        out = asked.max_outside
        of_days.append(
            between(f"{name} missing", "critical", f"At most {lost:.1%} of a day's {name} is missing", max_value=lost)
        )
        of_records.append(pointed_out(f"{name} missing", f"{name} is there"))
        if wanted := asked.wanted:
            of_days.append(
                between(
                    f"{name} outside", "critical", f"At most {out:.1%} of a day's {name} is not {wanted}", max_value=out
                )
            )
            of_records.append(pointed_out(f"{name} outside", f"{name} is {wanted}"))
        if kind in ("category", "boolean"):
            of_days += at_most(
                f"{name} shift", f"A day's {name} shifts by a PSI of", demands.drift.warn, demands.drift.stop
            )
        if kind in ("number", "text"):
            of_days += of_number(name, demands)
            of_records.append(pointed_out(f"{name} outliers", f"{name} is near what it was before"))
    for name in records.scanned:
        of_days += of_personal(name)
        of_records += [pointed_out(f"{name}: {kind}", f"{name} holds no likely {kind}") for kind in LIKELY]
    return {"records": of_records, "days": of_days}
