"""Poisoned nights: whatever is wrong with data or model, the champion goes on serving and the report says why."""

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml

from nightshift.stack import demo
from tests.e2e.conftest import ROOT, Project, make_project, parquet

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

Rows = tuple[np.ndarray, list[str]]


def rows(name: str, file: str, start: int, count: int) -> Rows:
    x, y = demo.day_rows(name, demo.DAYS[0], file, ROOT / demo.DOWNLOADS)
    return x[start : start + count], list(y[start : start + count])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A checkout whose first night served a model of 3,000 real rows, judged on 4,000."""
    made = make_project(tmp_path_factory.mktemp("poisoned"))

    def judge_slices(params: dict[str, Any]) -> None:
        params["models"]["mnist-mlp"]["gate"]["slices"]["min_rows"] = 100
        params["models"]["mnist-mlp"]["gate"]["value_threshold"]["accuracy"] = 0.7

    try:
        made.edit(judge_slices)
        made.nightshift("up")
        made.land("date=2026-01-01/train.parquet", parquet(*rows("mnist", "train.parquet", 0, 3000)))
        made.land("date=2026-01-01/test.parquet", parquet(*rows("mnist", "test.parquet", 0, 4000), split="test"))
        yield made
    finally:
        made.nightshift("down", check=False)


@pytest.fixture(scope="module")
def champion(project: Project) -> str:
    (model,) = project.night()["models"]
    assert model["deploy"] == "proven"
    return str(model["release"])


def serves(project: Project) -> str:
    return str(json.loads(project.nightshift("status", "--json").stdout)["serving"]["mnist-mlp"]["serving"])


def poisoned(project: Project, champion: str) -> dict[str, Any]:
    """A night whose model did not pass; the champion serves."""
    night = project.night()
    (model,) = night["models"]
    assert (model["state"], model["deploy"]) == ("success", "not_passed"), model
    assert serves(project) == champion
    return dict(model)


def night_after(project: Project, champion: str, refused: str | None = None) -> dict[str, Any]:
    """A night that ends green, with what serves as before; nothing was ever ordered but it, and what was refused."""
    night = project.night()
    assert [one["state"] for one in night["data_sets"] + night["models"]] == ["success", "success"]
    assert serves(project) == champion
    assert sorted(orders(project)) == sorted([(champion, "proven"), *([(refused, "refused")] if refused else [])])
    return night


def orders(project: Project) -> list[tuple[str, str]]:
    found = json.loads(project.nightshift("history", "mnist-mlp", "--json").stdout)
    return [(order["digest"], order["outcome"]["state"]) for order in found]


def said(model: dict[str, Any]) -> str:
    report = (ROOT / model["report"]).read_text()  # an absolute path stays one
    reasons = " ".join(model["reasons"])
    assert all(reason.partition(":")[0].partition("'")[0] in report for reason in model["reasons"])
    return reasons


def test_days_that_are_not_like_the_others_are_held_and_the_night_after_goes_on_without_them(
    project: Project, champion: str
) -> None:
    """One class missing, inverted images, a day that was there before, and a day of another data set."""
    x, y = rows("mnist", "train.parquet", 4000, 700)
    some = [i for i, label in enumerate(y) if label != "3"]
    project.land("date=2026-02-01/train.parquet", parquet(x[some], [y[i] for i in some]))
    x, y = rows("mnist", "train.parquet", 5000, 600)
    project.land("date=2026-02-02/train.parquet", parquet(255 - x, y))
    project.land("date=2026-02-03/train.parquet", parquet(*rows("mnist", "train.parquet", 0, 3000)))
    x, y = rows("cifar10", "train.parquet", 0, 600)
    names = {label: str(i) for i, label in enumerate(demo.CIFAR10_LABELS)}
    gray = x[:, 2:30, 2:30].mean(axis=3, keepdims=True).astype(np.uint8)
    project.land("date=2026-02-04/train.parquet", parquet(gray, [names[label] for label in y]))

    (data,) = project.night(expect=3)["data_sets"]
    assert data["state"] == "held"
    causes = {
        "2026-02-01": "Each label has at least",
        "2026-02-02": "too dark, too bright or blank",
        "2026-02-03": "images were there before",
        "2026-02-04": "pixels shift by a PSI",
    }
    for day, cause in causes.items():
        assert any(cause in line and day in line for line in data["failed"]), (day, data["failed"])
    report = (project.root / data["report"]).read_text()
    assert all(day in report for day in causes)
    assert serves(project) == champion

    night = night_after(project, champion)
    assert [one["ran"] for one in night["data_sets"] + night["models"]] == [[], []]
    assert sorted(line[:10] for line in night["data_sets"][0]["held"]) == sorted(causes)
    for day in causes:
        project.nightshift("drop", "mnist", day, "--reason", "it is not one of ours")
    assert night_after(project, champion)["data_sets"][0]["held"] == []


def test_shuffled_labels_are_seen_by_the_champion_and_the_day_goes_when_a_person_drops_it(
    project: Project, champion: str
) -> None:
    x, y = rows("mnist", "train.parquet", 6000, 2500)
    chosen = random.Random(1).sample(range(len(y)), len(y) // 5)
    shuffled = [y[i] for i in chosen]
    random.Random(2).shuffle(shuffled)
    for i, label in zip(chosen, shuffled, strict=True):
        y[i] = label
    project.land("date=2026-02-05/train.parquet", parquet(x, y))
    model = poisoned(project, champion)
    assert model["verdict"] == "fail"
    assert "rows of 2026-02-05: labels or images there are not like those before" in said(model)

    night = night_after(project, champion)
    assert [one["ran"] for one in night["data_sets"] + night["models"]] == [[], []], "it is not tried again"
    project.nightshift("drop", "mnist", "2026-02-05", "--reason", "its labels are shuffled")
    night = night_after(project, champion)
    assert [line[:10] for line in night["data_sets"][0]["dropped"]] == ["2026-02-05"]
    assert night["models"][0]["deploy"] == "unchanged"


def test_a_model_that_wins_overall_and_loses_a_slice_does_not_pass(project: Project, champion: str) -> None:
    """Many good rows, and every four among them called a nine."""
    x, y = rows("mnist", "train.parquet", 3000, 9000)
    project.land("date=2026-02-06/train.parquet", parquet(x, ["9" if label == "4" else label for label in y]))
    demands = dict(yaml.safe_load((project.root / "params.yaml").read_text())["datasets"]["mnist"]["validate"])
    # As if validation had no eye for it: what is left is the gate.
    blind = {"min_label_share": 0, "drift": {"warn": 5.0, "stop": 5.0, "min_rows": 300}}
    project.edit(lambda params: params["datasets"]["mnist"]["validate"].update(blind))
    model = poisoned(project, champion)
    assert "on slices: label 4" in said(model)
    project.nightshift("drop", "mnist", "2026-02-06", "--reason", "fours are called nines")
    project.edit(lambda params: params["datasets"]["mnist"]["validate"].update(demands))
    night_after(project, champion)


def test_a_network_that_diverges_does_not_pass(project: Project, champion: str) -> None:
    was = params_of(project)["train"]["lr"]
    project.edit(lambda params: params["models"]["mnist-mlp"]["train"].update(lr=1e30))
    model = poisoned(project, champion)
    assert "Some probabilities are not finite numbers." in said(model)
    assert "NaN" not in (project.root / "artifacts/models/mnist-mlp/metrics.json").read_text()
    project.edit(lambda params: params["models"]["mnist-mlp"]["train"].update(lr=was))
    night_after(project, champion)


def test_a_challenger_that_costs_fifty_times_as_much_does_not_pass(project: Project, champion: str) -> None:
    family = project.root / "pipelines" / "families" / "mlp.py"
    before = family.read_text()
    family.write_text(before.replace("128", "6400"))
    project.git("commit", "--quiet", "-am", "A wider network")
    model = poisoned(project, champion)
    assert "50.00 times the champion's" in said(model)
    family.write_text(before)
    project.git("commit", "--quiet", "-am", "The network as it was")
    night_after(project, champion)


def test_a_test_split_that_is_too_old_stops_the_challenger(project: Project, champion: str) -> None:
    was = params_of(project)["gate"]["stale"]
    project.land("date=2026-02-07/train.parquet", parquet(*rows("mnist", "train.parquet", 3000, 1000)))
    project.edit(lambda params: params["models"]["mnist-mlp"]["gate"].update(stale_after_days=30, stale="stop"))
    model = poisoned(project, champion)
    assert model["verdict"] == "fail"
    cause = "newest frozen row is of 2026-01-01, 37 days before the newest training day, 2026-02-07; at most 30"
    assert cause in said(model)
    project.nightshift("drop", "mnist", "2026-02-07", "--reason", "only the test rows were too old")
    project.edit(lambda params: params["models"]["mnist-mlp"]["gate"].update(stale_after_days=90, stale=was))
    night_after(project, champion)


def test_a_champion_that_was_trained_on_the_frozen_rows_is_not_compared_by_them(
    project: Project, champion: str
) -> None:
    """The newest five days become the frozen rows, and all that the champion learnt is of one of them."""
    was = params_of(project, "datasets", "mnist")["prepare"]
    project.land("date=2025-12-20/train.parquet", parquet(*rows("mnist", "train.parquet", 4000, 2500)))
    frozen = {"days": 5, "confirm": 0.4, "publish": 0.2, "least": 1000, "renewed": []}
    prepare = {"split": "time", "val": 0.1, "frozen": frozen}
    project.edit(lambda params: params["datasets"]["mnist"].update(prepare=prepare))
    model = poisoned(project, champion)
    assert model["verdict"] == "inconclusive"
    assert "The champion may have been trained on" in said(model)
    assert "0 are left, fewer than frozen.least (1000): nothing is compared" in said(model)
    project.nightshift("drop", "mnist", "2025-12-20", "--reason", "it was only there to be trained on")
    project.edit(lambda params: params["datasets"]["mnist"].update(prepare=was))
    night_after(project, champion)


SLOW = """

