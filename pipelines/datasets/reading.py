"""What all readers share: how a table is read, which record is which, and what a quarantined one is told by."""

import difflib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Append = Callable[[pa.Table, list[int]], None]
"""Takes rows of a table, by their numbers."""
SPLITS = ("train", "test")
NAMED = 1000  # quarantined records of a file that are named one by one; all of them are counted


class Unreadable(Exception):
    """A record or a whole file that goes to quarantine; the message is the reason and names the column."""


def check_label(label: Any, split: Any, labels: list[str]) -> None:
    """Refuses a label that is none of the data set's and a split that there is not.

    Raises:
        Unreadable: names the nearest label.
    """
    if label not in labels:
        near = difflib.get_close_matches(str(label), labels, n=1)
        hint = f"; did you mean {near[0]}?" if near else f" ({', '.join(labels[:20])})"
        raise Unreadable(f"label: {label!r} is none of the data set's labels{hint}")
    if split not in SPLITS:
        raise Unreadable(f"split: {split!r} is neither train nor test")


# Tables


@dataclass
class Rows:
    """Records in the order in which they were read: a table of each landing file, all with the same columns."""

    tables: list[pa.Table] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(table.num_rows for table in self.tables)


@dataclass
class Landed:
    """The columns of one landing file, as they are there or as texts, and what was quarantined on the way.

    Reasons name a record's place and column and never quote a cell: it may be somebody's name.
    """

    table: pa.Table
    rows: np.ndarray
    """Of each record its number in the file, from 0."""
    quarantined: list[dict[str, Any]] = field(default_factory=list)

    def keep(self, wrong: dict[str, Any]) -> None:
        """Quarantines records: ``wrong`` says of each reason which (a mask); the first reason counts."""
        left = np.ones(len(self.rows), bool)
        for reason, mask in wrong.items():
            chosen = self.rows[left & np.asarray(mask)]
            self.quarantined += [{"record": f"row {row}", "reason": reason} for row in chosen[:NAMED]]
            if (more := len(chosen) - NAMED) > 0:
                self.quarantined += [{"record": f"{more} more rows", "reason": reason, "records": more}]
            left &= ~np.asarray(mask)
        if not left.all():
            self.table, self.rows = self.table.filter(pa.array(left)), self.rows[left]

    def give(self, name: str, columns: dict[str, Any], wrong: dict[str, Any], into: Rows) -> list[dict[str, Any]]:
        """Adds the records with these columns to ``into``, but for the ``wrong`` ones; returns what was quarantined."""
        self.table = pa.table(columns)
        self.keep(wrong)
        sources = pa.array([f"{name}#{row}" for row in self.rows.tolist()], pa.string())
        into.tables.append(self.table.append_column("source", sources))
        return self.quarantined


def read_table(name: str, data: bytes, wanted: list[str], known: list[str]) -> Landed:
    """The columns ``wanted`` and, where they are there, ``known`` of a .parquet, .csv or .jsonl file.

    Raises:
        Unreadable: it is none of these, is torn, or lacks a wanted column.
    """
    suffix = name.rpartition(".")[2].lower()
    readers = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}
    if suffix not in readers:
        raise Unreadable(f"is none of {', '.join(f'.{kind}' for kind in readers)}")
    try:
        landed = readers[suffix](data, [*wanted, *known])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # A file that breaks off in the middle is not half used. What the library says may quote cells.
        raise Unreadable(f"is not whole, readable {suffix.upper()} ({type(error).__name__})") from None
    for column in wanted:
        if column not in landed.table.column_names:
            raise Unreadable(f"has no column {column}")
    return landed


def _parquet(data: bytes, columns: list[str]) -> Landed:
    file = pq.ParquetFile(pa.BufferReader(data))
    there = file.schema_arrow.names
    table = file.read(columns=[column for column in columns if column in there])
    table.validate(full=True)  # else bytes that are no text are found when it is too late to leave the file out
    return Landed(_hinted(table, columns, there), np.arange(file.metadata.num_rows))


def _csv(data: bytes, columns: list[str]) -> Landed:
    from pyarrow import csv

    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 (byte {error.start}): write it as UTF-8") from None
    torn: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        torn.append((row.number - 2, f"has {row.actual_columns} fields, the first line has {row.expected_columns}"))
        return "skip"

    head = data[: data.find(b"\n")].decode() if b"\n" in data else data.decode()
    delimiter = max(",;\t", key=head.count)
    table = csv.read_csv(
        pa.BufferReader(data),
        # One thread: else a torn line has no number.
        read_options=csv.ReadOptions(use_threads=False, block_size=1 << 24),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    )
    rows = np.setdiff1d(np.arange(table.num_rows + len(torn)), [row for row, _ in torn])
    landed = Landed(_hinted(table, columns, table.column_names), rows)
    landed.quarantined = [{"record": f"row {row}", "reason": reason} for row, reason in torn[:NAMED]]
    if len(torn) > NAMED:
        more = len(torn) - NAMED
        landed.quarantined += [{"record": f"{more} more rows", "reason": "wrong number of fields", "records": more}]
    return landed


