"""Checks the whole of params.yaml: ``python -m pipelines.params``

A stage reads its own section and would find another's mistake only in the middle of a night.
"""

import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import Field

from pipelines.params import dataset
from pipelines.params.model import Model
from pipelines.params.section import ParamsError, Section, nearest, read

SECTIONS = ["schedule", "notify", "costs", "housekeeping", "toolchain", "datasets", "models"]
OURS = {"release_format": int, "accelerator": str, "threads": int}  # the other keys of toolchain are distributions
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")  # it becomes part of commands, paths, DAG ids and URLs


class Schedule(Section):
    """When the nights start."""

    cron: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")]
    """Five fields: minute, hour, day, month, weekday."""
    timezone: str
    late_after_hours: Annotated[float, Field(ge=0)]
    """Hours after its begin at which a night that has not ended is told as late."""


class Notify(Section):
    """Which nights are sent to people; those that need somebody always are."""

    good: bool


class PerHour(Section):
    """What an hour of a machine costs."""

    cpu: Annotated[float, Field(ge=0)]
    """Without a GPU."""
    gpu: Annotated[float, Field(ge=0)]
    """With one or more."""


class Watts(Section):
    """What something that is busy takes, where the machine has no meter that can be read."""

    cpu: Annotated[float, Field(gt=0)]
    """A core, with its share of the machine."""
    gpu: Annotated[float, Field(gt=0)]


class Costs(Section):
    """What computing is said to have cost."""

    currency: str
    per_hour: PerHour | None
    """None: no price is said."""
    watts: Watts


class Housekeeping(Section):
    """What DVC's store keeps."""

    history_days: Annotated[int, Field(ge=1)]
    """Days of a branch's history whose data and results stay, beside those of every tip, tag, run and release."""


def check(root: Path = Path()) -> None:
    """Every section, and every name that points to another section or to a file.

    Raises:
        ParamsError: a line for each thing that is wrong.
    """
    file = root / "params.yaml"
    tree = read(file)
    wrong = [f"{file}: {key} is unknown{nearest(key, SECTIONS)}" for key in tree if key not in SECTIONS]
    wrong += [f"{file}: {key} is missing" for key in SECTIONS if not isinstance(tree.get(key), dict)]
    if wrong:
        raise ParamsError("\n".join(wrong))
    wrong += _schedule(tree["schedule"], file) + _section(Notify.check, tree["notify"], "notify", file)
    wrong += _toolchain(tree["toolchain"], file)
    wrong += _section(Housekeeping.check, tree["housekeeping"], "housekeeping", file)
    for name, entry in tree["datasets"].items():
        where = f"datasets.{name}"
        wrong += _name(name, where, file)
        suffixes = (".py", "_params.py", "_suite.py")
        absent = [_there(root, file, where, entry, "reader", "pipelines/datasets", suffix) for suffix in suffixes]
        wrong += next(filter(None, absent), []) or _section(dataset.check, entry, where, file)
    for name, entry in tree["models"].items():
        where = f"models.{name}"
        wrong += _name(name, where, file) + _section(Model.check, entry, where, file)
        wrong += _there(root, file, where, entry, "task", "pipelines/tasks", "")
        wrong += _there(root, file, where, entry, "family", "pipelines/families", ".py")
        wanted = entry.get("dataset") if isinstance(entry, dict) else None
        if isinstance(wanted, str) and wanted not in tree["datasets"]:
            hint = nearest(wanted, list(tree["datasets"]))
            wrong.append(f"{file}: {where}.dataset is {wanted!r}, which is none of datasets{hint}")
    if wrong:
        raise ParamsError("\n".join(wrong))


def _schedule(value: dict[str, Any], file: Path) -> list[str]:
    try:
        schedule = Schedule.check(value, "schedule", file)
        ZoneInfo(schedule.timezone)
    except ParamsError as error:
        return [str(error)]
    except (KeyError, ValueError):
        return [
            f"{file}: schedule.timezone is {schedule.timezone!r}, no time zone of this machine (as in Europe/Berlin)"
        ]
    return []


def _toolchain(value: dict[str, Any], file: Path) -> list[str]:
    wrong = [f"{file}: toolchain.{key} is missing" for key in OURS if key not in value]
    for key, wanted in value.items():
        if key in OURS:
            if type(wanted) is not OURS[key]:
                wrong.append(f"{file}: toolchain.{key} is {wanted!r}: a {OURS[key].__name__} is wanted")
            continue
        try:
            version(key)
        except PackageNotFoundError:
            hint = nearest(key, sorted({*OURS, *value} - {key}))
            wrong.append(f"{file}: toolchain.{key} is unknown: no distribution of that name is installed{hint}")
    return wrong


def _name(name: Any, where: str, file: Path) -> list[str]:
    if isinstance(name, str) and NAME.fullmatch(name):
        return []
    return [
        f"{file}: {where}: a name is made of a-z, 0-9, dot, underscore and hyphen, and begins with a letter or digit"
    ]


def _section(check: Callable[[Any, str, Path], Any], entry: Any, where: str, file: Path) -> list[str]:
    try:
        check(entry, where, file)
    except ParamsError as error:
        return [str(error)]
    return []


def _there(root: Path, file: Path, where: str, entry: Any, key: str, folder: str, suffix: str) -> list[str]:
    """A complaint unless the entry's ``key`` names something in ``folder``; its type is the section's affair."""
    name = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(name, str) or (name.isidentifier() and (root / folder / f"{name}{suffix}").exists()):
        return []
    known = [path.name.removesuffix(suffix) for path in (root / folder).glob(f"[a-z]*{suffix}")]
    hint = nearest(name, sorted(stem for stem in known if stem.isidentifier()))
    return [f"{file}: {where}.{key} is {name!r}, and there is no {folder}/{name}{suffix}{hint}"]


def main() -> int:
    """0 when all is right, 2 and a line for each mistake when not."""
    try:
        check()
    except ParamsError as error:
        print(error, file=sys.stderr)
        return 2
    print("params.yaml is right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
