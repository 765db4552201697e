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
approval     a person's answer about a release                before deploy, where the model's policy asks for it
deploy       the ledger                                       last, where a release is published
tell         the run's part of the night                      after all others, however they ended
===========  ===============================================  ==========================================
"""

import hashlib
import re
from collections import Counter
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
    """The DAGs of a graph, in the order of their ids."""
    stages = graph["stages"]
    homes = {name: _hints(stage).get("dag", "dvc") for name, stage in stages.items()}
    ingested = {
        path.removeprefix(PROFILES): homes[name]
        for name, stage in stages.items()
        for path in stage["deps"]
        if path.startswith(PROFILES) and path in graph["data"]
    }
    approvals = set(graph.get("approvals") or ())
    dags = [_dag(home, stages, homes, ingested, approvals) for home in sorted(set(homes.values()))]
    after = {dag.id: dag.after for dag in dags}
    for dag in dags:
        queues = {task.id: task.hints["queue"] for task in dag.tasks.values() if "queue" in task.hints}
        for task in ("begin", "tell"):
            dag.tasks[task].night = {"after": after, "queues": queues}
    return dags


def _dag(
    home: str, stages: dict[str, Any], homes: dict[str, str], ingested: dict[str, str], approvals: set[str]
) -> Dag:
    mine = {name: stage for name, stage in stages.items() if homes[name] == home}
    after = {homes[up] for stage in mine.values() for up in stage["upstream"] if homes.get(up, home) != home}

    # What the events of this DAG own, each with the stages that it stands before or after.
    read_data: dict[str, set[str]] = {}
    champions: dict[str, set[str]] = {}
    verdicts: dict[str, set[str]] = {}
    published: list[str] = []
    for name, stage in mine.items():
        for path in stage["deps"]:
            dataset = path.removeprefix(PROFILES).removeprefix("data/")
            if path in (f"data/{dataset}", PROFILES + dataset) and dataset in ingested:
                if ingested[dataset] == home:
                    read_data.setdefault(dataset, set()).add(name)
                else:
                    after.add(ingested[dataset])
            if match := CHAMPION.fullmatch(path):
                champions.setdefault(match[1], set()).add(name)
        for out in stage["outs"]:
            if match := VERDICT.fullmatch(out["path"]):
                verdicts[match[1]] = {name}
            if match := RECEIPT.fullmatch(out["path"]):
                published.append(match[1])

    verbs = {"ingest": read_data, "accept": verdicts, "pin": champions, "deploy": published}
    asked = {"approval"} if approvals & set(published) else set()
    ids = _ids(list(mine), {"begin", "record", "tell", *asked, *(verb for verb, owned in verbs.items() if owned)})
    tasks = {
        ids[name]: Task(
            id=ids[name],
            verb="stage",
            argument=name,
            upstream={ids[up] for up in stage["upstream"] if up in ids},
            hints=_hints(stage),
            doc=stage.get("desc") or "",
        )
        for name, stage in mine.items()
    }
    before = {name: set(tasks[ids[name]].upstream) for name in mine}

    def add(verb: str, owner: str, owners: int, upstream: set[str], readers: set[str]) -> None:
        task = verb if owners == 1 else f"{verb}.{_plain(owner)}"
        tasks[task] = Task(task, verb, owner, upstream, doc=DOCS[verb])
        for reader in readers:
            tasks[ids[reader]].upstream.add(task)

    for dataset, readers in sorted(read_data.items()):
        add("ingest", dataset, len(read_data), set(), readers)
    for dataset, makers in sorted(verdicts.items()):
        verdict = f"artifacts/validations/{dataset}/verdict.json"
        judged = {name for name, stage in mine.items() if verdict in stage["deps"]}
        add("accept", dataset, len(verdicts), {ids[name] for name in makers}, judged)
    for model, readers in sorted(champions.items()):
        add("pin", model, len(champions), set().union(*(before[reader] for reader in readers)), readers)

    for task in tasks.values():
        task.upstream = task.upstream or {"begin"}
    used = set().union(*(task.upstream for task in tasks.values()))
    tasks["record"] = Task("record", "record", upstream=set(tasks) - used, doc=DOCS["record"])
    tasks["begin"] = Task("begin", "begin", doc=DOCS["begin"])
    for model in published:
        add("deploy", model, len(published), {"record"}, set())
        if model in approvals:
            add("approval", model, len(published), {"record"}, set())
            answered, acts = (
                (verb if len(published) == 1 else f"{verb}.{_plain(model)}") for verb in ("approval", "deploy")
            )
            tasks[acts].upstream = {answered}
    # After each of them, not after the last one alone: that one is decided as soon as something before it has failed.
    tasks["tell"] = Task("tell", "tell", upstream=set(tasks), doc=DOCS["tell"])
    tracked = [key for stage in mine.values() for keys in stage["params"].values() for key in keys]
    return Dag(home, tasks, sorted(after), any(TRAIN.match(key) for key in tracked))


def _ids(names: list[str], taken: set[str]) -> dict[str, str]:
    """Stage to task id: its name, without its key where it is alone of its loop, in characters that Airflow allows."""
    alone = Counter(name.partition("@")[0] for name in names)
    ids: dict[str, str] = {}
    for name in names:
        loop = name.partition("@")[0]
        wanted = loop if alone[loop] == 1 else name.replace("@", ".", 1)
        task = _plain(wanted)
        if task in taken or task.partition(".")[0] in taken:
            task = f"stage.{task}"  # `begin`, `record` and `tell` are tasks of every DAG
        if task in ids.values():
            task += f"-{hashlib.sha256(name.encode()).hexdigest()[:6]}"  # two keys that differ in other characters
        ids[name] = task
    return ids


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]", "-", text)


DOCS = {
    "begin": "Fixes what this run is based on: commit, parameters, the date up to which data counts, and the plan.",
    "ingest": "Takes what has landed since into the snapshot.",
    "accept": "Reads the verdict; a refused day is held, and the run ends here.",
    "pin": "Names the release that the challenger meets.",
    "record": "One commit with what this run found.",
    "approval": "Asks a person whether this release shall serve, if the gate passed it; deploy acts on the answer.",
    "deploy": "Orders the release, and waits until the endpoint proves that it answers; else the old one goes on.",
    "tell": "Says what became of this run, also of a red one; who is the last of its night tells the night.",
}


def _hints(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage's hints; the engine has looked at them."""
    return ((stage["meta"] or {}).get("airflow") or {}) if isinstance(stage["meta"], dict | None) else {}
