"""Workers on another disk than the dag-processor's, and commits in the middle of a run: through a real Airflow."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nightshift.stack import airflow, repository
from nightshift.stack.processes import free_ports
from nightshift.stack.runs import Airflow
from nightshift.stack.settings import Stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
PERSON = ["-c", "user.name=A Person", "-c", "user.email=person@example.org"]
WAIT = """
import pathlib, sys, time
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.1)
pathlib.Path("first").write_text("1")
"""
FIRST = "stages:\n  first:\n    cmd: python wait.py {go}\n    deps: [wait.py]\n    outs: [first]\n"
SECOND = "  second:\n    cmd: cp first second\n    deps: [first]\n    outs: [second]\n"
THIRD = "  third:\n    cmd: cp first third\n    deps: [first]\n    outs: [third]\n"


@dataclass
class Place:
    """A checkout, an Airflow that reads its repository, and the disk of that Airflow's worker."""

    stack: Stack
    worker: Path

    @property
    def api(self) -> Airflow:
        return Airflow(self.stack.airflow_url, self.stack.airflow_user, self.stack.airflow_password)

    def commit(self, dvc_yaml: str) -> None:
        repository.merge(self.stack.root)
        (self.stack.root / "dvc.yaml").write_text(dvc_yaml)
        repository.git(self.stack.root, *PERSON, "commit", "--quiet", "-am", "Edit")
        repository.push(self.stack.root)

    def state(self, run: str, task: str) -> str | None:
        found = self.api._send("GET", f"/api/v2/dags/dvc/dagRuns/{run}/taskInstances")["task_instances"]
        return next((t["state"] for t in found if t["task_id"] == task), "no such task")


def until(condition: Any, patience: float = 240) -> Any:
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.5)
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The stack's own Airflow; its scheduler, whose children the tasks are, has another disk."""
    root, worker = tmp_path / "checkout", tmp_path / "worker"
    root.mkdir()
    worker.mkdir()
    for folder in ("dags", "plugins"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / "wait.py").write_text(WAIT)
    (root / "dvc.yaml").write_text(FIRST.format(go=tmp_path / "go") + SECOND)
    (root / ".gitignore").write_text("/.nightshift\n/first\n/second\n/third\n")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = {tmp_path / 'remote'}\n"
    )
    repository.git(root, "init", "--quiet", "-b", "main")
    repository.git(root, "add", "--all")
    repository.git(root, *PERSON, "commit", "--quiet", "-m", "Start")
    ports = zip(("AIRFLOW", "S3", "ENDPOINT", "GRPC"), free_ports(4, set()), strict=True)
    stack = Stack.load(root, {f"NIGHTSHIFT_{name}_PORT": str(port) for name, port in ports})
    repository.make(root, stack.repository)
    repository.push(root)

    real = airflow.environment

    def environment(stack: Stack, name: str = airflow.API) -> dict[str, str]:
        settings = real(stack, name) | {"NIGHTSHIFT_WORK": str(tmp_path / "work")}
        if name == airflow.SCHEDULER:
            settings["NIGHTSHIFT_HOME"] = str(worker)
        # The stack's own settings name no program; git and python are found as in this shell.
        return settings | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}

    monkeypatch.setattr(airflow, "environment", environment)
    try:
        airflow.start(stack, print)
        yield Place(stack, worker)
    finally:
        for name in reversed(airflow.PROCESSES):
            stack.processes.stop(name)


def test_a_run_keeps_its_tasks_whatever_is_committed_meanwhile(place: Place, tmp_path: Path) -> None:
    until(lambda: "dvc" in place.api.dags())
    run = place.api._send("POST", "/api/v2/dags/dvc/dagRuns", json={"logical_date": None, "conf": {}})["dag_run_id"]
    until(lambda: place.state(run, "first") == "running")
    place.commit(FIRST.format(go=tmp_path / "go") + THIRD)
    until(lambda: set(place.api.tasks("dvc")) == {"begin", "first", "third", "record", "tell"})
    (tmp_path / "go").touch()
    until(lambda: place.state(run, "tell") in ("success", "failed"))
    assert {task: place.state(run, task) for task in ("first", "second", "record", "tell", "third")} == {
        "first": "success",
        "second": "success",
        "record": "success",
        "tell": "success",
        "third": "no such task",
    }
    lock = subprocess.run(
        ["git", "--git-dir", str(place.stack.repository), "show", "main:dvc.lock"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "second:" in lock
    assert not (place.worker / "graph").exists()  # nothing of the dag-processor's ever came to this disk

    since = datetime.now(UTC)
    place.commit("stages:\n  first:\n    cmd: echo\n    dep: [a]\n")
    (error,) = until(lambda: place.api.import_errors(since))
    assert "dvc.yaml" in error
