"""The DAGs as Airflow reads them: team policy over the DagBag, and what a task's process may ask."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READ = """
import json, logging, sys
logging.disable()
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
print(json.dumps({
    "errors": bag.import_errors,
    "heavy": sorted({"torch", "dvc", "pandas", "great_expectations", "boto3"} & set(sys.modules)),
    "dags": {dag.dag_id: {"schedule": str(getattr(dag.timetable, "expression", None)),
                          "paused": dag.is_paused_upon_creation, "catchup": dag.catchup,
                          "active": dag.max_active_runs, "params": sorted(dag.params),
                          "queues": {task.task_id: task.queue for task in dag.tasks}}
             for dag in bag.dags.values()}}))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with the repository of this checkout's commit, and Airflow's own files."""
    home = tmp_path_factory.mktemp("home")
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(home / "repo.git")], check=True)
    subprocess.run(["git", "--git-dir", str(home / "repo.git"), "branch", "--force", "night", "HEAD"], check=True)
    return home


def read(home: Path, **more: str) -> dict:
    env = os.environ | {
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "NIGHTSHIFT_HOME": str(home),
        "NIGHTSHIFT_REPO": str(home / "repo.git"),
        "NIGHTSHIFT_BRANCH": "night",
        "PYTHONPATH": str(ROOT / "plugins"),
        **more,
    }
    done = subprocess.run(
        [sys.executable, "-c", READ, str(ROOT / "dags")], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_dag_follows_the_house_rules(home):
    bag = read(home)
    assert bag["errors"] == {}
    assert bag["heavy"] == []
    rendered = ["ingest_cifar10", "ingest_mnist", "train_cifar10-cnn", "train_mnist-mlp"]
    assert sorted(bag["dags"]) == ["housekeeping", *rendered[:2], "rollback", *rendered[2:]]
    for dag in bag["dags"].values():
        assert (dag["paused"], dag["catchup"], dag["active"]) == (False, False, 1)
    assert bag["dags"]["rollback"]["params"] == ["model", "reason", "to"]
    assert bag["dags"]["ingest_cifar10"]["params"] == ["reason", "rerun", "until"]
    assert bag["dags"]["train_mnist-mlp"]["params"] == ["deploy", "params", "reason", "rerun"]


def test_the_nightly_schedule_is_off_until_a_person_turns_it_on(home):
    assert read(home)["dags"]["ingest_cifar10"]["schedule"] == "None"
    (home / "schedule.json").write_text('{"on": true}')
    try:
        dags = read(home)["dags"]
    finally:
        (home / "schedule.json").unlink()
    assert dags["ingest_cifar10"]["schedule"] == "0 3 * * *"
    assert dags["train_mnist-mlp"]["schedule"] != "0 3 * * *"  # it follows its data set's asset


def test_what_touches_the_repository_or_the_ledger_goes_to_a_queue_of_its_own_when_one_is_named(home):
    assert set(read(home)["dags"]["train_mnist-mlp"]["queues"].values()) == {"default"}
    queues = read(home, NIGHTSHIFT_EVENTS_QUEUE="events")["dags"]["train_mnist-mlp"]["queues"]
    assert {task for task, queue in queues.items() if queue == "events"} == {"begin", "record", "deploy", "tell"}
    assert read(home, NIGHTSHIFT_EVENTS_QUEUE="events")["dags"]["rollback"]["queues"] == {"rollback": "events"}


def test_a_tasks_process_builds_only_its_dag_and_asks_no_repository(home):
    read(home)
    bag = read(
        home,
        NIGHTSHIFT_REPO="/nowhere",
        _AIRFLOW_PARSING_CONTEXT_DAG_ID="train_mnist-mlp",
        _AIRFLOW_PARSING_CONTEXT_TASK_ID="train",
    )
    assert bag["errors"] == {}
    assert sorted(bag["dags"]) == [
        "housekeeping",
        "rollback",
        "train_mnist-mlp",
    ]  # a process reads only its own DAG's file


def test_a_tasks_process_on_another_disk_knows_its_task_from_airflow(tmp_path):
    known = {"train_m": {"after": ["ingest_d"], "tasks": {"fit": {"verb": "stage", "argument": "fit@m", "hints": {}}}}}
    bag = read(
        tmp_path,
        NIGHTSHIFT_REPO="/nowhere",
        AIRFLOW_VAR_NIGHTSHIFT_TASKS=json.dumps(known),
        _AIRFLOW_PARSING_CONTEXT_DAG_ID="train_m",
        _AIRFLOW_PARSING_CONTEXT_TASK_ID="fit",
    )
    assert bag["errors"] == {}
    assert bag["dags"]["train_m"]["params"] == ["reason", "rerun"]


def test_a_broken_dvc_yaml_is_an_import_error_with_file_and_line(home, tmp_path):
    work = tmp_path / "work"
    subprocess.run(["git", "clone", "--quiet", "--branch", "night", str(home / "repo.git"), str(work)], check=True)
    (work / "dvc.yaml").write_text("stages:\n  train:\n    cmd: echo\n    dep: [a]\n")
    git = ["git", "-c", "user.name=A Person", "-c", "user.email=person@example.org"]
    subprocess.run([*git, "commit", "--quiet", "-am", "Break it"], cwd=work, check=True)
    subprocess.run([*git, "push", "--quiet", "--force", "origin", "HEAD:refs/heads/broken"], cwd=work, check=True)
    bag = read(home, NIGHTSHIFT_BRANCH="broken")
    assert not [name for name in bag["dags"] if name == "dvc" or name.startswith(("ingest_", "train_"))]
    (error,) = bag["errors"].values()
    assert "dvc.yaml:4: 'dvc.yaml' validation failed: extra keys not allowed" in error
