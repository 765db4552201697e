"""What became of one run, in words for a person: a part for each data set and each model that it was about."""

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from nightshift.engine import costs
from nightshift.engine.journal import Journal
from nightshift.engine.objects import Objects, made
from nightshift.engine.settings import home, setting
from nightshift.errors import NightshiftError
from nightshift.releases.errors import ReleaseError
from nightshift.releases.store import open_store

RECEIPT = re.compile(r"artifacts/receipts/(.+)\.json")
DEPLOYED = {"proven": "promoted"}  # the other outcomes are told as they are called
LAST_WORDS = 500  # characters of what a failed task said last

Part = dict[str, Any]
Tasks = Mapping[str, Mapping[str, Any]]
Fragments = Mapping[str, Mapping[str, Any]]  # of the stages that the run has finished, by name


def of(journal: Journal, base: Mapping[str, Any], tasks: Tasks, queues: Mapping[str, str]) -> dict[str, Any]:
    """The run's outcome.

    Args:
        base: the run's base; empty when it did not come to that.
        tasks: Airflow's word on each task of the run: ``state``, and ``said`` (its receipt) where it failed.
        queues: task to the queue that it waits on, where that is not the common one.

    Returns:
        ``dag``, ``run``, ``ended``; ``asset`` (whether its asset started other DAGs); ``red`` and ``why``; ``parts``,
        each with ``about``, ``name``, ``kind`` and, where there is something to say, ``why``, ``next``, ``serves``,
        ``score`` and ``report`` (the kind of page that the run made of it).
    """
    failed = {task: told.get("said") or {} for task, told in sorted(tasks.items()) if told["state"] == "failed"}
    recorded = tasks.get("record", {}).get("state") == "success"
    trouble: Part = {}
    if failed:
        words = "; ".join(_last_words(task, said, queues.get(task)) for task, said in failed.items())
        trouble = {"kind": _kind(failed), "why": words, "next": _next(failed)}
    elif not recorded:
        trouble = {"kind": "failed", "why": "it was ended before it recorded", "next": "trigger the DAG again"}
    stages = journal.fragments()["stages"]
    parts = [_data_set(journal, stages, name, trouble) for name in base.get("ingest", [])]
    parts += [_model(journal, base, stages, name, trouble, set(failed)) for name in _models(base)]
    return {
        "dag": journal.dag,
        "run": journal.run,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "asset": recorded,
        "red": bool(trouble),
        "why": trouble.get("why", ""),
        "parts": parts or [{"about": "DAG", "name": journal.dag, "kind": "done", **trouble}],
    }


def _data_set(journal: Journal, stages: Fragments, name: str, trouble: Part) -> Part:
    ingested = journal.get(f"ingest/{name}.json") or {}
    taken = [f"{day['date']} ({day['why']}, {day['rows']:,} rows)" for day in ingested.get("taken", [])]
    held = [day["date"] for day in ingested.get("held", [])]
    dropped = [day["date"] for day in ingested.get("dropped", [])]
    kind = "taken" if taken else "unchanged" if _unchanged(stages) else "done"
    why = f"took {', '.join(taken)}" if taken else "nothing new has landed"
    if dropped:
        why += f"; took out {', '.join(dropped)}, which a person dropped"
    if held:
        why += f"; without the days that are held: {', '.join(held)}"
    report = {"report": "validations"} if f"artifacts/validations/{name}/report.html" in made(stages) else {}
    return {"about": "data set", "name": name, "kind": kind, "why": why, **report, **trouble}


def _model(
    journal: Journal, base: Mapping[str, Any], stages: Fragments, name: str, trouble: Part, failed: set[str]
) -> Part:
    part: Part = {"about": "model", "name": name, "kind": "unchanged" if _unchanged(stages) else "done", **trouble}
    outcome = journal.get("outcome.json")
    if outcome and all(task.partition(".")[0] == "deploy" for task in failed):
        part |= {
            "kind": DEPLOYED.get(outcome["outcome"], outcome["outcome"].replace("_", " ")),
            "why": outcome["message"],
        }
    if f"artifacts/decisions/{name}/report.html" in made(stages):
        part["report"] = "decisions"
    if score := _score(stages, base, name):
        part["score"] = score
    if cost := _cost(stages):
        part["cost"] = cost
    from nightshift.releases.ledger import Ledger  # a data set's run needs none of it

    with contextlib.suppress(ReleaseError):  # the message does not wait for the registry
        live = Ledger(open_store(setting("NIGHTSHIFT_REGISTRY"))).live(name)
        part["serves"] = f"{live.digest[:12]}, ledger entry {live.sequence}" if live else "nothing yet"
    return part


def _score(stages: Fragments, base: Mapping[str, Any], name: str) -> str:
    """Accuracy and verdict in a line; empty when the run did not come that far."""
    hashes = made(stages)
    found: dict[str, Any] = {}
    for path in (f"artifacts/evaluations/{name}/metrics.json", f"artifacts/decisions/{name}/decision.json"):
        if path in hashes:
            with contextlib.suppress(NightshiftError, ReleaseError):
                found |= Objects(base["remote"], home() / "cache").read_json(hashes[path])
    score = []
    if "accuracy" in found and "rows" in found:
        score.append(f"accuracy {found['accuracy']:.2%} on {found['rows']:,} published rows")
    if "verdict" in found:
        score.append(f"the gate says {found['verdict']}")
    return ", ".join(score)


def _cost(stages: Fragments) -> str:
    """What this run computed for the model, in a line; empty when it computed nothing."""
    used = costs.total(fragment["used"] for fragment in stages.values() if fragment.get("used"))
    return f"{used['seconds']:,.0f} s of computing: {costs.said(used)}" if used else ""


def _models(base: Mapping[str, Any]) -> list[str]:
    outs = [out for stage in base.get("stages", {}).values() for out in stage["outs"]]
    return sorted(match[1] for out in outs if (match := RECEIPT.fullmatch(out)))


def _unchanged(stages: Fragments) -> bool:
    return all(fragment["outcome"] == "unchanged" for fragment in stages.values())


def _kind(failed: Mapping[str, Mapping[str, Any]]) -> str:
    return "held" if any(said.get("outcome") == "held" for said in failed.values()) else "failed"


def _last_words(task: str, said: Mapping[str, Any], queue: str | None) -> str:
    where = f"{task} (queue {queue})" if queue else task
    message = str(said.get("message") or "it said nothing: it was killed, lost with its worker, or never started")
    return f"{where}: {message[:LAST_WORDS]}"


def _next(failed: Mapping[str, Mapping[str, Any]]) -> str:
    named = [str(said["next_step"]) for said in failed.values() if said.get("next_step")]
    return named[0] if named else f"read the log of {next(iter(failed))}, mend the cause, and clear the task"
