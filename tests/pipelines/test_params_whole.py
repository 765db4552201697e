"""The check of the whole params.yaml: each mistake is named with its key and the nearest thing that is known."""

import re
from pathlib import Path

import pytest
import yaml

from pipelines.params import dataset
from pipelines.params.__main__ import check, main
from pipelines.params.section import ParamsError
from tests.pipelines.small import ROOT, checkout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = checkout(tmp_path / "checkout", "s3://nightshift-landing/small")
    (found / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return found


def test_the_shipped_file_is_right(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert main() == 0
    assert "is right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schedule:", "shedule:", "shedule is unknown; did you mean schedule?"),
        ("  cron: 0 3 * * *", "  cron: nightly", "schedule.cron is 'nightly'"),
        ("timezone: UTC", "timezone: Mars/Olympus", "schedule.timezone is 'Mars/Olympus', no time zone"),
        ("late_after_hours: 6", "late_after_hours: soon", "schedule.late_after_hours is 'soon'"),
        ("  good: false", "  god: false", "notify.god is unknown; did you mean good?"),
        ("  threads: 1", "  threads: one", "toolchain.threads is 'one': a int is wanted"),
        ("  history_days:", "  history:", "housekeeping.history is unknown; did you mean history_days?"),
        ("  pyarrow:", "  pyarow:", "toolchain.pyarow is unknown"),
        ("      min_std: 1", "      min_sdt: 1", "datasets.cifar10.validate.min_sdt is unknown; did you mean min_std?"),
        ("reader: images", "reader: image", "there is no pipelines/datasets/image.py; did you mean images?"),
        ("reader: images", "reader: ../x", "there is no pipelines/datasets/../x.py"),
        ("val: 0.1", "val: 2", "datasets.cifar10.prepare.val is 2"),
        ("split: official", "split: random", "datasets.cifar10.prepare.split is 'random'"),
        ("split: official", "split: hash", "datasets.cifar10.prepare: split: hash needs frozen.share"),
        ("confirm: 0.4", "confirm: 0.9", "datasets.cifar10.prepare.frozen: confirm and publish together leave nothing"),
        (
            "renewed: []",
            "renewed: [{from: 2026-02-01, reason: x}]",
            "datasets.cifar10.prepare.frozen.renewed.0.from is",
        ),
        ("look_level: 0.15", "look_level: 0.001", "change_threshold: look_level is stricter than level"),
        ("    shape: [32, 32, 3]", "    shape: [32, 32]", "datasets.cifar10.records.shape is [32, 32]"),
        ("freshness_days: null", 'freshness_days: "3"', "datasets.cifar10.freshness_days is '3'"),
        (
            "dataset: cifar10",
            "dataset: cifar",
            "models.cifar10-cnn.dataset is 'cifar', which is none of datasets; did you",
        ),
        ("family: cnn", "family: cn", "there is no pipelines/families/cn.py; did you mean cnn?"),
        ("task: image_classification", "task: image_clasification", "did you mean image_classification?"),
        ("      seed: 0", '      seed: "0"', "models.cifar10-cnn.train.seed is '0'"),
        ("  mnist-mlp:", "  mnist mlp;rm:", "models.mnist mlp;rm: a name is made of"),
    ],
)
def test_a_mistake_is_named_with_its_key(root: Path, old: str, new: str, said: str) -> None:
    text = (root / "params.yaml").read_text()
    assert old in text
    (root / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ParamsError, match=re.escape(said)):
        check(root)


def test_all_mistakes_are_said_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(
        text.replace("      seed: 0", "      sed: 0", 1).replace("min_rows: 500", "min_rows: many", 1)
    )
    monkeypatch.chdir(root)
    assert main() == 2
    said = capsys.readouterr().err
    assert "models.cifar10-cnn.train.sed is unknown; did you mean seed?" in said
    assert "models.cifar10-cnn.train.seed is missing" in said
    assert "datasets.cifar10.validate.min_rows is 'many'" in said
    assert "Traceback" not in said


def test_a_missing_section_and_text_that_is_no_yaml_are_said(root: Path) -> None:
    tree = yaml.safe_load((root / "params.yaml").read_text())
    del tree["models"]
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ParamsError, match="models is missing"):
        check(root)
    (root / "params.yaml").write_text("a: [")
    with pytest.raises(ParamsError, match="is not YAML"):
        check(root)


def test_a_section_cannot_be_changed_once_read(root: Path) -> None:
    found = dataset.load("cifar10", root / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        found.reader = "other"
