"""Shapes that other people's dvc.yaml files have: rendered with DVC's own edges, or refused by name."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightshift.cli.graph import told

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins"))

from dvc_graph import lay_out

SHAPES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted(Path(__file__).with_name("shapes").iterdir())}
# What DVC prints is asked of its own command line, in the process that also renders, because importing DVC is dear.
READ = """
import contextlib, io, json, os, sys
from pathlib import Path
from nightshift.engine import dvc_index
found = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    found[folder.name] = {"graph": dvc_index.read(folder)}
from dvc.cli import main
for name, one in found.items():
    os.chdir(Path(sys.argv[1]) / name)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["init", "--no-scm", "--quiet"]) == 0
        assert main(["dag", "--dot"]) == 0
    one["dot"] = said.getvalue()
Path(sys.argv[2]).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Shape to ``graph``, as rendered, and ``dot``, as DVC prints it."""
    folder = tmp_path_factory.mktemp("shapes")
    for name, shape in SHAPES.items():
        for path, text in shape["files"].items():
            file = folder / "in" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    out = folder / "out.json"
    subprocess.run([sys.executable, "-c", READ, str(folder / "in"), str(out)], check=True, cwd=folder)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def edges(dot: str) -> set[tuple[str, str]]:
    """(upstream, stage) of what ``dvc dag --dot`` prints."""
    return {(up, name) for up, name in re.findall(r'^"(.+)" -> "(.+)";$', dot, re.M)}


@pytest.mark.parametrize("name", SHAPES)
def test_edges_are_those_that_dvc_prints(read: dict[str, Any], name: str) -> None:
    graph = read[name]["graph"]
    stages = {**graph["stages"], **graph["elsewhere"]}
    assert {(up, stage) for stage, one in stages.items() for up in one["upstream"]} == edges(read[name]["dot"])


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if not shape.get("refused")])
def test_tasks_stand_as_stages_do(read: dict[str, Any], name: str) -> None:
    graph = read[name]["graph"]
    dags = lay_out(graph)
    stage_of = {(dag.id, task.id): task.argument for dag in dags for task in dag.tasks.values() if task.verb == "stage"}
    assert sorted(stage_of.values()) == sorted(graph["stages"])
    home = {stage: dag for (dag, _), stage in stage_of.items()}
    wanted = {(up, stage) for up, stage in edges(read[name]["dot"]) if up in home}
    drawn = {
        (stage_of[dag.id, up], task.argument)
        for dag in dags
        for task in dag.tasks.values()
        for up in task.upstream
        if task.verb == "stage" and (dag.id, up) in stage_of
    }
    assert drawn == {(up, stage) for up, stage in wanted if home[up] == home[stage]}
    between = {(home[up], home[stage]) for up, stage in wanted if home[up] != home[stage]}
    assert {(up, dag.id) for dag in dags for up in dag.after} == between
    for dag in dags:  # whatever Airflow asks of an id
        assert all(re.fullmatch(r"[\w.-]{1,250}", task) for task in dag.tasks)


@pytest.mark.parametrize("name", SHAPES)
def test_what_cannot_be_run_is_refused_by_name(read: dict[str, Any], name: str) -> None:
    graph = read[name]["graph"]
    stages = {**graph["stages"], **graph["elsewhere"]}
    said = {stage: told(stage, one, graph) for stage, one in stages.items()}
    refused = {stage: one["refused"] for stage, one in said.items() if "refused" in one}
    expected = SHAPES[name].get("refused", {})
    assert sorted(refused) == sorted(expected)
    assert {stage: words for stage, words in expected.items() if words not in refused[stage]} == {}
    for stage, hints in SHAPES[name].get("hints", {}).items():
        assert said[stage]["hints"] == hints
