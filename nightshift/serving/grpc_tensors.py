"""An inference request of the protocol over gRPC: message to arrays, arrays to message.

Clients repeat what a request says beside its numbers, so that is understood once. A message whose one raw input stands
last begins with all the rest, the input's length included: one that begins as another did, and is as long, is that
other one with other numbers, because protobuf is read from front to back and looks into no field of bytes
(https://protobuf.dev/programming-guides/encoding/).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nightshift.releases.manifest import Tensor
from nightshift.serving import binary
from nightshift.serving import inference_pb2 as messages
from nightshift.serving.bodies import LONG
from nightshift.serving.forms import FORMS, LONGEST, SHAPES, remember
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


class Asked(NamedTuple):
    """A ModelInferRequest. One that was known by what stands ``before`` its numbers lacks these: they are raw."""

    request: Any
    before: bytes = b""
    raw: Sequence[bytes | memoryview] = ()


class Form(NamedTuple):
    """What a request says beside its numbers.

    ``wanted`` are outputs, each with its number of best classes (0: the tensor itself), ``timeout`` the seconds that it
    may wait for its turn (0: as long as need be), ``inputs`` its tensors with their shapes, and ``answers`` what its
    answers say beside their numbers, by the shape of these.
    """

    wanted: dict[str, int]
    timeout: float
    inputs: list[tuple[Tensor, tuple[int, ...]]]
    answers: dict[tuple[int, ...], bytes]


class Parser:
    """Remembers the requests of one process that lack nothing but their numbers; the event loop's."""

    def __init__(self) -> None:
        self._requests: dict[bytes, tuple[int, Any]] = {}  # with the size of their numbers
        self._sizes: dict[int, int] = {}  # of the numbers, by that of the message

    def parse(self, message: memoryview) -> Asked:
        """Raises protobuf's DecodeError."""
        if size := self._sizes.get(len(message)):
            before = bytes(message[:-size])
            of_size, known = self._requests.get(before, (0, None))
            if of_size == size:
                return Asked(known, before, (message[-size:],))
        request = messages.ModelInferRequest.FromString(message)
        if len(message) < LONG and len(request.raw_input_contents) == 1 and not request.id:
            self._keep(message, request.raw_input_contents[0])
        return Asked(request, raw=request.raw_input_contents)

    def _keep(self, message: memoryview, raw: bytes) -> None:
        """Remember a message that ends with its raw input: that is so if another end is another input."""
        if not raw or len(message) - len(raw) > LONGEST or message[-len(raw) :] != raw:
            return
        before = bytes(message[: -len(raw)])
        other = bytes([raw[0] ^ 1]) + raw[1:]
        request = messages.ModelInferRequest.FromString(before + other)
        if list(request.raw_input_contents) != [other]:
            return
        request.ClearField("raw_input_contents")
        remember(self._requests, before, (len(raw), request), FORMS)
        remember(self._sizes, len(message), len(raw), FORMS)


def read(asked: Asked, model: LoadedModel) -> tuple[Form, dict[str, np.ndarray]]:
    """What a request asks of this model, and the arrays of its inputs.

    Raises RequestError 400 for anything that is not exactly what the signature and the protocol say.
    """
    form = model.grpc_forms.get(asked.before)
    if form is not None:
        ((wanted, shape),) = form.inputs
        return form, {wanted.name: binary.read(asked.raw[0], wanted, shape)}
    request = asked.request
    arrays = _arrays(request, asked.raw, model.inputs)
    inputs = [(model.inputs[name], array.shape) for name, array in arrays.items()]
    form = Form(_wanted(request, model), _timeout(request), inputs, {})
    if asked.before:
        remember(model.grpc_forms, asked.before, form, FORMS)
    return form, arrays


def _arrays(request: Any, raw: Sequence[bytes | memoryview], expected: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """One per expected tensor, from raw contents or from typed ones."""
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


def _wanted(request: Any, model: LoadedModel) -> dict[str, int]:
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


def _timeout(request: Any) -> float:
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


def writes(form: Form, results: Sequence[np.ndarray]) -> int:
    """The values of an answer that become text one by one; numbers are only copied."""
    if form.answers:  # it has been seen that they are numbers
        return 0
    return sum(
        array.size
        for classes, array in zip(form.wanted.values(), results, strict=True)
        if classes or array.dtype.hasobject
    )


def write(asked: Asked, form: Form, model: LoadedModel, results: Sequence[np.ndarray]) -> bytes:
    """The answer: every output in raw_output_contents, the form that all clients read."""
    if len(results) == 1 and (before := form.answers.get(results[0].shape)):
        return before + results[0].tobytes()
    answer = messages.ModelInferResponse(model_name=model.name, model_version=model.version, id=asked.request.id)
    for (name, classes), array in zip(form.wanted.items(), results, strict=True):
        datatype: str = model.outputs[name].datatype
        if classes:
            array, datatype = best(name, array, classes, model.manifest.input.labels), "BYTES"
        answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
        answer.raw_output_contents.append(binary.write(array, datatype))
    data: bytes = answer.SerializeToString()
    if asked.before:
        _keep_answer(form, model, results, data)
    return data


def _keep_answer(form: Form, model: LoadedModel, results: Sequence[np.ndarray], data: bytes) -> None:
    """Remember what stands before the numbers of an answer that is one tensor of numbers: they are its last field."""
    (name, classes), *others = form.wanted.items()
    raw = results[0].tobytes()
    if others or classes or not raw or binary.write(results[0], model.outputs[name].datatype) != raw:
        return
    remember(form.answers, results[0].shape, data[: -len(raw)], SHAPES)
