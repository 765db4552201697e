"""Accept: read what validation says of this run's snapshot; a refused one ends the run and its new days are held."""

from typing import Any

from nightshift.engine import held
from nightshift.engine.journal import Journal
from nightshift.engine.objects import Objects, made
from nightshift.engine.report import Receipt, say
from nightshift.engine.settings import home
from nightshift.errors import NightshiftError, Refused


class Held(Refused):
    """The snapshot was refused; the days that came in with it are held."""

    outcome = "held"


def accept(dataset: str, dag: str, run: str) -> Receipt:
    """Let the run go on when the verdict is pass or warn.

    Raises:
        Held: the verdict is refuse; says why and what to do.
        NightshiftError: there is no verdict in this run.
    """
    journal = Journal.open(dag, run)
    base = journal.base()
    verdict = _verdict(journal, base, f"artifacts/validations/{dataset}/verdict.json")
    if verdict["verdict"] != "refuse":
        return Receipt("done", f"{dataset}: {verdict['verdict']}", {"verdict": verdict})
    refused = [failure["message"] for failure in verdict["failed"] if failure["severity"] == "critical"]
    reason = "; ".join(refused) or "validation refused the snapshot"
    taken = (journal.get(f"ingest/{dataset}.json") or {}).get("taken", [])
    for day in taken:
        held.hold(
            journal.store,
            {
                "dataset": dataset,
                "date": day["date"],
                "checksum": day["checksum"],
                "landed": day.get("landed"),
                "reason": reason,
                "dag": dag,
                "run": run,
            },
        )
        say(f"held: {dataset} {day['date']}")
    if not taken:
        raise Held(
            f"{dataset}: the snapshot is refused, though this run brought nothing in: {reason}",
            f"look at datasets.{dataset}.validate in params.yaml: it changed after these days were accepted",
        )
    raise Held(
        f"{dataset}: refused, and held: {', '.join(day['date'] for day in taken)}: {reason}",
        f"replace the day's files, or `nightshift accept {dataset} DAY --reason …`, or `drop`; nights go on without it",
    )


def _verdict(journal: Journal, base: dict[str, Any], path: str) -> dict[str, Any]:
    if digest := made(journal.fragments()["stages"]).get(path):
        verdict: dict[str, Any] = Objects(base["remote"], home() / "cache").read_json(digest)
        return verdict
    raise NightshiftError(f"this run has no {path} yet", "clear the task that makes it")
