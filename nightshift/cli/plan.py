"""``nightshift plan``: what tonight will do, in seconds, without running or writing anything."""

import json as json_
import os
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from nightshift.cli import stops
from nightshift.cli.connect import take_settings
from nightshift.cli.land import landing_zones
from nightshift.engine import durations, forecast, graph
from nightshift.engine.begin import check_inputs, check_params, laid, last_day
from nightshift.engine.objects import Objects
from nightshift.engine.pin import meet
from nightshift.engine.rules import dag_of, hints
from nightshift.engine.workspace import unpack
from nightshift.errors import NightshiftError
from nightshift.preflight import Finding
from nightshift.releases.errors import ReleaseError
from nightshift.releases.store import Store, open_store
from nightshift.stack import demo
from nightshift.stack.settings import Stack, find_root

COLORS = {
    forecast.WILL: "bold cyan",
    forecast.MAY: "cyan",
    forecast.UNCHANGED: "green",
    forecast.RESTORED: "green",
}


@dataclass
class Outlook:
    """What is foreseen; docs/plan.md says what each key of its JSON means."""

    commit: str | None = None
    branch: str | None = None
    until: str = ""
    rerun: bool = False
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    opponents: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def named(self, ok: bool | None) -> list[dict[str, str]]:
        return [{"name": f.name, "words": f.words, "next_step": f.next_step} for f in self.findings if f.ok is ok]

    def json(self) -> str:
        shown = {name: value for name, value in vars(self).items() if name != "findings"}
        return json_.dumps(shown | {"stops": self.named(False), "notes": self.named(None)}, indent=2)


