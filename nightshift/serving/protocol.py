"""An inference request of the protocol over REST: body to arrays, arrays to body. Nothing of HTTP but bytes in here.

The body is JSON, or JSON of a known length followed by the raw bytes of tensors (the binary-tensor extension):
https://github.com/kserve/open-inference-protocol and the extensions that Triton documents.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from nightshift.serving import binary, json_reader, tensors
from nightshift.serving.forms import FORMS, LONGEST, SHAPES, remember
from nightshift.serving.model import LoadedModel
from nightshift.serving.tensors import Described, RequestError, quoted

_MAX_TIMEOUT_US = 1 << 53
_BIG = 1 << 20  # bytes of a body that is not kept while its answer is waited for
_ID_FIRST = re.compile(rb'\{\s*"id"\s*:\s*"([A-Za-z0-9._:-]{1,100})"\s*,\s*')


class Wanted(NamedTuple):
    """An output that is asked for: as raw bytes or JSON, and as its ``classes`` best classes if not 0."""

    name: str
    binary: bool
    classes: int


class Form(NamedTuple):
    """What a request says beside its id and its values. ``timeout`` in seconds, 0: none.

    Clients repeat it from request to request, so it is understood once and kept, under the bytes before the values.
    ``after`` is what follows them if they are a list in the JSON, None if all of them are raw bytes. A request's id may
    stand first: it is taken off before. ``answers`` is the JSON of answers without an id that end with one raw tensor,
    by its shape.
    """

    inputs: tuple[Described, ...]
    outputs: list[Wanted]
    names: list[str]
    timeout: float
    answers: dict[tuple[int, ...], bytes]
    after: bytes | None = None


class Asked(NamedTuple):
    id: str | None
    form: Form
    arrays: dict[str, np.ndarray]


def read(body: bytes, json_length: int | None, model: LoadedModel) -> Asked:
    """What a request asks of this model.

    ``json_length`` is that of Inference-Header-Content-Length. Raises RequestError 400 for anything that is not exactly
    what the signature and the protocol say.
    """
    if json_length is not None and not 0 < json_length <= len(body):
        raise RequestError(400, f"Inference-Header-Content-Length is {json_length}, the body has {len(body)} bytes")
    start = _numbers_at(body) if json_length is None else json_length
    before = body[:start] if 0 < start <= LONGEST else b""
    own = None
    if first := _ID_FIRST.match(before):
        own, before = first[1].decode(), b"{" + before[first.end() :]
    form = model.forms.get(before)
    if form and (arrays := _arrays(body, start, form, is_raw=json_length is not None)) is not None:
        return Asked(own, form, arrays)
    request = json_reader.read(body if json_length is None else body[:json_length])
    if not isinstance(request, dict):
        raise RequestError(400, "the body must be a JSON object with 'inputs'")
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise RequestError(400, "'id' must be a string")
    form = _form(request, model)
    raw = _Raw(body, len(body) if json_length is None else json_length)
    arrays = {
        one.name: tensors.of_json(one.data, one.expected, one.shape) if one.size is None else raw.take(one)
        for one in form.inputs
    }
    raw.demand_end()
    if before and identity == own:
        _keep(before, start, body, form, model)
    if len(body) > _BIG:  # what waits needs its arrays only: lists of Python's numbers are many times as long
        form = form._replace(inputs=())
    return Asked(identity, form, arrays)


def _form(request: dict[str, Any], model: LoadedModel) -> Form:
    parameters = _parameters(request, "the request")
    if "inputs" not in request:
        raise RequestError(400, "'inputs' is missing")
    inputs = tensors.describe(request["inputs"], model.inputs, raw=True)
    outputs = _outputs(request.get("outputs"), parameters, model)
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout <= _MAX_TIMEOUT_US:
        raise RequestError(400, "'timeout' in parameters must be a whole number of microseconds")
    return Form(inputs, outputs, [wanted.name for wanted in outputs], timeout / 1e6, {})


def _numbers_at(body: bytes) -> int:
    """Where the first list that could be an input's values begins, -1 when none does soon."""
    name = body.find(b'"data":', 0, LONGEST)
    return body.find(b"[", name, LONGEST) if name >= 0 else -1


def _arrays(body: bytes, start: int, form: Form, is_raw: bool) -> dict[str, np.ndarray] | None:
    """The arrays of a request that has this form before its values; None if what follows is something else.

    Raises RequestError 400 for values that do not fit.
    """
    if is_raw:
        raw, arrays = memoryview(body)[start:], {}
        if form.after is not None or len(raw) != sum([one.size or 0 for one in form.inputs]):
            return None
        for one in form.inputs:
            arrays[one.name], raw = binary.read(raw[: one.size], one.expected, one.shape), raw[one.size :]
        return arrays
    if form.after is None or not body.endswith(form.after):
        return None
    (one,) = form.inputs
    found = json_reader.numbers(body, start, len(body) - len(form.after), one.shape)
    if found is None:
        return None
    return {one.name: tensors.of_json(found, one.expected, one.shape)}


