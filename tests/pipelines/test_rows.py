"""Tables: what lands as a partition, what validation says of it, and what prepare makes of it."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.ingest import ingest, told
from pipelines.params import dataset
from pipelines.params.section import ParamsError
from pipelines.prepare import SPLITS, prepare
from pipelines.validate import ValidateError, validate
from tests.pipelines.small import digests, parquet
from tests.pipelines.small import land as put
from tests.pipelines.tables import COLUMNS, as_csv, checkout, land, table

NIGHT = date(2026, 1, 31)


def run(root: Path) -> dict[str, Any]:
    return ingest("small", NIGHT, [], root)


def partition(root: Path, day: str = "2026-01-01") -> list[dict[str, Any]]:
    return pq.read_table(root / f"data/small/date={day}.parquet").to_pylist()


def judged(root: Path) -> dict[str, Any]:
    run(root)
    return validate("small", root)


def failures(verdict: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    return {item["expectation"]: (item["severity"], item["days"]) for item in verdict["failed"]}


# Ingest


def test_parquet_and_csv_of_the_same_rows_are_the_same_records(tmp_path: Path, landing: Path) -> None:
    rows = table(0, 50)
    put(landing, "2026-01-01", {"a.parquet": parquet(rows)})
    put(landing, "2026-01-02", {"a.csv": as_csv(rows)})
    root = checkout(tmp_path / "checkout", landing)
    run(root)
    one, other = partition(root), partition(root, "2026-01-02")
    assert one == other
    assert len(one) == 50
    assert list(one[0]) == ["key", "label", "split", *COLUMNS]
    first = next(row for row in one if row["note"] == "customer 00000")
    assert first["age"] == rows["age"][0].as_py()
    assert first["joined"] == rows["joined"][0].as_py()
    assert first["member"] is rows["member"][0].as_py()
    assert [row["key"] for row in one] == sorted(row["key"] for row in one)


def test_what_a_cell_may_be(tmp_path: Path, landing: Path) -> None:
    lines = [
        "age;country;note;member;joined;income",
        "4.5e1; de;plain;yes;2026-01-01;low",
        "NA;;;;;low",
        '1;fr;"two\nlines; one cell";0;2026-01-01T10:00:00+02:00;high',
        "1_000;de;x;no;2026-01-01;low",
        "inf;de;x;no;2026-01-01;low",
        "1;de;x;perhaps;2026-01-01;low",
        "1;de;x;no;2026-02-30;low",
        "1;de;x;no;2026-01-01;hihg",
        "1;de;x;no;2026-01-01;",
        "1;de;x",
    ]
    put(landing, "2026-01-01", {"a.csv": b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\n"})
    root = checkout(tmp_path / "checkout", landing)
    report = run(root)
    found = {row["note"]: row for row in partition(root)}
    assert found["plain"]["age"] == 45
    assert found["plain"]["member"] is True
    assert found[None] == found[None] | dict.fromkeys(COLUMNS)
    two = found["two\nlines; one cell"]
    assert two["joined"] == datetime(2026, 1, 1, 8, tzinfo=UTC).replace(tzinfo=None)
    assert len(found) == 3
    reasons = {item["record"]: item["reason"] for item in report["quarantine"]}
    assert reasons == {
        "row 3": "age: is no number",
        "row 4": "age: is no number",
        "row 5": "member: is no boolean",
        "row 6": "joined: is no date",
        "row 7": "income: is none of the labels; is it high?",
        "row 8": "income: is missing",
        "row 9": "has 3 fields, the first line has 6",
    }


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.xlsx", b"x", "is none of"),
        ("a.jsonl", b"{}", "is neither .parquet nor .csv"),
        ("a.parquet", parquet(table(0, 5))[:-20], "is not whole, readable PARQUET"),
        ("a.csv", b"", "is not whole, readable CSV"),
        ("a.csv", b"age\n\xff\n", "is not UTF-8 (byte 4)"),
        ("a.csv", b"jane@example.org,42\n", "has no column income"),
        ("a.parquet", parquet(table(0, 5, income=None, incomes=["low"] * 5)), "its incomes may be meant"),
        ("a.parquet", parquet(table(0, 5, age=[[1]] * 5)), "column age is list"),
    ],
)
def test_a_file_that_cannot_be_used_is_left_out_whole(
    tmp_path: Path, landing: Path, name: str, data: bytes, reason: str
) -> None:
    land(landing, "2026-01-01", 0)
    put(landing, "2026-01-01", {name: data})
    report = run(checkout(tmp_path / "checkout", landing))
    assert [item["record"] for item in report["quarantine"]] == ["the whole file"]
    assert reason in report["quarantine"][0]["reason"]
    assert "jane" not in json.dumps(report), "a reason quotes no cell"
    assert report["rows"] == 200


def test_very_many_wrong_records_are_counted_and_not_all_named(tmp_path: Path, landing: Path) -> None:
    land(landing, "2026-01-01", 0, 1500, income=["none"] * 1499 + ["low"])
    root = checkout(tmp_path / "checkout", landing)
    report = run(root)
    assert report["quarantined"] == 1499
    assert report["taken"][0]["quarantined"] == 1499
    index = json.loads((root / "data/profiles/small/index.json").read_text())["partitions"]
    assert len(index["2026-01-01"]["files"][0]["quarantined"]) == 1001
    verdict = validate("small", root)
    assert verdict["quarantined"] == 1499
    assert "1,499 record(s) in quarantine, 99.93 % of the day" in report_page(root)


def test_a_key_of_the_source_tells_records_apart(tmp_path: Path, landing: Path) -> None:
    same = table(0, 1)
    rows = pa.concat_tables([same.append_column("id", pa.array([n])) for n in (1, 2, 2)])
    put(landing, "2026-01-01", {"a.parquet": parquet(rows)})
    by_content = run(checkout(tmp_path / "content", landing))
    by_key = run(checkout(tmp_path / "key", landing, records={"key": "id"}))
    assert by_content["taken"][0]["rows"] == 1
    assert (by_key["taken"][0]["rows"], by_key["taken"][0]["duplicates"]) == (2, 1)


def test_attributes_pass_through_to_the_test_rows(tmp_path: Path, landing: Path) -> None:
    land(landing, "2026-01-01", 0, site=["north", "south"] * 100)
    root = checkout(tmp_path / "checkout", landing, records={"attributes": ["site"]})
    assert judged(root)["verdict"] == "pass"
    prepared = prepare("small", root)
    found = json.loads((root / "artifacts/datasets/small/test/attributes.json").read_text())
    assert len(found["site"]) == prepared["splits"]["test"]["rows"]
    assert set(found["site"]) == {"north", "south"}


# Validation


def report_page(root: Path) -> str:
    return (root / "artifacts/validations/small/report.html").read_text()


def test_good_days_pass_and_twice_gives_the_same_bytes(tmp_path: Path, landing: Path) -> None:
    for n, day in enumerate(("2026-01-01", "2026-01-02")):
        land(landing, day, 1000 * n)
    found = []
    for name in ("one", "a/longer/two"):
        root = checkout(tmp_path / name, landing)
        assert judged(root)["failed"] == []
        prepare("small", root)
        found.append(digests(root / "artifacts") | digests(root / "data"))
    assert found[0] == found[1]
    assert str(tmp_path).encode() not in b"".join(found[0].values())


STOPS, WARNS = "critical", "warning"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {
                "age": [None] * 30 + [130.0] * 170,
                "country": ["dk"] * 200,
                "member": [True] * 200,
                "note": [f"{n:03}{'long' * 20}" for n in range(200)],
                "income": ["low"] * 190 + ["high"] * 10,
            },
            {
                "At most 10.0% of a day's age is missing": STOPS,
                "At most 0.0% of a day's age is not within 0 and 120": STOPS,
                "At most 0.0% of a day's country is not one of de, fr, us": STOPS,
                "A day's country shifts by a PSI of at most 0.5": STOPS,
                "A day's member shifts by a PSI of at most 0.5": STOPS,
                "A day's note lies from that before, in standard deviations, at most 1": STOPS,
                "Each label has at least 20.0% of a day's training rows": STOPS,
                "A day's labels shift by a PSI of at most 0.5": STOPS,
            },
        ),
        (
            {"age": np.random.default_rng(1).normal(56, 8, 200)},
            {
                "A day's age lies from that before, in standard deviations, at most 1": STOPS,
                "A day's age shifts by a PSI of at most 0.5": STOPS,
            },
        ),
        (
            {"age": np.r_[np.random.default_rng(1).normal(40, 8, 188), np.full(12, 119.0)]},
            {"At most 5.0% of a day's age is over 3 interquartile ranges off the quartiles before": WARNS},
        ),
        (
            dict.fromkeys(["note"], ["same"] * 200)
            | {"age": [40.0] * 200, "country": ["de"] * 200, "member": [True] * 200, "joined": np.zeros(200, "M8[us]")},
            {"No row has two labels": WARNS},
        ),
    ],
    ids=["unlike in all", "moved", "with outliers", "with two labels"],
)
def test_a_day_that_is_unlike_what_is_demanded_is_named(
    tmp_path: Path, landing: Path, columns: dict[str, Any], expected: dict[str, str]
) -> None:
    land(landing, "2026-01-01", 0)
    land(landing, "2026-01-02", 1000, **columns)
    root = checkout(tmp_path / "checkout", landing)
    found = failures(judged(root))
    assert {name: found.get(name) for name in expected} == {
        name: (severity, ["2026-01-02"]) for name, severity in expected.items()
    }
    if any(word in str(expected) for word in ("missing", "not within", "quartiles")):
        assert "customers.parquet#" in report_page(root), "the records are pointed out"


def test_rows_that_are_there_twice_or_on_both_sides_only_warn(tmp_path: Path, landing: Path) -> None:
    rows = table(0, 200)
    split = ["train"] * 150 + ["test"] * 50
    put(landing, "2026-01-01", {"a.parquet": parquet(rows.append_column("split", pa.array(split)))})
    more = table(1000, 150)
    put(landing, "2026-01-02", {"a.parquet": parquet(pa.concat_tables([more, rows.slice(140, 20)]))})
    verdict = judged(checkout(tmp_path / "checkout", landing))
    assert failures(verdict) == {
        "No row is there twice": ("warning", ["2026-01-02"]),
        "No training row is also a test row": ("warning", ["2026-01-02"]),
    }
    assert verdict["repeated"] == 20


def test_what_came_later_never_changes_what_was_said_of_a_day(tmp_path: Path, landing: Path) -> None:
    """Else a day that was accepted would one night stop all others."""
    draw = np.random.default_rng(5)
    for n in range(6):
        land(landing, f"2026-01-0{n + 1}", 1000 * n, age=draw.normal(40 + n, 8, 200))
    validate_: dict[str, Any] = {
        "distance": {"warn": 0.01, "stop": 9},
        "drift": {"warn": 0.01, "stop": 9, "min_rows": 100},
    }
    root = checkout(tmp_path / "checkout", landing, validate=validate_)

    def sizes() -> dict[str, dict[str, Any]]:
        details = json.loads((root / "artifacts/validations/small/details/days.json").read_text())
        return {
            (item["column"], place["date"]): place[item["column"]]
            for item in details
            if item["column"].startswith(("age", "country", "note"))
            for place in item["places"]
        }

    ingest("small", date(2026, 1, 4), [], root)
    validate("small", root)
    before = sizes()
    run(root)
    validate("small", root)
    after = sizes()
    assert len(before) > 5
    assert len(after) > len(before)
    assert after == after | before


def test_a_day_taken_with_other_columns_is_named_with_the_way_out(tmp_path: Path, landing: Path) -> None:
    land(landing, "2026-01-01", 0, size=[1.0] * 200)
    root = checkout(tmp_path / "checkout", landing)
    judged(root)
    checkout(tmp_path / "other", landing, records={"columns": COLUMNS | {"size": "number"}})
    (root / "params.yaml").write_text((tmp_path / "other" / "params.yaml").read_text())
    with pytest.raises(ValidateError, match=r"date=2026-01-01\.parquet has no column size: that day was taken when"):
        validate("small", root)


def test_hostile_cells_and_names_stay_text(tmp_path: Path, landing: Path) -> None:
    hostile = "<script>alert(1)</script>"
    columns = {hostile: "category", "age": "number", "note": "text"}
    rows = table(0, 200, note=[hostile] * 200, **{hostile: [f"{hostile}{n % 3}" for n in range(200)]})
    put(landing, "2026-01-01", {f"{hostile.replace('/', '')}.parquet": parquet(rows), "bad.csv": as_csv(rows)[:9]})
    put(landing, "2026-01-01", {"labels.csv": as_csv(table(300, 20, income=[hostile] * 20, **{hostile: ["x"] * 20}))})
    asked = {"columns": {hostile: {"values": ["a", hostile]}}, "max_missing": 0.0}
    root = checkout(tmp_path / "checkout", landing, records={"columns": columns}, validate=asked)
    assert judged(root)["verdict"] == "refuse"
    page = report_page(root)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page


# Preparation


def test_prepare_writes_typed_splits_with_keys_classes_and_digests(tmp_path: Path, landing: Path) -> None:
    for n, day in enumerate(("2026-01-01", "2026-01-02")):
        land(landing, day, 1000 * n)
    root = checkout(tmp_path / "checkout", landing)
    judged(root)
    prepared = prepare("small", root)
    assert prepared["columns"] == COLUMNS
    rows = {row["key"]: row for day in ("2026-01-01", "2026-01-02") for row in partition(root, day)}
    seen: list[str] = []
    for split in SPLITS:
        folder = root / "artifacts/datasets/small" / split
        x, y = pq.read_table(folder / "x.parquet"), np.load(folder / "y.npy")
        keys = (folder / "keys.txt").read_text().split()
        assert len(x) == len(y) == len(keys) == prepared["splits"][split]["rows"]
        assert len(prepared["splits"][split]["sha256"]) == 64
        assert x.schema.names == list(COLUMNS)
        assert x.schema.field("age").type == pa.float64()
        for key, label, row in zip(keys, y, x.to_pylist(), strict=True):
            assert row == {name: rows[key][name] for name in COLUMNS}
            assert ["low", "high"][label] == rows[key]["label"]
        seen += keys
    assert sorted(seen) == sorted(rows), "each record is in one place"
    assert 80 < sum(prepared["splits"][split]["rows"] for split in ("test", "confirm", "publish")) < 160


# Parameters


@pytest.mark.parametrize(
    ("records", "validate_", "said"),
    [
        ({"colums": {}}, {}, "small.records.colums is unknown; did you mean columns?"),
        ({"columns": {"age": "numbr"}}, {}, "small.records.columns.age is 'numbr'"),
        ({"columns": {"income": "category"}}, {}, "columns.income: that name is taken"),
        ({"columns": {"split": "category"}}, {}, "columns.split: that name is taken"),
        ({"personal": {"emial": "hash"}}, {}, "personal.emial is no column with texts that is taken"),
        ({"personal": {"age": "hash"}}, {}, "personal.age is no column with texts that is taken"),
        ({"personal": {"note": "drop"}}, {}, "personal.note is dropped, and records asks for it too"),
        ({"personal": {"id": "mask"}, "key": "id"}, {}, "personal.id is the key: it can be hashed or kept"),
        ({}, {"columns": {"agee": {}}}, "validate.columns.agee is none of records.columns; did you mean age?"),
        ({}, {"columns": {"age": {"rnge": [0, 1]}}}, "small.validate.columns.age.rnge is unknown"),
        ({}, {"columns": {"age": {"values": ["a"]}}}, "validate.columns.age: a number has no list of values"),
        ({}, {"columns": {"country": {"range": [0, 1]}}}, "validate.columns.country: a category has no range"),
        ({}, {"distance": {"warn": 2, "stop": 1}}, "stop is below warn"),
    ],
)
def test_a_mistake_in_params_is_named(
    tmp_path: Path, landing: Path, records: dict[str, Any], validate_: dict[str, Any], said: str
) -> None:
    root = checkout(tmp_path / "checkout", landing, records=records, validate=validate_)
    with pytest.raises(ParamsError) as raised:
        dataset.load("small", root / "params.yaml")
    assert said in str(raised.value)


def test_the_report_of_ingest_reads_as_for_images(tmp_path: Path, landing: Path) -> None:
    land(landing, "2026-01-01", 0)
    put(landing, "2026-01-01", {"more.csv": as_csv(table(500, 3, age=["old", "1", "2"]))})
    lines = list(told(run(checkout(tmp_path / "checkout", landing))))
    assert lines[0] == "2026-01-01  new: 202 rows from 2 file(s), 1 quarantined"
    assert lines[1] == "  quarantined: date=2026-01-01/more.csv, row 0: age: is no number"
