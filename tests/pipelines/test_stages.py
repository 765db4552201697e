"""The stages of a model as the night runs them: own processes, real libraries, two different folders."""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipelines.models import MODEL, checkout
from tests.pipelines.small import ROOT, digests

STAGES = ["train", "evaluate", "gate", "package", "publish"]

# Runs a stage and writes the files below its working directory that it opened or imported.
WATCHED = """
import json, os, runpy, sys
opened = set()
sys.addaudithook(lambda event, args: opened.add(os.fspath(args[0])) if event == "open" and isinstance(
    args[0], (str, os.PathLike)) else None)
stage, model = sys.argv[1:]
sys.argv = [stage, model]
try:
    runpy.run_module(f"pipelines.{stage}", run_name="__main__")
except SystemExit as ended:
    assert not ended.code, ended.code
opened |= {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
paths = {os.path.relpath(path) for path in opened if path}
with open(f"{stage}.used", "w") as file:
    json.dump(sorted(path for path in paths if not path.startswith("..") and "__pycache__" not in path), file)
"""


def environment() -> dict[str, str]:
    """No settings of this machine but the path: the registry is the folder in the checkout."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}


def run(root: Path, stage: str) -> None:
    command = [sys.executable, "-c", WATCHED, stage, MODEL]
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (root / f"{stage}.said").write_text(done.stdout)


def described(stage: str) -> dict[str, Any]:
    text = (ROOT / "dvc.yaml").read_text().replace("${key}", MODEL)
    for name, value in {"dataset": "cifar10", "task": "image_classification", "family": "cnn"}.items():
        text = text.replace(f"${{item.{name}}}", value)
    found: dict[str, Any] = yaml.safe_load(text)["stages"][stage]["do"]
    return found


def outs(stage: str) -> list[str]:
    it = described(stage)
    plots = [name for entry in it.get("plots", []) for name in entry]
    return [*it.get("outs", []), *it.get("metrics", []), *plots]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same night in two folders whose paths have nothing in common."""
    roots = [tmp_path_factory.mktemp("one") / "checkout", tmp_path_factory.mktemp("another") / "deep" / "place"]

    def night(root: Path) -> Path:
        checkout(root)
        for stage in STAGES:
            run(root, stage)
        return root

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(night, roots))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_gives_the_same_bytes_in_another_folder(nights: list[Path], stage: str) -> None:
    one, another = ({out: read(root / out) for out in outs(stage)} for root in nights)
    assert all(one.values()), "an output is missing or empty"
    assert one == another


def read(path: Path) -> Any:
    return digests(path) if path.is_dir() else path.read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_all_that_a_stage_reads_is_among_its_deps(nights: list[Path], stage: str) -> None:
    root = nights[0]
    deps = described(stage)["deps"]
    mine = [*deps, *outs(stage), "params.yaml", ".nightshift"]

    used = json.loads((root / f"{stage}.used").read_text())
    assert f"pipelines/{stage}.py" in used
    files = {path for path in used if (root / path).is_file()}
    empty = {path for path in files if path.endswith("__init__.py") and not (root / path).stat().st_size}
    unseen = {path for path in files - empty if not any(path == own or path.startswith(f"{own}/") for own in mine)}
    assert unseen == set()
    # And the other way round: code that the stage does not use repeats it for nothing.
    assert {dep for dep in deps if dep.startswith("pipelines/")} - files == set()


def test_a_night_leaves_nothing_but_the_outputs_and_the_registry(nights: list[Path]) -> None:
    root = nights[0]
    known = [out for stage in STAGES for out in outs(stage)]
    known += ["pipelines", "params.yaml", "champions", "artifacts/datasets", "artifacts/validations"]
    known += [".nightshift/registry"]
    known += [f"{stage}.{kind}" for stage in STAGES for kind in ("used", "said")]
    left = [path for path in digests(root) if not any(path == name or path.startswith(f"{name}/") for name in known)]
    assert left == []


def test_training_tells_each_epoch_as_it_ends(nights: list[Path]) -> None:
    lines = (nights[0] / "train.said").read_text().splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == [f"{i}/8" for i in range(1, 9)]
    assert all("train/loss" in line and "val/accuracy" in line for line in epochs)


def test_the_model_has_learned_and_the_gate_lets_it_pass(nights: list[Path]) -> None:
    decision = json.loads((nights[0] / f"artifacts/decisions/{MODEL}/decision.json").read_text())
    assert decision["accuracy"] > 0.9
    assert (decision["verdict"], decision["promotes"], decision["opponent"]) == ("pass", True, None)
    assert "There is no champion: the absolute bounds decide alone." in decision["reasons"]


@pytest.mark.parametrize("another_worker", [False, True])
def test_training_killed_in_the_middle_ends_in_the_same_bytes(
    nights: list[Path], tmp_path: Path, another_worker: bool
) -> None:
    root = checkout(tmp_path / "killed")
    settings = environment() | ({"NIGHTSHIFT_CHECKPOINTS": str(tmp_path / "kept")} if another_worker else {})
    command = [sys.executable, "-m", "pipelines.train", MODEL]
    process = subprocess.Popen(command, cwd=root, env=settings, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    assert not (root / "artifacts/models").exists()

    if another_worker:  # another checkout, and what was kept is in another place
        root = checkout(tmp_path / "another" / "worker")
        settings["NIGHTSHIFT_CHECKPOINTS"] = str((tmp_path / "kept").rename(tmp_path / "brought"))
    done = subprocess.run(command, cwd=root, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on from" in done.stdout
    assert "epoch 1/8" not in done.stdout
    assert digests(root / "artifacts/models") == digests(nights[0] / "artifacts/models")
    if another_worker:
        assert (tmp_path / "brought" / "finished").exists()
    else:
        assert not list((root / ".nightshift/checkpoints").iterdir()), "a finished training leaves no checkpoint"


def test_the_night_after_a_promotion_meets_itself_and_says_so(nights: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "next"
    shutil.copytree(nights[0], root)
    receipt = json.loads((root / f"artifacts/receipts/{MODEL}.json").read_text())
    (root / f"champions/{MODEL}.json").write_text(json.dumps({"digest": receipt["digest"]}))
    for stage in ("evaluate", "gate"):
        run(root, stage)
    decision = json.loads((root / f"artifacts/decisions/{MODEL}/decision.json").read_text())
    assert decision["opponent"] == receipt["digest"]
    assert decision["verdict"] == "pass"
    assert any("same program as the champion" in reason for reason in decision["reasons"])
