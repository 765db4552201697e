"""Where something stands in a dvc.yaml, and what DVC says of one that it cannot read, behind file and line."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

# DVC names a place in a template error, and a stage where two stages are at odds.
TEMPLATE = re.compile(r"'(?P<path>(?:stages|vars|datasets|artifacts)[^' ]*)' in '(?P<file>[^']*dvc\.yaml)'")
CIRCLE = re.compile(r"output in stages: (?P<stage>[^,]+),")
STAGE = re.compile(r"(?P<file>[^\s'(]*dvc\.yaml):(?P<stage>[\w@-]+)")


def document(file: Path) -> yaml.Node | None:
    """A file's YAML with the lines on which its parts stand; None when it has none, or is no YAML 1.1."""
    try:
        node: yaml.Node | None = yaml.compose(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return node


def line(node: yaml.Node | None, path: Sequence[Any]) -> int | None:
    """The line of what ``path`` leads to, or of the last step that is there; None when not even the first is."""
    found = None
    for step in path:
        if isinstance(node, yaml.MappingNode):
            at = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if at is None:
                break
            found, node = at[0].start_mark.line + 1, at[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            found = node.start_mark.line + 1
        else:
            break
    return found


def told(root: Path, error: BaseException) -> str:
    """DVC's words and those of their causes, each once, behind the file and line that they are about."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    said: list[str] = []
    for text in map(str, chain):
        if text and not any(text in earlier for earlier in said):
            said.append(text)
    words = ": ".join(said).replace("'./", "'")
    file, at = _place(root, chain, words)
    return f"{file}:{at}: {words}" if file and at else words


def _place(root: Path, chain: list[BaseException], words: str) -> tuple[str, int | None]:
    for one in chain:
        if mark := getattr(one, "problem_mark", None):  # the YAML itself
            file = next((str(other.relpath) for other in chain if hasattr(other, "relpath")), "dvc.yaml")
            return _plain(file), mark.line + 1
        if wrong := getattr(getattr(one, "exc", None), "errors", None):  # its schema
            file = _plain(str(getattr(one, "path", "")) or "dvc.yaml")
            return file, line(document(root / file), wrong[0].path) or 1
        at_odds = [*getattr(one, "stages", ()), getattr(getattr(one, "overlapping_out", None), "stage", None)]
        for stage in filter(None, at_odds):
            file = Path(os.path.relpath(stage.path, root)).as_posix()
            return file, line(document(root / file), ["stages", _group(getattr(stage, "name", None) or "")])
    if match := TEMPLATE.search(words):
        steps = [int(step) if step.isdigit() else step for step in re.split(r"[.\[\]]+", match["path"]) if step]
        return _plain(match["file"]), line(document(root / _plain(match["file"])), [_group(step) for step in steps])
    if match := CIRCLE.search(words) or STAGE.search(words):
        file = _plain(match.groupdict().get("file", "dvc.yaml"))
        return file, line(document(root / file), ["stages", _group(match["stage"])])
    return "", None


def _plain(file: str) -> str:
    return file.removeprefix("./")


def _group(step: Any) -> Any:
    """A stage of a loop stands under the loop's name."""
    return step.partition("@")[0] if isinstance(step, str) else step
