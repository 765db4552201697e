"""Sampled calls as Parquet files, and one of them found again.

    samples/date=<day>/<first>-<last>-<instance>.parquet    create-only; the times (UTC) of its first and last call

Any Parquet reader takes them: columns as in ``Row``; ``inputs`` and ``outputs`` are lists of (name, datatype, shape,
data), data being the tensor's bytes as in the protocol's binary extension. By the times in its name a file is known to
hold a call or not without being read. Days go whole, by ``forget``.
"""

import io
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from nightshift.releases.store import Store
from nightshift.serving import bf16, binary
from nightshift.serving.request_ids import began


class Kept(NamedTuple):
    """One tensor of a call; ``values`` is None when it was left out."""

    name: str
    datatype: str
    shape: Sequence[int]
    values: np.ndarray | None


class Row(NamedTuple):
    """One sampled call; ``time`` (of its end) in seconds since 1970."""

    time: float
    request_id: str
    model: str
    digest: str
    role: str
    key: str | None
    protocol: str
    verb: str
    items: int
    inputs: list[Kept]
    outputs: list[Kept]
    status: int
    milliseconds: float
    error: str | None


def day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def key(first: float, last: float, instance: str) -> str:
    times = "-".join(datetime.fromtimestamp(at, UTC).strftime("%H%M%S%f") for at in (first, last))
    return f"samples/date={day(first)}/{times}-{instance}.parquet"


def write(rows: Sequence[Row]) -> bytes:
    """A Parquet file of these calls."""
    from arro3.core import Array, DataType, Table
    from arro3.io import write_parquet

    text, number = DataType.string(), DataType.int64()
    milliseconds = Array([round(row.time * 1000) for row in rows], number)
    columns: dict[str, Any] = {"time": milliseconds.cast(DataType.timestamp("ms", tz="UTC"))}
    for name in ("request_id", "model", "digest", "role", "key", "protocol", "verb"):
        columns[name] = Array([getattr(row, name) for row in rows], text)
    columns["items"] = Array([row.items for row in rows], number)
    columns["inputs"] = _tensors([row.inputs for row in rows])
    columns["outputs"] = _tensors([row.outputs for row in rows])
    columns["status"] = Array([row.status for row in rows], number)
    columns["milliseconds"] = Array([row.milliseconds for row in rows], DataType.float64())
    columns["error"] = Array([row.error for row in rows], text)
    file = io.BytesIO()
    write_parquet(Table.from_pydict(columns), file, compression="zstd(1)")
    return file.getvalue()


def read(file: bytes) -> Iterator[dict[str, Any]]:
    """The rows of a file, column by name; a tensor's values by ``array``."""
    from arro3.io import read_parquet

    for batch in read_parquet(io.BytesIO(file)):
        names = batch.column_names
        for index in range(batch.num_rows):
            yield {name: batch[name][index].as_py() for name in names}


def array(tensor: Mapping[str, Any]) -> np.ndarray | None:
    """The values of a tensor that was read; None when they were left out. BYTES become an array of ``bytes``."""
    data, shape = tensor["data"], tensor["shape"]
    if data is None:
        return None
    if tensor["datatype"] != "BYTES":
        found = np.frombuffer(data, binary.dtype_of(tensor["datatype"])).reshape(shape)
        return bf16.widen(found) if tensor["datatype"] == "BF16" else found
    values, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        at += 4 + length
        values.append(data[at - length : at])
    found = np.empty(len(values), object)
    found[:] = values
    return found.reshape(shape)


def find(
    store: Store, request_id: str, around: datetime | None = None, days: Iterable[str] = ()
) -> dict[str, Any] | None:
    """The newest sample of this request as ``read`` gives it; None when it was not sampled.

    ``around`` is when it was answered, give or take a minute; an id that the endpoint made says it itself. Then a file
    or two of each process are read. Else all files of these days (``2026-11-28``; none: of every day) are, newest
    first. Raises StoreUnavailable.
    """
    started = None if around or days else began(request_id)
    at = datetime.fromtimestamp(started, UTC) if started else around.astimezone(UTC) if around else None
    near = [at + timedelta(minutes=minutes) for minutes in (-1, 1)] if at else []
    folders = sorted({moment.date().isoformat() for moment in near} | set(days))
    prefixes = [f"samples/date={folder}/" for folder in folders] or ["samples/"]
    for found in reversed([found for prefix in prefixes for found in store.list(prefix)]):
        if near and not _holds(found, near[0], near[1]):
            continue
        row = _row(store.get(found), request_id)
        if row:
            return row
    return None


def forget(store: Store, since: date, stopping: Callable[[], bool]) -> int:
    """Remove the files of all days before this one, until it is stopping; the number of files. Raises ReleaseError."""
    removed = 0
    for folder in store.folders("samples"):
        if _day_of(folder) >= since:
            continue
        for found in store.list(f"samples/{folder}/"):
            if stopping():
                return removed
            store.delete(found)
            removed += 1
    return removed


def _day_of(folder: str) -> date:
    try:
        return date.fromisoformat(folder.removeprefix("date="))
    except ValueError:
        return date.max  # not one of ours


def _row(file: bytes, request_id: str) -> dict[str, Any] | None:
    from arro3.io import read_parquet

    for batch in read_parquet(io.BytesIO(file)):
        ids = list(batch["request_id"].to_pylist())
        if request_id in ids:
            last = len(ids) - 1 - ids[::-1].index(request_id)  # a client may give an id twice
            return {name: batch[name][last].as_py() for name in batch.column_names}
    return None


def _holds(found: str, since: datetime, until: datetime) -> bool:
    folder, _, name = found.rpartition("/")
    try:
        first, last = (
            datetime.strptime(f"{folder[-10:]} {time}", "%Y-%m-%d %H%M%S%f").replace(tzinfo=UTC)
            for time in name.split("-")[:2]
        )
    except ValueError:
        return False  # not one of ours
    return first <= until and last >= since


def _tensors(of: Sequence[Sequence[Kept]]) -> Any:
    """A column of lists of tensors."""
    from arro3.core import Array, DataType, Field, struct_array

    text, number = DataType.string(), DataType.int64()
    flat = [tensor for tensors in of for tensor in tensors]
    shapes = Array([size for tensor in flat for size in tensor.shape], number)
    columns = {
        "name": Array([tensor.name for tensor in flat], text),
        "datatype": Array([tensor.datatype for tensor in flat], text),
        "shape": _lists(shapes, [len(tensor.shape) for tensor in flat]),
        "data": Array(
            [None if tensor.values is None else binary.write(tensor.values, tensor.datatype) for tensor in flat],
            DataType.binary(),
        ),
    }
    fields = [Field(name, column.type) for name, column in columns.items()]
    return _lists(struct_array(list(columns.values()), fields=fields), [len(tensors) for tensors in of])


def _lists(values: Any, lengths: Sequence[int]) -> Any:
    from arro3.core import Array, DataType, Field, list_array

    ends = np.cumsum([0, *lengths], dtype=np.int32)
    return list_array(Array.from_numpy(ends), values, type=DataType.list(Field("element", values.type)))
