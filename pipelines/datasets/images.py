"""Images with one label each: how their files are read, and what a partition and its profile hold.

A landing file is Parquet with the columns ``image`` (PNG or JPEG bytes), ``label`` (string) and, if the source knows
test rows, ``split`` (``train`` or ``test``), and those of ``records.attributes``; or an image below ``<label>/`` or
``test/<label>/``.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy
from PIL import Image

from pipelines.datasets import attributes
from pipelines.datasets.images_params import Records
from pipelines.datasets.reading import Unreadable, check_label

# Modes that hold the pixels as they are; a palette and a bitmap are only other ways to write them.
CHANNELS = {"L": 1, "RGB": 3}
SAME_AS = {"P": "RGB", "1": "L"}
# A day's profile has pictures of so many records, for the report that a person reads when the day is refused.
ORDINARY = 24
STRANGEST = 6
SIDE = 64  # pixels at most


@dataclass
class Rows:
    """Records in the order in which they were read; ``image`` is raw uint8, row by row, channel last."""

    key: list[str] = field(default_factory=list)
    label: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    source: list[str] = field(default_factory=list)
    image: list[bytes] = field(default_factory=list)
    attributes: list[tuple[str | None, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.key)


# Reading


def read(name: str, data: bytes, records: Records, into: Rows) -> list[dict[str, str]]:
    """Adds the records of one landing file, called ``name`` below its day's folder, to ``into``.

    Returns:
        What was quarantined: ``{"record", "reason"}`` each.

    Raises:
        Unreadable: nothing of the file can be used.
    """
    suffix = name.rpartition(".")[2].lower()
    if suffix == "parquet":
        return _read_parquet(name, data, records, into)
    if suffix not in ("png", "jpg", "jpeg"):
        raise Unreadable("is neither .parquet nor .png nor .jpg")
    *folders, _ = name.split("/")
    split = folders.pop(0) if len(folders) == 2 else "train"
    if len(folders) != 1:
        raise Unreadable("label: an image lies below <label>/ or test/<label>/")
    _add(into, name, {"image": data, "label": folders[0], "split": split}, records)
    return []


def _read_parquet(name: str, data: bytes, records: Records, into: Rows) -> list[dict[str, str]]:
    found, quarantined = Rows(), []
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        schema = file.schema_arrow
        _check_columns(schema)
        wanted = ("image", "label", "split", *records.attributes)
        columns = [column for column in wanted if column in schema.names]
        row = 0
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for record in batch.to_pylist():
                try:
                    _add(found, f"{name}#{row}", record, records)
                except Unreadable as reason:
                    quarantined.append({"record": f"row {row}", "reason": str(reason)})
                row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # A file that breaks off in the middle is not half used: it is replaced as a whole, and so it is left out.
        raise Unreadable(f"is not whole, readable Parquet ({' '.join(str(error).split())[:200]})") from None
    for column, values in vars(found).items():
        getattr(into, column).extend(values)
    return quarantined


def _check_columns(schema: pa.Schema) -> None:
    missing = [column for column in ("image", "label") if column not in schema.names]
    if missing:
        there = ", ".join(schema.names) or "none"
        raise Unreadable(f"has no column {' and no column '.join(missing)} (its columns: {there})")
    for column in ("image", "label", "split"):
        if column not in schema.names:
            continue
        kind = schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        wanted = pa.types.is_binary if column == "image" else pa.types.is_string
        large = pa.types.is_large_binary if column == "image" else pa.types.is_large_string
        if not (wanted(kind) or large(kind)):
            raise Unreadable(f"column {column} is {kind}, {'binary' if column == 'image' else 'string'} is wanted")


def _add(rows: Rows, source: str, record: Mapping[str, Any], records: Records) -> None:
    label, split = record["label"], record.get("split", "train")
    check_label(label, split, records.labels)
    pixels = _pixels(record["image"], records.shape)
    shape = "x".join(map(str, records.shape))
    rows.key.append(hashlib.sha256(f"{shape}:".encode() + pixels).hexdigest())
    rows.label.append(label)
    rows.split.append(split)
    rows.source.append(source)
    rows.image.append(pixels)
    rows.attributes.append(attributes.of(record, records.attributes))


def _pixels(data: Any, shape: list[int]) -> bytes:
    if not data:
        raise Unreadable("image: is empty")
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as file:
            image: Image.Image = file
            # Asked before the pixels are decoded: a header may promise more of them than there is memory.
            if image.size != (width, height):
                raise Unreadable(f"image: is {image.height}x{image.width}, {height}x{width} is wanted")
            if image.mode in SAME_AS:
                image = image.convert(SAME_AS[image.mode])
            if CHANNELS.get(image.mode) != channels:
                raise Unreadable(f"image: has {len(image.getbands())} channels ({image.mode}), {channels} are wanted")
            return image.tobytes()
    except Unreadable:
        raise
    except Exception as error:  # Pillow raises a dozen kinds on damaged files; none of them may stop a night
        raise Unreadable(f"image: is no readable PNG or JPEG ({type(error).__name__})") from None


# What a partition and its profile hold


def tables(rows: Rows, records: Records, key: bytes) -> tuple[pa.Table, pa.Table, int]:
    """The canonical partition and its profile, sorted by split, key and label, and the number of dropped duplicates.

    In the profile, ``picture`` is a small PNG of some of the day's records; validation never reads an image.
    """
    first: dict[tuple[str, str, str], int] = {}
    for i, identity in enumerate(zip(rows.split, rows.key, rows.label, strict=True)):
        first.setdefault(identity, i)
    order = [first[identity] for identity in sorted(first)]
    shared = {column: [getattr(rows, column)[i] for i in order] for column in ("key", "label", "split")}
    images = [rows.image[i] for i in order]
    height, width, channels = records.shape
    said = {
        name: pa.array([rows.attributes[i][a] for i in order], pa.string()) for a, name in enumerate(records.attributes)
    }
    groups = attributes.columns(said, records.personal, key)
    partition = pa.table({**shared, "image": pa.array(images, pa.binary(height * width * channels)), **groups})
    count = len(order)
    statistics = _statistics(images)
    pictured = _pictured(shared, statistics)
    pictures = [_picture(image, records) if i in pictured else None for i, image in enumerate(images)]
    profile = pa.table(
        {
            **shared,
            "source": [rows.source[i] for i in order],
            "width": pa.array([width] * count, pa.int32()),
            "height": pa.array([height] * count, pa.int32()),
            "channels": pa.array([channels] * count, pa.int32()),
            **statistics,
            "picture": pa.array(pictures, pa.binary()),
        }
    )
    return partition, profile, len(rows) - count


def _statistics(images: list[bytes]) -> dict[str, pa.Array]:
    """Mean, std, min and max of each image, 0 to 255; from exact integer sums, so the same on every machine."""
    parts = []
    for start in range(0, len(images), 2048):
        some = images[start : start + 2048]
        x = np.frombuffer(b"".join(some), np.uint8).reshape(len(some), -1)
        n, total = x.shape[1], x.sum(1, dtype=np.int64)
        squares = (x.astype(np.uint32) ** 2).sum(1, dtype=np.int64)
        std = np.sqrt((n * squares - total**2).astype(np.float64)) / n
        parts.append((total / n, std, x.min(1).astype(np.int32), x.max(1).astype(np.int32)))
    names = ("mean", "std", "min", "max")
    return {
        name: pa.array(np.concatenate(column)) for name, column in zip(names, zip(*parts, strict=True), strict=True)
    }


def _pictured(shared: dict[str, list[str]], statistics: dict[str, pa.Array]) -> set[int]:
    """Which of a day's records get a picture, by the records alone.

    Some of each label, which show what the day looks like; the darkest, the brightest and the flattest; and images
    with two labels or in two splits.
    """
    keys, labels = shared["key"], shared["label"]
    seen: Counter[str] = Counter()
    nth: list[tuple[int, str, int]] = []
    for i, (label, split) in enumerate(zip(labels, shared["split"], strict=True)):
        seen[label] += 1  # records of a split are in the order of their keys, which is no order of theirs
        nth.append((seen[label] if split == "train" else len(keys) + seen[label], label, i))
    found = {i for *_, i in sorted(nth)[:ORDINARY]}
    mean, std = (statistics[name].to_numpy() for name in ("mean", "std"))
    for order in (np.argsort(mean, kind="stable"), np.argsort(-mean, kind="stable"), np.argsort(std, kind="stable")):
        found |= set(order[:STRANGEST].tolist())
    twice = sorted(key for key, times in Counter(keys).items() if times > 1)[:STRANGEST]
    return found | {i for i, key in enumerate(keys) if key in twice}


def _picture(pixels: bytes, records: Records) -> bytes:
    """A small PNG; not compressed, because the same pixels compress to other bytes with another zlib."""
    height, width, channels = records.shape
    mode = next(mode for mode, count in CHANNELS.items() if count == channels)
    image = Image.frombytes(mode, (width, height), pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=0)
    return out.getvalue()


def write(table: pa.Table, sink: Any) -> None:
    """Parquet whose bytes follow from the table alone. Pixels do not compress (1.5 %, at ten times the time)."""
    pixels = "image" in table.column_names
    pq.write_table(
        table,
        sink,
        compression="none" if pixels else "zstd",
        compression_level=None if pixels else 3,
        version="2.6",
        row_group_size=10_000 if pixels else 50_000,
        use_dictionary=["label", "split"],
        write_statistics=["key", "label", "split"],
        store_schema=False,
    )


# What prepare makes of them

FEATURES = "x.npy"


def described(records: Records) -> dict[str, Any]:
    """What ``dataset.json`` says of the records."""
    return {"shape": records.shape}


@contextmanager
def features(folder: Path, count: int, records: Records) -> Iterator[Callable[[Any, list[int]], None]]:
    """Opens ``x.npy`` for so many images; yields what appends rows of ``content``."""
    # Written on and on, not mapped: a full disk is an error here and would be a killed process there.
    with (folder / FEATURES).open("wb") as file:
        npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *records.shape)})

        def append(images: Any, rows: list[int]) -> None:
            file.write(images[rows].tobytes())

        yield append


def content(partition: Path, records: Records) -> np.ndarray:
    """The images of a partition in its order: uint8 ``[n, height, width, channels]``.

    Raises:
        ValueError: the partition's images have another size than ``records.shape``.
    """
    column = pq.read_table(partition, columns=["image"])["image"].combine_chunks()
    if column.type.byte_width != np.prod(records.shape):
        raise ValueError(f"its images have {column.type.byte_width} bytes, {records.shape} is wanted")
    # A fixed-size column is one run of bytes: no copy for each image.
    pixels = np.frombuffer(column.buffers()[1], np.uint8, len(column) * column.type.byte_width)
    return pixels.reshape(len(column), *records.shape)
