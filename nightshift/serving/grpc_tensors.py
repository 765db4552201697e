"""Tensors of gRPC messages to numpy arrays, and results to messages."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nightshift.releases.manifest import Tensor
from nightshift.serving import binary
from nightshift.serving import inference_pb2 as messages
from nightshift.serving.model import LoadedModel
from nightshift.serving.protocol import best
from nightshift.serving.tensors import (
    RequestError,
    by_signature,
    demand_count,
    demand_datatype,
    demand_finite,
    of_values,
    quoted,
    shape_of,
)

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


def read(request: Any, expected: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The arrays of a ModelInferRequest, one per expected tensor, from raw contents or from typed ones.

    Raises RequestError 400 for anything that is not exactly what the signature says.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(400, f"raw_input_contents holds {len(raw)} tensors, inputs names {len(request.inputs)}")
    parts = iter(raw)

    def one(tensor: Any, wanted: Tensor) -> np.ndarray:
        demand_datatype(tensor.datatype, wanted)
        shape = shape_of(list(tensor.shape), wanted)
        if not raw:
            return _from_contents(tensor.contents, wanted, shape)
        if tensor.HasField("contents"):
            said = f"input {wanted.name!r} has contents beside raw_input_contents; send one of them"
            raise RequestError(400, said)
        return binary.read(next(parts), wanted, shape)

    return by_signature(((tensor.name, tensor) for tensor in request.inputs), expected, one)


def _from_contents(contents: Any, wanted: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    name, datatype = wanted.name, wanted.datatype
    field = _CONTENTS.get(datatype)
    if field is None:
        raise RequestError(400, f"input {name!r}: {datatype} has no typed contents; send raw_input_contents")
    others = [found.name for found, _ in contents.ListFields() if found.name != field]
    if others:
        raise RequestError(400, f"input {name!r} has {others[0]}; {datatype} needs {field}")
    values = getattr(contents, field)
    demand_count(len(values), shape, wanted)
    if datatype == "BYTES":
        return binary.texts(values, name).reshape(shape)
    array = of_values(list(values), wanted)  # of Python's numbers: those of a message would wrap around
    demand_finite(array, wanted)
    return array.reshape(shape)


def wanted(request: Any, model: LoadedModel) -> dict[str, int]:
    """The names of the outputs that are asked for, each with its number of best classes (0: the tensor itself)."""
    found: dict[str, int] = {}
    for output in request.outputs:
        if output.name not in model.outputs:
            known = ", ".join(model.outputs)
            raise RequestError(400, f"there is no output {quoted(output.name)}: this model has {known}")
        if output.name in found:
            raise RequestError(400, f"outputs names {output.name!r} twice")
        found[output.name] = _classes(output)
    return found or dict.fromkeys(model.outputs, 0)


def timeout(request: Any) -> float:
    """Seconds that the request may wait for its turn, by its parameter in µs; 0: as long as need be."""
    if "timeout" not in request.parameters:
        return 0.0
    value = _whole_number(request.parameters["timeout"])
    if value is None or value < 0:
        raise RequestError(400, "'timeout' in parameters must be a whole number of microseconds")
    return value / 1e6


def _classes(output: Any) -> int:
    if "classification" not in output.parameters:
        return 0
    value = _whole_number(output.parameters["classification"])
    if value is None or value < 1:
        raise RequestError(400, f"output {output.name!r}: classification must be a number of classes from 1")
    return value


def _whole_number(parameter: Any) -> int | None:
    kind = parameter.WhichOneof("parameter_choice")
    return int(getattr(parameter, kind)) if kind in ("int64_param", "uint64_param") else None


def writes(wanted: dict[str, int], results: Sequence[np.ndarray]) -> int:
    """The values of an answer that become text one by one; numbers are only copied."""
    return sum(
        array.size for classes, array in zip(wanted.values(), results, strict=True) if classes or array.dtype.hasobject
    )


def write(request: Any, model: LoadedModel, wanted: dict[str, int], results: Sequence[np.ndarray]) -> Any:
    """The answer: every output in raw_output_contents, the form that all clients read."""
    answer = messages.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
    for (name, classes), array in zip(wanted.items(), results, strict=True):
        datatype: str = model.outputs[name].datatype
        if classes:
            array, datatype = best(name, array, classes, model.manifest.input.labels), "BYTES"
        answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
        answer.raw_output_contents.append(binary.write(array, datatype))
    return answer
