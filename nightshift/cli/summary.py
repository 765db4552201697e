"""What a night came to: read from its runs' journals, told on one page."""

import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from nightshift.cli.follow import Followed
from nightshift.engine import costs
from nightshift.engine.journal import Journal
from nightshift.engine.objects import Objects, made
from nightshift.releases.ledger import Ledger
from nightshift.releases.manifest import short
from nightshift.releases.registry import Registry


@dataclass
class DataSet:
    """What the night did to one snapshot."""

    name: str
    state: str
    run: str
    ran: list[str] = field(default_factory=list)
    rows: int = 0
    days: int = 0
    taken: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    verdict: str = ""
    failed: list[str] = field(default_factory=list)
    report: str = ""
    why: str = ""


@dataclass
class Model:
    """What the night did for one model."""

    name: str
    state: str
    run: str
    ran: list[str] = field(default_factory=list)
    accuracy: float | None = None
    interval: list[float] = field(default_factory=list)
    rows: int = 0
    verdict: str = ""
    reasons: list[str] = field(default_factory=list)
    report: str = ""
    release: str = ""
    deploy: str = ""
    why: str = ""
    order: int | None = None
    serving: str = ""
    cost: dict[str, costs.Used] = field(default_factory=dict)


@dataclass
class Summary:
    """The night, whole. ``exit_code``: 0 it ended, 1 a run failed, 3 a day is held or a person is asked."""

    data_sets: list[DataSet]
    models: list[Model]
    commits: list[str] = field(default_factory=list)
    left_alone: str = ""
    undo: str = ""
    waiting: list[str] = field(default_factory=list)
    next_night: str = ""
    links: dict[str, str] = field(default_factory=dict)
    curl: str = ""

    @property
    def exit_code(self) -> int:
        if any(data.state == "held" for data in self.data_sets):
            return 3
        states = [data.state for data in self.data_sets] + [one.state for one in self.models]
        return 1 if "failed" in states else 3 if "asking" in states else 0

    def json(self) -> str:
        """As JSON; passwords are not in it."""
        links = {name: link for name, link in self.links.items() if "password" not in name}
        return json.dumps(asdict(self) | {"links": links}, indent=2)


class Told:
    """One run's journal with the outputs of its stages."""

    def __init__(self, journal: Journal, objects: Objects):
        self._journal = journal
        self._objects = objects
        self.base = journal.get("base.json") or {}
        stages = journal.fragments()["stages"]
        self._made = made(stages)
        self.cost: dict[str, costs.Used] = {name: one["used"] for name, one in stages.items() if one.get("used")}

    def part(self, name: str) -> dict[str, Any]:
        """One object of the journal; empty when the run did not come that far."""
        return self._journal.get(name) or {}

    def output(self, path: str) -> dict[str, Any]:
        """A stage's JSON output as this run left it; empty when there is none."""
        return json.loads(self._read(path) or b"{}")

    def page(self, path: str, folder: Path) -> str:
        """A stage's page as this run left it, copied to where a browser opens it; empty when there is none.

        The checkout has it only when the run was recorded, which a refused one never is.
        """
        content = self._read(path)
        if content is None:
            return ""
        file = folder / path.removeprefix("artifacts/").replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return str(file)

    def _read(self, path: str) -> bytes | None:
        digest = self._made.get(path)
        return self._objects.read(digest) if digest else None


def data_set(followed: Followed, told: Told, pages: Path) -> DataSet:
    """One data set's part of the night; its report goes to the folder ``pages``."""
    name = followed.run.dag.removeprefix("ingest_")
    report, verdict = told.part(f"ingest/{name}.json"), told.output(f"artifacts/validations/{name}/verdict.json")
    held = [f"{day['date']}: {day['reason']}" for day in report.get("held", [])]
    dropped = [f"{day['date']}: {day['reason']}" for day in report.get("dropped", [])]
    state, why = _state(followed)
    if followed.tasks.get("accept") == "failed":
        state = "held"
    return DataSet(
        name=name,
        state=state,
        run=followed.run.id,
        ran=_ran(followed),
        rows=report.get("rows", 0),
        days=verdict.get("days", 0),
        taken=[
            f"{day['date']} ({day['why']}, {day['rows']:,} rows{_quarantined(day)})" for day in report.get("taken", [])
        ],
        held=held,
        dropped=dropped,
        verdict=verdict.get("verdict", ""),
        failed=[failure["message"] for failure in verdict.get("failed", [])],
        report=told.page(f"artifacts/validations/{name}/report.html", pages),
        why=why,
    )


