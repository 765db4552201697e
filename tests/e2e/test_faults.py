"""What is killed in the middle of a night; running the night again ends in a served model."""

import json
import os
import signal
import subprocess

import pytest

from nightshift.stack.runs import Airflow
from tests.e2e.conftest import Project, parquet, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def slow(project: Project) -> Project:
    """Training takes long enough to be hit."""
    project.edit(lambda params: params["models"]["mnist-mlp"]["train"].update(epochs=400))
    return project


def epochs_seen(project: Project, least: int) -> bool:
    """Whether a training of this checkout has come so far."""
    logs = (project.root / ".nightshift" / "airflow" / "logs").rglob("*task_id=train/*.log")
    newest = max(logs, key=lambda log: log.stat().st_mtime, default=None)
    return bool(newest) and newest.read_text(errors="replace").count("epoch ") >= least


def ended(night: subprocess.Popen[str]) -> dict:
    out, err = night.communicate(timeout=600)
    assert night.returncode == 0, err[-5000:]
    return json.loads(out)


def test_a_killed_stage_is_retried_and_ends_like_an_undisturbed_one(slow: Project):
    night = slow.start_night()
    until(lambda: epochs_seen(slow, 30))
    for pid in until(lambda: slow.processes("pipelines.train")):
        os.kill(pid, signal.SIGKILL)
    (model,) = ended(night)["models"]
    assert model["deploy"] == "proven"
    assert slow.processes("pipelines.train") == []
    # The same bytes as a training that nobody disturbed.
    assert "up to date" in slow.run("dvc", "status").stdout
    before = (slow.root / "dvc.lock").read_bytes()
    slow.run("dvc", "repro", "--force", "--single-item", "--no-run-cache", "train@mnist-mlp")
    assert (slow.root / "dvc.lock").read_bytes() == before


def test_the_endpoint_killed_in_a_night_is_back_in_the_next_one_with_the_new_model(slow: Project, digits):
    slow.edit(lambda params: params["models"]["mnist-mlp"]["train"].update(seed=1))
    slow.edit(lambda params: params["models"]["mnist-mlp"]["gate"].update(inconclusive="promote"))
    night = slow.start_night()
    until(lambda: epochs_seen(slow, 5))
    for pid in slow.processes("nightshift serve") + slow.processes("nightshift.cli.main serve"):
        os.kill(pid, signal.SIGKILL)
    night.communicate(timeout=600)
    again = slow.night()
    assert again["models"][0]["ran"] == []
    assert json.loads(slow.nightshift("status", "--json").stdout)["serving"]["mnist-mlp"]["serving"]


def test_a_scheduler_killed_in_a_night_is_brought_back_by_the_next_one(slow: Project, digits):
    slow.land("date=2026-01-02/train.parquet", parquet(*digits["day2"]))
    night = slow.start_night()
    until(lambda: epochs_seen(slow, 5))
    for pid in slow.processes("airflow scheduler"):
        os.kill(pid, signal.SIGKILL)
    night.kill()
    night.communicate()
    again = slow.night()
    assert [one["state"] for one in again["data_sets"] + again["models"]] == ["success", "success"]
    assert again["data_sets"][0]["rows"] == 1700
    assert "up to date" in slow.run("dvc", "status").stdout


def test_s3_killed_in_a_night_loses_nothing(slow: Project, digits):
    slow.land("date=2026-01-03/train.parquet", parquet(*digits["day3"]))
    night = slow.start_night()
    until(lambda: slow.processes("pipelines.train"))
    for pid in slow.processes("weed"):
        os.kill(pid, signal.SIGKILL)
    night.kill()
    night.communicate()
    again = slow.night()
    assert again["data_sets"][0]["rows"] == 2300
    assert again["models"][0]["deploy"] in ("proven", "unchanged", "not_passed")
    assert "up to date" in slow.run("dvc", "status").stdout


def test_a_dead_scheduler_is_named_while_a_night_waits_for_it(slow: Project):
    night = slow.start_night()
    stack = slow.stack
    airflow = Airflow(stack.airflow_url, stack.airflow_user, stack.airflow_password)
    until(lambda: "ingest_mnist" in airflow.dags() and airflow.active("ingest_mnist"))  # the first night registers it
    for pid in slow.processes("airflow scheduler"):
        os.kill(pid, signal.SIGKILL)
    _, err = night.communicate(timeout=300)
    assert night.returncode == 1
    assert "scheduler" in err
    assert "nightshift night" in err
    assert slow.night()["models"][0]["state"] == "success"
