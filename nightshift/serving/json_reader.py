"""JSON to Python, with long lists of numbers, flat or nested as their shape says, straight to arrays.

simdjson reads 3,072 numbers in a third of the time that the next best parser needs, because none becomes a Python
object. What it cannot take as it is (ragged lists, texts, small documents) goes through plain lists. Which parser is
used is known to nobody else.
"""

import contextlib
import gc
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import simdjson

from nightshift.serving.tensors import RequestError

_SHORT = 2_000  # bytes below which the plain parser is as fast
_KEPT = 1 << 20  # bytes; a parser keeps several times its longest document, so one that read a longer one goes
_PART = 1 << 18  # bytes of a longer list of numbers that are read at once: 0.6 ms
_KINDS = {int: "id", float: "d"}  # simdjson's, of a first number: what begins with a whole one may hold fractions
_local = threading.local()  # a parser keeps its buffers, and serves one document at a time


def read(text: bytes) -> Any:
    """The document's value; an input's ``data`` is an array (float64, int64) when it is a list of numbers, flat or
    nested as the input's ``shape`` says.

    Raises RequestError 400 for what is no JSON, is nested too deep, or holds what JSON has no numbers for; and for a
    very long document that is no object.
    """
    if len(text) >= _SHORT:
        # KeyError: a name that is written with an escape is listed, but not found by simdjson.
        with contextlib.suppress(ValueError, RuntimeError, TypeError, UnicodeDecodeError, KeyError):
            return _fast(text)
    try:
        return orjson.loads(text) if len(text) <= _KEPT else _patiently(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None


def _patiently(text: bytes) -> Any:
    """As Python reads it, in half the time: its collector would look at millions of new lists again and again,
    and there is no circle in JSON.
    """
    gc.disable()
    try:
        return orjson.loads(text)
    finally:
        gc.enable()


def numbers(text: bytes, start: int, end: int, shape: Sequence[int]) -> np.ndarray | None:
    """The array (float64, int64) of the list of numbers that stands there, flat or nested as ``shape`` says; None if
    anything else does.
    """
    is_flat = text.find(b"[", start + 1, end) < 0
    if not is_flat and len(shape) < 2:
        return None
    if end - start <= _KEPT:
        return _list_of_numbers(memoryview(text)[start:end], shape, is_flat)
    arrays = []
    for part in _parts(text, start, end, None if is_flat else b"[" * (len(shape) - 1)):
        array = _list_of_numbers(part, (None, *shape[1:]), is_flat)
        if array is None:
            return None
        arrays.append(array)
        time.sleep(0)  # whoever waits for Python's lock, which the parser holds, gets it now and not after all parts
    found = np.concatenate(arrays)
    return found if is_flat or len(found) == shape[0] else None


def _parts(text: bytes, start: int, end: int, opening: bytes | None) -> Iterator[bytes]:
    """The list that stands there, as lists of some of its items: numbers, or lists that begin with ``opening``."""
    at = start + 1
    while True:
        if opening is None:
            comma = text.find(b",", at + _PART, end)
        else:
            item = text.find(opening, at + _PART, end)
            comma = text.rfind(b",", at, item) if item >= 0 else -1
        if comma < 0:
            yield b"[" + text[at:end]
            return
        yield b"[" + text[at:comma] + b"]"
        at = comma + 1


def _list_of_numbers(text: bytes | memoryview, shape: Sequence[int | None], is_flat: bool) -> np.ndarray | None:
    """Of one document. Where the first of ``shape`` is None, the list may be of any length."""
    parser = _parser()
    try:
        value = parser.parse(text)
        found, lists = _numbers(value, shape if shape[:1] != (None,) else (len(value), *shape[1:]))
    except (ValueError, RuntimeError, UnicodeDecodeError):
        return None
    finally:
        value = None  # a living element would block the parser
    if len(text) <= _KEPT:
        _local.parser = parser
    return found if isinstance(found, np.ndarray) and lists == (1 if is_flat else _lists(text)) else None


def _parser() -> Any:
    """This thread's; while it reads it is nobody's, so that a nested call gets a new one, and so does who comes after
    an error.
    """
    parser = getattr(_local, "parser", None)
    _local.parser = None
    return simdjson.Parser() if parser is None else parser


def _fast(text: bytes) -> Any:
    """Raises what simdjson does; the plain parser then says what is wrong, if anything is."""
    parser = _parser()
    document = parser.parse(text)
    try:
        if not isinstance(document, simdjson.Object):
            if len(text) > _KEPT:  # whatever it is, as plain lists it would take many times its length
                raise RequestError(400, "the body is JSON, but no object")
            raise TypeError
        found: dict[str, Any] = {}
        lists = 0
        for key in document:
            _demand_new(key, found)
            value = document[key]
            found[key], more = _inputs(value) if key == "inputs" else _plain(value)
            lists += more
            del value
    finally:
        del document  # a living element would block the parser
    if len(text) <= _KEPT:
        _local.parser = parser
    if lists != _lists(text):
        raise ValueError
    return found


# What follows tells of a value also how many lists it is made of, as far as they are known: simdjson flattens
# [1, [2], 3] without a word, so there must be no more brackets than lists, be they only in a text.


def _lists(text: bytes | memoryview) -> int:
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord("[")))


