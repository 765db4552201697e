"""``why`` and ``pull-run``, in a fresh clone that has S3's settings and nothing else of the nights."""

import json
import os
import re
import stat
from pathlib import Path
from unittest import mock

import pytest
from typer.testing import CliRunner

from nightshift.cli import main
from nightshift.engine import lock
from nightshift.engine.repository import Repository
from nightshift.engine.workspace import unpack
from tests.engine.conftest import World, copy

# Of this world the night has had data set a and model m1 only.
OTHERS = ["evaluate@m2", "prepare@b", "train@m2", "validate@b"]


def verb(world: World, at: Path, *arguments: str, status: int = 0) -> str:
    """What a verb says, as a workstation runs it; of an error its message and next step."""
    kept = {k: v for k, v in world.environment.items() if not k.startswith("NIGHTSHIFT_") or k == "NIGHTSHIFT_WORK"}
    before = Path.cwd()
    with mock.patch.dict(os.environ, kept | {"COLUMNS": "300", "NO_COLOR": "1"}, clear=True):
        os.chdir(at)
        try:
            result = CliRunner().invoke(main.app, list(arguments))
        finally:
            os.chdir(before)
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        if not hasattr(error, "next_step"):
            raise error
        assert error.exit_code == status
        return str(error)
    assert result.exit_code == status, result.output
    return result.output


def changed(world: World, at: Path) -> list[str]:
    """The stages that `dvc status` names."""
    return sorted(json.loads(world.dvc("status", "--json", at=at)))


