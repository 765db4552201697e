"""What DVC accepts and nights do not run, and why: one list, for the DAG file, for ``begin`` and for a person.

A stage runs in a fresh folder on any worker, which has the commit's files, and of everything else what it can fetch
from the remote by the hash that the run fixed. What needs more than that is refused by name, with the cure.
"""

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Any

from nightshift.errors import NightshiftError

# Airflow's own rule for ids; the length leaves room for what stands before and after it.
ID = re.compile(r"[\w.-]{1,200}")


def _id(value: Any) -> bool:
    return isinstance(value, str) and bool(ID.fullmatch(value))


def _name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= 250


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 10**9


HINTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dag": (_id, "letters, digits, points, dashes and underscores"),
    "queue": (_name, "the name of a queue"),
    "pool": (_name, "the name of a pool"),
    "retries": (_whole, "a whole number, 0 or more"),
    "retry_delay": (_seconds, "seconds, more than 0"),
    "timeout": (_seconds, "seconds, more than 0"),
    "priority": (_whole, "a whole number, 0 or more"),
}
DEFAULT_DAG = "dvc"


def hints(stage: dict[str, Any]) -> dict[str, Any]:
    """What a stage says under ``meta: airflow:``, whether it is understood or not."""
    found = (stage["meta"] or {}).get("airflow") if isinstance(stage["meta"], dict | None) else None
    return found if isinstance(found, dict) else {}


def dag_of(stage: dict[str, Any]) -> str:
    """The DAG that a stage is a task of."""
    return str(hints(stage).get("dag", DEFAULT_DAG))


def refusals(graph: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Every stage that cannot be run, in the graph's order: name to what is wrong, each a reason and a cure."""
    stages = graph["stages"]
    cycles = _cycles(stages)
    refused = {name: [*_stage(stage, graph), *cycles.get(name, [])] for name, stage in stages.items()}
    for name, stage in graph["elsewhere"].items():
        refused[name] = [
            _no(f"is in {stage['file']}, and nights run the stages of the root's dvc.yaml", "move it there")
        ]
    return {name: found for name, found in refused.items() if found}


def sentence(name: str, stage: dict[str, Any], refusal: dict[str, str]) -> str:
    """A refusal with its place: ``dvc.yaml:12: stage 'train@m1' …``, without the cure."""
    return f"{place(stage)}: stage {name!r} {refusal['reason']}"


def place(stage: dict[str, Any]) -> str:
    """File and line of a stage."""
    return stage["file"] + (f":{stage['line']}" if stage["line"] else "")


def check(graph: dict[str, Any], name: str) -> None:
    """Raises NightshiftError when a stage is refused: the first reason and its cure."""
    for refusal in graph["refused"].get(name, []):
        raise NightshiftError(sentence(name, graph["stages"][name], refusal), refusal["cure"])


def _no(reason: str, cure: str) -> dict[str, str]:
    return {"reason": reason, "cure": cure}


def _stage(stage: dict[str, Any], graph: dict[str, Any]) -> Iterator[dict[str, str]]:
    for path in stage["outside"]:
        yield _no(
            f"reads or writes {path}, which is outside of the project: no commit and no hash fixes it",
            "bring it in with a .dvc file (`dvc import-url`, `dvc add`), or as a parameter",
        )
    for up in stage["upstream"]:
        if up in graph["elsewhere"]:
            yield _no(f"depends on {up}, which nights do not run", "move that stage into the root's dvc.yaml")
    yield from _outs(stage)
    yield from _deps(stage, graph)
    yield from _hints(stage)


def _outs(stage: dict[str, Any]) -> Iterator[dict[str, str]]:
    for out in stage["outs"]:
        if not out["cache"]:
            yield _no(
                f"has the output {out['path']} with `cache: false`, so no other machine could read it",
                "remove `cache: false` there; metrics and plots are cached outputs too",
            )
        elif not out["push"]:
            yield _no(
                f"has the output {out['path']} with `push: false`, so no other machine could read it",
                "remove `push: false` there",
            )
        if out["persist"]:
            yield _no(
                f"lets {out['path']} persist, and begins in a folder without its earlier content",
                "remove `persist: true`; what a stage builds upon is a dependency",
            )
        if out["remote"]:
            yield _no(
                f"keeps {out['path']} in the remote {out['remote']}, and nights use the default one",
                "remove `remote:` there",
            )


def _deps(stage: dict[str, Any], graph: dict[str, Any]) -> Iterator[dict[str, str]]:
    makers = {out["path"]: name for name, other in graph["stages"].items() for out in other["outs"]}
    generated = {*makers, *graph["data"]}
    for path in stage["deps"]:
        if path in graph["unfit"]:
            reason, cure = graph["unfit"][path]
            yield _no(f"depends on {path}, which {reason}", cure)
        if path in generated:
            continue
        inside = sorted(other for other in generated if path.startswith(f"{other}/"))
        around = sorted(other for other in generated if path == "." or other.startswith(f"{path}/"))
        for where, near in (("inside", inside), ("around", around)):
            if near:
                yield _no(
                    f"depends on {path}, which is {where} the output {near[0]}: DVC would not see it change",
                    f"depend on {' and '.join(near)} itself, or make {path} an output of its own",
                )


def _hints(stage: dict[str, Any]) -> Iterator[dict[str, str]]:
    meta = stage["meta"]
    if meta is not None and not isinstance(meta, dict):
        return  # a person's own
    if (given := (meta or {}).get("airflow")) is None:
        return
    if not isinstance(given, dict):
        yield _no(f"has meta.airflow {given!r}", f"write hints there by name: {', '.join(HINTS)}")
        return
    for name, value in given.items():
        if name not in HINTS:
            near = difflib.get_close_matches(str(name), HINTS, n=1)
            cure = f"did you mean {near[0]}?" if near else f"known: {', '.join(HINTS)}"
            yield _no(f"has an unknown hint meta.airflow.{name}", cure)
        elif not HINTS[name][0](value):
            yield _no(f"has meta.airflow.{name} {value!r}", f"write {HINTS[name][1]}")


def _cycles(stages: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """The stages that start after a DAG which, by way of others, starts after theirs."""
    after: dict[str, set[str]] = {dag_of(stage): set() for stage in stages.values()}
    for stage in stages.values():
        after[dag_of(stage)] |= {dag_of(stages[up]) for up in stage["upstream"] if up in stages}
    found: dict[str, list[dict[str, str]]] = {}
    for name, stage in stages.items():
        mine = dag_of(stage)
        for other in sorted({dag_of(stages[up]) for up in stage["upstream"] if up in stages} - {mine}):
            if way := _way(after, other, mine):
                circle = " → ".join([*reversed(way), way[-1]]) if way[0] != way[-1] else mine
                found.setdefault(name, []).append(
                    _no(
                        f"makes the DAGs start each other in a circle: {circle}",
                        "give their stages one `dag`, or move the stage to another",
                    )
                )
    return found


def _way(after: dict[str, set[str]], start: str, goal: str) -> list[str] | None:
    """The DAGs from ``start`` to ``goal``, each after the next; None when there is no way."""
    ways = [[start]]
    seen = {start}
    while ways:
        way = ways.pop(0)
        if way[-1] == goal:
            return way
        for other in sorted(after[way[-1]] - seen):
            seen.add(other)
            ways.append([*way, other])
    return None
