"""Which tasks stand where, for our own dvc.yaml and for shapes that other people's have."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "plugins"))

from dvc_graph import Dag, lay_out  # noqa: E402


@pytest.fixture(scope="module")
def dags() -> dict[str, Dag]:
    rendered = subprocess.run(
        [sys.executable, "-m", "nightshift.engine", "graph", "--root", str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )
    return {dag.id: dag for dag in lay_out(json.loads(rendered.stdout))}


def stage(*, deps=(), outs=(), upstream=(), **airflow) -> dict:
    return {
        "deps": list(deps),
        "outs": [{"path": out} for out in outs],
        "upstream": list(upstream),
        "params": {},
        "meta": {"airflow": airflow},
    }


def test_one_dag_per_data_set_and_one_per_model(dags):
    assert sorted(dags) == ["ingest_cifar10", "ingest_mnist", "train_cifar10-cnn", "train_mnist-mlp"]


def test_a_data_sets_dag_has_the_tasks_of_the_design_in_their_order(dags):
    tasks = dags["ingest_cifar10"].tasks
    assert {name: task.upstream for name, task in tasks.items()} == {
        "begin": set(),
        "ingest": {"begin"},
        "validate": {"ingest"},
        "accept": {"validate"},
        "prepare": {"ingest", "validate", "accept"},
        "record": {"prepare"},
        "tell": {"begin", "ingest", "validate", "accept", "prepare", "record"},
    }


def test_a_models_dag_pins_after_train_and_deploys_after_the_record(dags):
    tasks = dags["train_cifar10-cnn"].tasks
    assert tasks["train"].upstream == {"begin"}
    assert tasks["pin"].upstream == {"train"}
    assert "pin" in tasks["evaluate"].upstream
    assert tasks["record"].upstream == {"publish"}
    assert tasks["deploy"].upstream == {"record"}
    assert tasks["tell"].upstream == {*tasks} - {"tell"}
    assert (tasks["deploy"].verb, tasks["deploy"].argument) == ("deploy", "cifar10-cnn")


def test_a_models_dag_starts_after_its_data_sets(dags):
    assert dags["train_cifar10-cnn"].after == ["ingest_cifar10"]
    assert dags["ingest_cifar10"].after == []


def test_a_stage_without_a_hint_lands_in_one_dag_with_its_edges():
    graph = {"stages": {"a": stage(outs=["x"]), "b": stage(deps=["x"], upstream=["a"])}, "data": []}
    (dag,) = lay_out(graph)
    assert dag.id == "dvc"
    assert dag.tasks["b"].upstream == {"a"}
    assert dag.tasks["a"].upstream == {"begin"}
    assert "deploy" not in dag.tasks


def test_two_stages_of_one_loop_in_one_dag_keep_apart():
    graph = {"stages": {"fit@s": stage(), "fit@l": stage()}, "data": []}
    (dag,) = lay_out(graph)
    assert {"fit.s", "fit.l"} < set(dag.tasks)


def test_a_stage_named_like_a_task_of_ours_keeps_apart_from_it():
    (dag,) = lay_out({"stages": {"record": stage(outs=["x"]), "deploy": stage(upstream=["record"])}, "data": []})
    assert {name: task.verb for name, task in dag.tasks.items()} == {
        "begin": "begin",
        "stage.record": "stage",
        "deploy": "stage",
        "record": "record",
        "tell": "tell",
    }
    assert dag.tasks["deploy"].upstream == {"stage.record"}


def test_keys_with_characters_that_airflow_refuses_stay_apart():
    (dag,) = lay_out({"stages": {"fit@a/b": stage(), "fit@a b": stage(), "fit@0.1": stage()}, "data": []})
    tasks = {task.argument: name for name, task in dag.tasks.items() if task.verb == "stage"}
    assert tasks["fit@a/b"] == "fit.a-b"
    assert tasks["fit@a b"].startswith("fit.a-b-")
    assert tasks["fit@0.1"] == "fit.0.1"


def test_a_dag_stands_after_all_the_dags_that_it_reads_from():
    graph = {
        "stages": {
            "a": stage(outs=["a"], dag="one"),
            "b": stage(outs=["b"], dag="two"),
            "c": stage(deps=["a", "b"], upstream=["a", "b"], dag="three"),
        },
        "data": [],
    }
    assert {dag.id: dag.after for dag in lay_out(graph)} == {"one": [], "two": [], "three": ["one", "two"]}


def test_where_a_person_approves_deploy_stands_behind_the_answer():
    stages = {f"publish@{m}": stage(outs=[f"artifacts/receipts/{m}.json"], dag=f"train_{m}") for m in ("m1", "m2")}
    asked, free = lay_out({"stages": stages, "data": [], "approvals": ["m1"]})
    assert asked.tasks["approval"].upstream == {"record"}
    assert asked.tasks["deploy"].upstream == {"approval"}
    assert (asked.tasks["approval"].verb, asked.tasks["approval"].argument) == ("approval", "m1")
    assert "approval" not in free.tasks
    assert free.tasks["deploy"].upstream == {"record"}


def test_two_models_in_one_dag_are_approved_each_by_itself():
    stages = {f"publish@{m}": stage(outs=[f"artifacts/receipts/{m}.json"], dag="one") for m in ("m1", "m2")}
    (dag,) = lay_out({"stages": stages, "data": [], "approvals": ["m2"]})
    assert dag.tasks["deploy.m2"].upstream == {"approval.m2"}
    assert dag.tasks["deploy.m1"].upstream == {"record"}