@pytest.fixture(scope="module")
def tried(past: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """After a run ``tried`` of m1 with another name and more epochs."""
    world = copy(past, tmp_path_factory.mktemp("tried"))
    world.train_run("tried", conf={"params": ["train.epochs=4", "train.name=tried"], "reason": "longer"})
    return world


def test_why_tells_what_changed_for_each_stage_and_what_became_of_it(tried: World) -> None:
    said = verb(tried, tried.root, "why", "tried").splitlines()
    assert said[0] == "train_m1/tried"
    lines = {line[2:].partition("  ")[0].strip(): line.strip() for line in said[1:]}
    assert lines["based on"].startswith(f"based on     commit {tried.tip()[:12]} of main, data until ")
    assert lines["overridden"].endswith('train.epochs=4, train.name="tried"')
    assert lines["reason"].endswith("longer")
    at = said.index(next(line for line in said if line.startswith("  train@m1")))
    assert "computed in" in said[at]
    assert [line.strip() for line in said[at + 1 : at + 3]] == [
        'parameter models.m1.train.name: "0" → "tried"',
        "parameter models.m1.train.epochs: 2 → 4",
    ]
    assert re.fullmatch(r"took [\d.]+ CPU s, [\d.]+ GB at most, \S+ Wh \(CPU .+\)", said[at + 3].strip()), said[at + 3]
    assert lines["pin m1"].endswith("the challenger meets nobody")
    assert "input artifacts/models/m1/model.onnx" in [line.strip() for line in said]
    assert "on nightshift/train_m1/tried" in lines["record"]


def test_why_as_json_has_values_and_digests(tried: World) -> None:
    told = json.loads(verb(tried, tried.root, "why", "train_m1/tried", "--json"))
    assert told["overrides"] == {"train.epochs": 4, "train.name": "tried"}
    train, _, evaluate, record = told["tasks"]
    assert [task["task"] for task in told["tasks"]] == ["train@m1", "pin m1", "evaluate@m1", "record"]
    assert train["used"]["seconds"] == train["seconds"] > 0
    assert train["used"]["cpu_seconds"] > 0
    assert "used" not in json.dumps(tried.fragment("train_m1", "tried", "stages/train@m1.json")["entry"])
    assert record["used"] is None
    assert {"what": "parameter", "name": "models.m1.train.epochs", "before": "2", "after": "4"} in train["changes"]
    (model,) = [change for change in evaluate["changes"] if change["name"].endswith("model.onnx")]
    assert model["after"] == train["made"]["artifacts/models/m1/model.onnx"]
    assert record["outcome"] == "done"
    whole = verb(tried, tried.root, "why", "tried", "--verbose")
    assert f"input artifacts/models/m1/model.onnx: {model['before']} → {model['after']}" in whole
    assert f"made artifacts/models/m1/model.onnx: {model['after']}" in whole


def test_why_of_a_data_sets_run_tells_the_days_and_of_the_newest_run_when_none_is_named(past: World) -> None:
    said = verb(past, past.root, "why", "ingest_a/night-1")
    assert "took 2026-01-01 (new, 3 rows)" in said
    assert "input data/a\n" in said
    assert "never recorded" in said
    assert "1 rows" not in verb(past, past.root, "why")


def test_a_run_that_is_not_there_or_is_in_two_dags_is_answered_with_those_that_are(past: World) -> None:
    missing = verb(past, past.root, "why", "nigth-1", status=2)
    assert "has no run nigth-1" in missing
    assert "train_m1/" in missing
    several = verb(past, past.root, "why", "night-1", status=2)
    assert "say which: ingest_a/night-1, train_m1/night-1" in several


def test_a_run_with_overrides_comes_into_a_folder_and_repeats_nothing_there(tried: World, tmp_path: Path) -> None:
    clone, folder = tried.clone(f"clone-{tmp_path.name}"), tmp_path / "runs" / "tried"
    (clone / ".dvc" / "config.local").write_text("# a person's settings\n")
    (clone / ".dvc" / "config.local").chmod(0o600)
    said = verb(tried, clone, "pull-run", "tried", "--into", str(folder))
    assert f"train_m1/tried is in {folder}, on branch runs/train_m1/tried" in said
    assert 'with train.epochs=4, train.name="tried"' in said
    assert f"not of it  {', '.join(OTHERS)}" in said
    assert changed(tried, folder) == OTHERS
    assert "Running stage" not in tried.dvc("repro", "train@m1", "evaluate@m1", at=folder)
    assert "epochs: 4" in (folder / "params.yaml").read_text()
    assert '"tried"' in (folder / "artifacts" / "models" / "m1" / "model.onnx").read_text()
    # The same files as the record, with this checkout's settings, and nothing is left beside it.
    assert tried.git("diff", "--stat", "nightshift/train_m1/tried", _head(tried, folder), at=_both(tried, folder)) == ""
    assert stat.S_IMODE((folder / ".dvc" / "config.local").stat().st_mode) == 0o600
    assert [file.name for file in folder.parent.iterdir()] == ["tried"]
    assert tried.git("status", "--porcelain", at=clone) == ""
    assert tried.git("branch", "--format=%(refname:short)", at=clone).split() == ["main"]
    assert "is there already" in verb(tried, clone, "pull-run", "tried", "--into", str(folder), status=3)


def _head(world: World, at: Path) -> str:
    return world.git("rev-parse", "HEAD", at=at).strip()


def _both(world: World, folder: Path) -> Path:
    """The bare repository, with the folder's commits."""
    world.git("push", "-q", str(world.bare), "HEAD:refs/heads/pulled", at=folder)
    return world.bare


@pytest.fixture
def broken(past: World, tmp_path: Path, run: str) -> World:
    """After a run whose training is done and whose evaluation failed."""
    world = copy(past, tmp_path)
    world.edit("params.yaml", 'name: "0"', f"name: {run}")
    world.edit("pipelines/evaluate.py", "import json", "import json\nraise SystemExit('no')\n")
    here = ("--dag", "train_m1", "--run", run)
    for task in (("begin",), ("stage", "train@m1"), ("pin", "m1")):
        world.engine(*task, *here)
    assert world.try_engine("stage", "evaluate@m1", *here).status == 1
    return world


def test_a_run_that_failed_comes_as_far_as_it_came(broken: World, tmp_path: Path, run: str) -> None:
    clone = broken.clone("clone")
    (clone / "params.yaml").write_text("# mine\n" + (clone / "params.yaml").read_text())
    assert "this checkout has edits: params.yaml" in verb(broken, clone, "pull-run", run, status=3)
    broken.git("checkout", "-q", "params.yaml", at=clone)

    said = verb(broken, clone, "pull-run", run)
    assert "not run    evaluate@m1: the run did not finish them" in said
    assert changed(broken, clone) == sorted([*OTHERS, "evaluate@m1"])
    assert {"train@m1", "evaluate@m1"} & set(lock.load((clone / "dvc.lock").read_bytes())["stages"]) == {"train@m1"}
    assert run in (clone / "artifacts" / "models" / "m1" / "model.onnx").read_text()
    assert "to go back git switch main && dvc checkout" in said
    account = verb(broken, clone, "why", run)
    assert "code pipelines/evaluate.py" in account
    assert "evaluate@m1  not finished" in account
    again = verb(broken, clone, "pull-run", run)
    assert "it was on runs/train_m1/" in again

    (clone / "data" / "a" / "date=2026-01-01.parquet").chmod(0o644)
    (clone / "data" / "a" / "date=2026-01-01.parquet").write_text("9")
    assert "this checkout has edits: data/a" in verb(broken, clone, "pull-run", "train_m1/night-1", status=3)
    broken.dvc("checkout", "--force", "data.dvc", at=clone)
    (clone / "mine.txt").write_text("mine")
    broken.git("add", ".", at=clone)
    broken.git("commit", "-qm", "mine", at=clone)
    assert "has something else" in verb(broken, clone, "pull-run", run, status=3)


@pytest.mark.long
def test_a_base_that_the_checkout_has_not_fetched_is_fetched_or_asked_for(tried: World, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely"
    with Repository.open(str(tried.bare)) as repository:
        unpack(repository.archive(tried.tip()), lonely)
    tried.git("add", ".", at=lonely)
    tried.git("commit", "-qm", "the same files, another history", at=lonely)
    asked = verb(tried, lonely, "pull-run", "tried", "--into", str(tmp_path / "run"), status=1)
    assert "neither this checkout nor its remotes have commit" in asked
    tried.git("remote", "add", "nights", str(tried.bare), at=lonely)
    verb(tried, lonely, "pull-run", "tried", "--into", str(tmp_path / "run"))
    assert changed(tried, tmp_path / "run") == OTHERS
