"""What people send to ``:predict``, image files, texts and rows, to tensors; and tensors to labels and numbers.

manifest + body  --read-->  arrays and notes          arrays  --tell-->  labels, best first, or values
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson

from nightshift.releases.manifest import Column, Manifest, Tensor, short
from nightshift.serving.bodies import LONG
from nightshift.serving.tensors import DTYPES, RequestError, ask_again, demand_finite_answer

MAX_ITEMS = 256  # of one request
CHANNELS = (1, 3)  # of an image: gray, or red, green and blue
_FLOATS = ("FP16", "FP32", "FP64")
_SHOWN = 20  # categories in a sentence
_WAITING = 8  # images and long bodies that wait to be read: seconds of work if they are big

Read = tuple[dict[str, np.ndarray], list[dict[str, Any]]]


def takes(manifest: Manifest) -> str:
    """What ``:predict`` takes for this model: its input kind, or "tensor" where the signature is not of that kind."""
    given, inputs = manifest.input, manifest.signature.inputs
    first = inputs[0]
    match given.kind:
        case "image":
            shape = given.shape or first.shape[1:]
            fits = len(shape) == 3 and shape[2] in CHANNELS and min(shape) > 0
            fits = fits and len(inputs) == 1 and first.datatype == "UINT8" and first.shape[1:] == shape
        case "text":
            fits = len(inputs) == 1 and first.datatype == "BYTES" and first.shape[1:] in ((), (1,))
        case "row":
            fits = bool(given.columns) and (_packed(manifest) or _separate(manifest))
        case _:
            fits = False
    return given.kind if fits else "tensor"


def about(manifest: Manifest, serving: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What a form needs of a model; ``serving`` are the digests of what is loaded, each with its role."""
    given = manifest.input
    return {
        "name": manifest.model,
        "task": manifest.task,
        "kind": takes(manifest),
        "labels": given.labels,
        "shape": given.shape or manifest.signature.inputs[0].shape[1:],
        "columns": [column.model_dump(mode="json") for column in given.columns],
        "inputs": [tensor.model_dump(mode="json") for tensor in manifest.signature.inputs],
        "serving": [{"digest": digest, "version": short(digest), "role": role} for digest, role in serving],
    }


class Reader:
    """``read`` for an event loop: short texts and rows at once, what is long and images in one thread, so that one at a
    time takes memory.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="people")
        self._waiting = 0

    async def read(self, manifest: Manifest, media: str, body: bytes) -> Read:
        """As ``read``, and RequestError 503 when too many wait already."""
        if takes(manifest) != "image" and len(body) <= LONG:
            return read(manifest, media, body)
        if self._waiting > _WAITING:
            raise ask_again("too many images or long bodies wait to be read; ask again")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, read, manifest, media, body)
        finally:
            self._waiting -= 1


def read(manifest: Manifest, media: str, body: bytes) -> Read:
    """The arrays of a request, and per item what a person should know of it: ``file`` and ``notes``.

    ``media`` is the request's content type, "" without one. Raises RequestError 400, 413 or 415, naming the field.
    """
    kind = takes(manifest)
    if kind == "tensor":
        raise RequestError(400, f"{manifest.model} takes tensors only: POST /v2/models/{manifest.model}/infer")
    plain = media.partition(";")[0].strip().lower()
    if kind == "image":
        return _images(manifest, media, plain, body)
    if plain == "multipart/form-data" or plain.startswith("image/"):
        raise RequestError(415, f"{manifest.model} takes a {kind}, not {plain[:100]}; send JSON")
    if kind == "text":
        return _texts(manifest, plain, body)
    return _rows(manifest, body)


def tell(manifest: Manifest, outputs: dict[str, np.ndarray], items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per item its labels, best first, or the outputs' values; then what ``read`` noted of it. Raises RequestError 400
    for numbers that are not finite.
    """
    for name, out in outputs.items():
        demand_finite_answer(name, out)
    labels = manifest.input.labels
    scores = (out for out in outputs.values() if out.shape == (len(items), len(labels)) and out.dtype.kind == "f")
    named = next(scores, None) if labels else None
    predictions: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        if named is not None:
            row = named[index].astype(np.float64)
            # What is no distribution is not called one: logits, or labels that do not exclude each other.
            word = "probability" if (row >= 0).all() and abs(row.sum() - 1) < 1e-3 else "score"
            order = np.argsort(-row, kind="stable")
            ranked = [{"label": labels[i], word: float(row[i])} for i in order]
            predictions.append({"label": ranked[0]["label"], "labels": ranked, **item})
        else:
            values = {name: _plain(out, index, len(items)) for name, out in outputs.items()}
            predictions.append({"values": values, **item})
    return predictions


