"""What a stage's recorded entry does not have as a run wants it, told in the same words everywhere.

A task's log, ``nightshift why`` and ``nightshift plan`` all show ``str(change)``, one line for each.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nightshift.engine.objects import entry_hashes

ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One thing that differs.

    ``what`` is command, parameter, code, opponent, input or output, or says that there is nothing to compare with.
    ``before`` and ``after`` are digests, of a parameter its value as JSON; None where it was not, or is no more.
    """

    what: str
    name: str = ""
    before: str | None = None
    after: str | None = None

    def __str__(self) -> str:
        if self.what in ("command", "parameter"):
            return f"{self.what} {self.name}".strip() + f": {_or_nothing(self.before)} → {_or_nothing(self.after)}"
        name = f"{self.what} {self.name}".strip()
        if (self.before is None) == (self.after is None):
            return name
        return f"{name} ({'new' if self.before is None else 'no more'})"

    def whole(self) -> str:
        """The line with its digests."""
        if self.what in ("command", "parameter") or not (self.before or self.after):
            return str(self)
        return f"{self.what} {self.name}: {_or_nothing(self.before)} → {_or_nothing(self.after)}"


def changes(plan: Mapping[str, Any], inputs: Mapping[str, str], entry: Mapping[str, Any] | None) -> list[Change]:
    """What ``entry`` does not have as ``plan`` and ``inputs`` (path to md5) want it; nothing means unchanged."""
    if entry is None:
        return [Change("never recorded")]
    found = []
    if entry.get("cmd") != plan["cmd"]:
        found.append(Change("command", "", _command(entry.get("cmd")), _command(plan["cmd"])))
    had = entry.get("params", {})
    for file in sorted({*plan["params"], *had}):
        wanted, recorded = plan["params"].get(file, {}), had.get(file, {})
        prefix = "" if file == "params.yaml" else f"{file}:"
        for name in sorted({*wanted, *recorded}):
            if wanted.get(name) != recorded.get(name):
                found += _parameters(prefix + name, recorded.get(name, ABSENT), wanted.get(name, ABSENT))
    deps = entry_hashes(entry.get("deps", []), plan["wdir"])
    for path in sorted({*deps, *inputs}):
        if deps.get(path) != inputs.get(path):
            found.append(Change(kind(path, plan), path, deps.get(path), inputs.get(path)))
    outs = entry_hashes(entry.get("outs", []), plan["wdir"])
    for path in sorted({*outs} ^ {*plan["outs"]}):
        found.append(Change("output", path, outs.get(path), None if path in outs else ""))
    return found + [Change("output without a hash", path) for path, digest in outs.items() if not digest]


def _parameters(name: str, before: Any, after: Any) -> Iterator[Change]:
    """A line for each value inside a section that differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            was, now = before.get(key, ABSENT), after.get(key, ABSENT)
            if was != now:
                yield from _parameters(f"{name}.{key}", was, now)
    else:
        yield Change("parameter", name, _text(before), _text(after))


def kind(path: str, plan: Mapping[str, Any]) -> str:
    """``what`` of a dependency's change: opponent, input (a stage or ingest makes it) or code."""
    if path.startswith("champions/"):
        return "opponent"
    return "input" if path in plan["generated"] else "code"


def _command(cmd: Any) -> str:
    return " && ".join(cmd) if isinstance(cmd, list) else str(cmd)


def _text(value: Any) -> str | None:
    return None if value is ABSENT else json.dumps(value, ensure_ascii=False, default=str)


def _or_nothing(text: str | None) -> str:
    return "nothing" if text is None else text
