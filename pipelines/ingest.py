"""Brings what has landed into the snapshot: ``python -m pipelines.ingest DATASET --until DATE …``

An event, not a stage: it asks the landing zone what is there. It reads only the days whose files are not those of the
index, writes a canonical partition and a profile for each, and the index last, so that whoever reads the index sees a
whole snapshot. Old partitions are neither needed nor touched.
"""

import argparse
import hashlib
import importlib
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.datasets import personal
from pipelines.datasets.decisions import Decisions
from pipelines.datasets.landing import Bucket, Folder, LandedFile, LandingError, Listing, is_date, open_landing
from pipelines.datasets.snapshot import Snapshot, SnapshotError
from pipelines.params import dataset as datasets
from pipelines.params.section import ParamsError

AT_ONCE = 32  # landing files in memory and on their way


def ingest(dataset: str, until: date, held: list[dict[str, str]], root: Path = Path()) -> dict[str, Any]:
    """Takes every day up to ``until`` that is new or other than in the index, but for those ``held``.

    Args:
        held: what was decided about days (see ``decisions``).

    Returns:
        The report: taken, dropped, held, left_out, skipped_after_until, changed and removed paths, rows, quarantine,
        stale.

    Raises:
        ParamsError, LandingError, SnapshotError, PersonalError: nothing of the snapshot has changed; running again is
            safe.
    """
    params = datasets.load(dataset, root / "params.yaml")
    reader = importlib.import_module(f"pipelines.datasets.{params.reader}")
    landing, decisions = open_landing(params.landing), Decisions(held)
    with Snapshot(root, dataset) as snapshot:
        secret = personal.secret(params.records, snapshot.days)
        listing = landing.list()
        report: dict[str, Any] = {
            "dataset": dataset,
            "taken": [],
            "dropped": decisions.dropped(snapshot.days),
            "held": [],
            **_not_taken(listing, until),
            "changed": [],
            "removed": [],
            "quarantine": [],
        }
        for day in report["dropped"]:
            report["removed"] += snapshot.remove(day["date"])
        for day, files in _pending(listing, until, snapshot):
            if decisions.leaves(day, report, landed=_landed([(file.name, file.size, file.etag) for file in files])):
                continue  # by its listing: it is not read again every night
            if files:
                rows, found = reader.Rows(), _read(landing, day, files)
                entries = [_read_one(reader, file, data, params.records, rows) for file, data in found]
                _take(day, rows, entries, reader, params.records, secret, decisions, snapshot, report)
            else:
                report["left_out"].append({"date": day, "reason": f"{landing.url}/date={day}/ is empty"})
        report["changed"] = snapshot.commit()
        report["rows"] = sum(entry["rows"] for entry in snapshot.days.values())
        report["stale"] = _stale(snapshot.days, until, params.freshness_days)
    report["quarantined"] = _lost(report["quarantine"])
    report["quarantine"] = report["quarantine"][:100]
    return report


def foresee(dataset: str, until: date, held: list[dict[str, str]], root: Path = Path()) -> dict[str, Any]:
    """What ``ingest`` would do, from listings alone: no file is read, and nothing is written.

    Returns:
        Like the report of ``ingest``, with ``files`` and ``bytes`` of each day instead of its rows. ``sure`` is False
        of a day that may turn out to be the one that is there: its files have the same sizes, and other times.
    """
    params = datasets.load(dataset, root / "params.yaml")
    landing = open_landing(params.landing)
    snapshot, listing = Snapshot(root, dataset), landing.list()
    decisions = Decisions(held)
    report: dict[str, Any] = {
        "dataset": dataset,
        "taken": [],
        "dropped": decisions.dropped(snapshot.days),
        "held": [],
        **_not_taken(listing, until),
    }
    days = set(snapshot.days)
    for day, files in _pending(listing, until, snapshot):
        before, now = snapshot.days.get(day), [(file.name, file.size, file.etag) for file in files]
        if decisions.leaves(day, report, landed=_landed(now)):
            continue
        if not files:
            report["left_out"].append({"date": day, "reason": f"{landing.url}/date={day}/ is empty"})
            continue
        had = [(entry["name"], entry["size"], entry["etag"]) for entry in before["files"]] if before else []
        report["taken"].append(
            {
                "date": day,
                "why": _why(before and set(had), set(now), late=any(day < other for other in days)),
                "files": len(files),
                "bytes": sum(file.size for file in files),
                "sure": not {(name, size) for name, size, _ in now} <= {(name, size) for name, size, _ in had},
            }
        )
        days.add(day)
    report["rows"] = sum(entry["rows"] for entry in snapshot.days.values())
    report["stale"] = _stale(days, until, params.freshness_days)
    return report


