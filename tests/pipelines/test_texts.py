"""Texts: what lands as a partition, what validation says of it, and what prepare makes of it."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.ingest import ingest
from pipelines.params import dataset
from pipelines.params.section import ParamsError
from pipelines.prepare import SPLITS, prepare
from pipelines.validate import validate
from tests.pipelines import tables
from tests.pipelines.small import digests, parquet
from tests.pipelines.small import land as put

NIGHT = date(2026, 1, 31)
LABELS = ["bad", "good"]
WORDS = """the a film was is not very of and plot with actors who they story long short seen again once""".split()  # noqa: SIM905
DEMANDS: dict[str, Any] = {
    "length": [5, 2000],
    "max_outside": 0.02,
    "max_faulty": 0.02,
    "distance": {"warn": 0.5, "stop": 1},
}


def texts(first: int, count: int = 200, **columns: Any) -> pa.Table:
    """Reviews ``first …``; ``columns`` replace or add columns."""
    draw = np.random.default_rng(first)
    found: dict[str, Any] = {
        "text": [
            f"{' '.join(draw.choice(WORDS, draw.integers(5, 30))).capitalize()}. {n:05}"
            for n in range(first, first + count)
        ],
        "label": [LABELS[n % 2] for n in range(count)],
    }
    return pa.table(found | columns)


def checkout(root: Path, landing: Path, **records: Any) -> Path:
    made = tables.checkout(root, landing, "texts", validate=DEMANDS)
    params = tables.yaml.safe_load((root / "params.yaml").read_text())
    mine = params["datasets"]["small"]
    mine["records"] = {"labels": LABELS} | records
    for name in ("columns", "max_missing"):
        del mine["validate"][name]
    (root / "params.yaml").write_text(tables.yaml.safe_dump(params))
    return made


def run(root: Path) -> dict[str, Any]:
    return ingest("small", NIGHT, [], root)


def judged(root: Path) -> dict[str, Any]:
    run(root)
    return validate("small", root)


def partition(root: Path, day: str = "2026-01-01") -> list[dict[str, Any]]:
    return pq.read_table(root / f"data/small/date={day}.parquet").to_pylist()


def jsonl(table: pa.Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()


def test_parquet_csv_jsonl_and_files_are_the_same_records(tmp_path: Path, landing: Path) -> None:
    found = texts(0, 20)
    put(landing, "2026-01-01", {"a.parquet": parquet(found)})
    put(landing, "2026-01-02", {"a.csv": tables.as_csv(found)})
    put(landing, "2026-01-03", {"a.jsonl": jsonl(found)})
    put(
        landing,
        "2026-01-04",
        {f"{row['label']}/{n}.txt": row["text"].encode() for n, row in enumerate(found.to_pylist())},
    )
    root = checkout(tmp_path / "checkout", landing)
    run(root)
    one, *others = (partition(root, f"2026-01-0{n}") for n in (1, 2, 3, 4))
    assert len(one) == 20
    assert list(one[0]) == ["key", "label", "split", "text"]
    assert all(other == one for other in others)


def test_the_same_words_are_one_record_however_they_are_spaced_and_written(tmp_path: Path, landing: Path) -> None:
    same = ["A caf\u00e9  with\nspaces ", "a cafe\u0301 with spaces", "A CAF\u00c9 WITH SPACES"]
    put(landing, "2026-01-01", {"a.jsonl": jsonl(pa.table({"text": same, "label": ["good"] * 3}))})
    root = checkout(tmp_path / "checkout", landing)
    assert run(root)["taken"][0]["duplicates"] == 2
    assert partition(root)[0]["text"] == same[0]


def test_what_cannot_be_read_is_quarantined_with_its_reason(tmp_path: Path, landing: Path) -> None:
    lines = ["{", '{"text": " ", "label": "good"}', '{"label": "good"}', '{"text": "x y", "label": "goood"}', "[1]"]
    files = {
        "a.jsonl": "\n".join(['{"text": "well done", "label": "good"}', *lines]).encode(),
        "good/broken.txt": b"caf\xe9",
        "good/empty.txt": b"\n",
        "alone.txt": b"text",
        "none.csv": b"review,label\nx,good\n",
    }
    put(landing, "2026-01-01", files)
    report = run(checkout(tmp_path / "checkout", landing))
    reasons = {(item["file"].partition("/")[2], item["record"]): item["reason"] for item in report["quarantine"]}
    assert reasons == {
        ("a.jsonl", "row 1"): "is no JSON object in UTF-8",
        ("a.jsonl", "row 2"): "text: is empty",
        ("a.jsonl", "row 3"): "text: is empty",
        ("a.jsonl", "row 4"): "label: is none of the labels; is it good?",
        ("a.jsonl", "row 5"): "is no JSON object in UTF-8",
        ("alone.txt", "the whole file"): "label: a text lies below <label>/ or test/<label>/",
        ("good/broken.txt", "the whole file"): "text: is not UTF-8 (byte 3)",
        ("good/empty.txt", "the whole file"): "text: is empty",
        ("none.csv", "the whole file"): "has no column text",
    }
    assert report["rows"] == 1


def test_good_days_pass_are_prepared_and_twice_give_the_same_bytes(tmp_path: Path, landing: Path) -> None:
    for n in range(3):
        put(landing, f"2026-01-0{n + 1}", {"a.parquet": parquet(texts(1000 * n))})
    found = []
    for name in ("one", "a/longer/two"):
        root = checkout(tmp_path / name, landing)
        assert judged(root)["failed"] == []
        prepared = prepare("small", root)
        found.append(digests(root / "artifacts") | digests(root / "data"))
    assert found[0] == found[1]
    rows = {row["key"]: row for n in (1, 2, 3) for row in partition(root, f"2026-01-0{n}")}
    seen: list[str] = []
    for split in SPLITS:
        folder = root / "artifacts/datasets/small" / split
        keys = (folder / "keys.txt").read_text().split()
        assert pq.read_table(folder / "x.parquet").to_pylist() == [{"text": rows[key]["text"]} for key in keys]
        assert [LABELS[label] for label in np.load(folder / "y.npy")] == [rows[key]["label"] for key in keys]
        assert prepared["splits"][split]["rows"] == len(keys) > 0
        seen += keys
    assert sorted(seen) == sorted(rows)


STOPS = "critical"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            [f"{n}" for n in range(100)] + [f"the \ufffd\ufffd film na\u00c3\u00afve {n}" for n in range(100)],
            {
                "At most 2.0% of a day's texts have not 5 to 2,000 characters": STOPS,
                "At most 2.0% of a day's texts have encoding faults": STOPS,
            },
        ),
        (
            [f"{'VERY ' * (20 + n % 20)}BAD {n:05} {'!?' * (n % 20)} jane{n}@example.org" for n in range(200)],
            {
                "A day's capitals lies from that before, in standard deviations, at most 1": STOPS,
                "A day's variety lies from that before, in standard deviations, at most 1": STOPS,
                "A day's marks lies from that before, in standard deviations, at most 1": STOPS,
                "There is no likely e-mail address in text": "warning",
            },
        ),
        (
            [f"{n:09} {n:09} {n * 7:09}" for n in range(200)],
            {
                "A day's digits lies from that before, in standard deviations, at most 1": STOPS,
                "A day's letters shifts by a PSI of at most 0.5": STOPS,
            },
        ),
    ],
    ids=["short and faulty", "shouting", "of numbers"],
)
def test_a_day_of_other_texts_is_named(
    tmp_path: Path, landing: Path, changed: list[str], expected: dict[str, str]
) -> None:
    put(landing, "2026-01-01", {"a.parquet": parquet(texts(0))})
    put(landing, "2026-01-02", {"reviews.parquet": parquet(texts(1000, text=changed))})
    root = checkout(tmp_path / "checkout", landing)
    found = {item["expectation"]: (item["severity"], item["days"]) for item in judged(root)["failed"]}
    assert {name: found.get(name) for name in expected} == {
        name: (severity, ["2026-01-02"]) for name, severity in expected.items()
    }
    assert b"jane" not in b"".join(digests(root / "artifacts").values())


def test_another_script_is_as_good_as_latin(tmp_path: Path, landing: Path) -> None:
    """Nothing that is demanded knows a language: only a change does."""
    draw = np.random.default_rng(0)
    words = ["фильм", "был", "не", "очень", "хороший", "映画", "は", "とても", "長い", "قصة", "جيدة"]
    for day in (1, 2):
        found = [f"{' '.join(draw.choice(words, draw.integers(5, 30)))} {n}" for n in range(200)]
        put(landing, f"2026-01-0{day}", {"a.parquet": parquet(texts(0, text=found))})
    assert judged(checkout(tmp_path / "checkout", landing))["failed"] == []


def test_personal_data_is_redacted_before_anything_is_written(tmp_path: Path, landing: Path) -> None:
    found = [f"{n} write to jane{n}@example.org or +49 170 55501{n:03}" for n in range(200)]
    put(landing, "2026-01-01", {"a.parquet": parquet(texts(0, text=found))})
    root = checkout(tmp_path / "checkout", landing, personal={"text": "redact"})
    assert judged(root)["failed"] == []
    assert {row["text"].partition(" ")[2] for row in partition(root)} == {"write to [e-mail address] or [phone number]"}


def test_attributes_pass_through(tmp_path: Path, landing: Path) -> None:
    put(landing, "2026-01-01", {"a.csv": tables.as_csv(texts(0, source=["imdb", "tomatoes"] * 100))})
    put(landing, "2026-01-01", {"good/one.txt": b"one more text"})
    root = checkout(tmp_path / "checkout", landing, attributes=["source"])
    run(root)
    assert {row["attribute.source"] for row in partition(root)} == {"imdb", "tomatoes", "unknown"}


def test_hostile_texts_and_names_stay_text(tmp_path: Path, landing: Path) -> None:
    hostile = "<script>alert(1)</script>"
    name = hostile.replace("/", "")
    found = texts(0, text=[f"{hostile} \ufffd {n}" for n in range(200)], source=[hostile] * 200)
    put(landing, "2026-01-01", {f"{name}.parquet": parquet(found), f"{name}/{name}.txt": b"x y z", f"{name}.csv": b"x"})
    put(landing, "2026-01-01", {"labels.jsonl": jsonl(texts(300, 20, label=[hostile] * 20))})
    root = checkout(tmp_path / "checkout", landing, attributes=["source"])
    assert judged(root)["verdict"] == "refuse"
    page = (root / "artifacts/validations/small/report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({"lables": []}, "small.records.lables is unknown; did you mean labels?"),
        ({"personal": {"txt": "redact"}}, "personal.txt is no column with texts that is taken; did you mean text?"),
        ({"personal": {"text": "hash"}}, "personal.text: redact what is personal in it, or keep it"),
    ],
)
def test_a_mistake_in_params_is_named(tmp_path: Path, landing: Path, records: dict[str, Any], said: str) -> None:
    root = checkout(tmp_path / "checkout", landing, **records)
    with pytest.raises(ParamsError) as raised:
        dataset.load("small", root / "params.yaml")
    assert said in str(raised.value)
