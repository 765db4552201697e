"""Attributes of records beside their labels (site, device, an age group): what ``records.attributes`` names.

A partition keeps each as a text column ``attribute.<name>``. What has none, a record, a file of a kind that knows no
columns or a whole day from before the attribute was asked for, is of the group "unknown".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.datasets.reading import texts

PREFIX = "attribute."
UNKNOWN = "unknown"


def of(record: Mapping[str, Any], names: Sequence[str]) -> tuple[str | None, ...]:
    """What a landed record says of itself, in the order of ``names``."""
    return tuple(None if record.get(name) in (None, "") else str(record[name]) for name in names)


def landed(table: pa.Table, names: Sequence[str]) -> dict[str, pa.Array]:
    """Each attribute of the records of a landed table."""
    none = pa.nulls(table.num_rows, pa.string())
    return {name: texts(table[name], name) if name in table.column_names else none for name in names}


def columns(found: Mapping[str, pa.Array], personal: Mapping[str, str], key: bytes) -> dict[str, pa.Array]:
    """The columns of a partition, given each attribute's texts; ``personal`` says which may not stay as they are."""
    from pipelines.datasets.personal import protect  # prepare reads what is protected already

    return {
        f"{PREFIX}{name}": protect(texts.cast(pa.string()), personal.get(name), key).fill_null(UNKNOWN)
        for name, texts in found.items()
    }


def read(partition: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Each attribute of each row of a partition, in its order."""
    file = pq.ParquetFile(partition)
    known = {name for name in names if f"{PREFIX}{name}" in file.schema_arrow.names}
    table = file.read(columns=[f"{PREFIX}{name}" for name in sorted(known)])
    rows = file.metadata.num_rows
    return {name: table[f"{PREFIX}{name}"].to_pylist() if name in known else [UNKNOWN] * rows for name in names}