def _pending(listing: Listing, until: date, snapshot: Snapshot) -> Iterator[tuple[str, list[LandedFile]]]:
    """The days up to ``until`` whose files are not all in the index."""
    for day, files in listing.days.items():
        if day <= until.isoformat() and not _is_known(files, snapshot.days.get(day)):
            yield day, files


def _not_taken(listing: Listing, until: date) -> dict[str, Any]:
    return {
        "left_out": [{"date": name, "reason": "is no date=YYYY-MM-DD/ folder"} for name in listing.strange],
        "skipped_after_until": [day for day in listing.days if day > until.isoformat()],
    }


def _landed(files: list[tuple[str, int, str]]) -> str:
    """A digest of what a listing says of a day: names, sizes, etags."""
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()


def _is_known(files: list[LandedFile], before: dict[str, Any] | None) -> bool:
    """Whether the index has all these files. It may have more: a landing zone that is swept shrinks no snapshot."""
    known = {(entry["name"], entry["size"], entry["etag"]) for entry in before["files"]} if before else set()
    return before is not None and {(file.name, file.size, file.etag) for file in files} <= known


def _take(
    day: str,
    rows: Any,
    entries: list[dict[str, Any]],
    reader: Any,
    records: Any,
    secret: personal.Secret,
    decisions: Decisions,
    snapshot: Snapshot,
    report: dict[str, Any],
) -> None:
    """Stages one day that was read, or says in the report why not."""
    before = snapshot.days.get(day)
    checksum = hashlib.sha256("".join(f"{e['name']}\0{e['sha256']}\n" for e in entries).encode()).hexdigest()
    if before and before["checksum"] == checksum:
        return  # touched or copied again: the same bytes
    if decisions.leaves(day, report, checksum=checksum):
        return
    report["quarantine"] += [
        {"file": f"date={day}/{entry['name']}", **item} for entry in entries for item in entry["quarantined"]
    ]
    if not rows:
        stays = "; the partition taken before stays" if before else ""
        report["left_out"].append({"date": day, "reason": f"no readable record in {len(entries)} file(s){stays}"})
        return
    partition, profile, duplicates = reader.tables(rows, records, secret.key)
    sha256 = snapshot.stage(day, partition=partial(reader.write, partition), profile=partial(reader.write, profile))
    why = _why(
        before and {(entry["name"], entry["sha256"]) for entry in before["files"]},
        {(entry["name"], entry["sha256"]) for entry in entries},
        late=any(day < other for other in snapshot.days),
    )
    snapshot.days[day] = {
        "rows": len(partition),
        "sha256": sha256,
        "checksum": checksum,
        "duplicates": duplicates,
        "files": entries,
        **({"secret": secret.fingerprint} if secret.fingerprint else {}),
        **({"accepted": reason} if (reason := decisions.let_in(day, checksum)) else {}),
    }
    report["taken"].append(
        {
            "date": day,
            "checksum": checksum,
            "landed": _landed([(entry["name"], entry["size"], entry["etag"]) for entry in entries]),
            "rows": len(partition),
            "why": why,
            "files": len(entries),
            "quarantined": sum(_lost(entry["quarantined"]) for entry in entries),
            "duplicates": duplicates,
        }
    )


def _read(landing: Folder | Bucket, day: str, files: list[LandedFile]) -> Iterator[tuple[LandedFile, bytes]]:
    """The files of a day with their bytes, in order; several are on their way at once."""
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, len(files), AT_ONCE):
            batch = files[start : start + AT_ONCE]
            yield from zip(batch, pool.map(lambda file: landing.read(day, file.name), batch), strict=True)


