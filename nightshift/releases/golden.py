"""``golden.json``: requests with known answers, in the Open Inference Protocol's words.

A release carries a few; an endpoint must give these answers before it serves, and a deploy asks for them again over
the wire. Both compare here, so "the golden requests agree" means one thing.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightshift.releases.errors import ReleaseCorrupt
from nightshift.releases.manifest import GOLDEN, refuse_newer

FORMAT = 1


class Case(BaseModel):
    """One request and its answer: lists of tensors (name, datatype, shape, data)."""

    model_config = ConfigDict(frozen=True, extra="allow")
    inputs: list[dict[str, Any]] = Field(min_length=1)
    outputs: list[dict[str, Any]] = Field(min_length=1)


class Golden(BaseModel):
    """``tolerance`` is the greatest absolute difference of a number that still agrees."""

    model_config = ConfigDict(frozen=True, extra="allow")
    format: int = FORMAT
    tolerance: float = Field(gt=0)
    cases: list[Case] = Field(min_length=1)


def load(data: bytes) -> Golden:
    """Raises ReleaseCorrupt when these bytes are no golden requests, FormatTooNew when they are newer."""
    try:
        parsed = json.loads(data)
        if isinstance(parsed, dict):
            refuse_newer(parsed, GOLDEN, FORMAT)
        return Golden.model_validate(parsed)
    except (ValidationError, ValueError) as error:
        raise ReleaseCorrupt(f"{GOLDEN} is wrong: {error}", "package the release again") from error


def difference(expected: Sequence[dict[str, Any]], answered: Sequence[dict[str, Any]], tolerance: float) -> str | None:
    """What disagrees between two lists of output tensors, in words; None when they agree."""
    by_name = {tensor.get("name"): tensor for tensor in answered}
    for tensor in expected:
        name = tensor.get("name")
        other = by_name.get(name)
        if other is None:
            return f"output {name!r} is missing"
        for field in ("datatype", "shape"):
            if tensor.get(field) != other.get(field):
                return f"output {name!r} has {field} {other.get(field)}, not {tensor.get(field)}"
        wanted, got = tensor.get("data") or [], other.get("data") or []
        if len(wanted) != len(got):
            return f"output {name!r} has {len(got)} values, not {len(wanted)}"
        for index, (left, right) in enumerate(zip(wanted, got, strict=True)):
            if not _agree(left, right, tolerance):
                return f"output {name!r} [{index}] is {right}, not {left} (tolerance {tolerance})"
    return None


def _agree(left: Any, right: Any, tolerance: float) -> bool:
    if isinstance(left, float) or isinstance(right, float):
        try:
            return math.isfinite(right) and abs(left - right) <= tolerance
        except TypeError:
            return False
    return bool(left == right)
