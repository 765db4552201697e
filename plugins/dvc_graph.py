"""From DVC's graph to the DAGs that run it: which tasks, in which order, after which other DAG.

Reads the JSON that ``python -m nightshift.engine graph`` writes and imports nothing but the standard library and YAML,
because every Airflow process imports this folder.

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
===========  ===============================================  ==========================================
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PROFILES = "data/profiles/"
CHAMPION = re.compile(r"champions/(.+)\.json")
VERDICT = re.compile(r"artifacts/validations/([^/]+)/verdict\.json")
RECEIPT = re.compile(r"artifacts/receipts/(.+)\.json")
GRAPH_FILES = ("dvc.yaml", "params.yaml")


@dataclass
class Task:
    """One task: ``python -m nightshift.engine <verb> [argument]``."""

    id: str
    verb: str
    argument: str | None = None
    upstream: set[str] = field(default_factory=set)
    hints: dict[str, Any] = field(default_factory=dict)
    doc: str = ""


@dataclass
class Dag:
    """One DAG: its tasks by id, and the DAGs whose asset starts it."""

    id: str
    tasks: dict[str, Task]
    after: list[str]


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
    return [_dag(home, stages, homes, ingested) for home in sorted(set(homes.values()))]


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
    return Dag(home, tasks, sorted(after))


DOCS = {
    "begin": "Fixes what this run is based on: commit, parameters, the date up to which data counts, and the plan.",
    "ingest": "Takes what has landed since into the snapshot.",
    "accept": "Reads the verdict; a refused day is held, and the run ends here.",
    "pin": "Names the release that the challenger meets.",
    "record": "One commit with what this run found.",
    "deploy": "Orders the release, and waits until the endpoint proves that it answers; else the old one goes on.",
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


def read(home: Path, *, task: tuple[str, str] | None = None) -> dict[str, Any]:
    """The graph of the branch's tip, rendered when it is not yet here.

    A task's process (``task`` is its DAG and task id) never asks Git or DVC: it takes the newest rendering that
    still has its task, so that a stage removed from the branch in the middle of a run does not vanish under it.

    Raises:
        ValueError: the graph cannot be rendered; the text is DVC's, naming file and line.
    """
    folder = home / "graph"
    if task:
        for file in sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True):
            graph: dict[str, Any] = json.loads(file.read_text())
            if any(dag.id == task[0] and task[1] in dag.tasks for dag in lay_out(graph)):
                return graph
        raise ValueError(f"no rendered graph in {folder} has the task {'.'.join(task)}")

    repository, branch = os.environ["NIGHTSHIFT_REPO"], os.environ.get("NIGHTSHIFT_BRANCH", "main")
    git = ("git", "--git-dir", repository)
    blobs = _run(*git, "rev-parse", *(f"{branch}:{name}" for name in GRAPH_FILES))
    # Of data.dvc only the paths: its hashes change every night, and the graph does not.
    data = [out["path"] for out in yaml.safe_load(_run(*git, "show", f"{branch}:data.dvc"))["outs"]]
    file = folder / f"{hashlib.sha256(json.dumps([blobs, data]).encode()).hexdigest()[:16]}.json"
    if not file.exists():
        rendered = json.loads(_run(sys.executable, "-m", "nightshift.engine", "graph", "--rev", branch))
        params = yaml.safe_load(_run(*git, "show", f"{branch}:params.yaml"))
        rendered["schedule"] = params.get("schedule")
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(rendered, indent=1))
        part.replace(file)
    graph = json.loads(file.read_text())
    os.utime(file)  # the newest is the one in use
    return graph


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip()[-2000:] or f"{' '.join(command)} exited with {done.returncode}")
    return done.stdout