def plan(
    until: Annotated[
        str | None, typer.Option(help="The last day whose data counts (YYYY-MM-DD); else yesterday.")
    ] = None,
    rerun: Annotated[bool, typer.Option(help="As if every stage were to be computed again.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """What tonight will do: days that are taken, stages that run and why, how long, and what will stop it (exit 3)."""
    root = find_root()
    outlook = look(root, last_day(until), rerun=rerun)
    if json:
        typer.echo(outlook.json())
    else:
        show(outlook, Console(soft_wrap=True, highlight=False))
    raise typer.Exit(3 if outlook.named(False) else 0)


def look(root: Path, until: str, *, rerun: bool = False) -> Outlook:
    """All that can be known of the next night of the checkout at ``root``."""
    elsewhere = bool(os.environ.get("NIGHTSHIFT_REGISTRY"))  # a team's, by this shell's settings
    take_settings("worker")
    stack = Stack.load(root, {}) if Stack.exists(root) and not elsewhere else None
    found = Outlook(until=until, rerun=rerun, findings=stops.services(stack))
    down = any(finding.name == "stack" and finding.ok is None for finding in found.findings)
    if not down:
        found.findings += stops.keys(stack)
    asked = not down and not any(finding.name == "keys" for finding in found.findings)
    try:
        tip = stops.tip(root)
        found.commit, found.branch = tip.commit, tip.branch
        found.findings += tip.findings
        with tempfile.TemporaryDirectory(prefix="nightshift-plan-") as scratch:
            tree = Path(scratch) / "tree"
            unpack(tip.tree, tree)
            check_params(tree)
            resolved = _foresee(found, tip, tree, open_store(os.environ["NIGHTSHIFT_WORK"]) if asked else None, stack)
            # One machine's Airflow knows no queues: it runs everything here.
            queues = _hints(resolved, "queue") if elsewhere else {}
            found.findings += stops.tools(resolved["stages"], found.stages, queues)
            if stack:
                found.findings += stops.pools(stack, set(_hints(resolved, "pool").values()))
            if asked and stack:
                found.findings += _demo_days(found, tree)
    except (NightshiftError, ReleaseError) as error:
        found.findings.append(Finding("commit", False, error.message, error.next_step))
    return found


def _hints(resolved: dict[str, Any], name: str) -> dict[str, str]:
    """The stages that have a hint of this name, and what it says."""
    return {stage: said[name] for stage, about in resolved["stages"].items() if name in (said := hints(about))}


def _foresee(found: Outlook, tip: stops.Tip, tree: Path, work: Store | None, stack: Stack | None) -> dict[str, Any]:
    """The part that needs the commit to be laid; ``work`` is None when S3 cannot be asked. Returns the graph."""
    resolved = graph.of_tree(tree, tip.blobs, work, keep=False) if work else graph.of_folder(tree)
    base = {"dag": "the night", "commit": tip.commit} | laid(tree, tip.blobs, resolved, list(resolved["stages"]))
    home = Path(os.environ.get("NIGHTSHIFT_HOME") or ".nightshift").absolute()
    objects = Objects(base["remote"], home / "cache")
    if work:
        check_inputs(base, objects)
        found.datasets = forecast.days(tree, base, found.until, objects, work)
    else:
        found.datasets = {dataset: {"error": "S3 was not asked"} for dataset in base["ingest"]}
    for dataset, report in found.datasets.items():
        if work and "error" in report:
            found.findings.append(
                Finding("landing", False, f"{dataset}: {report['error']}", "mend it, then plan again")
            )
        elif work and not report["rows"] and not report["taken"]:
            words = f"{dataset}: nothing has landed yet"
            found.findings.append(Finding("landing", False, words, "drop files, or `nightshift land` a demo day"))
    found.stages, found.opponents = forecast.stages(
        base,
        forecast.changing(found.datasets),
        rerun=found.rerun,
        find=(lambda key: forecast.complete_records(objects, key)) if work else (lambda _: []),
        pin=partial(meet, objects=objects) if work else None,
    )
    for one in found.stages:
        one["dag"] = dag_of(resolved["stages"][one["stage"]])
    found.seconds = forecast.seconds(found.stages, base, lambda name: durations.last(work, name) if work else None)
    landed = sum(day["bytes"] for report in found.datasets.values() for day in report.get("taken", []))
    found.findings.append(stops.disk(home, base, found.stages, landed))
    found.findings += stops.signing(stack, base["params"].get("models"))
    return resolved


def _demo_days(found: Outlook, tree: Path) -> list[Finding]:
    """What `nightshift night` itself lands first; it is not among the days above."""
    notes = []
    for dataset, url in landing_zones(tree).items():
        index = tree / "data" / "profiles" / dataset / "index.json"  # brought there to foresee the days
        seen = set(json_.loads(index.read_text())["partitions"]) if index.exists() else set()
        seen |= {day["date"] for day in found.datasets.get(dataset, {}).get("held", [])}
        if day := demo.next_day(dataset, open_store(url), seen):
            words = f"`nightshift night` lands the demo day {day} of {dataset} first, which is not counted here"
            notes.append(Finding("demo", None, words, "nightshift night --no-land"))
    return notes


def show(outlook: Outlook, console: Console) -> None:
    """For a person: a table per DAG, how long, and what will stop the night with the next step of each."""
    if outlook.commit:
        again = ", every stage computed again" if outlook.rerun else ""
        console.print(f"commit {outlook.commit[:12]} of {outlook.branch}, data until {outlook.until}{again}")
    for dag in dict.fromkeys(one["dag"] for one in outlook.stages):
        console.print(_table(dag, outlook))
    if outlook.seconds:
        console.print(how_long(outlook.seconds))
    for note in outlook.named(None):
        step = f" ({note['next_step']})" if note["next_step"] else ""
        console.print(f"[yellow]note:[/] {escape(note['words'] + step)}")
    stopping = outlook.named(False)
    console.print("[bold red]will stop the night:[/]" if stopping else "[green]nothing known stands in its way[/]")
    for number, stop in enumerate(stopping, 1):
        console.print(f"  {number}. {escape(stop['words'].replace(chr(10), chr(10) + '     '))}")
        if stop["next_step"]:
            console.print(f"     next: {escape(stop['next_step'])}")


def _table(dag: str, outlook: Outlook) -> Table:
    table = Table(
        title=escape(dag), title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 2)
    )
    if dag.startswith("ingest_"):
        for what, words in _days(outlook.datasets.get(dag.removeprefix("ingest_"), {})):
            table.add_row("days", what, escape(words), "")
    for one in (one for one in outlook.stages if one["dag"] == dag):
        outcome = f"[{COLORS[one['outcome']]}]{one['outcome']}[/]"
        took = "" if one["seconds"] is None else _time(one["seconds"])
        table.add_row(one["stage"].partition("@")[0], outcome, escape(_why(one["why"])), took)
    if (model := dag.removeprefix("train_")) in outlook.opponents:
        table.add_row("opponent", "", escape(outlook.opponents[model]), "")
    return table


def _why(lines: list[str]) -> str:
    """What is known to differ; of what only may, no more than how many, when there are several."""
    maybe = [line for line in lines if line.endswith(" may change")]
    known = [line for line in lines if line not in maybe]
    return ", ".join(known + (maybe if len(maybe) < 2 else [f"{len(maybe)} of its inputs may change"]))


def _days(report: dict[str, Any]) -> list[tuple[str, str]]:
    if "error" in report:
        return [("not known", report["error"])]
    rows = [
        ("take" if day["sure"] else "may take", f"{day['date']} ({day['why']}, {decimal(day['bytes'])})")
        for day in report.get("taken", [])
    ]
    rows += [("take out", f"{day['date']}: {day['reason']}") for day in report.get("dropped", [])]
    rows += [("held", f"{day['date']}: {day['reason']}") for day in report.get("held", [])]
    rows += [("left out", f"{day['date']}: {day['reason']}") for day in report.get("left_out", [])]
    rows += [("later", f"{day}: after the last day that counts") for day in report.get("skipped_after_until", [])]
    rows += [("stale", report["stale"])] if report.get("stale") else []
    return rows or [("none", "nothing new has landed")]


def how_long(seconds: dict[str, Any]) -> str:
    """One sentence."""
    words = f"about {_time(seconds['longest'])}"
    if seconds["all"] > seconds["longest"]:
        words += f"; {_time(seconds['all'])} if one thing runs after the other"
    if seconds["unknown"]:
        names = seconds["unknown"]
        words += f"; not counted, because never timed: {', '.join(names) if len(names) < 4 else f'{len(names)} stages'}"
    return words


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