def _read_one(reader: Any, file: LandedFile, data: bytes, records: Any, rows: Any) -> dict[str, Any]:
    """Adds a file's records to ``rows``; returns its entry in the index."""
    before = len(rows)
    try:
        quarantined = reader.read(file.name, data, records, rows)
    except reader.Unreadable as reason:
        quarantined = [{"record": "the whole file", "reason": str(reason)}]
    return {
        "name": file.name,
        "size": file.size,
        "etag": file.etag,
        "sha256": hashlib.sha256(data).hexdigest(),
        "rows": len(rows) - before,
        "quarantined": quarantined,
    }


def _lost(quarantined: list[dict[str, Any]]) -> int:
    """How many records: a file with very many names the first alone."""
    return sum(item.get("records", 1) for item in quarantined)


def _why(before: set[Any] | None, now: set[Any], *, late: bool) -> str:
    """new, late (older than a day that is already there), late file (joins its day) or replaced."""
    if before is None:
        return "late" if late else "new"
    return "late file" if before <= now else "replaced"


def _stale(days: Iterable[str], until: date, freshness_days: int | None) -> str | None:
    newest = max(days, default=None)
    if freshness_days is None or newest is None:
        return None
    age = (until - date.fromisoformat(newest)).days
    if age <= freshness_days:
        return None
    return f"the newest day is {newest}, {age} days before {until}; at most {freshness_days} are wanted"


def foretold(report: dict[str, Any]) -> Iterator[str]:
    """What is foreseen, in lines for a person."""
    for day in report["dropped"]:
        yield f"{day['date']}  taken out: {day['reason']}"
    for day in report["taken"]:
        maybe = "" if day["sure"] else ", unless it is the one that is there"
        yield f"{day['date']}  {day['why']}: {day['files']} file(s), {day['bytes']:,} bytes{maybe}"
    yield from _left(report)
    if not report["taken"]:
        yield f"{report['dataset']}: nothing new"


def told(report: dict[str, Any]) -> Iterator[str]:
    """The report in lines for a person."""
    for day in report["dropped"]:
        yield f"{day['date']}  taken out: {day['reason']}"
    for day in report["taken"]:
        extra = "".join(f", {day[word]:,} {word}" for word in ("quarantined", "duplicates") if day[word])
        yield f"{day['date']}  {day['why']}: {day['rows']:,} rows from {day['files']} file(s){extra}"
    yield from _left(report)
    for item in report["quarantine"][:20]:
        yield f"  quarantined: {item['file']}, {item['record']}: {item['reason']}"
    if report["quarantined"] > 20:
        yield f"  … and {report['quarantined'] - 20:,} more records in quarantine"
    if report["stale"]:
        yield f"stale: {report['stale']}"
    if not report["rows"]:
        yield f"{report['dataset']}: nothing has landed yet: `nightshift land` drops a demo day"
    else:
        nothing = "" if report["taken"] else "nothing new, "
        yield f"{report['dataset']}: {nothing}{report['rows']:,} rows in the snapshot"


def _left(report: dict[str, Any]) -> Iterator[str]:
    for day in report["held"]:
        yield f"{day['date']}  held, not taken: {day['reason']}"
    for day in report["left_out"]:
        yield f"{day['date']}  left out: {day['reason']}"
    if report["skipped_after_until"]:
        yield f"{', '.join(report['skipped_after_until'])}  not yet: after the date up to which data counts"


def main(argv: list[str] | None = None) -> int:
    """0 done (also with nothing new), 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.ingest", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("--until", help="the last day that counts, YYYY-MM-DD (default: yesterday, UTC)")
    parser.add_argument("--held", type=Path, help='JSON: [{"date", "checksum", "reason"}] to leave out')
    parser.add_argument("--plan", action="store_true", help="only say what would be taken; reads listings alone")
    parser.add_argument("--report", type=Path, help="where to write what happened, as JSON")
    args = parser.parse_args(argv)
    if args.until and not is_date(args.until):
        parser.error(f"--until {args.until} is no date, write YYYY-MM-DD")
    until = date.fromisoformat(args.until) if args.until else datetime.now(UTC).date() - timedelta(days=1)
    held = json.loads(args.held.read_text()) if args.held else []
    try:
        report = (foresee if args.plan else ingest)(args.dataset, until, held)
        if args.report:
            args.report.write_text(json.dumps(report, indent=1) + "\n")
    except (ParamsError, LandingError, SnapshotError, personal.PersonalError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ParamsError) else 1
    for line in foretold(report) if args.plan else told(report):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