def model(followed: Followed, told: Told, ledger: Ledger, pages: Path) -> Model:
    """One model's part of the night, and what serves now; its report goes to the folder ``pages``."""
    name = followed.run.dag.removeprefix("train_")
    metrics = told.output(f"artifacts/evaluations/{name}/metrics.json")
    decision = told.output(f"artifacts/decisions/{name}/decision.json")
    receipt = told.output(f"artifacts/receipts/{name}.json")
    outcome = told.part("outcome.json")
    serving = ledger.live(name)
    state, why = _state(followed)
    return Model(
        name=name,
        state=state,
        run=followed.run.id,
        ran=_ran(followed),
        accuracy=metrics.get("accuracy"),
        interval=[metrics["accuracy_low"], metrics["accuracy_high"]] if metrics else [],
        rows=metrics.get("rows", 0),
        verdict=decision.get("verdict", ""),
        reasons=decision.get("reasons", []),
        report=told.page(f"artifacts/decisions/{name}/report.html", pages),
        release=receipt.get("digest", ""),
        deploy=outcome.get("outcome", ""),
        why=why or outcome.get("message", ""),
        order=serving.sequence if serving else None,
        serving=serving.digest if serving else "",
        cost=told.cost,
    )


def example(registry: Registry, endpoint: str, told: Model, folder: Path) -> str:
    """A ``curl`` line that asks the endpoint what a golden request asks; its body is written beside it."""
    golden = json.loads(registry.read(told.name, told.serving, "golden.json"))
    body = folder / f"request-{told.name}.json"
    body.write_text(json.dumps({"inputs": golden["cases"][0]["inputs"]}))
    url = f"{endpoint}/v2/models/{told.name}/infer"
    return f"curl -s {url} -H 'Content-Type: application/json' -d @{shlex.quote(str(body))}"


def show(console: Console, summary: Summary) -> None:
    """The page that a night ends in."""

    def line(label: str, text: str) -> None:
        console.print(f"  [dim]{label:<10}[/] {text}", highlight=False, soft_wrap=True)

    for data in summary.data_sets:
        console.print(f"\n[bold]data set {escape(data.name)}[/]: {COLORED.get(data.state, data.state)}")
        line(
            "snapshot",
            f"{data.rows:,} rows; " + (f"taken {', '.join(data.taken)}" if data.taken else "nothing new landed"),
        )
        line("stages", _stages(data.ran))
        if data.verdict:
            line("validation", f"{data.verdict}" + "".join(f"; {escape(text)}" for text in data.failed))
        for held in data.held:
            line("held", escape(held))
        if data.report:
            line("report", escape(data.report))
        if data.why:
            line("why", escape(data.why))
    for one in summary.models:
        console.print(f"\n[bold]model {escape(one.name)}[/]: {COLORED.get(one.state, one.state)}")
        line("stages", _stages(one.ran))
        if one.accuracy is not None:
            interval = f" (95 % interval {one.interval[0]:.2%} to {one.interval[1]:.2%})" if one.interval else ""
            line("accuracy", f"{one.accuracy:.2%}{interval} on {one.rows:,} published rows")
        if one.verdict:
            line("gate", one.verdict)
        for reason in one.reasons:
            line("", f"- {escape(reason)}")
        if one.report:
            line("report", escape(one.report))
        if one.release:
            line("release", one.release)
        if used := costs.total(one.cost.values()):
            training = [
                f"{name} took {costs.said(part)}" for name, part in one.cost.items() if name.startswith("train@")
            ]
            line("cost", "; ".join([*training, f"all stages {costs.said(used)}"]))
        if one.deploy:
            line("deploy", f"{one.deploy.replace('_', ' ')}: {escape(one.why)}")
        elif one.why:
            line("why", escape(one.why))
        if one.serving:
            line("serves", f"{short(one.serving)}, ledger entry {one.order}")
    console.print()
    if summary.waiting:
        line("note", escape("; ".join(summary.waiting)))
    if summary.commits:
        line("committed", escape(summary.commits[0]))
        for commit in summary.commits[1:]:
            line("", escape(commit))
        line("to undo", summary.undo)
    elif not summary.left_alone:
        line("committed", "nothing: nothing changed")
    if summary.left_alone:
        line("checkout", f"left as it is: {escape(summary.left_alone)}")
    for name, link in summary.links.items():
        line(name, escape(link))
    if summary.curl:
        line("try it", escape(summary.curl))
    line("next night", summary.next_night)


EVENTS = {"approval", "begin", "ingest", "accept", "pin", "record", "deploy", "tell"}
COLORED = {"success": "[green]done[/]", "failed": "[bold red]failed[/]", "held": "[bold yellow]held[/]"}
COLORED |= {"asking": "[bold yellow]waits for an answer[/]"}


def _state(followed: Followed) -> tuple[str, str]:
    """The run's state, and what the task that failed said."""
    for task in followed.order:
        if followed.tasks.get(task) == "failed":
            return "failed", f"{task}: {followed.said.get(task, '')}"
    if followed.asks:
        return "asking", followed.said[followed.asks]
    return followed.state, ""


def _ran(followed: Followed) -> list[str]:
    """The stages that had something to do."""
    return [task for task in followed.order if task not in EVENTS and followed.tasks.get(task) in ("done", "restored")]


def _stages(ran: list[str]) -> str:
    return f"ran {', '.join(ran)}" if ran else "nothing changed in what they read, so none was repeated"


def _quarantined(day: dict[str, Any]) -> str:
    return f", {day['quarantined']} quarantined" if day.get("quarantined") else ""
