"""The graph is DVC's own, of a commit or of a folder, and is read once per content."""

import json
import subprocess
from typing import Any

import pytest

from tests.engine.conftest import World


def graph(world: World, *arguments: str) -> dict:
    process = world.start("graph", *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return json.loads(output)


def test_the_graph_of_a_folder_is_that_of_its_commit(world: World) -> None:
    of_folder = graph(world, "--root", str(world.root))
    assert of_folder.items() <= graph(world, "--rev", "main").items()
    train = of_folder["stages"]["train@m1"]
    assert train["cmd"] == "python -m pipelines.train m1"
    assert train["upstream"] == ["prepare@a"]
    assert train["params"] == {"params.yaml": ["models.m1.dataset", "models.m1.train"]}
    assert train["values"]["params.yaml"]["models.m1.train"]["lr"] == 1e-05
    assert train["meta"] == {"airflow": {"dag": "train_m1"}}
    assert {
        "path": "artifacts/models/m1/epochs.csv",
        "cache": True,
        "metric": False,
        "plot": True,
        "persist": False,
        "push": True,
        "remote": None,
    } in (train["outs"])
    assert of_folder["data"] == ["data/a", "data/b", "data/profiles/a", "data/profiles/b"]


def test_stages_stand_in_the_order_in_which_dvc_runs_them(world: World) -> None:
    dry = world.dvc("repro", "--dry", "--force", "--allow-missing", at=world.root)
    ran = [line.split("'")[1] for line in dry.splitlines() if line.startswith("Running stage")]
    assert list(graph(world, "--root", str(world.root))["stages"]) == ran


def test_a_data_set_that_is_nowhere_yet_belongs_to_the_data(world: World) -> None:
    world.edit("params.yaml", "models:", "  c: {validate: {largest: 1}}\nmodels:")
    assert {"data/c", "data/profiles/c"} <= set(graph(world, "--rev", "main")["data"])


def test_a_broken_graph_is_told_in_dvcs_words(world: World) -> None:
    world.edit("dvc.yaml", "${item.dataset}/train", "${item.data_set}/train")
    process = world.start("graph", "--rev", "main")
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "data_set" in output
    assert "Traceback" not in output


def test_a_commit_with_the_same_graph_starts_no_dvc(world: World, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world.engine("begin", "--dag", "train_m1", "--run", run)
    world.edit("pipelines/train.py", "import sys", "import sys  # edited")
    started: list[list[str]] = []
    real = subprocess.run

    def spy(command: list[str], *args: Any, **kwargs: Any) -> Any:
        started.append(command)
        return real(command, *args, **kwargs)

    monkeypatch.setattr(subprocess, "run", spy)
    world.engine("begin", "--dag", "train_m1", "--run", f"{run}-2")
    assert started
    assert not [command for command in started if "nightshift.engine" in command]
