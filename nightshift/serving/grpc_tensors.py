"""Tensors of gRPC messages to numpy arrays, and results to messages."""

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nightshift.releases.manifest import Tensor
from nightshift.serving import inference_pb2 as messages
from nightshift.serving.model import LoadedModel
from nightshift.serving.tensors import DTYPES, RequestError, _shape

_INTEGERS = {f"{sign}INT{bits}": f"{sign.lower()}int_contents" for sign in ("", "U") for bits in (8, 16, 32)}
_CONTENTS = {
    **_INTEGERS,
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_FLOATS = ("FP16", "FP32", "FP64")


def read(request: Any, expected: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The arrays of a ModelInferRequest, one per expected tensor, from raw contents or from typed ones.

    Raises RequestError 400 for anything that is not exactly what the signature says.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(400, f"raw_input_contents holds {len(raw)} tensors, inputs names {len(request.inputs)}")
    by_name = {tensor.name: tensor for tensor in expected}
    arrays: dict[str, np.ndarray] = {}
    for index, tensor in enumerate(request.inputs):
        name = tensor.name
        if name not in by_name:
            raise RequestError(400, f"there is no input {name!r}: this model has {', '.join(by_name)}")
        if name in arrays:
            raise RequestError(400, f"input {name!r} is given twice")
        wanted = by_name[name]
        if tensor.datatype != wanted.datatype:
            raise RequestError(400, f"input {name!r} has datatype {tensor.datatype!r}, must be {wanted.datatype}")
        shape = _shape(list(tensor.shape), wanted)
        if raw and tensor.HasField("contents"):
            raise RequestError(400, f"input {name!r} has contents beside raw_input_contents; send one of them")
        arrays[name] = _from_raw(raw[index], wanted, shape) if raw else _from_contents(tensor.contents, wanted, shape)
    for name in by_name:
        if name not in arrays:
            raise RequestError(400, f"input {name!r} is missing")
    return arrays


def _from_contents(contents: Any, wanted: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    name, datatype = wanted.name, wanted.datatype
    field = _CONTENTS.get(datatype)
    if field is None:
        raise RequestError(400, f"input {name!r}: {datatype} has no typed contents; send raw_input_contents")
    others = [found.name for found, _ in contents.ListFields() if found.name != field]
    if others:
        raise RequestError(400, f"input {name!r} has {others[0]}; {datatype} needs {field}")
    values = getattr(contents, field)
    count = _count(shape)
    if len(values) != count:
        raise RequestError(400, f"input {name!r} has {len(values)} values, its shape {list(shape)} needs {count}")
    if datatype == "BYTES":
        return _texts(values, name).reshape(shape)
    try:
        array = np.array(list(values), DTYPES[datatype])  # of Python's numbers: those of a message would wrap around
    except OverflowError:
        raise RequestError(400, f"input {name!r} has a value that is out of the range of {datatype}") from None
    return _finite(array, wanted).reshape(shape)


def _from_raw(data: bytes, wanted: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    name, datatype, count = wanted.name, wanted.datatype, _count(shape)
    if datatype == "BYTES":
        return _texts(_elements(data, count, name), name).reshape(shape)
    dtype = np.dtype(DTYPES[datatype])
    if len(data) != count * dtype.itemsize:
        raise RequestError(
            400, f"input {name!r} has {len(data)} bytes, its shape {list(shape)} needs {count * dtype.itemsize}"
        )
    if datatype == "BOOL" and max(data) > 1:
        raise RequestError(400, f"input {name!r} has a byte that is neither 0 nor 1")
    return _finite(np.frombuffer(data, dtype), wanted).reshape(shape)


def _elements(data: bytes, count: int, name: str) -> Iterable[bytes]:
    """Each with its length before it: 4 bytes, little-endian."""
    at = 0
    for _ in range(count):
        if at + 4 > len(data):
            raise RequestError(400, f"input {name!r} ends before its {count} elements do")
        (size,) = struct.unpack_from("<I", data, at)
        at += 4 + size
        if at > len(data):
            raise RequestError(400, f"input {name!r} has an element of {size} bytes that is longer than the rest")
        yield data[at - size : at]
    if at != len(data):
        raise RequestError(400, f"input {name!r} has {len(data) - at} bytes beyond its {count} elements")


def _texts(elements: Iterable[bytes], name: str) -> np.ndarray:
    try:
        return np.array([element.decode() for element in elements], object)
    except UnicodeDecodeError:
        raise RequestError(400, f"input {name!r} has an element that is not UTF-8 text") from None


def _finite(array: np.ndarray, wanted: Tensor) -> np.ndarray:
    if wanted.datatype in _FLOATS and not np.isfinite(array).all():
        raise RequestError(400, f"input {wanted.name!r} has a value that is not finite as {wanted.datatype}")
    return array


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def wanted(request: Any, model: LoadedModel) -> dict[str, int]:
    """The names of the outputs that are asked for, each with its number of best classes (0: the tensor itself)."""
    known = [tensor.name for tensor in model.manifest.signature.outputs]
    found: dict[str, int] = {}
    for output in request.outputs:
        if output.name not in known:
            raise RequestError(400, f"there is no output {output.name!r}: this model has {', '.join(known)}")
        if output.name in found:
            raise RequestError(400, f"outputs names {output.name!r} twice")
        found[output.name] = _classes(output)
    return found or dict.fromkeys(known, 0)


def _classes(output: Any) -> int:
    if "classification" not in output.parameters:
        return 0
    parameter = output.parameters["classification"]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else 0
    if value < 1:
        raise RequestError(400, f"output {output.name!r}: classification must be a number of classes from 1")
    return value


def write(request: Any, model: LoadedModel, wanted: dict[str, int], results: Sequence[np.ndarray]) -> Any:
    """The answer: every output in raw_output_contents, the form that all clients read."""
    answer = messages.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
    datatypes = {tensor.name: tensor.datatype for tensor in model.manifest.signature.outputs}
    for (name, classes), result in zip(wanted.items(), results, strict=True):
        array = np.asarray(result)
        datatype = datatypes[name]
        if classes:
            array, datatype = best_classes(array, classes, model.manifest.input.labels), "BYTES"
        answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
        answer.raw_output_contents.append(_bytes(array) if datatype == "BYTES" else array.tobytes())
    return answer


def best_classes(array: np.ndarray, classes: int, labels: Sequence[str]) -> np.ndarray:
    """Per row the best classes as the protocol writes them: ``score:index`` and, where they are known, ``:label``."""
    rows = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
    best = np.argsort(-rows, axis=1, kind="stable")[:, :classes]
    named = labels if len(labels) == rows.shape[1] else ()
    texts = [
        [f"{row[index]:f}:{index}" + (f":{named[index]}" if named else "") for index in order]
        for row, order in zip(rows, best.tolist(), strict=True)
    ]
    return np.array(texts, object).reshape(*array.shape[:-1], best.shape[1])


def _bytes(array: np.ndarray) -> bytes:
    elements = [element if isinstance(element, bytes) else str(element).encode() for element in array.ravel()]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