def _inputs(value: Any) -> tuple[Any, int]:
    if not isinstance(value, simdjson.Array):
        return _plain(value)
    read = [_tensor(tensor) if isinstance(tensor, simdjson.Object) else _plain(tensor) for tensor in value]
    return [tensor for tensor, _ in read], 1 + sum(lists for _, lists in read)


def _tensor(tensor: Any) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    lists = 0
    for key in tensor:
        _demand_new(key, found)
        found[key], more = (None, 0) if key == "data" else _plain(tensor[key])
        lists += more
    if "data" in found:
        found["data"], more = _numbers(tensor["data"], found.get("shape"))
        lists += more
    return found, lists


def _demand_new(key: str, found: dict[str, Any]) -> None:
    """simdjson finds the first of two members of one name, all others the last. Raises ValueError for a second one."""
    if key in found:
        raise ValueError


def _numbers(value: Any, shape: Any) -> tuple[Any, int]:
    """An array when it is a list of numbers of one kind, flat or nested as ``shape`` says, else what it is.

    Raises ValueError for another list of lists: the plain parser reads it, and must not read it a second time.
    """
    first, depth = value, 0
    while isinstance(first, simdjson.Array) and len(first):
        first, depth = first[0], depth + 1
    if depth > 1:
        lists = _nested(value, shape) if isinstance(shape, list | tuple) and len(shape) == depth else 0
        found = _flattened(value, first) if lists else None
        if found is None:
            raise ValueError
        return found.reshape(shape), lists
    found = _flattened(value, first) if depth else None
    return _plain(value) if found is None or len(found) != len(value) else (found, 1)


def _flattened(value: Any, first: Any) -> np.ndarray | None:
    """All its numbers, of which this is the first; None when they are not of one kind, or not numbers."""
    for kind in _KINDS.get(type(first), ""):
        try:
            return np.frombuffer(value.as_buffer(of_type=kind), np.int64 if kind == "i" else np.float64)
        except TypeError:
            continue
        except ValueError:  # beyond 64 bits with a sign
            break
    return None


def _nested(value: Any, shape: Sequence[Any]) -> int:
    """Of how many lists it is made if each is as long as the shape says, else 0."""
    if not isinstance(value, simdjson.Array) or len(value) != shape[0]:
        return 0
    if len(shape) == 1:
        return 1
    parts = [_nested(part, shape[1:]) for part in value]
    return 1 + sum(parts) if all(parts) else 0


def _plain(value: Any) -> tuple[Any, int]:
    if isinstance(value, simdjson.Array):
        return value.as_list(), 1
    if isinstance(value, simdjson.Object):
        return value.as_dict(), 0
    return value, 0
