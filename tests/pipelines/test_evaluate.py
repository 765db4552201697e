"""Evaluate: figures that can be checked by hand, and an opponent that is what its digest says or no opponent."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import numpy_helper

from nightshift.releases import manifest as manifests
from nightshift.releases.errors import ReleaseCorrupt, ReleaseError, ReleaseUnknown
from pipelines import evaluate, gate, package, publish
from pipelines.params.section import ParamsError
from pipelines.programs.champion import drifted, seen_frozen
from pipelines.statistics.drift import divergence, stability_index
from pipelines.statistics.shares import wilson
from pipelines.tasks.image_classification.score import score
from tests.pipelines.models import LABELS, MODEL, champion, checkout, make_model, profile

# --- figures


def test_the_figures_of_four_rows_are_those_of_paper_and_pencil() -> None:
    answers = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.3, 0.7]])
    found = score(answers, np.array([0, 0, 0, 1]), ["no", "yes"], 2)
    assert found["accuracy"] == 0.75
    assert found["confusion"] == [[2, 1], [0, 1]]
    assert found["per_class"] == [
        {"label": "no", "rows": 3, "precision": 1.0, "recall": 0.666667, "f1": 0.8},
        {"label": "yes", "rows": 1, "precision": 0.5, "recall": 1.0, "f1": 0.666667},
    ]
    assert found["macro_f1"] == pytest.approx(0.733333, abs=2e-6)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean(), abs=1e-6)
    assert found["calibration"] == [{"bin": 1, "confidence": 0.75, "accuracy": 0.75, "rows": 4}]
    assert found["ece"] == 0.0


def test_a_model_that_is_sure_and_wrong_is_badly_calibrated() -> None:
    assert score(np.array([[1.0, 0.0]] * 4), np.array([1, 1, 1, 0]), ["a", "b"], 10)["ece"] == 0.75


def test_the_interval_of_the_calibration_error_is_as_wide_as_the_error_scatters() -> None:
    """Models that are as wrong about themselves, on other rows: nine intervals in ten and more hold the true error."""
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.6, 1.0, (200, 2000))
    found = []
    for confidence in sure:
        right = rng.random(2000) < confidence - 0.1  # too sure by a tenth, wherever
        figures = score(np.stack([confidence, 1 - confidence], 1), np.where(right, 0, 1), ["a", "b"], 10)
        assert figures["ece_low"] <= figures["ece"] <= figures["ece_high"]
        found.append((figures["ece_low"], figures["ece_high"]))
    assert np.mean([low <= 0.1 <= high for low, high in found]) > 0.9
    widths = [high - low for low, high in found]
    assert 0.02 < np.mean(widths) < 0.06  # 3.9 standard errors of a share of 2,000 rows


def test_a_class_that_never_appears_has_figures() -> None:
    row = score(np.array([[0.9, 0.05, 0.05]]), np.array([0]), ["a", "b", "c"], 10)["per_class"][2]
    assert (row["rows"], row["precision"], row["recall"], row["f1"]) == (0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("correct", "n", "interval"),
    [(0, 0, (0.0, 1.0)), (8, 10, (0.4902, 0.9433)), (0, 10, (0.0, 0.2775)), (6852, 10_000, (0.6760, 0.6942))],
)
def test_the_interval_of_a_share_is_wilsons(correct: int, n: int, interval: tuple[float, float]) -> None:
    assert wilson(correct, n) == pytest.approx(interval, abs=1e-4)


def test_rows_are_counted_in_pairs() -> None:
    found = evaluate.paired(np.array([1, 0, 1, 0, 1], bool), np.array([1, 1, 0, 0, 1], bool))
    assert found == {"both_right": 2, "b": 1, "c": 1, "both_wrong": 1}


def test_only_days_that_the_champion_has_not_seen_are_asked_about() -> None:
    right = np.array([1, 1, 0, 1, 0, 0], bool)
    found = evaluate.new_days({"2026-01-01": 2, "2026-01-02": 3, "2026-01-03": 1}, {"2026-01-01"}, right)
    assert found == [
        {"day": "2026-01-02", "rows": 3, "right": 1},
        {"day": "2026-01-03", "rows": 1, "right": 0},
    ]


# --- the stage


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that were never trained."""
    folder = tmp_path_factory.mktemp("made")
    for seed in (0, 1):
        make_model(folder / str(seed), seed)
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose trained model is the first, without settings; it is the working directory."""
    found = checkout(tmp_path / "checkout")
    shutil.copytree(made / "0", found / "artifacts/models" / MODEL)
    for name in ("NIGHTSHIFT_REGISTRY", "NIGHTSHIFT_WORK", "NIGHTSHIFT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(found)
    return found


def judged(root: Path) -> dict[str, Any]:
    evaluate.main(MODEL)
    found: dict[str, Any] = json.loads((root / f"artifacts/evaluations/{MODEL}/metrics.json").read_text())
    return found


def served(root: Path, made: Path, seed: int) -> str:
    """Publishes a model and makes it the champion; its digest."""
    shutil.copytree(made / str(seed), root / "artifacts/models" / MODEL, dirs_exist_ok=True)
    champion(root, None)
    for stage in (evaluate, gate, package, publish):
        stage.main(MODEL)
    digest: str = json.loads((root / f"artifacts/receipts/{MODEL}.json").read_text())["digest"]
    champion(root, digest)
    shutil.copytree(made / "0", root / "artifacts/models" / MODEL, dirs_exist_ok=True)
    return digest


def test_the_first_model_has_no_opponent(root: Path) -> None:
    found = judged(root)
    assert (found["opponent"], found["champion"], found["paired"], found["same_program"]) == (None, None, None, False)
    assert (found["test"]["rows"], found["rows"]) == (60, 40)
    assert found["program"]["argmax_changes"] == 0
    assert found["program"]["max_difference"] < 1e-5
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]


def test_challenger_and_champion_meet_on_the_same_rows(root: Path, made: Path) -> None:
    digest = served(root, made, 1)
    found = judged(root)
    assert found["opponent"] == digest
    assert sum(found["paired"].values()) == 60
    assert found["champion"]["accuracy"] != found["test"]["accuracy"]
    difference = (found["paired"]["c"] - found["paired"]["b"]) / 60
    assert difference == pytest.approx(found["test"]["accuracy"] - found["champion"]["accuracy"], abs=2e-6)

    table = pq.read_table(root / f"artifacts/evaluations/{MODEL}/details/predictions.parquet")
    assert table.column_names == ["key", "label", "challenger", "champion", "probabilities"]
    rows = table.to_pylist()
    assert [row["key"] for row in rows] == (root / "artifacts/datasets/cifar10/test/keys.txt").read_text().split()
    assert all(LABELS[int(np.argmax(row["probabilities"]))] == row["challenger"] for row in rows)
    right = sum(row["champion"] == row["label"] for row in rows)
    assert right == found["paired"]["both_right"] + found["paired"]["b"]


def test_the_difference_on_each_part_is_plotted_in_points(root: Path, made: Path) -> None:
    judged(root)
    plot = root / f"artifacts/evaluations/{MODEL}/slices.csv"
    assert plot.read_text() == "part,rows,points\n", "nobody was met"
    served(root, made, 1)
    found = judged(root)
    rows = {row["part"]: row for row in csv.DictReader(plot.open())}
    assert {f"label {label}" for label in LABELS} | {"noise", "blur", "shift"} == set(rows)
    won = sum(int(row["rows"]) * float(row["points"]) for name, row in rows.items() if name.startswith("label"))
    assert won / 60 == pytest.approx(100 * (found["test"]["accuracy"] - found["champion"]["accuracy"]), abs=0.02)


def test_each_value_of_an_attribute_is_a_slice_and_on_the_page(root: Path, made: Path) -> None:
    served(root, made, 1)
    sites = ["bern"] * 30 + ["<b>oslo</b>"] * 20 + ["unknown"] * 10
    file = root / "artifacts/datasets/cifar10/test/attributes.json"
    file.write_text(json.dumps({"site": sites, "user": [f"{n:02}" for n in range(60)]}))
    judged(root)
    compared = json.loads((root / f"artifacts/evaluations/{MODEL}/details/compared.json").read_text())
    found = {part["slice"]: part for part in compared["slices"]}
    counts = ("both_right", "b", "c", "both_wrong")
    rows = {name: sum(part[count] for count in counts) for name, part in found.items()}
    assert [(name, n) for name, n in rows.items() if name.startswith("site")] == [
        ("site bern", 30), ("site <b>oslo</b>", 20), ("site unknown", 10)
    ]  # fmt: skip
    assert (rows["user 00"], rows["user, the 30 rarest"], len(rows)) == (1, 30, 3 + 3 + 31)

    scores = json.loads((root / f"artifacts/evaluations/{MODEL}/details/scores.json").read_text())
    for who, only in (("challenger", "c"), ("champion", "b")):
        bern = scores[who]["parts"][0]
        right = found["site bern"]["both_right"] + found["site bern"][only]
        assert (bern["slice"], bern["rows"], bern["accuracy"]) == ("site bern", 30, round(right / 30, 6))
        assert (bern["low"], bern["high"]) == pytest.approx(wilson(right, 30), abs=1e-6)
    gate.main(MODEL)
    page = (root / f"artifacts/decisions/{MODEL}/report.html").read_text()
    assert "<td>site bern</td><td>30</td>" in page
    assert "<td>site &lt;b&gt;oslo&lt;/b&gt;</td>" in page


def test_new_days_are_held_against_what_the_champion_was_trained_on(root: Path, made: Path) -> None:
    served(root, made, 1)
    file = root / "artifacts/datasets/cifar10/dataset.json"
    described = json.loads(file.read_text())
    described["days"].append("2026-01-03")
    described["rows_per_day"]["train"]["2026-01-03"] = 600
    file.write_text(json.dumps(described))
    profile(root, {"2026-01-01": [20, 20, 20], "2026-01-02": [20, 20, 20], "2026-01-03": [400, 200, 0]})
    metrics = judged(root)
    found = json.loads((root / f"artifacts/evaluations/{MODEL}/details/compared.json").read_text())["drift"]
    assert metrics["drift"] == {"all training rows, label": found["all"]["label"]["psi"]}
    (day,) = found["days"]
    assert (day["part"], day["accepted"]) == ("2026-01-03", None)
    new = {"rows": 600, "others": 120, "psi": stability_index([400, 200, 0], [40, 40, 40])}
    assert day["shifts"] == {"label": {**new, "js": divergence([400, 200, 0], [40, 40, 40])}}
    assert found["all"]["label"]["rows"] == 720
    assert found["other_bins"] == []
    assert 0 < found["all"]["label"]["psi"] < new["psi"]
    plotted = (root / f"artifacts/evaluations/{MODEL}/drift.csv").read_text().splitlines()
    assert plotted[0] == "of,psi,js"
    assert plotted[2] == f'"2026-01-03, label",{new["psi"]},{day["shifts"]["label"]["js"]}'


def test_what_was_cut_into_other_bins_is_not_compared(root: Path, made: Path) -> None:
    served(root, made, 1)
    file = root / "artifacts/validations/cifar10/profile.json"
    found = json.loads(file.read_text())
    found["distributions"]["age"] = {"bins": ["below", "from 30"], "days": {}}
    file.write_text(json.dumps(found))
    judged(root)
    drift = json.loads((root / f"artifacts/evaluations/{MODEL}/details/compared.json").read_text())["drift"]
    assert (list(drift["all"]), drift["other_bins"]) == (["label"], ["age"])


def test_a_release_of_before_profiles_says_nothing_about_drift(tmp_path: Path) -> None:
    assert drifted(tmp_path, ["2026-01-01"], {"accepted": {}, "distributions": {}}) is None


def test_the_champion_that_is_the_challenger_is_recognised(root: Path, made: Path) -> None:
    served(root, made, 0)
    found = judged(root)
    assert found["same_program"]
    assert found["paired"]["b"] == found["paired"]["c"] == 0


def edit_dataset(root: Path, **changes: Any) -> None:
    file = root / "artifacts/datasets/cifar10/dataset.json"
    described = json.loads(file.read_text())
    for name, change in changes.items():
        described[name] |= change
    file.write_text(json.dumps(described))


def test_of_rows_that_the_champion_was_trained_on_only_those_of_later_days_judge(root: Path, made: Path) -> None:
    """The champion knew all days; then the newest were frozen: of test and confirm 50 and 40 rows are of its days."""
    digest = served(root, made, 1)
    window = {"split": "time", "edition": "2026-01-02", "newest": "2026-01-03", "trained_until": "2026-01-01"}
    days = {"rows_per_day": {name: {"2026-01-02": rows - 10, "2026-01-03": 10}
                             for name, rows in (("test", 60), ("confirm", 50), ("val", 30))}}  # fmt: skip
    edit_dataset(root, frozen=window | {"least": 20}, **days)
    file = root / "artifacts/datasets/cifar10/test/attributes.json"
    file.write_text(json.dumps({"site": ["bern"] * 50 + ["oslo"] * 10}))
    found = judged(root)
    assert found["met"] == {"rows": 20, "left_out": 90, "least": 20, "enough": True}
    assert (found["opponent"], found["test"]["rows"], sum(found["paired"].values())) == (digest, 10, 10)
    keys = (root / "artifacts/datasets/cifar10/test/keys.txt").read_text().split()
    table = pq.read_table(root / f"artifacts/evaluations/{MODEL}/details/predictions.parquet")
    assert table["key"].to_pylist() == keys[50:]
    compared = json.loads((root / f"artifacts/evaluations/{MODEL}/details/compared.json").read_text())
    assert compared["confirm"]["rows"] == sum(compared["confirm"]["paired"].values()) == 10
    assert [part["slice"] for part in compared["slices"] if part["slice"].startswith("site")] == ["site oslo"]

    edit_dataset(root, frozen={"least": 21})
    found = judged(root)
    assert (found["met"]["enough"], found["opponent"], found["paired"], found["champion"]) == (
        False,
        digest,
        None,
        None,
    )
    assert found["test"]["rows"] == 60, "the challenger's own figures are still those of all rows"
    gate.main(MODEL)
    decision = json.loads((root / f"artifacts/decisions/{MODEL}/decision.json").read_text())
    said = {one["name"]: one["reason"] for one in decision["criteria"]}
    assert "90 of the frozen test and confirm rows" in said["unseen_rows"]
    assert "change_threshold" not in said
    assert not any("There is no champion" in reason for reason in decision["reasons"])


def by(split: str, edition: str = "start", **more: Any) -> dict[str, Any]:
    return {"split": split, "edition": edition, **more}


@pytest.mark.parametrize(
    ("then", "now", "days"),
    [
        (by("official"), by("official", "2026-01-02"), ""),
        ({}, by("official"), ""),
        (by("hash", share=0.2), by("hash", share=0.2), ""),
        (by("hash", share=0.2), by("hash", share=0.1), ""),
        (by("hash", share=0.2), by("hash", share=0.3), "123"),
        (by("hash", share=0.2), by("hash", "2026-01-02", share=0.2), ""),
        (by("hash", "2026-01-02", share=0.2), by("hash", share=0.2), "123"),
        (by("official"), by("hash", share=0.2), "123"),
        (by("hash", share=0.2), by("official"), "123"),
        (by("official"), by("time", "2026-01-03"), "123"),
        (by("time", "2026-01-03", trained_until="2026-01-02"), by("time", "2026-01-03"), "12"),
        ({}, by("time", "2026-01-03"), "123"),
    ],
)
def test_which_days_frozen_rows_a_champion_may_have_been_trained_on(
    tmp_path: Path, then: dict[str, Any], now: dict[str, Any], days: str
) -> None:
    for name in ("model.onnx", manifests.GOLDEN):
        (tmp_path / name).write_text("{}")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1]}
    lineage = {"dataset": {"days": ["2026-01-01", "2026-01-02", "2026-01-03"], **then}}
    manifest = manifests.build(tmp_path, model="m", task="t", signature={"inputs": [tensor], "outputs": [tensor]},
                               input={"kind": "tensor"}, lineage=lineage, verdict="pass")  # fmt: skip
    manifests.write(tmp_path, manifest)
    assert {day[-1] for day in seen_frozen(tmp_path, now)} == set(days)


def test_a_champion_that_this_registry_lacks_is_named_with_the_way_out(root: Path) -> None:
    champion(root, "ab" * 32)
    with pytest.raises(ReleaseUnknown) as error:
        evaluate.main(MODEL)
    said = str(error.value)
    assert "ab" * 32 in said
    assert str(root / ".nightshift/registry") in said
    assert "NIGHTSHIFT_REGISTRY" in said
    assert not (root / "artifacts/evaluations").exists()


def test_a_corrupt_champion_is_refused(root: Path, made: Path) -> None:
    digest = served(root, made, 1)
    program = root / ".nightshift/registry/releases" / MODEL / digest / "model.onnx"
    program.write_bytes(program.read_bytes()[:-1] + b"\0")
    with pytest.raises(ReleaseCorrupt, match=r"model\.onnx"):
        evaluate.main(MODEL)
    assert not list((root / ".nightshift/releases").rglob("model.onnx")), "a corrupt copy must not stay"


def test_a_copy_that_was_corrupted_later_is_fetched_again(root: Path, made: Path) -> None:
    digest = served(root, made, 1)
    before = judged(root)
    copy = root / ".nightshift/releases" / MODEL / digest / "model.onnx"
    copy.write_bytes(b"damaged")
    assert judged(root) == before
    manifests.verify(copy.parent)


def test_a_champion_with_other_labels_cannot_be_compared(root: Path, made: Path) -> None:
    served(root, made, 1)
    described = root / "artifacts/datasets/cifar10/dataset.json"
    described.write_text(described.read_text().replace('"blue"', '"azure"'))
    with pytest.raises(ReleaseError, match="other labels"):
        evaluate.main(MODEL)


def test_a_program_that_is_not_its_weights_is_told_apart_and_fails(root: Path, made: Path) -> None:
    shutil.copyfile(made / "1/model.onnx", root / "artifacts/models" / MODEL / "model.onnx")
    found = judged(root)
    assert found["program"]["argmax_changes"] > 0
    assert found["program"]["max_difference"] > 1e-3
    gate.main(MODEL)
    assert json.loads((root / f"artifacts/decisions/{MODEL}/decision.json").read_text())["verdict"] == "fail"


def test_answers_that_are_not_numbers_fail_and_the_files_stay_json(root: Path) -> None:
    path = root / "artifacts/models" / MODEL / "model.onnx"
    program = onnx.load(path)
    for tensor in program.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, np.nan), tensor.name))
    onnx.save(program, path)
    evaluate.main(MODEL)
    gate.main(MODEL)
    for name in ("evaluations/{}/metrics.json", "evaluations/{}/details/scores.json", "decisions/{}/decision.json"):
        text = (root / "artifacts" / name.format(MODEL)).read_text()
        json.loads(text, parse_constant=lambda word: pytest.fail(f"not JSON: {word}"))
    decision = json.loads((root / f"artifacts/decisions/{MODEL}/decision.json").read_text())
    assert decision["verdict"] == "fail"
    assert "Some probabilities are not finite numbers." in decision["reasons"]


def test_a_misspelt_key_is_answered_with_the_right_one(root: Path) -> None:
    file = root / "params.yaml"
    file.write_text(file.read_text().replace("max_difference", "max_diference"))
    with pytest.raises(ParamsError, match=r"max_diference is unknown; did you mean max_difference\?"):
        evaluate.main(MODEL)
