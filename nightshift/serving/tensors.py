"""The protocol's JSON tensors to numpy arrays and back. Every fault is the client's and names the tensor."""

import math
import reprlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np

from nightshift.releases.manifest import Tensor
from nightshift.serving import bf16

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
    "BF16": np.float32,  # whose values are rounded to it
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
FLOATS = {"BF16", "FP16", "FP32", "FP64"}
_JSON_TYPES: Mapping[str, tuple[set[type], str]] = {
    **{name: ({int}, "integers") for name in DTYPES if "INT" in name},
    **{name: ({int, float}, "numbers") for name in FLOATS},
    "BOOL": ({bool}, "true or false"),
    "BYTES": ({str}, "strings"),
}
# What is too large becomes infinite, and is refused as that; np.errstate would cost each request 1 µs to say so.
warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
_MAX_ELEMENTS = 1 << 40  # a guard for the product of absurd dimensions; the body's limit is far below


class RequestError(Exception):
    """What is wrong with a request, in one sentence that names the field or tensor; its HTTP status and headers."""

    def __init__(self, status: int, message: str, headers: Sequence[tuple[str, str]] = ()):
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


_FEW = 1 << 13  # values of which the sum of the squares is the cheapest look at all
MANY = 1 << 14  # values of an answer whose writing would hold up everybody in the event loop
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxstring = 2, 10, 100


def quoted(given: Any) -> str:
    """What a client sent as a sentence repeats it: a name of millions of letters would come back to it fourfold."""
    return _SHORT.repr(given)


def ask_again(message: str) -> RequestError:
    """503: nothing is wrong with the request, and in a second it may be answered."""
    return RequestError(503, message, [("retry-after", "1")])


Given = TypeVar("Given")
Read = TypeVar("Read")


class Described(NamedTuple):
    """An input as a request describes it, which is as the signature wants it: only its values are still to be read.

    ``data`` is that of the JSON; ``size`` its raw bytes where these stand elsewhere, else None.
    """

    expected: Tensor
    shape: tuple[int, ...]
    data: Any
    size: int | None

    @property
    def name(self) -> str:
        return self.expected.name


