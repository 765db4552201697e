"""JSON to Python, with long flat lists of numbers straight to arrays.

simdjson reads 3,072 numbers in a third of the time that the next best parser needs, because none becomes a Python
object. What it cannot take as it is (nested lists, texts, small documents) goes through plain lists. Which parser is
used is known to nobody else.
"""

import contextlib
import gc
import threading
from typing import Any

import numpy as np
import orjson
import simdjson

from nightshift.serving.tensors import RequestError

_SHORT = 2_000  # bytes below which the plain parser is as fast
_KEPT = 1 << 20  # bytes; a parser keeps several times its longest document, so one that read a longer one goes
_local = threading.local()  # a parser keeps its buffers, and serves one document at a time


def read(text: bytes) -> Any:
    """The document's value; an input's ``data`` is an array (float64, int64) when it is a flat list of numbers.

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


def numbers(text: bytes, start: int, end: int) -> np.ndarray | None:
    """The array (float64, int64) of the flat list of numbers that stands there; None if anything else does."""
    if text.find(b"[", start + 1, end) >= 0:
        return None
    parser = _parser()
    try:
        value = parser.parse(memoryview(text)[start:end])
        found = _numbers(value)
    except (ValueError, RuntimeError, UnicodeDecodeError):
        return None
    finally:
        value = None  # a living element would block the parser
    if end - start <= _KEPT:
        _local.parser = parser
    return found if isinstance(found, np.ndarray) else None


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
        for key in document:
            _demand_new(key, found)
            value = document[key]
            found[key] = _inputs(value) if key == "inputs" else _plain(value)
            del value
    finally:
        del document  # a living element would block the parser
    if len(text) <= _KEPT:
        _local.parser = parser
    _demand_flat(text, found)
    return found


def _demand_flat(text: bytes, found: dict[str, Any]) -> None:
    """simdjson flattens [1, [2], 3] without a word, so the brackets must be those of the lists that are known.

    Raises ValueError for one more, be it only in a text: the plain parser sees what it is.
    """
    known = [found.get("inputs"), found.get("outputs")]
    for tensor in known[0] if isinstance(known[0], list) else ():
        if isinstance(tensor, dict):
            known += [tensor.get("shape"), tensor.get("data")]
    at = -1
    for _ in range(sum(isinstance(each, list | np.ndarray) for each in known)):
        at = text.find(b"[", at + 1)
    if text.find(b"[", at + 1) >= 0:
        raise ValueError


def _inputs(value: Any) -> Any:
    if not isinstance(value, simdjson.Array):
        return _plain(value)
    return [_tensor(tensor) if isinstance(tensor, simdjson.Object) else _plain(tensor) for tensor in value]


def _tensor(tensor: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in tensor:
        _demand_new(key, found)
        value = tensor[key]
        found[key] = _numbers(value) if key == "data" else _plain(value)
    return found


def _demand_new(key: str, found: dict[str, Any]) -> None:
    """simdjson finds the first of two members of one name, all others the last. Raises ValueError for a second one."""
    if key in found:
        raise ValueError


def _numbers(value: Any) -> Any:
    """An array when it is a flat list of numbers of one kind, else what it is.

    Raises ValueError for a list of lists: the plain parser reads it, and must not read it a second time.
    """
    if isinstance(value, simdjson.Array) and len(value) and isinstance(value[0], simdjson.Array):
        raise ValueError
    if not isinstance(value, simdjson.Array) or not len(value) or type(value[0]) not in (int, float):
        return _plain(value)
    whole = type(value[0]) is int
    try:
        found = np.frombuffer(value.as_buffer(of_type="i" if whole else "d"), np.int64 if whole else np.float64)
    except TypeError:
        if not whole:
            return _plain(value)
        try:  # it began with a whole number
            found = np.frombuffer(value.as_buffer(of_type="d"), np.float64)
        except TypeError:
            return _plain(value)
    except ValueError:  # beyond 64 bits with a sign
        return _plain(value)
    return found if len(found) == len(value) else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value
