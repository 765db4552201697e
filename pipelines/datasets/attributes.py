"""Attributes of records beside their labels (site, device, an age group): what ``records.attributes`` names.

A partition keeps each as a text column ``attribute.<name>``. What has none, a record, a file of a kind that knows no
columns or a whole day from before the attribute was asked for, is of the group "unknown".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

PREFIX = "attribute."
UNKNOWN = "unknown"


def of(record: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """What a landed record says of itself, in the order of ``names``."""
    return tuple(UNKNOWN if record.get(name) in (None, "") else str(record[name]) for name in names)


def columns(names: Sequence[str], found: Sequence[tuple[str, ...]]) -> dict[str, list[str]]:
    """The columns of a partition, given what ``of`` said of each of its rows."""
    return {f"{PREFIX}{name}": [values[i] for values in found] for i, name in enumerate(names)}


def read(partition: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Each attribute of each row of a partition, in its order."""
    file = pq.ParquetFile(partition)
    known = {name for name in names if f"{PREFIX}{name}" in file.schema_arrow.names}
    table = file.read(columns=[f"{PREFIX}{name}" for name in sorted(known)])
    rows = file.metadata.num_rows
    return {name: table[f"{PREFIX}{name}"].to_pylist() if name in known else [UNKNOWN] * rows for name in names}
