"""Texts with one label each: how their files are read, and what a partition and its profile hold.

A landing file is Parquet, CSV or JSONL with the columns ``text`` and ``label`` and, if the source knows test rows,
``split`` (``train`` or ``test``); or a .txt file below ``<label>/`` or ``test/<label>/``. All are UTF-8.
"""

import hashlib
import re
import unicodedata
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.datasets import attributes
from pipelines.datasets.reading import (
    Append,
    Rows,
    Unreadable,
    appended,
    check_label,
    distinct,
    labelled,
    parted,
    read_table,
    texts,
    write_parquet,
)
from pipelines.datasets.texts_params import Records

# What is told of a text in whatever language: shares of its characters, by what Unicode says they are.
SHARES = {
    "letters": r"\p{L}",
    "capitals": r"\p{Lu}",
    "digits": r"\p{N}",
    "spaces": r"\s",
    "marks": r"[\p{P}\p{S}]",
}
# The replacement character and control characters; and UTF-8 read as Latin-1 or Windows-1252: "Ã©", "â€™".
FAULTS = "\\x{FFFD}|[\\x00-\\x08\\x0B\\x0C\\x0E-\\x1F\\x7F]|[ÃÂ][\\x{80}-\\x{BF}]|â€[\\x{80}-\\x{2122}]"


# Reading


def read(name: str, data: bytes, records: Records, into: Rows) -> list[dict[str, Any]]:
    """Adds the records of one landing file, called ``name`` below its day's folder, to ``into``.

    Returns:
        What was quarantined: ``{"record", "reason"}`` each; ``records`` where one line stands for many.

    Raises:
        Unreadable: nothing of the file can be used.
    """
    if name.lower().endswith(".txt"):
        into.tables.append(_one(name, data, records))
        return []
    landed = read_table(name, data, ["text", "label"], ["split", *records.attributes])
    found, wrong = labelled(landed.table, "label", records.labels)
    text = texts(landed.table["text"], "text")
    wrong["text: is empty"] = pc.invert(pc.fill_null(pc.match_substring_regex(text, r"\S"), False))
    found["text"] = text
    for attribute, said in attributes.landed(landed.table, records.attributes).items():
        found[f"{attributes.PREFIX}{attribute}"] = said
    return landed.give(name, found, wrong, into)


def _one(name: str, data: bytes, records: Records) -> pa.Table:
    *folders, _ = name.split("/")
    split = folders.pop(0) if len(folders) == 2 else "train"
    if len(folders) != 1:
        raise Unreadable("label: a text lies below <label>/ or test/<label>/")
    check_label(folders[0], split, records.labels)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"text: is not UTF-8 (byte {error.start})") from None
    if not text.strip():
        raise Unreadable("text: is empty")
    found: dict[str, str | None] = {"label": folders[0], "split": split, "text": text}
    found |= {f"{attributes.PREFIX}{attribute}": None for attribute in records.attributes} | {"source": name}
    return pa.table({column: pa.array([value], pa.string()) for column, value in found.items()})


# What a partition and its profile hold


def tables(rows: Rows, records: Records, key: bytes) -> tuple[pa.Table, pa.Table, int]:
    """The canonical partition and its profile, sorted by split, key and label, and the number of dropped duplicates.

    In both, what is personal is as ``records.personal`` wants it; ``key`` keys hashes. The profile tells of each text
    its length, the shares of its characters, its variety and its faults, and what seems to be personal data.
    """
    from pipelines.datasets.personal import protect, scan  # prepare reads what is protected already

    landed = pa.concat_tables(rows.tables).combine_chunks()
    text = protect(landed["text"].combine_chunks(), records.personal.get("text"), key)
    said = {name: landed[f"{attributes.PREFIX}{name}"].combine_chunks() for name in records.attributes}
    table, dropped = distinct(
        pa.table(
            {
                "key": pa.array([_key(one) for one in text.to_pylist()], pa.string()),
                **{name: landed[name] for name in ("label", "split", "source")},
                "text": text,
                **attributes.columns(said, records.personal, key),
                "personal": scan(dict.fromkeys(records.scanned, text), len(text)),
            }
        )
    )
    return *parted(table, _statistics(table["text"].combine_chunks())), dropped


def _key(text: str) -> str:
    """A digest of what a reader reads: other spaces, capitals and ways to write an accent make no other text."""
    plain = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text).casefold()).strip()
    return hashlib.sha256(plain.encode()).hexdigest()


def _statistics(text: pa.Array) -> dict[str, pa.Array]:
    length = pc.utf8_length(text)
    shares = {
        name: pc.divide(pc.count_substring_regex(text, pattern).cast(pa.float64()), length.cast(pa.float64()))
        for name, pattern in SHARES.items()
    }
    variety = [len(set(words)) / len(words) for words in (one.split() for one in text.to_pylist())]
    return {
        "length": length,
        **shares,
        "variety": pa.array(variety, pa.float64()),  # different words of all words: low where something is repeated
        "faults": pc.count_substring_regex(text, FAULTS),
    }


write = write_parquet


# What prepare makes of them

FEATURES = "x.parquet"


def described(_records: Records) -> dict[str, Any]:
    """What ``dataset.json`` says of the records."""
    return {}


def features(folder: Path, _count: int, _records: Records) -> AbstractContextManager[Append]:
    """Opens ``x.parquet`` with the column ``text``; what it yields appends rows of ``content``."""
    return appended(folder / FEATURES, pa.schema([("text", pa.string())]))


def content(partition: Path, _records: Records) -> pa.Table:
    """The texts of a partition in its order."""
    return pq.read_table(partition, columns=["text"])
