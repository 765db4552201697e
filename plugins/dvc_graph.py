"""From DVC's graph to the DAGs that run it: which tasks, in which order, after which other DAG.

Reads the JSON that ``python -m nightshift.engine graph`` writes and imports nothing but the standard library, because
every Airflow process imports this folder.

A stage is a task. Tasks that are no stage stand where the paths that they own are used:

===========  ===============================================  ==========================================
task         owns                                             stands
===========  ===============================================  ==========================================
begin        what the run is based on                         first
ingest       ``data/<dataset>``, ``data/profiles/<dataset>``  before the stages that read them
accept       the answer to a verdict                          after ``artifacts/validations/<dataset>``
pin          ``champions/<model>.json``                       before the stages that read it, after theirs
record       the branch                                       after all stages
deploy       the ledger                                       last, where a release is published
tell         the run's part of the night                      after all others, however they ended
===========  ===============================================  ==========================================
"""

import re
from dataclasses import dataclass, field
from typing import Any

PROFILES = "data/profiles/"
CHAMPION = re.compile(r"champions/(.+)\.json")
VERDICT = re.compile(r"artifacts/validations/([^/]+)/verdict\.json")
TRAIN = re.compile(r"models\..+\.train(\.|$)")
RECEIPT = re.compile(r"artifacts/receipts/(.+)\.json")


@dataclass
class Task:
    """One task: ``python -m nightshift.engine <verb> [argument]``.

    ``night`` is for the tasks that know of the night: which DAG follows which, and the queues of this DAG's tasks.
    """

    id: str
    verb: str
    argument: str | None = None
    upstream: set[str] = field(default_factory=set)
    hints: dict[str, Any] = field(default_factory=dict)
    doc: str = ""
    night: dict[str, Any] = field(default_factory=dict)


@dataclass
class Dag:
    """One DAG: its tasks by id, the DAGs whose asset starts it, and whether a stage tracks a model's ``train``."""

    id: str
    tasks: dict[str, Task]
    after: list[str]
    trains: bool = False


def lay_out(graph: dict[str, Any]) -> list[Dag]:
    """The DAGs of a graph, in the order of their ids.

    Raises:
        ValueError: a hint is not understood; names the stage.
    """
    stages = graph["stages"]
    homes = {name: _hints(name, stage).get("dag", "dvc") for name, stage in stages.items()}
    ingested = {
        path.removeprefix(PROFILES): homes[name]
        for name, stage in stages.items()
        for path in stage["deps"]
        if path.startswith(PROFILES) and path in graph["data"]
    }
    dags = [_dag(home, stages, homes, ingested) for home in sorted(set(homes.values()))]
    after = {dag.id: dag.after for dag in dags}
    for dag in dags:
        queues = {task.id: task.hints["queue"] for task in dag.tasks.values() if "queue" in task.hints}
        for task in ("begin", "tell"):
            dag.tasks[task].night = {"after": after, "queues": queues}
    return dags


def _dag(home: str, stages: dict[str, Any], homes: dict[str, str], ingested: dict[str, str]) -> Dag:
    mine = {name: stage for name, stage in stages.items() if homes[name] == home}
    short = [name.partition("@")[0] for name in mine]
    ids = {
        name: name.partition("@")[0] if short.count(name.partition("@")[0]) == 1 else name.replace("@", ".")
        for name in mine
    }
    tasks = {
        ids[name]: Task(
            id=ids[name],
            verb="stage",
            argument=name,
            upstream={ids[up] for up in stage["upstream"] if up in ids},
            hints=_hints(name, stage),
            doc=stage.get("desc") or "",
        )
        for name, stage in mine.items()
    }
    after = {homes[up] for stage in mine.values() for up in stage["upstream"] if homes.get(up, home) != home}

    def add(verb: str, owned: list[str], readers: dict[str, set[str]], upstream: dict[str, set[str]]) -> None:
        for name in owned:
            task = verb if len(owned) == 1 else f"{verb}.{name}"
            tasks[task] = Task(id=task, verb=verb, argument=name, upstream=upstream[name], doc=DOCS[verb])
            for reader in readers[name]:
                tasks[reader].upstream.add(task)

    read_data: dict[str, set[str]] = {}
    champions: dict[str, set[str]] = {}
    verdicts: dict[str, set[str]] = {}
    published: list[str] = []
    for name, stage in mine.items():
        for path in stage["deps"]:
            dataset = path.removeprefix(PROFILES).removeprefix("data/")
            if path in (f"data/{dataset}", PROFILES + dataset) and dataset in ingested:
                if ingested[dataset] == home:
                    read_data.setdefault(dataset, set()).add(ids[name])
                else:
                    after.add(ingested[dataset])
            if match := CHAMPION.fullmatch(path):
                champions.setdefault(match[1], set()).add(ids[name])
        for out in stage["outs"]:
            if match := VERDICT.fullmatch(out["path"]):
                verdicts[match[1]] = {ids[name]}
            if match := RECEIPT.fullmatch(out["path"]):
                published.append(match[1])

    judged = {
        dataset: {
            ids[name]
            for name, stage in mine.items()
            if f"artifacts/validations/{dataset}/verdict.json" in stage["deps"]
        }
        for dataset in verdicts
    }
    stage_upstream = {task.id: set(task.upstream) for task in tasks.values()}
    add("ingest", sorted(read_data), read_data, {dataset: set() for dataset in read_data})
    add("accept", sorted(verdicts), judged, verdicts)
    add(
        "pin",
        sorted(champions),
        champions,
        {m: set().union(*(stage_upstream[r] for r in champions[m])) for m in champions},
    )

    for task in tasks.values():
        task.upstream = task.upstream or {"begin"}
    used = set().union(*(task.upstream for task in tasks.values()))
    tasks["record"] = Task("record", "record", upstream=set(tasks) - used, doc=DOCS["record"])
    tasks["begin"] = Task("begin", "begin", doc=DOCS["begin"])
    for model in published:
        deploy = "deploy" if len(published) == 1 else f"deploy.{model}"
        tasks[deploy] = Task(deploy, "deploy", model, {"record"}, doc=DOCS["deploy"])
    # After each of them, not after the last one alone: that one is decided as soon as something before it has failed.
    tasks["tell"] = Task("tell", "tell", upstream=set(tasks), doc=DOCS["tell"])
    tracked = [key for stage in mine.values() for keys in stage["params"].values() for key in keys]
    return Dag(home, tasks, sorted(after), any(TRAIN.match(key) for key in tracked))


DOCS = {
    "begin": "Fixes what this run is based on: commit, parameters, the date up to which data counts, and the plan.",
    "ingest": "Takes what has landed since into the snapshot.",
    "accept": "Reads the verdict; a refused day is held, and the run ends here.",
    "pin": "Names the release that the challenger meets.",
    "record": "One commit with what this run found.",
    "deploy": "Orders the release, and waits until the endpoint proves that it answers; else the old one goes on.",
    "tell": "Says what became of this run, also of a red one; who is the last of its night tells the night.",
}
HINTS = {"dag", "queue", "pool", "retries", "retry_delay", "timeout", "priority"}


def _hints(name: str, stage: dict[str, Any]) -> dict[str, Any]:
    hints = (stage.get("meta") or {}).get("airflow") or {}
    if unknown := set(hints) - HINTS:
        known = ", ".join(sorted(HINTS))
        raise ValueError(
            f"dvc.yaml: stage {name!r}: meta.airflow has unknown {', '.join(sorted(unknown))}; known: {known}"
        )
    return hints