def _keep(before: bytes, start: int, body: bytes, form: Form, model: LoadedModel) -> None:
    """Remember the form of a request that was right, if all its values are raw or are the list at ``start``.

    They are that list if nothing but numbers is in it, and the request without it has no values. An id that stands
    elsewhere than at the beginning would count more than the one that is taken off there.
    """
    is_raw = all(one.size is not None for one in form.inputs)
    if not is_raw:
        # What follows a list of numbers in an object; a pattern for both takes forty times as long.
        beyond = [at for at in (body.find(b'"', start), body.find(b"}", start)) if at >= 0]
        end = body.rfind(b"]", 0, min(beyond, default=0)) + 1
        after = body[end:]
        if len(form.inputs) > 1 or len(after) > LONGEST:
            return
        if json_reader.numbers(body, start, end, form.inputs[0].shape) is None:
            return
        form = form._replace(after=after)
    try:
        without = orjson.loads(before if is_raw else before + b"null" + after)
    except orjson.JSONDecodeError:  # a byte order mark, which only the parser of long documents passes over
        return
    if "id" in without or (not is_raw and without["inputs"][0]["data"] is not None):
        return
    form = form._replace(inputs=tuple(one._replace(data=None) for one in form.inputs))
    remember(model.forms, before, form, FORMS)


def writes(asked: Asked, results: Sequence[np.ndarray]) -> int:
    """The values of an answer that become text one by one; raw numbers are only copied."""
    if asked.form.answers:  # it has been seen that they are those
        return 0
    return sum(
        array.size
        for wanted, array in zip(asked.form.outputs, results, strict=True)
        if wanted.classes or not wanted.binary or array.dtype.hasobject
    )


def write(asked: Asked, model: LoadedModel, results: Sequence[np.ndarray]) -> tuple[bytes, int | None]:
    """The answer's body, and the length of its JSON when raw tensors follow it."""
    if asked.id is None and len(results) == 1 and (known := asked.form.answers.get(results[0].shape)):
        return known + results[0].tobytes(), len(known)
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for wanted, array in zip(asked.form.outputs, results, strict=True):
        datatype = model.outputs[wanted.name].datatype
        if wanted.classes:
            array, datatype = best(wanted.name, array, wanted.classes, model.manifest.input.labels), "BYTES"
        tensor: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": list(array.shape)}
        if wanted.binary:
            data = binary.write(array, datatype)
            tail.append(data)
            tensor["parameters"] = {"binary_data_size": len(data)}
        else:
            tensor["data"] = _values(wanted.name, array)
        outputs.append(tensor)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": model.version, "outputs": outputs}
    if asked.id is not None:
        answer["id"] = asked.id
    text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if asked.id is None and len(results) == 1 and not wanted.classes and tail == [results[0].tobytes()]:
        remember(asked.form.answers, results[0].shape, text, SHAPES)
    return (text + b"".join(tail), len(text)) if tail else (text, None)


def best(name: str, array: np.ndarray, classes: int, labels: Sequence[str]) -> np.ndarray:
    """The classification extension: per item its best classes as texts ``<score>:<index>[:<label>]``.

    The last axis of ``array`` holds the scores. Raises RequestError 400 when there are none.
    """
    if array.ndim == 0 or array.dtype.kind not in "fiu":
        raise RequestError(400, f"output {name!r} has no scores to classify by")
    rows = array.reshape(-1, array.shape[-1])
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, : min(classes, rows.shape[1])]
    scored = zip(np.take_along_axis(rows, order, axis=1).ravel().tolist(), order.ravel().tolist(), strict=True)
    found = np.empty(order.size, object)
    if len(labels) == rows.shape[1]:
        found[:] = [f"{score:f}:{place}:{labels[place]}" for score, place in scored]
    else:
        found[:] = [f"{score:f}:{place}" for score, place in scored]
    return found.reshape(*array.shape[:-1], order.shape[1])


class _Raw:
    """The bytes behind the JSON, taken in the order of the inputs."""

    def __init__(self, body: bytes, start: int):
        self._body = memoryview(body)
        self._at = start

    def take(self, one: Described) -> np.ndarray:
        size, rest = one.size or 0, len(self._body) - self._at
        if size > rest:
            raise RequestError(400, f"input {one.name!r} needs {size} bytes after the JSON, and {rest} are left")
        self._at += size
        return binary.read(self._body[self._at - size : self._at], one.expected, one.shape)

    def demand_end(self) -> None:
        if rest := len(self._body) - self._at:
            raise RequestError(400, f"the body has {rest} bytes beyond its tensors")


def _outputs(asked: Any, parameters: dict[str, Any], model: LoadedModel) -> list[Wanted]:
    """The outputs in the order asked for; all, as JSON unless the request's parameters say otherwise, if none is."""
    as_bytes = parameters.get("binary_data_output", False) is True
    if asked is None or asked == []:
        return [Wanted(name, as_bytes, 0) for name in model.outputs]
    if not isinstance(asked, list) or not all(isinstance(output, dict) for output in asked):
        raise RequestError(400, "'outputs' must be a list of objects with a name")
    found: dict[str, Wanted] = {}
    for output in asked:
        name = output.get("name")
        if not isinstance(name, str) or name not in model.outputs:
            raise RequestError(400, f"there is no output {quoted(name)}: this model has {', '.join(model.outputs)}")
        if name in found:
            raise RequestError(400, "'outputs' names one output twice")
        own = _parameters(output, f"output {name!r}")
        classes = own.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise RequestError(400, f"output {name!r}: classification must be a number of classes")
        found[name] = Wanted(name, own.get("binary_data", as_bytes) is True, classes)
    return list(found.values())


def _parameters(of: dict[str, Any], what: str) -> dict[str, Any]:
    found = of.get("parameters", {})
    if not isinstance(found, dict):
        raise RequestError(400, f"'parameters' of {what} must be an object")
    return found


def _values(name: str, array: np.ndarray) -> Any:
    """Flat and row-major. Raises RequestError 400."""
    flat = np.ascontiguousarray(array).ravel()
    tensors.demand_finite_answer(name, flat)
    if flat.dtype.kind in "OSU":
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in flat]
    return flat
