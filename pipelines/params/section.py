"""Typed, frozen sections of params.yaml.

A stage reads its own section and nothing else, so that an edit elsewhere never repeats it. Each section's class has a
module of its own, because that module is one of the stage's dependencies.
"""

import difflib
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class ParamsError(Exception):
    """params.yaml says something that is not understood; the message names the key and what to write."""


class Section(BaseModel):
    """A part of params.yaml: wrong types are not coerced, unknown keys fail."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    @classmethod
    def load(cls, *path: str, file: Path = Path("params.yaml")) -> Self:
        """The section at ``path`` (``"models", "cifar10-cnn", "train"``).

        Raises:
            ParamsError: the file, the section or one of its keys is missing, unknown or of the wrong type.
        """
        return cls.check(at(read(file), *path, file=file), ".".join(path), file)

    @classmethod
    def check(cls, value: Any, where: str, file: Path = Path("params.yaml")) -> Self:
        """``value`` as this section; ``where`` is its dotted place, for messages."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ParamsError("\n".join(f"{file}: {_sentence(cls, where, e)}" for e in error.errors())) from None


def read(file: Path = Path("params.yaml")) -> dict[str, Any]:
    """The whole file as plain dictionaries."""
    try:
        return yaml.safe_load(file.read_text()) or {}
    except FileNotFoundError:
        raise ParamsError(f"{file} is not here; run from the root of the checkout") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{file} is not YAML: {error}") from None


def at(tree: dict[str, Any], *path: str, file: Path = Path("params.yaml")) -> Any:
    """The value at ``path``; a missing name is answered with its nearest sibling."""
    for depth, name in enumerate(path):
        if not isinstance(tree, dict) or name not in tree:
            known = list(tree) if isinstance(tree, dict) else []
            raise ParamsError(f"{file}: {'.'.join(path[: depth + 1])} is not there{nearest(name, known)}")
        tree = tree[name]
    return tree


def nearest(name: str, known: list[str]) -> str:
    """``; did you mean …?`` or the list of what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(known)}" if known else ""


def _sentence(cls: type[BaseModel], where: str, error: Any) -> str:
    key = ".".join([where, *map(str, error["loc"])])
    if error["type"] == "extra_forbidden":
        return f"{key} is unknown{nearest(str(error['loc'][-1]), _fields_at(cls, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "value_error":  # of a validator of ours, which names the keys itself
        return f"{key}: {error['ctx']['error']}"
    return f"{key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _fields_at(cls: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """The field names of the section at ``loc`` below ``cls``."""
    fields = _fields(cls)
    for name in loc:
        inner = fields.get(name)
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        fields = _fields(inner)
    return list(fields)


def _fields(cls: type[BaseModel]) -> dict[str, Any]:
    """What each key of params.yaml holds."""
    return {field.alias or name: field.annotation for name, field in cls.model_fields.items()}
