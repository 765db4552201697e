"""A release holds all that serving it needs, says where it comes from, and nothing of when or by whom."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml

from nightshift.releases import golden, manifest
from pipelines import evaluate, gate, package
from pipelines.params.section import ParamsError
from tests.pipelines.models import LABELS, MODEL, SHAPE, checkout, make_model
from tests.pipelines.small import ROOT


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = checkout(tmp_path_factory.mktemp("judged") / "checkout")
    make_model(root / "artifacts/models" / MODEL, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        evaluate.main(MODEL)
        gate.main(MODEL)
    return root


@pytest.fixture
def root(judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "checkout"
    shutil.copytree(judged, found)
    monkeypatch.chdir(found)
    return found


def packaged(root: Path) -> Path:
    package.main(MODEL)
    return root / "artifacts/releases" / MODEL


def test_the_release_is_whole_and_verifies(root: Path) -> None:
    folder = packaged(root)
    found = manifest.verify(folder)
    files = {file.path for file in found.files}
    made = {"model.onnx", "weights.safetensors", "golden.json", "metrics.json", "decision.json", "model_card.md"}
    assert files == made | {"profile.json"}
    assert (found.model, found.task, found.input.kind) == (MODEL, "image_classification", "image")
    assert list(found.input.labels) == LABELS
    assert found.signature.inputs[0].shape == (-1, *SHAPE)
    assert found.verdict == json.loads((folder / "decision.json").read_text())["verdict"]


def test_the_release_says_how_its_training_rows_were_distributed(root: Path) -> None:
    found = json.loads((packaged(root) / "profile.json").read_text())
    assert found == {"format": 1, "distributions": {"label": {"bins": LABELS, "counts": [40, 40, 40]}}}


def test_the_golden_requests_are_what_the_program_answers(root: Path) -> None:
    folder = packaged(root)
    known = golden.load((folder / "golden.json").read_bytes())
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert len(known.cases) == 8
    for case in known.cases:
        (asked,), (expected,) = case.inputs, case.outputs
        image = np.array(asked["data"], np.uint8).reshape(asked["shape"])
        (answer,) = session.run([expected["name"]], {asked["name"]: image})
        assert list(answer.shape) == expected["shape"]
        assert np.abs(answer.ravel() - expected["data"]).max() < known.tolerance


def test_the_lineage_names_what_train_left_as_dvc_names_it(root: Path) -> None:
    lineage = manifest.verify(packaged(root)).lineage
    made = root / "artifacts/models" / MODEL
    assert lineage["train_outputs"] == {
        f"artifacts/models/{MODEL}/{name}": hashlib.md5((made / name).read_bytes()).hexdigest()
        for name in ("model.onnx", "weights.safetensors")
    }
    assert lineage["dataset"]["splits"]["test"]["rows"] == 60
    assert lineage["opponent"] is None
    assert lineage["params"]["train"]["epochs"] == 8
    assert lineage["params"]["gate"]["inconclusive"] == "keep"
    assert lineage["toolchain"]["torch"]
    described = (root / "artifacts/datasets/cifar10/dataset.json").read_bytes()
    assert lineage["dataset"]["md5"] == hashlib.md5(described).hexdigest()
    assert lineage["dataset"]["partitions"] == json.loads(described)["partitions"]
    assert "Krizhevsky" in lineage["dataset"]["source"]
    assert "redistribute" in lineage["dataset"]["licence"]


def test_the_code_in_the_lineage_is_what_train_depends_on(root: Path) -> None:
    """Its own files in dvc.yaml, but for those that only read parameters: each by its md5, and each a dependency."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

    def deps(stage: str) -> set[str]:
        found = (dep.replace("${item.task}", "image_classification") for dep in stages[stage]["do"]["deps"])
        return {dep.replace("${item.family}", "cnn") for dep in found if dep.endswith(".py")}

    code = manifest.verify(packaged(root)).lineage["code"]
    assert set(code) == {dep for dep in deps("train") if not dep.startswith("pipelines/params/")}
    assert set(code) <= deps("package")
    for path, md5 in code.items():
        assert md5 == hashlib.md5((root / path).read_bytes()).hexdigest()


def test_a_file_left_by_an_earlier_attempt_is_not_released(root: Path) -> None:
    left = root / "artifacts/releases" / MODEL / "half.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    assert not (packaged(root) / "half.tmp").exists()


def test_the_card_says_what_a_person_should_know(root: Path) -> None:
    card = (packaged(root) / "model_card.md").read_text()
    stated = yaml.safe_load((root / "params.yaml").read_text())["models"][MODEL]["card"]
    for said in (
        f"**Data**: cifar10, from {stated['data']}.",
        f"**License of the data**: {stated['licence']}.",
        "95 % interval",
        "60 test rows",
        "red, green, blue",
        "2 days",
        "no champion",
        "100 rows",
    ):
        assert said in card, said


def test_a_model_that_did_not_pass_is_packaged_with_its_verdict(root: Path) -> None:
    assert json.loads((root / f"artifacts/decisions/{MODEL}/decision.json").read_text())["verdict"] == "fail"
    assert manifest.verify(packaged(root)).verdict == "fail"


def test_another_release_format_is_refused(root: Path) -> None:
    file = root / "params.yaml"
    file.write_text(file.read_text().replace("release_format: 1", "release_format: 2"))
    with pytest.raises(ParamsError, match="release_format is 2 and the installed nightshift writes 1"):
        package.main(MODEL)
    assert not (root / "artifacts/releases").exists()
