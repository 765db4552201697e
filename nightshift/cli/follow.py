"""Following a night's runs live: each task waiting, running, unchanged or done; training shows its epochs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from nightshift.errors import NightshiftError
from nightshift.stack.runs import ENDED, Airflow, Run

COLORS = {
    "waiting": "dim",
    "running": "bold cyan",
    "done": "green",
    "unchanged": "green",
    "restored": "green",
    "skipped": "yellow",
    "failed": "bold red",
    "not reached": "dim",
}
QUEUED_S = 60  # a worker that serves the queue takes a task within seconds
SILENCE_S = 20  # beyond the threshold at which Airflow itself calls a scheduler unhealthy
STATES = {
    "success": "done",
    "failed": "failed",
    "running": "running",
    "skipped": "skipped",
    "upstream_failed": "not reached",
    "up_for_retry": "waiting",
}


@dataclass
class Followed:
    """One run as a person sees it: the state of each task in order, and what a task said last.

    ``awaited`` are the DAGs that its asset starts and whose runs are not there yet.
    """

    run: Run
    order: list[str]
    state: str = "queued"
    awaited: set[str] = field(default_factory=set)
    tasks: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    asks: str = ""
    """The task that waits for a person's answer: nobody waits beside it."""

    def line(self) -> Text:
        """The whole run on one line."""
        text = Text(f"{self.run.dag:<20} ", style="bold")
        for task in self.order:
            state = self.tasks.get(task, "waiting")
            text.append(f"{task} ", style="dim" if state == "waiting" else "")
            text.append(state, style=COLORS[state])
            if state in ("running", "waiting") and self.said.get(task):
                text.append(f" ({self.said[task]})", style="cyan")
            text.append("  ")
        return text


def follow(airflow: Airflow, runs: list[Run], console: Console, pause: float = 1.0) -> list[Followed]:
    """Waits until the runs, and those that their assets start, have ended; shows them meanwhile.

    On a terminal the lines are redrawn; elsewhere each task that ended, and each epoch, is a line of its own.
    """
    followed = [Followed(run, airflow.tasks(run.dag)) for run in runs]
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=False) as live:
            _wait(airflow, followed, pause, lambda _: live.update(Group(*(f.line() for f in followed))))
    else:
        _wait(airflow, followed, pause, lambda change: _line(console, change))
    return followed


def _line(console: Console, change: str) -> None:
    if change:
        console.print(change, highlight=False, soft_wrap=True)


def _wait(airflow: Airflow, followed: list[Followed], pause: float, show: Callable[[str], object]) -> None:
    heard = time.monotonic()
    while True:
        if airflow.scheduler_is_well():
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE_S:
            raise NightshiftError(
                "Airflow's scheduler has died: nothing moves any more",
                "nightshift night (it brings back what is missing; what was done is not repeated)",
            )
        for one in list(followed):
            if one.state not in ENDED:
                state = airflow.state(one.run)  # before its tasks, so that no task's last change is missed
                for change in _look(airflow, one):
                    show(f"{time.strftime('%H:%M:%S')}  {one.run.dag}  {change}")
                one.state = state
                if state == "success":
                    one.awaited = airflow.consumers(one.run.dag)
            if one.awaited:
                known = {other.run for other in followed}
                for started in airflow.started_by(one.run, one.awaited):
                    one.awaited.discard(started.dag)
                    if started not in known:
                        followed.append(Followed(started, airflow.tasks(started.dag)))
        show("")
        if all((one.state in ENDED or one.asks) and not one.awaited for one in followed):
            return
        time.sleep(pause)


def _look(airflow: Airflow, one: Followed) -> list[str]:
    """Takes in the run's tasks as they are now; returns what changed, in words."""
    changes = []
    one.asks = ""
    for task, instance in airflow.instances(one.run).items():
        state = STATES.get(instance["state"] or "", "waiting")
        if state == "done" and one.tasks.get(task) in ("done", "unchanged", "restored"):
            continue
        if state in ("done", "skipped") and one.tasks.get(task) != state:
            receipt = airflow.receipt(one.run, task)
            one.said[task] = receipt.get("message", "")
            if receipt.get("outcome") in ("unchanged", "restored"):
                state = receipt["outcome"]
        if state == "running" and one.tasks.get(task) == "waiting":
            one.said.pop(task, None)
        if state == "running" and task.startswith("train"):
            line = _last_epoch(airflow, one.run, task, instance["try_number"])
            if line and line != one.said.get(task):
                one.said[task] = line
                changes.append(f"{task}: {line}")
        if instance["state"] == "awaiting_input":
            one.asks = task
            if not one.said.get(task):
                one.said[task] = (
                    f"waits for a person's answer: {airflow.url}/dags/{one.run.dag}/runs/{quote(one.run.id, safe='')}"
                )
                changes.append(f"{task}: {one.said[task]}")
        if instance["state"] == "queued" and not one.said.get(task) and _queued_for(instance) > QUEUED_S:
            one.said[task] = f"no worker has taken it: it waits on queue {instance['queue']}"
            changes.append(f"{task}: {one.said[task]}")
        if state == "failed" and one.tasks.get(task) != "failed":
            one.said[task] = _reason(airflow, one.run, task, instance["try_number"])
        if state != one.tasks.get(task) and state not in ("waiting", "running"):
            said = f" ({one.said[task]})" if one.said.get(task) else ""
            changes.append(f"{task}: {state}{said}")
        one.tasks[task] = state
    return changes


def _queued_for(instance: dict[str, Any]) -> float:
    """Seconds since the task was queued."""
    since = instance.get("queued_when")
    return (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds() if since else 0.0


def _last_epoch(airflow: Airflow, run: Run, task: str, attempt: int) -> str:
    lines = [line for line in airflow.log(run, task, attempt) if line.startswith("epoch ")]
    return lines[-1] if lines else ""


def _reason(airflow: Airflow, run: Run, task: str, attempt: int) -> str:
    """What a failed task says of itself; of one that was killed, the last line of its log."""
    if said := airflow.receipt(run, task):
        return f"{said['message']}; next: {said['next_step']}" if said.get("next_step") else str(said["message"])
    lines = [line for line in airflow.log(run, task, attempt) if line.strip()]
    own = [line for line in lines if not line.startswith(("Task failed", "::", "Pre task", "Post task"))]
    return own[-1].strip() if own else "see the task's log"
