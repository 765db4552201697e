"""What is killed, cleared or away in the middle of a training: the run ends by itself, in the bytes of a calm one."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import psutil
import pytest

from nightshift.engine import lock
from nightshift.engine.journal import Journal
from nightshift.engine.objects import entry_hashes
from nightshift.stack.airflow import API
from nightshift.stack.runs import ENDED, Airflow, Run
from tests.e2e.conftest import Project, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
TRAIN, EPOCHS, MIDDLE = "train_mnist-mlp", 40, 20
PATIENCE = 600  # seconds, of a crowded machine


@pytest.fixture(scope="module")
def calm(project: Project) -> Project:
    """After a night that nobody disturbed; a training waits in its middle as long as a file is there (``waiting``)."""
    project.edit(lambda params: params["models"]["mnist-mlp"]["train"].update(epochs=EPOCHS))
    project.edit(lambda params: params["models"]["mnist-mlp"]["gate"].update(inconclusive="promote"))
    code = project.root / "pipelines" / "training" / "lightning.py"
    start = "    def on_train_epoch_start(self) -> None:\n"
    wait = (
        "        import time\n"
        f"        while self.current_epoch == {MIDDLE} and Path('{project.root / 'wait'}').exists():\n"
        "            time.sleep(0.05)\n"
    )
    code.write_text(code.read_text().replace(start, start + wait, 1))
    project.git("commit", "--quiet", "-am", "Trainings can be held in their middle")
    (model,) = project.night()["models"]
    assert model["deploy"] == "proven"
    return project


@contextmanager
def waiting(project: Project) -> Iterator[None]:
    """Inside, a training stays in its middle."""
    mark = project.root / "wait"
    mark.touch()
    try:
        yield
    finally:
        mark.unlink()


def airflow_of(project: Project) -> Airflow:
    stack = project.stack
    return Airflow(stack.airflow_url, stack.airflow_user, stack.airflow_password)


def rerun(project: Project) -> Run:
    """A run of the model's DAG that computes every stage again; the engine fails it when other bytes come out."""
    return airflow_of(project).trigger(TRAIN, {"rerun": True, "reason": "to be disturbed"})


def kill(project: Project, words: str) -> None:
    for pid in until(lambda: project.processes(words)):
        os.kill(pid, signal.SIGKILL)


def logs(project: Project, run: str) -> list[str]:
    """The logs of a run's training, one per attempt that began."""
    folder = project.root / ".nightshift" / "airflow" / "logs" / f"dag_id={TRAIN}" / f"run_id={run}" / "task_id=train"
    return [file.read_text(errors="replace") for file in sorted(folder.glob("attempt=*.log"))]


def in_the_middle(project: Project, run: str) -> bool:
    """Whether the training waits in its middle, and what it has done by then is kept."""
    said = "".join(logs(project, run))
    return "checkpoint kept" in said.partition(f"epoch {MIDDLE}/{EPOCHS}")[2]


def trained_once(project: Project, run: str) -> bool:
    """Whether all attempts of the run together trained each epoch once, but for one that was not yet kept."""
    event = re.compile(rf'"event": ?"epoch (\d+)/{EPOCHS} ')
    epochs = [int(number) for log in logs(project, run) for number in event.findall(log)]
    kept = [*range(1, MIDDLE + 1), *range(MIDDLE, EPOCHS + 1)]
    return epochs in (list(range(1, EPOCHS + 1)), kept)


def is_clean(project: Project) -> bool:
    return "up to date" in project.run("dvc", "status").stdout and project.git("status", "--porcelain") == ""


def ended(night: subprocess.Popen[str]) -> dict:
    out, err = night.communicate(timeout=PATIENCE)
    assert night.returncode == 0, err[-5000:]
    return json.loads(out)


def ends_like_a_calm_one(project: Project, run: Run) -> None:
    """Green, the bytes of the undisturbed night, each epoch trained once, and nothing left behind."""
    airflow = airflow_of(project)
    until(lambda: airflow.state(run) in ENDED, PATIENCE)
    states = {task: one["state"] for task, one in airflow.instances(run).items()}
    assert airflow.state(run) == "success", states
    calm = lock.load((project.root / "dvc.lock").read_bytes())["stages"]
    with mock.patch.dict(os.environ, project.stack.environment("worker")):
        found = Journal.open(run.dag, run.id).fragments()["stages"]
    assert {name: entry_hashes(fragment["entry"]["outs"]) for name, fragment in found.items()} == {
        name: entry_hashes(entry["outs"]) for name, entry in calm.items() if name in found
    }
    assert "train@mnist-mlp" in found
    assert trained_once(project, run.id)
    assert project.processes("pipelines.train") == []
    assert is_clean(project)


def test_a_killed_stage_goes_on_from_its_checkpoint(calm: Project):
    with waiting(calm):
        run = rerun(calm)
        until(lambda: in_the_middle(calm, run.id), PATIENCE)
        kill(calm, "pipelines.train")
    ends_like_a_calm_one(calm, run)


def test_a_cleared_task_and_its_twin_end_like_one(calm: Project):
    """The next try starts while Airflow ends the one before it."""
    with waiting(calm):
        run = rerun(calm)
        until(lambda: in_the_middle(calm, run.id), PATIENCE)
        first = calm.processes("pipelines.train")
        asked = {"dry_run": False, "dag_run_id": run.id, "task_ids": ["train"], "only_failed": False}
        airflow_of(calm)._send("POST", f"/api/v2/dags/{TRAIN}/clearTaskInstances", json=asked)
        until(lambda: "going on from" in "".join(logs(calm, run.id)[1:]), PATIENCE)
        until(lambda: not set(first) & set(calm.processes("pipelines.train")), PATIENCE)
    ends_like_a_calm_one(calm, run)


def test_a_minute_without_the_api_server_costs_a_running_task_nothing(calm: Project):
    with waiting(calm):
        run = rerun(calm)
        until(lambda: in_the_middle(calm, run.id), PATIENCE)
        before = calm.processes("pipelines.train")
        api = psutil.Process(calm.stack.processes.running(API))
        for process in [*api.children(recursive=True), api]:
            process.kill()
        time.sleep(60)
        assert calm.processes("pipelines.train") == before
        calm.nightshift("up")
    ends_like_a_calm_one(calm, run)


def test_two_nights_at_once_record_one_result(calm: Project):
    calm.edit(lambda params: params["models"]["mnist-mlp"]["train"].update(seed=1))
    before = calm.git("rev-parse", "HEAD")
    first = calm.start_night()
    until(lambda: airflow_of(calm).active("ingest_mnist"), PATIENCE)
    second = calm.start_night()
    models = [model for night in (first, second) for model in ended(night)["models"]]
    assert {model["state"] for model in models} == {"success"}
    assert calm.git("rev-list", "--count", f"{before}..HEAD") == "1"
    assert is_clean(calm)
