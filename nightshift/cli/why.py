"""``nightshift why RUN``: what each stage of a run did and what had changed, from its journal in S3 alone."""

import json as json_
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from nightshift.cli.connect import take_settings
from nightshift.engine import costs, overrides
from nightshift.engine import plan as plans
from nightshift.engine.changes import Change, changes
from nightshift.engine.journal import Journal, find
from nightshift.engine.objects import entry_hashes
from nightshift.errors import NightshiftError

COLORS = {"done": "green", "unchanged": "green", "restored": "green", "proven": "green", "nothing": "green"}
COLORS |= {"held": "bold yellow", "refused": "bold red", "not reached": "dim", "not finished": "bold red"}


def why(
    run: Annotated[
        str | None, typer.Argument(help="Airflow's run id, or dag/run. Default: the run that began last.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also digests: of what changed and what was made.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One object, digests included.")] = False,
) -> None:
    """For each stage of a run: what changed since it was recorded (dependency, parameter, command), and the outcome."""
    take_settings("worker")
    journal = find(run)
    base = journal.base()
    tasks = list(account(journal, base))
    if json:
        head = {name: base.get(name) for name in ("dag", "run", "commit", "branch", "until", "conf", "overrides")}
        shown = [{**task, "changes": [asdict(change) for change in task["changes"]]} for task in tasks]
        typer.echo(json_.dumps({**head, "tasks": shown}, indent=2, ensure_ascii=False))
        return
    _show(base, tasks, verbose)


def account(journal: Journal, base: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The run's tasks in order: task, outcome, said, seconds, used, changes, and what it made (path to digest)."""
    fragments = journal.fragments()
    for dataset in base["ingest"]:
        yield _ingest(journal, base, dataset, fragments["data"].get(dataset))
    pinned: set[str] = set()
    for name in (name for name in base["order"] if name in base["stages"]):
        for model in base["pin"]:
            if model not in pinned and f"{plans.CHAMPIONS}{model}.json" in base["stages"][name]["code"]:
                pinned.add(model)
                yield _event(f"pin {model}", fragments["champions"].get(model), "why")
        yield _stage(name, base, fragments)
    recorded = journal.get("record.json")
    for dataset in base["ingest"] if recorded is None else ():
        yield from _held(journal, dataset)
    yield _event("record", recorded, "message")
    if any(out.startswith("artifacts/receipts/") for stage in base["stages"].values() for out in stage["outs"]):
        yield _event("deploy", journal.get("outcome.json"), "message")


def _stage(name: str, base: dict[str, Any], fragments: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    plan, fragment = base["stages"][name], fragments["stages"].get(name)
    if fragment is None:
        try:
            found = changes(plan, plans.wanted(name, base, fragments), plan["entry"])
        except NightshiftError as error:
            return _task(name, None, error.message)
        return _task(name, "not finished", None, found)
    found = changes(plan, fragment["inputs"], plan["entry"])
    if plan["unclear"] and fragment["outcome"] != "unchanged":
        found.append(Change(f"left to DVC: {plan['unclear']}"))
    made = entry_hashes(fragment["entry"]["outs"], plan["wdir"])
    return _task(name, fragment["outcome"], fragment["why"], found, made, fragment.get("used"))


def _ingest(journal: Journal, base: dict[str, Any], dataset: str, fragment: dict[str, Any] | None) -> dict[str, Any]:
    report = journal.get(f"ingest/{dataset}.json") or {}
    days = [f"{day['date']} ({day['why']}, {day['rows']} rows)" for day in report.get("taken", [])]
    said = f"took {', '.join(days)}" if days else "nothing new had landed"
    if report.get("dropped"):
        said += f"; took out {', '.join(day['date'] for day in report['dropped'])}, which a person dropped"
    if report.get("held"):
        said += f"; went on without {', '.join(day['date'] for day in report['held'])}, which validation refused before"
    if fragment is None:
        return _task(f"ingest {dataset}", None, None)
    made = {path: out["md5"] for path, out in fragment["outs"].items()}
    before = {path: base["data"][path]["entry"].get("md5") for path in made}
    found = [Change("input", path, before[path], made[path]) for path in made if before[path] != made[path]]
    return _task(f"ingest {dataset}", fragment["outcome"], said, found, made)


def _held(journal: Journal, dataset: str) -> Iterator[dict[str, Any]]:
    keys = journal.store.list(f"held/{dataset}/")
    days = [day for day in (json_.loads(journal.store.get(key)) for key in keys) if day.get("run") == journal.run]
    if days:
        yield _task(f"accept {dataset}", "held", f"{', '.join(day['date'] for day in days)}: {days[0]['reason']}")


def _event(task: str, found: dict[str, Any] | None, sentence: str) -> dict[str, Any]:
    return _task(task, found["outcome"], found[sentence]) if found else _task(task, None, None)


def _task(
    task: str,
    outcome: str | None,
    said: str | None,
    found: list[Change] | None = None,
    made: dict[str, str] | None = None,
    used: costs.Used | None = None,
) -> dict[str, Any]:
    return {
        "task": task,
        "outcome": outcome or "not reached",
        "said": said or "",
        "seconds": used and used["seconds"],
        "used": used,
        "changes": found or [],
        "made": made or {},
    }


def _show(base: dict[str, Any], tasks: list[dict[str, Any]], verbose: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(task["task"]) for task in tasks)

    def line(label: str, text: str, color: str = "") -> None:
        console.print(Text(f"  {label:<{width}}  ", style="bold") + Text(text, style=color))

    console.print(Text(f"{base['dag']}/{base['run']}", style="bold"))
    line("based on", f"commit {base['commit'][:12]} of {base['branch']}, data until {base['until']}")
    if base.get("overrides"):
        line("overridden", overrides.said(base["overrides"]))
    if base["conf"]["rerun"]:
        line("rerun", "every stage computed again")
    if base["conf"]["reason"]:
        line("reason", base["conf"]["reason"])
    for task in tasks:
        words = {"done": "", "nothing": ""}.get(task["outcome"], task["outcome"].replace("_", " "))
        line(task["task"], ": ".join(text for text in (words, task["said"]) if text), COLORS.get(task["outcome"], ""))
        for change in task["changes"]:
            line("", f"  {change.whole() if verbose else change}")
        if task["used"]:
            line("", f"  took {costs.said(task['used'])}")
        for path, digest in task["made"].items() if verbose else ():
            line("", f"  made {path}: {digest}")
