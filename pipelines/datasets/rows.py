"""Rows of tables with one label each: how their files are read, and what a partition and its profile hold.

A landing file is Parquet or CSV (UTF-8, a first line with names, separated by comma, semicolon or tab) with the columns
that ``records.columns`` names, the label's, and, if the source knows test rows, ``split`` (``train`` or ``test``).
"""

import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.datasets import attributes
from pipelines.datasets.reading import (
    Append,
    Rows,
    Unreadable,
    appended,
    distinct,
    labelled,
    parted,
    read_table,
    texts,
    write_parquet,
)
from pipelines.datasets.rows_params import Records

TYPES = {
    "number": pa.float64(),
    "category": pa.string(),
    "text": pa.string(),
    "date": pa.timestamp("us"),  # UTC
    "boolean": pa.bool_(),
}
MISSING = {"", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"}  # as the text of a number, date or boolean
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


# Reading


def read(name: str, data: bytes, records: Records, into: Rows) -> list[dict[str, Any]]:
    """Adds the records of one landing file, called ``name`` below its day's folder, to ``into``.

    Returns:
        What was quarantined: ``{"record", "reason"}`` each; ``records`` where one line stands for many.

    Raises:
        Unreadable: nothing of the file can be used.
    """
    if name.lower().endswith(".jsonl"):
        raise Unreadable("is neither .parquet nor .csv")
    wanted = list(dict.fromkeys([records.label, *records.columns, *([records.key] if records.key else [])]))
    landed = read_table(name, data, wanted, ["split", *records.attributes])
    found, wrong = labelled(landed.table, records.label, records.labels)
    for column, kind in records.columns.items():
        found[column], bad = _typed(landed.table[column], kind, column)
        wrong[f"{column}: is no {kind}"] = bad
    if records.key:
        found["key"] = texts(landed.table[records.key], records.key)
        wrong[f"{records.key}: is missing, and it is the key"] = pc.is_null(found["key"])
    for attribute, said in attributes.landed(landed.table, records.attributes).items():
        found[f"{attributes.PREFIX}{attribute}"] = said
    return landed.give(name, found, wrong, into)


def _typed(column: pa.ChunkedArray, kind: str, name: str) -> tuple[pa.Array, Any]:
    """A column as ``TYPES`` has it, null where it is missing, and which records have something else there."""
    there = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    text = pa.types.is_string(there) or pa.types.is_large_string(there) or pa.types.is_null(there)
    if kind == "category" or (kind == "text" and text):
        found = texts(column, name)
        return found, np.zeros(len(found), bool)
    if text and kind in PARSE:
        return _parsed(texts(column, name), PARSE[kind], TYPES[kind])
    native = {
        "number": (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean),
        "date": (pa.types.is_timestamp, pa.types.is_date),
        "boolean": (pa.types.is_boolean,),
    }
    if not any(is_one(there) for is_one in native.get(kind, ())):
        raise Unreadable(f"column {name} is {there}, a {kind} is wanted")
    found = column.combine_chunks().cast(there).cast(TYPES[kind], safe=False)
    if kind != "number":
        return found, np.zeros(len(found), bool)
    endless = pc.fill_null(pc.is_inf(found), False)
    return pc.if_else(pc.is_nan(found), None, found), endless


def _parsed(column: pa.Array, parse: Callable[[str], Any], kind: pa.DataType) -> tuple[pa.Array, Any]:
    """Each different text is parsed once."""
    encoded = column.dictionary_encode()
    values, wrong = [], []
    for text in map(str.strip, encoded.dictionary.to_pylist()):
        try:
            values.append(None if text in MISSING else parse(text))
            wrong.append(False)
        except (ValueError, KeyError, OverflowError):
            values.append(None)
            wrong.append(True)
    taken = pa.array(wrong, pa.bool_()).take(encoded.indices)
    return pa.array(values, kind).take(encoded.indices), pc.fill_null(taken, False)


def _number(text: str) -> float:
    if not NUMBER.fullmatch(text):  # float() takes more: 1_000, inf
        raise ValueError(text)
    return float(text)


def _date(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found


PARSE: dict[str, Callable[[str], Any]] = {
    "number": _number,
    "date": _date,
    "boolean": lambda text: BOOLEANS[text.lower()],
}


# What a partition and its profile hold


def tables(rows: Rows, records: Records, key: bytes) -> tuple[pa.Table, pa.Table, int]:
    """The canonical partition and its profile, sorted by split, key and label, and the number of dropped duplicates.

    In both, personal columns are as ``records.personal`` wants them; ``key`` keys hashes. The profile has numbers,
    categories, booleans and days as they are, of a text its number of characters, and ``personal``: what seems to be
    personal data, a line ``column: kind`` each.
    """
    from pipelines.datasets.personal import protect, scan  # prepare reads what is protected already

    landed = pa.concat_tables(rows.tables).combine_chunks()
    values = {name: protect(landed[name].combine_chunks(), records.personal.get(name), key) for name in records.columns}
    own = protect(landed["key"].combine_chunks(), records.personal.get(records.key), key) if records.key else None
    said = {name: landed[f"{attributes.PREFIX}{name}"].combine_chunks() for name in records.attributes}
    table, dropped = distinct(
        pa.table(
            {
                "key": pa.array(_keys(values) if own is None else [_digest(text.encode()) for text in own.to_pylist()]),
                **{name: landed[name] for name in ("label", "split", "source")},
                **values,
                **attributes.columns(said, records.personal, key),
                "personal": scan({name: values[name] for name in records.scanned}, len(rows)),
            }
        )
    )
    short = {"text": pc.utf8_length, "date": lambda column: column.cast(pa.date32())}
    told = {name: short[kind](table[name]) if kind in short else table[name] for name, kind in records.columns.items()}
    return *parted(table, told), dropped


def _keys(values: dict[str, pa.Array]) -> list[str]:
    """A digest of each record's content, whatever the order of its columns."""
    fixed, texts = [], []
    for name in sorted(values):
        column = values[name]
        if pa.types.is_string(column.type):
            length = pc.fill_null(pc.binary_length(column), -1).cast(pa.string())  # so that no two columns run together
            texts += [length, pc.fill_null(column, "")]
        elif pa.types.is_floating(column.type):
            # Zero has two ways to be written, and so has what is no number.
            fixed.append((pc.fill_null(column, np.nan).to_numpy(zero_copy_only=False) + 0.0).astype("<f8"))
        else:
            fixed.append(pc.fill_null(column.cast(pa.int64()), np.iinfo(np.int64).min).to_numpy().astype("<i8"))
    count = len(next(iter(values.values())))
    block = np.column_stack([column.view("<i8") for column in fixed]).tobytes() if fixed else b""
    width = 8 * len(fixed)
    joined = pc.binary_join_element_wise(*texts, ":").to_pylist() if texts else [""] * count
    return [_digest(block[i * width : (i + 1) * width] + text.encode()) for i, text in enumerate(joined)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


write = write_parquet


# What prepare makes of them

FEATURES = "x.parquet"


def described(records: Records) -> dict[str, Any]:
    """What ``dataset.json`` says of the records."""
    return {"columns": records.columns}


def features(folder: Path, _count: int, records: Records) -> AbstractContextManager[Append]:
    """Opens ``x.parquet`` with the columns of ``records.columns``; what it yields appends rows of ``content``."""
    schema = pa.schema([(name, TYPES[kind]) for name, kind in records.columns.items()])
    return appended(folder / FEATURES, schema)


def content(partition: Path, records: Records) -> pa.Table:
    """The columns of a partition in its order.

    Raises:
        ValueError: the partition was taken with other columns.
    """
    there = pq.read_schema(partition).names
    if missing := [name for name in records.columns if name not in there]:
        raise ValueError(f"it was taken without the column {missing[0]}")
    return pq.read_table(partition, columns=list(records.columns))