def _images(manifest: Manifest, media: str, plain: str, body: bytes) -> Read:
    if plain.endswith("json"):
        raise RequestError(415, f"{manifest.model} takes image files: send one as the body, or several as form-data")
    from nightshift.serving import pictures  # Pillow only where there are images

    tensor = manifest.signature.inputs[0]
    files = pictures.uploads(media, body, MAX_ITEMS)
    _check_count(tensor, len(files))
    array, notes = pictures.pixels(files, tensor.shape[1:])
    items = [
        ({"file": file.name} if file.name else {}) | ({"notes": done} if done else {})
        for file, done in zip(files, notes, strict=True)
    ]
    return {tensor.name: array}, items


def _texts(manifest: Manifest, plain: str, body: bytes) -> Read:
    if plain.startswith("text/"):
        try:
            texts: list[Any] = [body.decode()]
        except UnicodeDecodeError as error:
            raise RequestError(400, f"the text is not UTF-8 (byte {error.start})") from None
    else:
        texts = [each.get("text") if isinstance(each, dict) else each for each in _items(body)]
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            where = f"item {index + 1}" if len(texts) > 1 else "the body"
            raise RequestError(400, f'{where} is no text: send {{"text": "…"}}, or a list of them')
    tensor = manifest.signature.inputs[0]
    _check_count(tensor, len(texts))
    shape = (len(texts), *tensor.shape[1:])
    return {tensor.name: np.array(texts, np.object_).reshape(shape)}, [{} for _ in texts]


def _rows(manifest: Manifest, body: bytes) -> Read:
    columns = manifest.input.columns
    names = {column.name for column in columns}
    rows = _items(body)
    values: dict[str, list[Any]] = {column.name: [] for column in columns}
    items: list[dict[str, Any]] = []
    for index, row in enumerate(rows):
        where = f"row {index + 1}: " if len(rows) > 1 else ""
        if not isinstance(row, dict):
            raise RequestError(400, f"{where}a row is an object with the columns {_list(names)}")
        if unknown := sorted(set(row) - names):
            raise RequestError(400, f"{where}there is no column {unknown[0][:100]!r}: this model has {_list(names)}")
        notes = []
        for column in columns:
            if column.name not in row:
                raise RequestError(400, f"{where}column {column.name!r} is missing")
            value = row[column.name]
            _check_value(column, value, where)
            values[column.name].append(value)
            notes += _outside(column, value)
        items.append({"notes": notes} if notes else {})
    for tensor in manifest.signature.inputs:
        _check_count(tensor, len(rows))
    if _packed(manifest):
        (tensor,) = manifest.signature.inputs
        stacked = [_numbers(column, values[column.name], tensor.datatype) for column in columns]
        return {tensor.name: np.stack(stacked, axis=1)}, items
    by_name = {column.name: column for column in columns}
    arrays = {}
    for tensor in manifest.signature.inputs:
        shape = (len(rows), *tensor.shape[1:])
        if tensor.datatype == "BYTES":
            arrays[tensor.name] = np.array(values[tensor.name], np.object_).reshape(shape)
        else:
            arrays[tensor.name] = _numbers(by_name[tensor.name], values[tensor.name], tensor.datatype).reshape(shape)
    return arrays, items


