"""What validation's page shows: the cause, what to type, and of the worst days their records, with pictures.

Everything comes from the profiles, which hold small pictures of some of each day's records; no partition is read.
"""

import base64
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

SEVERITIES = ("critical", "warning", "info")
CLOSE = 4  # days that are shown closely
WORST = 12  # failed records of such a day
EACH = 3  # ordinary records of each label of such a day, and of the day before it
LABELS = 10  # for that many labels
NEWEST = 60  # days in tables and plots, beside those that failed something
REASONS = 10  # of a day's quarantine, with
EXAMPLES = 5  # records each

Failure = dict[str, Any]


def content(
    verdict: dict[str, Any],
    failures: list[Failure],
    days: pd.DataFrame,
    demands: list[dict[str, Any]],
    rows: dict[str, pd.DataFrame],
    index: dict[str, Any],
    profiles: Path,
) -> dict[str, Any]:
    """All that the template needs beside the verdict.

    Args:
        failures: what failed, the most severe first, each with ``places``: what GX found, by day or by record.
        days: a row a day.
        demands: GX's results about ``days``, of what was met too.
        rows: the training rows by date and bin, of everything whose shift is judged.
        index: what the snapshot's index says of each day.
        profiles: the folder with the days' profiles.
    """
    shown = sorted({*days["date"][-NEWEST:], *(day for failure in failures for day in failure["days"][:NEWEST])})
    table = days[days["date"].isin(shown)].to_dict("records")
    marks = _marks(failures)
    close = [day for day in _close_days(failures) if day in set(days["date"])]
    trends = [trend(table, demand, marks) for demand in _once(demands)]
    return {
        "cause": cause(verdict, failures),
        "stopped": _days(failures, "critical"),
        "warned": _days(failures, "warning"),
        "failures": [failure for failure in failures if not _said_already(failure, marks)],
        "worst_records": [
            {"failure": failure, "count": len(failure["places"]), "records": _with_pictures(worst[:WORST], profiles)}
            for failure in failures
            if failure["suite"] == "records"
            and (worst := worst_first(failure))
            and not {place["date"] for place in worst} <= set(close)
        ],
        "table": table,
        "marks": marks,
        "trends": sorted(trends, key=lambda one: not any(point["mark"] for point in one["points"])),
        "closely": [_closely(day, failures, marks, days, rows, profiles) for day in close],
        "quarantine": {day: why for day in reversed(shown) if day in index and (why := quarantined(index[day]))},
    }


def cause(verdict: dict[str, Any], failures: list[Failure]) -> str:
    """The verdict's reason in a sentence."""
    if verdict["verdict"] == "pass":
        return "Every expectation of weight is met."
    severity = "critical" if verdict["verdict"] == "refuse" else "warning"
    first, *others = [failure for failure in failures if failure["severity"] == severity]
    rest = f"; {len(others)} more reason(s) below" if others else ""
    so = "" if first["suite"] == "days" else " are not so"
    return f"Expected is “{first['expectation']}”, but {first['where']}{so}{rest}."


def trend(table: list[dict[str, Any]], demand: dict[str, Any], marks: dict[tuple[str, str], str]) -> dict[str, Any]:
    """A column of the days with its bounds, for a plot: heights from 0 to 1, None where nothing was asked."""
    column, bounds = demand["column"], demand["bounds"]
    values = [None if row[column] != row[column] else float(row[column]) for row in table]
    top = max([value for value in values if value is not None] + [bound for _, bound in bounds], default=0) * 1.08 or 1
    points = [
        {
            "day": row["date"],
            "value": value,
            "height": None if value is None else round(value / top, 4),
            "mark": marks.get((row["date"], column), ""),
        }
        for row, value in zip(table, values, strict=True)
    ]
    limits = [{"severity": severity, "value": bound, "height": round(bound / top, 4)} for severity, bound in bounds]
    return {"column": column, "points": points, "bounds": limits}


def worst_first(failure: Failure, day: str | None = None) -> list[dict[str, Any]]:
    """The failed records (of a day), those farthest outside of the bounds first."""
    column, low, high = failure["column"], failure["bounds"].get("min_value"), failure["bounds"].get("max_value")

    def outside(place: dict[str, Any]) -> float:
        value = place[column]
        if not isinstance(value, int | float):
            return 0.0
        return max(low - value if low is not None else 0.0, value - high if high is not None else 0.0)

    places = [place for place in failure["places"] if day in (None, place["date"])]
    return sorted(places, key=lambda place: (-outside(place), place["date"], place["key"]))


def _days(failures: list[Failure], severity: str) -> list[str]:
    return sorted({day for failure in failures if failure["severity"] == severity for day in failure["days"]})


def _close_days(failures: list[Failure]) -> list[str]:
    """The newest of the days that failed something, those that stop the night first."""
    found: list[str] = []
    for severity in SEVERITIES[:2]:
        found += [day for day in reversed(_days(failures, severity)) if day not in found]
    return found[:CLOSE]


