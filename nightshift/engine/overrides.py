"""Parameter overrides of one run: texts such as ``train.epochs=3``, checked and laid into the text of params.yaml.

They touch ``train`` of the DAG's own model and nothing else. A value is a YAML scalar or a list of them; no command
and no dependency may change by it, so nothing of a form reaches a shell.
"""

import difflib
import io
import json
import math
import re
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nightshift.engine import lock
from nightshift.errors import NightshiftError

TEXT = re.compile(r"(train(?:\.[A-Za-z0-9_-]+)+)=\s*(\S.*)")
TRACKED = re.compile(r"models\.(.+?)\.train(?:\..+)?")
NEXT = "write one per line as train.<field>=<value>, such as train.epochs=3"


def model_of(graph: Mapping[str, Any], names: Sequence[str], dag: str) -> str:
    """The one model whose ``train`` these stages track.

    Raises:
        NightshiftError: there is none, or more than one.
    """
    keys = [key for name in names for keys in graph["stages"][name]["params"].values() for key in keys]
    models = sorted({match[1] for key in keys if (match := TRACKED.fullmatch(key))})
    if len(models) != 1:
        found = f"trains {', '.join(models)}" if models else "trains no model"
        raise NightshiftError(f"{dag} {found}: nothing to override", "trigger the DAG of one model", exit_code=2)
    return models[0]


def lay(content: bytes, model: str, texts: Sequence[str]) -> tuple[bytes, dict[str, Any]]:
    """params.yaml with the overrides in it, everything else byte by byte as it was, and the overrides by their keys.

    Raises:
        NightshiftError: a text is not understood, or names no parameter of the model; names the nearest that is one.
    """
    text, laid = content.decode(), dict[str, Any]()
    known = _leaves("train", _at(lock.load(text), ("models", model, "train")))  # that it is there, DVC has seen
    for given in texts:
        match = TEXT.fullmatch(given.strip())
        if not match:
            near = _nearest(given.partition("=")[0].strip(), known)
            raise NightshiftError(f"{given!r} is no override of a parameter{near}", NEXT, exit_code=2)
        key, value = match[1], _value(given, match[2])
        if key not in known:
            near = _nearest(key, known)
            raise NightshiftError(f"{key} is no parameter of {model}{near}", NEXT, exit_code=2)
        if key in laid:
            raise NightshiftError(f"{key} is given twice", "write it once", exit_code=2)
        text, laid[key] = _splice(text, ("models", model, *key.split(".")), value), value
    return text.encode(), laid


def same_but_values(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raises NightshiftError when an override changed more of the resolved graph than parameters' values."""
    for name in sorted({*before["stages"], *after["stages"]}):
        was, now = before["stages"].get(name, {}), after["stages"].get(name, {})
        changed = [part for part in sorted({*was, *now}) if part != "values" and was.get(part) != now.get(part)]
        if changed:
            raise NightshiftError(
                f"the overrides change {', '.join(changed)} of stage {name!r}",
                "only values of parameters may change; in dvc.yaml a cmd uses ${key} and no other template",
                exit_code=2,
            )


def in_tree(tree: bytes, content: bytes) -> bytes:
    """The archive of a commit's tree with another params.yaml; it still names the commit."""
    made = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(tree), mode="r:gz") as old,
        tarfile.open(fileobj=made, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers=old.pax_headers) as new,
    ):
        for member in old:
            if member.name == "params.yaml":
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
            else:
                new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return made.getvalue()


def params_of(tree: bytes) -> bytes:
    """params.yaml of such an archive."""
    with tarfile.open(fileobj=io.BytesIO(tree), mode="r:gz") as archive:
        file = archive.extractfile("params.yaml")
        return file.read() if file else b""


def said(overrides: Mapping[str, Any]) -> str:
    """The overrides as a person would type them."""
    return ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in overrides.items())


def _value(given: str, text: str) -> Any:
    try:
        value = YAML(typ="safe", pure=True).load(text)  # YAML 1.2, as DVC reads it: 3e-4 is a number
    except YAMLError:
        value = {}
    if not all(_is_plain(item) for item in (value if isinstance(value, list) else [value])):
        raise NightshiftError(f"the value of {given!r} is no number, word, list of them, or null", NEXT, exit_code=2)
    return value


def _is_plain(item: Any) -> bool:
    return math.isfinite(item) if isinstance(item, float) else item is None or isinstance(item, str | int)


def _written(value: Any) -> str:
    """A plain value so that YAML 1.1 and 1.2 read the same: of the two only 1.2 takes 1e-05 for a number."""
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("e", ".0e") if isinstance(value, float) and "." not in text else text


def _splice(text: str, path: Sequence[str], value: Any) -> str:
    node: Any = yaml.compose(text)
    for name in path:
        node = next(below for key, below in node.value if key.value == name)
    start = node.start_mark.index
    end = start + len(text[start : node.end_mark.index].rstrip())
    new = text[:start] + (" " if text[start - 1] == ":" else "") + _written(value) + text[end:]
    for read in (lock.load, yaml.safe_load):
        wanted = _own(read(text))
        _at(wanted, path[:-1])[path[-1]] = value
        try:
            same = _own(read(new)) == wanted
        except (YAMLError, yaml.YAMLError):
            same = False
        if not same:
            raise NightshiftError(
                f"{'.'.join(path)} cannot be overridden as params.yaml writes it now",
                "write it there as a plain value or as [a, b], without anchors; or edit params.yaml and commit it",
                exit_code=2,
            )
    return new


def _own(tree: Any) -> Any:
    """The tree without any part that two places share."""
    return json.loads(json.dumps(tree, default=str))


def _at(tree: Any, path: Sequence[str]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _leaves(prefix: str, value: Any) -> list[str]:
    if not isinstance(value, dict):
        return [prefix]
    return [leaf for name, below in value.items() for leaf in _leaves(f"{prefix}.{name}", below)]


def _nearest(name: str, known: Sequence[str]) -> str:
    fields = {key.removeprefix("train."): key for key in known}
    close = difflib.get_close_matches(name.removeprefix("train."), fields, n=1)
    return f"; did you mean {fields[close[0]]}?" if close else f"; known: {', '.join(known)}"
