"""The protocol's JSON tensors to numpy arrays and back. Every fault is the client's and names the tensor."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from nightshift.releases.manifest import Tensor

DTYPES: Mapping[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
_FLOATS = {"FP16", "FP32", "FP64"}
_JSON_TYPES: Mapping[str, tuple[set[type], str]] = {
    **{name: ({int}, "integers") for name in DTYPES if "INT" in name},
    **{name: ({int, float}, "numbers") for name in _FLOATS},
    "BOOL": ({bool}, "true or false"),
    "BYTES": ({str}, "strings"),
}
_MAX_ELEMENTS = 1 << 40  # a guard for the product of absurd dimensions; the body's limit is far below


class RequestError(Exception):
    """What is wrong with a request, in one sentence that names the field or tensor; its HTTP status and headers."""

    def __init__(self, status: int, message: str, headers: Sequence[tuple[str, str]] = ()):
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def read(tensors: Any, expected: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The arrays of a request's ``inputs``, one per expected tensor, C-contiguous and of its dtype.

    Raises RequestError 400 for anything that is not exactly what the signature says.
    """
    if not isinstance(tensors, list):
        raise RequestError(400, "'inputs' must be a list of tensors")
    by_name = {tensor.name: tensor for tensor in expected}
    arrays: dict[str, np.ndarray] = {}
    for index, tensor in enumerate(tensors):
        if not isinstance(tensor, dict):
            raise RequestError(400, f"inputs[{index}] must be an object with name, datatype, shape and data")
        name = tensor.get("name")
        if not isinstance(name, str):
            raise RequestError(400, f"inputs[{index}] has no name")
        if name not in by_name:
            raise RequestError(400, f"there is no input {name!r}: this model has {', '.join(by_name)}")
        if name in arrays:
            raise RequestError(400, f"input {name!r} is given twice")
        arrays[name] = _array(tensor, by_name[name])
    missing = [name for name in by_name if name not in arrays]
    if missing:
        raise RequestError(400, f"input {missing[0]!r} is missing")
    return arrays


def write(name: str, datatype: str, array: np.ndarray) -> dict[str, Any]:
    """An output tensor with its values flat, in row-major order."""
    values = array.ravel().tolist()
    if datatype == "BYTES":
        values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": values}


def _array(tensor: dict[str, Any], expected: Tensor) -> np.ndarray:
    name, datatype = expected.name, expected.datatype
    if tensor.get("datatype") != datatype:
        raise RequestError(400, f"input {name!r} has datatype {tensor.get('datatype')!r}, must be {datatype}")
    shape = _shape(tensor.get("shape"), expected)
    if "data" not in tensor:
        raise RequestError(400, f"input {name!r} has no data (only JSON data is understood here)")
    data = _flat(tensor["data"], shape, name)
    count = 1
    for size in shape:
        count *= size
    if len(data) != count:
        raise RequestError(400, f"input {name!r} has {len(data)} values, its shape {list(shape)} needs {count}")
    _check_types(data, datatype, name)
    try:
        array = np.array(data, dtype=DTYPES[datatype])
    except OverflowError:
        raise RequestError(400, f"input {name!r} has a value that is out of the range of {datatype}") from None
    if datatype in _FLOATS and not np.isfinite(array).all():
        raise RequestError(400, f"input {name!r} has a value that is not finite as {datatype}")
    return array.reshape(shape)


def _shape(shape: Any, expected: Tensor) -> tuple[int, ...]:
    name, wanted = expected.name, list(expected.shape)
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise RequestError(400, f"input {name!r} needs a shape: a list of integers like {wanted}")
    fits = len(shape) == len(wanted) and all(
        (size > 0 if want < 0 else size == want) for size, want in zip(shape, wanted, strict=True)
    )
    count = 1
    for size in shape:
        count *= size  # Python's integers do not wrap
    if not fits or count > _MAX_ELEMENTS:
        raise RequestError(400, f"input {name!r} has shape {shape}, must be {wanted} (-1: any size from 1)")
    return tuple(shape)


def _flat(data: Any, shape: Sequence[int], name: str) -> list[Any]:
    """The values in row-major order, from a flat list or from lists nested like the shape."""
    if not isinstance(data, list):
        raise RequestError(400, f"the data of input {name!r} must be a list")
    if not data or type(data[0]) is not list:
        return data  # flat already; a list further on is caught by its type
    for axis, size in enumerate(shape[1:], start=1):
        if not all(type(row) is list and len(row) == size for row in data) or (axis == 1 and len(data) != shape[0]):
            raise RequestError(400, f"the data of input {name!r} is not nested like its shape {list(shape)}")
        data = list(chain.from_iterable(data))
    return data


def _check_types(data: list[Any], datatype: str, name: str) -> None:
    """JSON's own types decide: numpy would take true for 1 and "3" for 3."""
    allowed, words = _JSON_TYPES[datatype]
    wrong = set(map(type, data)) - allowed
    if wrong:
        found = {"NoneType": "null", "str": "a string", "bool": "a boolean", "float": "a fraction", "int": "a number"}
        kind = sorted(found.get(type_.__name__, f"a {type_.__name__}") for type_ in wrong)[0]
        raise RequestError(400, f"the data of input {name!r} holds {kind}; {datatype} needs {words}")
