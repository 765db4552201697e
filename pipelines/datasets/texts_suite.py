"""What is demanded of texts, in whatever language: of each day, judged from one pass over the profiles."""

from pathlib import Path

from great_expectations.expectations.expectation import Expectation

from pipelines.datasets.daily import load
from pipelines.datasets.expectations import (
    FIRST,
    LAST,
    SHIFT,
    Frames,
    Sheet,
    between,
    known_labels,
    of_every_day,
    of_number,
    of_personal,
    pointed_out,
)
from pipelines.datasets.texts_params import Records, Validate
from pipelines.params.records import LIKELY

COLUMNS = {**FIRST, "outside": "too short or long", "faulty": "encoding faults", **SHIFT, **LAST}
NUMBERS = ("length", "letters", "capitals", "digits", "spaces", "marks", "variety")


def frames(profiles: list[Path], quarantined: dict[str, int], records: Records, demands: Validate) -> Frames:
    """What ``suites`` asks about, of all days; ``quarantined`` counts by date."""
    profile = load(profiles, [*NUMBERS, "faults"], [])
    sheet = Sheet(profile, records.labels, quarantined, demands)
    for name in NUMBERS:
        sheet.number(name, profile.numbers(name), demands)
    length, faults = profile.numbers("length"), profile.numbers("faults")
    outside = (length < demands.length[0]) | (length > demands.length[1])
    sheet.share("outside", outside, demands.max_outside, lambda row: f"{length[row]:g} characters")
    sheet.share("faulty", faults > 0, demands.max_faulty, lambda row: f"{faults[row]:g} faults")
    sheet.personal(records.scanned)
    return sheet.frames()


def suites(records: Records, demands: Validate) -> dict[str, list[Expectation]]:
    """Critical refuses the snapshot, warning warns, info only points out records."""
    (least, most), out, faulty = demands.length, demands.max_outside, demands.max_faulty
    within = f"{least:,} to {most:,} characters"
    of_days = [
        *of_every_day(demands, "texts"),
        known_labels(),
        between("outside", "critical", f"At most {out:.1%} of a day's texts have not {within}", max_value=out),
        between("faulty", "critical", f"At most {faulty:.1%} of a day's texts have encoding faults", max_value=faulty),
    ]
    of_records = [
        pointed_out("outside", f"A text has {within}"),
        pointed_out("faulty", "A text has no encoding faults"),
    ]
    for name in NUMBERS:
        of_days += of_number(name, demands)
        of_records.append(pointed_out(f"{name} outliers", f"A text's {name} is near what it was before"))
    for name in records.scanned:
        of_days += of_personal(name)
        of_records += [pointed_out(f"{name}: {kind}", f"{name} holds no likely {kind}") for kind in LIKELY]
    return {"records": of_records, "days": of_days}