def _packed(manifest: Manifest) -> bool:
    """Whether the columns are one tensor of numbers."""
    inputs, count = manifest.signature.inputs, len(manifest.input.columns)
    return len(inputs) == 1 and inputs[0].datatype in _FLOATS and inputs[0].shape[1:] == (count,)


def _separate(manifest: Manifest) -> bool:
    """Whether each column is a tensor of its own; only a category can be a string."""
    tensors = {tensor.name: tensor for tensor in manifest.signature.inputs}
    return set(tensors) == {column.name for column in manifest.input.columns} and all(
        tensors[column.name].shape[1:] in ((), (1,))
        and tensors[column.name].datatype != "BOOL"
        and (column.kind == "category" or tensors[column.name].datatype != "BYTES")
        for column in manifest.input.columns
    )


def bounds(datatype: str) -> tuple[int, int] | tuple[float, float]:
    """The least and the greatest number of a datatype that is one of numbers."""
    if datatype in _FLOATS:
        return float(np.finfo(DTYPES[datatype]).min), float(np.finfo(DTYPES[datatype]).max)
    return int(np.iinfo(DTYPES[datatype]).min), int(np.iinfo(DTYPES[datatype]).max)


def _numbers(column: Column, values: list[Any], datatype: str) -> np.ndarray:
    if column.kind == "category":
        values = [column.categories.index(value) for value in values]
    least, greatest = bounds(datatype)
    if not all(least <= value <= greatest for value in values):
        raise RequestError(400, f"column {column.name!r} has a value out of the range of {datatype}")
    if datatype not in _FLOATS:
        # A fraction, or what JSON's parser has rounded to a number with none.
        if not all(type(value) is int or (value.is_integer() and abs(value) < 2**53) for value in values):
            raise RequestError(400, f"column {column.name!r} takes whole numbers")
        values = [int(value) for value in values]
    return np.array(values, DTYPES[datatype])


def _check_value(column: Column, value: Any, where: str) -> None:
    if column.kind == "category":
        if value not in column.categories or not isinstance(value, str):
            raise RequestError(400, f"{where}column {column.name!r} is one of {_list(column.categories)}")
    elif type(value) not in (int, float):  # true is no number
        raise RequestError(400, f"{where}column {column.name!r} takes a number")


def _outside(column: Column, value: Any) -> list[str]:
    """A warning, not a fault: the model answers, but it never saw such a value."""
    if column.minimum is not None and value < column.minimum:
        return [f"{column.name} is {value}; the least that training saw is {column.minimum:g}"]
    if column.maximum is not None and value > column.maximum:
        return [f"{column.name} is {value}; the greatest that training saw is {column.maximum:g}"]
    return []


def _items(body: bytes) -> list[Any]:
    """One JSON value, or the values of a list."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None
    items = parsed if isinstance(parsed, list) else [parsed]
    if not items:
        raise RequestError(400, "the list is empty")
    if len(items) > MAX_ITEMS:
        raise RequestError(400, f"more than {MAX_ITEMS} items in one request; send them in parts")
    return items


def _check_count(tensor: Tensor, count: int) -> None:
    if tensor.shape[0] not in (-1, count):
        raise RequestError(400, f"this model takes exactly {tensor.shape[0]} at a time, not {count}")


def _plain(output: np.ndarray, index: int, items: int) -> Any:
    """One item's part of an output as JSON has it; an output that has no item's part is given whole."""
    part = output[index] if output.ndim and output.shape[0] == items else output
    part = part.reshape(()) if part.size == 1 else part
    value = part.tolist()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _list(names: Any) -> str:
    """At most some of them, in their order; of a set, sorted."""
    listed = sorted(names) if isinstance(names, set) else list(names)
    return ", ".join(name[:100] for name in listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")