class Slow(nn.Module):
    \"\"\"Gives what it gets, after much arithmetic in which nothing is multiplied and added.\"\"\"

    def forward(self, x):
        found = x[:1].repeat(1, 256, 1, 1)
        for _ in range(100):
            found = found.sin()
        return x + (found.max() > 2).to(x.dtype)
"""


def test_a_challenger_that_is_slow_without_counting_more_is_refused_and_never_ordered_again(
    project: Project, champion: str
) -> None:
    """It answers as the champion does, so the gate, asked for no worse, lets it pass. Last: it stays refused."""
    family = project.root / "pipelines" / "families" / "mlp.py"
    no_worse = {"bound": -0.01, "look_level": 0.15, "level": 0.05}
    project.edit(lambda params: params["models"]["mnist-mlp"]["gate"].update(change_threshold=no_worse))
    family.write_text(family.read_text().replace("nn.Flatten(),", "Slow(),\n        nn.Flatten(),") + SLOW)
    project.git("commit", "--quiet", "-am", "A slow network")
    (model,) = project.night(expect=1)["models"]
    assert (model["state"], model["verdict"], model["deploy"]) == ("failed", "pass", "refused"), model
    assert "times are allowed" in model["why"]
    assert "1.00 times the champion's" in said(model)
    slow = model["release"]
    assert serves(project) == champion

    # The night after, with the same network in another release.
    project.edit(lambda params: params["models"]["mnist-mlp"]["card"].update(use="the same network once more"))
    (model,) = night_after(project, champion, refused=slow)["models"]
    assert model["release"] != slow
    assert (model["ran"], model["verdict"], model["deploy"]) == (["package", "publish"], "pass", "barred")
    assert "times are allowed" in model["why"]


def params_of(project: Project, kind: str = "models", name: str = "mnist-mlp") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((project.root / "params.yaml").read_text())[kind][name]
    return found
