"""Tensors as raw bytes, as the binary-tensor extension and gRPC send them: little-endian, row-major, without padding.

An element of BYTES has its length before it, in four bytes. A BOOL is one byte, 0 or 1.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from nightshift.releases.manifest import Tensor
from nightshift.serving import bf16
from nightshift.serving.tensors import DTYPES, RequestError, count_of, demand_finite

_COPIED = 1 << 20  # bytes up to which numbers are copied to where reading them is cheap: it takes a fifth of the time


@cache
def dtype_of(datatype: str) -> np.dtype:
    """Of the raw elements of a tensor; of BF16 the bits."""
    return np.dtype(np.uint16 if datatype == "BF16" else DTYPES[datatype]).newbyteorder("<")


def read(data: bytes | memoryview, expected: Tensor, shape: Sequence[int]) -> np.ndarray:
    """The array of one tensor, but for BYTES a view of ``data`` if it is long. RequestError 400 names the tensor."""
    name, datatype, count = expected.name, expected.datatype, count_of(shape)
    if datatype == "BYTES":
        return texts(_elements(data, count, name), name).reshape(shape)
    dtype = dtype_of(datatype)
    if len(data) != count * dtype.itemsize:
        raise RequestError(
            400, f"input {name!r} has {len(data)} bytes, its shape {list(shape)} needs {count * dtype.itemsize}"
        )
    array = np.frombuffer(data, dtype)
    if not array.flags.aligned and array.nbytes < _COPIED:
        array = array.copy()
    if datatype == "BF16":
        array = bf16.widen(array)
    if datatype == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
        raise RequestError(400, f"input {name!r} has a byte that is neither 0 nor 1")
    demand_finite(array, expected)
    return array.reshape(shape)


def write(array: np.ndarray, datatype: str) -> bytes:
    """The bytes of an output; texts become BYTES."""
    if datatype == "BF16":
        array = bf16.narrow(array)
    if array.dtype.kind not in "OSU":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts = []
    for value in array.ravel():
        element = value if isinstance(value, bytes) else str(value).encode()
        parts += [struct.pack("<I", len(element)), element]
    return b"".join(parts)


def texts(elements: "Iterator[bytes] | Sequence[bytes]", name: str) -> np.ndarray:
    """Elements of BYTES as the model takes them, which are texts. Raises RequestError 400."""
    try:
        found = [bytes(element).decode() for element in elements]
    except UnicodeDecodeError:
        raise RequestError(400, f"input {name!r} has an element that is not UTF-8 text") from None
    array = np.empty(len(found), object)
    array[:] = found
    return array


def _elements(data: bytes | memoryview, count: int, name: str) -> Iterator[bytes]:
    at = 0
    for _ in range(count):
        if at + 4 > len(data):
            raise RequestError(400, f"input {name!r} ends before its {count} elements do")
        (size,) = struct.unpack_from("<I", data, at)
        at += 4 + size
        if at > len(data):
            raise RequestError(400, f"input {name!r} has an element of {size} bytes that is longer than the rest")
        yield bytes(data[at - size : at])
    if at != len(data):
        raise RequestError(400, f"input {name!r} has {len(data) - at} bytes beyond its {count} elements")
