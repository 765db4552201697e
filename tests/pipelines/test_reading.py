"""What readers of tables and texts share: nothing that lands ends a night, and a record has one key for ever."""

import hashlib
import random
import struct
from typing import Any

import pyarrow as pa
import pytest

from pipelines.datasets import reading, rows, texts
from pipelines.datasets.rows_params import Records as RowRecords
from pipelines.datasets.texts_params import Records as TextRecords
from tests.pipelines import tables, test_texts
from tests.pipelines.small import parquet

ROWS = RowRecords(label="income", labels=tables.LABELS, columns=tables.COLUMNS)
TEXTS = TextRecords(labels=test_texts.LABELS)
FILES: list[tuple[Any, Any, str, bytes]] = [
    (rows, ROWS, "a.csv", tables.as_csv(tables.table(0, 20))),
    (rows, ROWS, "a.parquet", parquet(tables.table(0, 20))),
    (texts, TEXTS, "a.csv", tables.as_csv(test_texts.texts(0, 20))),
    (texts, TEXTS, "a.jsonl", test_texts.jsonl(test_texts.texts(0, 20))),
    (texts, TEXTS, "a.parquet", parquet(test_texts.texts(0, 20))),
    (texts, TEXTS, "good/a.txt", b"a text"),
]


def damaged(data: bytes, draw: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(draw.choice([1, 2, 5, 30])):
        at = draw.randrange(len(found) + 1)
        kind = draw.randrange(3)
        if kind == 0:
            found[at : at + 1] = bytes([draw.choice([0, 10, 13, 34, 44, 92, 255, draw.randrange(256)])])
        elif kind == 1:
            found[at:at] = draw.choice([b'"', b"\n", b"\x00", b"\\ud800", b"\xff", b"[[", found[at : at + 40]])
        else:
            del found[at : at + draw.randrange(1, 20)]
    return bytes(found)


@pytest.mark.parametrize(("reader", "records", "name", "data"), FILES, ids=lambda it: getattr(it, "__name__", None))
def test_a_damaged_file_gives_records_or_reasons_and_never_an_error(
    reader: Any, records: Any, name: str, data: bytes
) -> None:
    draw, read, left_out = random.Random(name), 0, 0
    for _ in range(150):
        into = reader.Rows()
        try:
            reader.read(name, damaged(data, draw), records, into)
        except reading.Unreadable:
            left_out += 1
        if len(into):
            reader.tables(into, records, b"")
            read += 1
    assert read > 5
    assert left_out > 5 or name == "a.jsonl", "a damaged line is no damaged file"


@pytest.mark.parametrize(
    ("reader", "records", "name", "data", "said"),
    [
        (rows, ROWS, "a.csv", b"income,income,age\nlow,low,1\n", "has the column income 2 times"),
        (
            texts,
            TEXTS,
            "a.parquet",
            parquet(pa.table({"text": pa.array([b"\xff"]).view(pa.string()), "label": ["good"]})),
            "is not whole, readable PARQUET",
        ),
    ],
)
def test_what_would_be_found_too_late_is_found_at_once(
    reader: Any, records: Any, name: str, data: bytes, said: str
) -> None:
    with pytest.raises(reading.Unreadable, match=said):
        reader.read(name, data, records, reader.Rows())


def test_a_line_of_json_that_is_no_record_is_named() -> None:
    good, half, deep = '{"text": "a b", "label": "good"}', '{"text": "\\ud800", "label": "good"}', "[" * 100_000
    into = texts.Rows()
    wrong = texts.read("a.jsonl", "\n".join([half, good, deep]).encode(), TEXTS, into)
    assert len(into) == 1
    assert [item["record"] for item in wrong] == ["row 0", "row 2"]


def keys(columns: dict[str, str], **values: Any) -> list[str]:
    records = RowRecords(label="income", labels=["low", "high"], columns=columns)  # type: ignore[arg-type]
    count = len(next(iter(values.values())))
    into = rows.Rows()
    rows.read("a.parquet", parquet(pa.table(values | {"income": ["low"] * count})), records, into)
    found: list[str] = rows.tables(into, records, b"")[0]["key"].to_pylist()
    return found


def test_a_rows_key_is_of_its_values_alone() -> None:
    two = {"a": "text", "b": "text"}
    assert len(set(keys(two, a=["x:1:", "x", None, "y"], b=["y", ":1:y", "y", None]))) == 4
    assert keys(two, a=["x"], b=["y"]) == keys({"b": "text", "a": "text"}, b=["y"], a=["x"])
    assert keys({"a": "number"}, a=[0.0]) == keys({"a": "number"}, a=[-0.0]) == keys({"a": "number"}, a=["0"])
    assert len(set(keys({"a": "number"}, a=[0.0, None, 1.0, 2.0**60, 2.0**60 + 512]))) == 5
    # For ever: another key would move records from one split to another.
    content = struct.pack("<dq", 1.5, True) + b"1:x"
    (key,) = keys({"a": "number", "b": "text", "c": "boolean"}, a=[1.5], b=["x"], c=[True])
    assert key == hashlib.sha256(content).hexdigest()