def _marks(failures: list[Failure]) -> dict[tuple[str, str], str]:
    """Day and column to the severity of what failed there."""
    found: dict[tuple[str, str], str] = {}
    for failure in failures:  # the most severe first
        for day in failure["days"]:
            found.setdefault((day, failure["column"]), failure["severity"])
    return found


def _said_already(failure: Failure, marks: dict[tuple[str, str], str]) -> bool:
    """Whether all its days fail a stricter bound of the same column."""
    severe = {marks[day, failure["column"]] for day in failure["days"]}
    return failure["severity"] == "warning" and severe == {"critical"}


def _once(demands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is demanded of each column of the days that may be other than nothing, with all its bounds."""
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for demand in demands:
        for bound in ("min_value", "max_value"):
            if demand["bounds"].get(bound):
                found[demand["column"]].append((demand["severity"], demand["bounds"][bound]))
    return [{"column": column, "bounds": bounds} for column, bounds in found.items()]


def _closely(
    day: str,
    failures: list[Failure],
    marks: dict[tuple[str, str], str],
    days: pd.DataFrame,
    rows: dict[str, pd.DataFrame],
    profiles: Path,
) -> dict[str, Any]:
    """One day: what failed there, on which records, what it looks like, and how it differs from the days before."""
    of_day = [failure for failure in failures if day in failure["days"] and not _said_already(failure, marks)]
    before = [date for date in days["date"] if date < day]
    stopped = _days(failures, "critical")
    calm = [date for date in before if date not in stopped]
    return {
        "date": day,
        "failures": of_day,
        "records": [
            {"failure": failure, "count": len(worst), "records": _with_pictures(worst[:WORST], profiles)}
            for failure in of_day
            if failure["suite"] == "records" and (worst := worst_first(failure, day))
        ],
        "looks": [{"date": date, "records": _ordinary(_pictures(date, profiles))} for date in [day, *calm[-1:]]],
        "shifts": [_shift(name, counts, day) for name, counts in rows.items()] if before else [],
    }


def _shift(name: str, counts: pd.DataFrame, day: str) -> dict[str, Any]:
    """A day's shares of its training rows beside those of all days before it."""
    here, before = counts.loc[day].to_numpy(), counts[counts.index < day].to_numpy().sum(axis=0)
    shares = [side / max(side.sum(), 1) for side in (here, before)]
    most = max(*(side.max() for side in shares), 1e-9)
    bins = [
        {"bin": str(name), "here": one, "before": other, "heights": [round(one / most, 4), round(other / most, 4)]}
        for name, one, other in zip(counts.columns, *(side.tolist() for side in shares), strict=True)
    ]
    return {"name": name, "rows": [int(here.sum()), int(before.sum())], "bins": bins}


def _pictures(day: str, profiles: Path) -> pd.DataFrame:
    """The records of a day that have a picture, with it."""
    path = profiles / f"date={day}.parquet"
    names = pq.read_schema(path).names
    if "picture" not in names:  # records that have none, or a profile of before there were any
        return pd.DataFrame(columns=["source", "label", "split", "picture"])
    return pd.read_parquet(path, columns=["source", "label", "split", "picture"]).dropna(subset=["picture"])


def _with_pictures(places: list[dict[str, Any]], profiles: Path) -> list[dict[str, Any]]:
    """Failed records as they are shown: with their picture, if the profile has it, and with short numbers."""
    days = {place["date"] for place in places}
    pictured = {(day, row.source): row for day in days for row in _pictures(day, profiles).itertuples()}
    found = []
    for place in places:
        row = pictured.get((place["date"], place["source"]))
        short = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in place.items()}
        found.append({**short, "label": row.label if row else "", "picture": _uri(row)})
    return found


def _ordinary(pictured: pd.DataFrame) -> list[dict[str, Any]]:
    """Some records of each label, in the order of labels."""
    some = pictured[pictured["label"].isin(sorted(pictured["label"].unique())[:LABELS])]
    some = some.sort_values("label", kind="stable").groupby("label", sort=False).head(EACH)
    return [{"source": row.source, "label": row.label, "picture": _uri(row)} for row in some.itertuples()]


def _uri(row: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(row.picture).decode() if row is not None else ""


def lost(day: dict[str, Any]) -> int:
    """How many records of a day, as its entry of the index says, are in quarantine."""
    return sum(item.get("records", 1) for file in day["files"] for item in file["quarantined"])


def quarantined(day: dict[str, Any]) -> dict[str, Any] | None:
    """How many records of a day, as its entry of the index says, are in quarantine, and why; None when none is.

    The most frequent reasons come first, each with its first records.
    """
    reasons: Counter[str] = Counter()
    examples: dict[str, list[str]] = defaultdict(list)
    for file in day["files"]:
        for item in file["quarantined"]:
            reasons[item["reason"]] += item.get("records", 1)
            if len(examples[item["reason"]]) < EXAMPLES:
                examples[item["reason"]].append(f"{file['name']}, {item['record']}")
    if not (count := lost(day)):
        return None
    common = [
        {"reason": reason, "count": times, "examples": examples[reason]}
        for reason, times in reasons.most_common(REASONS)
    ]
    return {"count": count, "share": count / (count + day["rows"]), "reasons": common, "kinds": len(reasons)}