def _jsonl(data: bytes, columns: list[str]) -> Landed:
    found: list[dict[str, str | None]] = []
    rows, torn = [], []
    for row, line in enumerate(io.BytesIO(data)):
        try:
            record = json.loads(line)
            record_texts = {column: _text(record[column]) for column in record.keys() & {*columns}}
            "".join(filter(None, record_texts.values())).encode()  # half of a character can be written in JSON
            found.append(record_texts)
            rows.append(row)
        except (ValueError, AttributeError, RecursionError):
            torn.append({"record": f"row {row}", "reason": "is no JSON object in UTF-8"})
    there = {column for record in found for column in record}
    texts = {
        column: pa.array([record.get(column) for record in found], pa.string()) for column in columns if column in there
    }
    return Landed(pa.table(texts), np.array(rows, int), torn)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _hinted(table: pa.Table, columns: list[str], there: list[str]) -> pa.Table:
    """The columns that are there; of one that is not, a near name is told: a table without a header has no names."""
    for column in columns:
        if there.count(column) > 1:
            raise Unreadable(f"has the column {column} {there.count(column)} times")
        near = difflib.get_close_matches(column, there, n=1, cutoff=0.8)
        if column not in there and near and near[0] not in columns:
            raise Unreadable(f"has no column {column}; its {near[0]} may be meant")
    return table.select([column for column in columns if column in there])


def texts(column: pa.ChunkedArray, name: str) -> pa.Array:
    """A column of words as texts; empty ones are missing.

    Raises:
        Unreadable: it holds neither texts nor whole numbers nor booleans.
    """
    found = column.combine_chunks()
    kind = found.type.value_type if pa.types.is_dictionary(found.type) else found.type
    known = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    if not any(is_one(kind) for is_one in known):
        raise Unreadable(f"column {name} is {kind}, texts are wanted")
    found = found.cast(kind).cast(pa.string())
    return pc.if_else(pc.equal(found, ""), None, found)


def labelled(table: pa.Table, column: str, labels: list[str]) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """``label`` and ``split`` of a table's records, and of each reason which of them have none of them."""
    label = texts(table[column], column)
    wrong = {f"{column}: is missing": pc.is_null(label)}
    strange = pc.invert(pc.is_in(label, pa.array(labels)))
    for text in pc.unique(label.filter(strange)).drop_null().to_pylist()[:20]:  # a column of names has no likely ones
        if near := difflib.get_close_matches(text, labels, n=1):
            wrong[f"{column}: is none of the labels; is it {near[0]}?"] = pc.fill_null(pc.equal(label, text), False)
    wrong[f"{column}: is none of the labels ({', '.join(labels[:20])})"] = strange
    if "split" not in table.column_names:
        return {"label": label, "split": pa.array(["train"] * len(label), pa.string())}, wrong
    split = texts(table["split"], "split")
    wrong["split: is neither train nor test"] = pc.invert(pc.is_in(split, pa.array(SPLITS)))
    return {"label": label, "split": split}, wrong


def distinct(table: pa.Table) -> tuple[pa.Table, int]:
    """Sorted by split, key and label, the first of those that have all three in common; and how many were dropped."""
    names = ("split", "key", "label")
    order = pc.sort_indices(
        table.append_column("read", pa.array(np.arange(table.num_rows))),
        sort_keys=[(name, "ascending") for name in (*names, "read")],
    )
    table = table.take(order).combine_chunks()
    again = np.ones(max(table.num_rows - 1, 0), bool)
    for name in names:
        column = table[name].combine_chunks()
        again &= pc.equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    kept = table.filter(pa.array(np.concatenate([np.ones(min(table.num_rows, 1), bool), ~again])))
    return kept, table.num_rows - kept.num_rows


def parted(table: pa.Table, told: dict[str, Any]) -> tuple[pa.Table, pa.Table]:
    """A partition and its profile: ``table`` without what only the profile has, and what is ``told`` of its records."""
    profile = {
        "key": pa.array([bytes.fromhex(key)[:16] for key in table["key"].to_pylist()], pa.binary(16)),
        **{name: table[name] for name in ("label", "split", "source", "personal")},
        **told,
    }
    return table.drop_columns(["source", "personal"]), pa.table(profile)


def write_parquet(table: pa.Table, sink: Any) -> None:
    """Parquet whose bytes follow from the table alone."""
    words = [name for name in table.column_names if pa.types.is_string(table[name].type) and name != "key"]
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=3,
        version="2.6",
        row_group_size=50_000,
        use_dictionary=words,
        write_statistics=["label", "split"],
        store_schema=False,
    )


@contextmanager
def appended(path: Path, schema: pa.Schema) -> Iterator[Append]:
    """A Parquet file that grows; yields what appends rows of a table to it."""
    with pq.ParquetWriter(path, schema, compression="zstd", version="2.6", store_schema=False) as file:

        def append(table: pa.Table, rows: list[int]) -> None:
            if rows:
                file.write_table(table.take(rows), row_group_size=50_000)

        yield append