def read(tensors: Any, expected: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The arrays of a request's ``inputs``, one per expected tensor, all with their values in the JSON.

    Raises RequestError 400 for anything that is not exactly what the signature says.
    """
    return {one.name: of_json(one.data, one.expected, one.shape) for one in describe(tensors, expected, raw=False)}


def describe(tensors: Any, expected: Mapping[str, Tensor], raw: bool) -> tuple[Described, ...]:
    """A request's ``inputs``, one per expected tensor; with ``raw`` they may have their values elsewhere.

    Raises RequestError 400 for anything that is not exactly what the signature says.
    """
    if not isinstance(tensors, list):
        raise RequestError(400, "'inputs' must be a list of tensors")
    found = by_signature(_named(tensors), expected, lambda tensor, wanted: _described(tensor, wanted, raw))
    return tuple(found.values())


def by_signature(
    given: Iterable[tuple[str, Given]], expected: Mapping[str, Tensor], read_one: Callable[[Given, Tensor], Read]
) -> dict[str, Read]:
    """What is read of each given input, which must be those of the signature, each once. Raises RequestError 400."""
    found: dict[str, Read] = {}
    for name, tensor in given:
        if name not in expected:
            raise RequestError(400, f"there is no input {quoted(name)}: this model has {', '.join(expected)}")
        if name in found:
            raise RequestError(400, f"input {name!r} is given twice")
        found[name] = read_one(tensor, expected[name])
    if len(found) < len(expected):
        missing = next(name for name in expected if name not in found)
        raise RequestError(400, f"input {missing!r} is missing")
    return found


def _named(tensors: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, tensor in enumerate(tensors):
        if not isinstance(tensor, dict):
            raise RequestError(400, f"inputs[{index}] must be an object with name, datatype, shape and data")
        name = tensor.get("name")
        if not isinstance(name, str):
            raise RequestError(400, f"inputs[{index}] has no name")
        yield name, tensor


def batch_of(arrays: Mapping[str, np.ndarray]) -> int:
    """Items of a request: the first dimension of its inputs, of the longest if they differ; 1 of a scalar."""
    return max([len(array) if array.ndim else 1 for array in arrays.values()])


def write(name: str, datatype: str, array: np.ndarray) -> dict[str, Any]:
    """An output tensor with its values flat, in row-major order."""
    values = array.ravel().tolist()
    if datatype == "BYTES":
        values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": values}


def _described(tensor: dict[str, Any], expected: Tensor, raw: bool) -> Described:
    name = expected.name
    demand_datatype(tensor.get("datatype"), expected)
    shape = shape_of(tensor.get("shape"), expected)
    parameters = tensor.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError(400, f"'parameters' of input {name!r} must be an object")
    size = None
    if raw and "binary_data_size" in parameters:
        size = parameters["binary_data_size"]
        if "data" in tensor:
            raise RequestError(400, f"input {name!r} has data and binary_data_size; send one of them")
        if type(size) is not int or size < 0:
            raise RequestError(400, f"input {name!r}: binary_data_size must be a number of bytes")
    elif "data" not in tensor:
        raise RequestError(400, f"input {name!r} has no data")
    return Described(expected, shape, tensor.get("data"), size)


def of_json(data: Any, expected: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """The array of a tensor's ``data``, C-contiguous and of its dtype: of a list, flat or nested like the shape, or of
    an array where the JSON was read into one. Raises RequestError 400.
    """
    if not isinstance(data, np.ndarray):
        data = _flat(data, shape, expected.name)
    values = data.size if isinstance(data, np.ndarray) else len(data)
    demand_count(values, shape, expected)
    array = _of_numbers(data, expected) if isinstance(data, np.ndarray) else _of_list(data, expected)
    demand_finite(array, expected)
    return array.reshape(shape)


def _of_numbers(data: np.ndarray, expected: Tensor) -> np.ndarray:
    """From an array of float64 or int64, as JSON's numbers are."""
    name, datatype = expected.name, expected.datatype
    allowed, words = _JSON_TYPES[datatype]
    if int not in allowed:
        raise RequestError(400, f"the data of input {name!r} holds a number; {datatype} needs {words}")
    if float not in allowed:
        if data.dtype.kind == "f":
            raise RequestError(400, f"the data of input {name!r} holds a fraction; {datatype} needs {words}")
        limits = np.iinfo(DTYPES[datatype])
        if data.min() < limits.min or data.max() > limits.max:
            raise _out_of_range(name, datatype)
    array = data.astype(DTYPES[datatype])
    return bf16.rounded(array) if datatype == "BF16" else array


def _of_list(data: list[Any], expected: Tensor) -> np.ndarray:
    _check_types(data, expected.datatype, expected.name)
    return of_values(data, expected)


def of_values(data: list[Any], expected: Tensor) -> np.ndarray:
    """Python's numbers as an array of the tensor's dtype. Raises RequestError 400 when one is out of its range."""
    try:
        array = np.array(data, dtype=DTYPES[expected.datatype])
    except OverflowError:
        raise _out_of_range(expected.name, expected.datatype) from None
    return bf16.rounded(array) if expected.datatype == "BF16" else array


def _out_of_range(name: str, datatype: str) -> RequestError:
    return RequestError(400, f"input {name!r} has a value that is out of the range of {datatype}")


def demand_datatype(found: Any, expected: Tensor) -> None:
    """Raises RequestError 400 when an input is sent as another datatype than the signature's."""
    if found != expected.datatype:
        raise RequestError(400, f"input {expected.name!r} has datatype {quoted(found)}, must be {expected.datatype}")


def demand_count(values: int, shape: Sequence[int], expected: Tensor) -> None:
    """Raises RequestError 400 when there are not as many values as the shape has places."""
    if values != (count := count_of(shape)):
        raise RequestError(400, f"input {expected.name!r} has {values} values, its shape {list(shape)} needs {count}")


def demand_finite(array: np.ndarray, expected: Tensor) -> None:
    """Raises RequestError 400 for NaN and infinity, which pass every sum and spoil every answer."""
    if expected.datatype in FLOATS and not is_finite(array):
        raise RequestError(400, f"input {expected.name!r} has a value that is not finite as {expected.datatype}")


def demand_finite_answer(name: str, array: np.ndarray) -> None:
    """Raises RequestError 400 for an output that JSON, which has no NaN and no infinity, cannot say."""
    if array.dtype.kind == "f" and not is_finite(array):
        raise RequestError(400, f"the model answers this input with numbers in {name!r} that are not finite")


def is_finite(array: np.ndarray) -> bool:
    """Whether no value is NaN or infinite. One would be seen in the sum of the squares, which of a few thousand values
    takes half as long as a look at each; that of large values overflows, and more of them would wake BLAS's threads.
    """
    if array.size <= _FEW and math.isfinite(np.vdot(array, array)):
        return True
    return bool(np.isfinite(array).all())


def count_of(shape: Sequence[int]) -> int:
    """Values of a tensor; Python's integers do not wrap."""
    count = 1
    for size in shape:
        count *= size
    return count


def shape_of(shape: Any, expected: Tensor) -> tuple[int, ...]:
    """A request's shape, if it fits the signature's. Raises RequestError 400."""
    wanted = expected.shape
    if not isinstance(shape, list) or set(map(type, shape)) - {int}:
        raise RequestError(400, f"input {expected.name!r} needs a shape: a list of integers like {list(wanted)}")
    fits = len(shape) == len(wanted)
    for size, want in zip(shape, wanted, strict=False):
        fits = fits and (size > 0 if want < 0 else size == want)
    if not fits or count_of(shape) > _MAX_ELEMENTS:
        said = f"input {expected.name!r} has shape {quoted(shape)}, must be {list(wanted)} (-1: any size from 1)"
        raise RequestError(400, said)
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
