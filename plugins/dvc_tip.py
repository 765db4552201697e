"""Which graph counts here: in the dag-processor that of the branch's tip, in a task's process the one its run has.

The dag-processor renders with Git and DVC, once per change, and hands every task on to the workers in an Airflow
Variable. A task's process, which loads the DAG file again, asks neither: its machine may hold nothing of this one's.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from airflow.sdk import Variable
from dvc_graph import Dag, Task, lay_out

TASKS = "nightshift_tasks"
FORMAT = 2  # of a rendering, in its name: one of another release of ours is made anew
BROKEN_S = 60
log = logging.getLogger(__name__)


def of_tip(home: Path) -> dict[str, Any]:
    """The graph of the branch's tip, rendered when none is here that is made of the same.

    Raises:
        ValueError: the graph cannot be rendered, in DVC's words, or has stages that cannot be run; names file and line.
    """
    graph = _of_tip(home)
    if graph["wrong"]:
        raise ValueError("\n".join(graph["wrong"]))
    return graph


def _of_tip(home: Path) -> dict[str, Any]:
    branch = os.environ.get("NIGHTSHIFT_BRANCH", "main")
    repository = _repository(home, os.environ["NIGHTSHIFT_REPO"], branch)
    known = next(_rendered(home), None)
    if known and _is_of(known, ("git", "--git-dir", repository), branch):
        return known
    text = _render(home / "graph" / "broken", repository, branch)
    file = home / "graph" / f"{FORMAT}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(text)
    part.replace(file)
    rendered: dict[str, Any] = json.loads(text)
    return rendered


def _render(broken: Path, repository: str, branch: str) -> str:
    """The graph of the tip as JSON; what DVC could not read is not tried again at every look, for a minute."""
    commit = _run("git", "--git-dir", repository, "rev-parse", branch).strip()
    if broken.exists() and time.time() - broken.stat().st_mtime < BROKEN_S:
        known, _, words = broken.read_text().partition("\n")
        if known == commit:
            raise ValueError(words)
    broken.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _run(sys.executable, "-m", "nightshift.engine", "graph", "--rev", commit, NIGHTSHIFT_REPO=repository)
    except ValueError as error:
        broken.write_text(f"{commit}\n{error}")
        raise


def hand_on(dags: Sequence[Dag]) -> None:
    """Leave in Airflow what a task's process needs to know of each task.

    A task that is no longer there stays known, so that a run which began with it can end.
    """
    known = json.loads(Variable.get(TASKS, default=None) or "{}")
    now = {dag.id: _essence(dag) for dag in dags}
    for name, was in known.items():
        dag = now.get(name, was)
        now[name] = dag | {"tasks": was["tasks"] | dag["tasks"]}
    if now == known:
        return
    try:
        Variable.set(TASKS, json.dumps(now), "Written by the dag-processor, read by tasks.")
    except ImportError:
        return  # nobody's parse, such as `airflow dags list`: no task will come of it


def of_task(home: Path, dag: str, task: str) -> Dag:
    """A task's DAG as far as its own process needs it: with this one task.

    Raises:
        ValueError: nobody rendered this task.
    """
    for graph in _rendered(home):  # on the dag-processor's machine
        for laid_out in [] if graph["wrong"] else lay_out(graph):
            if laid_out.id == dag and task in laid_out.tasks:
                return replace(laid_out, tasks={task: laid_out.tasks[task]})
    known = json.loads(Variable.get(TASKS, default=None) or "{}")
    if task not in known.get(dag, {}).get("tasks", {}):
        raise ValueError(
            f"no task {task} of {dag} is in the Variable {TASKS}: the dag-processor has not rendered it; "
            "see its import errors, then clear the task"
        )
    one = known[dag]
    return Dag(dag, {task: Task(id=task, **one["tasks"][task])}, one["after"], one.get("trains", False))


def _essence(dag: Dag) -> dict[str, Any]:
    tasks = {
        task.id: {"verb": task.verb, "argument": task.argument, "hints": task.hints, "night": task.night}
        for task in dag.tasks.values()
    }
    return {"after": dag.after, "trains": dag.trains, "tasks": tasks}


def version(home: Path) -> str | None:
    """The name of the graph in use on this machine; None when there is none."""
    return next((file.stem for file in _files(home)), None)


def _rendered(home: Path) -> Iterator[dict[str, Any]]:
    """The graphs rendered on this machine, newest first; the first is the one in use."""
    return (json.loads(file.read_text()) for file in _files(home))


def _files(home: Path) -> list[Path]:
    return sorted((home / "graph").glob(f"{FORMAT}-*.json"), key=lambda file: file.stat().st_mtime, reverse=True)


def _is_of(graph: dict[str, Any], git: tuple[str, ...], branch: str) -> bool:
    """Whether the branch's tip has this graph: nothing that decides it differs, and .dvc files name the same paths.

    Of a .dvc file only the paths: its hashes change every night, and the graph does not.
    """
    if graph["made_of"] is None:
        return graph["commit"] == _run(*git, "rev-parse", branch).strip()
    listed = _run(*git, "ls-tree", "-r", "-z", branch).split("\0")
    blobs = {path: about.split()[2] for about, _, path in (line.partition("\t") for line in listed if line)}
    if any(blobs.get(path) != blob for path, blob in graph["made_of"].items()):
        return False
    if any(Path(path).name in ("dvc.yaml", ".dvcignore") and path not in graph["made_of"] for path in blobs):
        return False
    data = {path for path in blobs if path.endswith(".dvc")}
    if data != set(graph["tracked"]):
        return False
    for path in data:
        was = graph["tracked"][path]
        if blobs[path] != was["blob"] and _outs(path, _run(*git, "show", f"{branch}:{path}")) != was["outs"]:
            return False
    return True


def _outs(file: str, text: str) -> list[str]:
    document = yaml.safe_load(text) or {}
    return [Path(Path(file).parent, document.get("wdir", "."), out["path"]).as_posix() for out in document["outs"]]


def _repository(home: Path, where: str, branch: str) -> str:
    """A repository in a folder; of a URL, what was last fetched of its branch is kept beside the graphs."""
    if Path(where).is_dir():
        return where
    mirror = home / "graph" / "repo.git"
    if not mirror.exists():
        mirror.mkdir(parents=True)
        _run("git", "init", "--quiet", "--bare", str(mirror))
    try:
        fetch = ("fetch", "--quiet", "--depth=1", where, f"+refs/heads/{branch}:refs/heads/{branch}")
        _run("git", "--git-dir", str(mirror), *fetch)
    except ValueError as error:
        # The DAGs stay as they are while the server is away; without any there is nothing to show but the reason.
        if version(home) is None:
            raise
        log.warning("the repository does not answer, its last known state counts: %s", error)
    return str(mirror)


def _run(*command: str, **settings: str) -> str:
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"} | settings
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip()[-2000:] or f"{' '.join(command)} exited with {done.returncode}")
    return done.stdout
