"""The gate: each rule decides what it says it decides, and lets a worse model pass as seldom as it says."""

from typing import Any

import numpy as np
import pytest
from jinja2 import Environment, StrictUndefined

from pipelines.gate import TEMPLATE, decide, paired_interval
from pipelines.params.gate import Gate
from pipelines.params.section import ParamsError
from pipelines.tasks.image_classification.score import score


def params(**changes: Any) -> Gate:
    values = {
        "value_threshold": {"accuracy": 0.6},
        "change_threshold": {"margin": 0.005, "level": 0.05},
        "inconclusive": "keep",
    }
    return Gate.check(values | changes, "gate")


def metrics(b: int | None = None, c: int = 0, **changes: Any) -> dict[str, Any]:
    """An evaluation on 10,000 rows; with ``b`` and ``c`` there is a champion."""
    program = {"finite": True, "max_difference": 1e-6, "max_difference_allowed": 1e-4, "argmax_changes": 0}
    program |= {name: changes.pop(name) for name in list(changes) if name in program}
    return {
        "rows": 10_000,
        "test_sha256": "ab" * 32,
        "accuracy": 0.7,
        "accuracy_low": 0.69,
        "accuracy_high": 0.71,
        "program": {**program, "parameters": 1, "bytes": 1},
        "opponent": None if b is None else "cd" * 32,
        "champion": None if b is None else {"accuracy": 0.7},
        "paired": None if b is None else {"b": b, "c": c},
        "same_program": False,
    } | changes


@pytest.mark.parametrize(
    ("evaluation", "verdict", "reason"),
    [
        (metrics(), "pass", "There is no champion: the absolute bounds decide alone."),
        (metrics(accuracy=0.6), "pass", "at least the bound of 60.00%"),
        (metrics(accuracy=0.5999), "fail", "Accuracy 59.99% is below the bound of 60.00%."),
        (metrics(finite=False, max_difference=None), "fail", "Some probabilities are not finite numbers."),
        (metrics(max_difference=2e-4), "fail", "differs from its weights by 0.0002 at most (allowed: 0.0001)"),
        (metrics(argmax_changes=1), "fail", "gives another answer on 1 rows"),
        (metrics(b=800, c=1000), "pass", "is better than the champion: +2.00 points"),
        (metrics(b=300, c=300), "pass", "is no worse than (within 0.50 points of) the champion"),
        (metrics(b=900, c=900), "inconclusive", "cannot be told from one that is 0.50 points worse"),
        (metrics(b=1000, c=800), "fail", "is worse, by more than 0.50 points, than the champion: -2.00 points"),
        (metrics(b=0, c=0, same_program=True), "pass", "the same program as the champion: nothing would change"),
        (metrics(b=800, c=1000, accuracy=0.5), "fail", "below the bound"),
        (metrics(b=900, c=900, finite=False), "fail", "not finite"),
        (metrics(b=0, c=0, rows=40), "inconclusive", "on the same 40 rows"),
    ],
)
def test_the_table_of_verdicts(evaluation: dict[str, Any], verdict: str, reason: str) -> None:
    decision = decide(evaluation, params())
    assert decision["verdict"] == verdict
    assert any(reason in said for said in decision["reasons"]), decision["reasons"]
    assert decision["promotes"] == (verdict == "pass")
    assert decision["test_sha256"] == "ab" * 32


def test_the_policy_says_what_an_inconclusive_verdict_leads_to() -> None:
    unclear = metrics(b=900, c=900)
    kept, promoted = decide(unclear, params()), decide(unclear, params(inconclusive="promote"))
    assert (kept["verdict"], kept["promotes"]) == ("inconclusive", False)
    assert (promoted["verdict"], promoted["promotes"]) == ("inconclusive", True)
    assert not decide(metrics(b=1000, c=800), params(inconclusive="promote"))["promotes"]


def test_every_number_that_led_to_it_is_in_the_decision() -> None:
    found = {criterion["name"]: criterion for criterion in decide(metrics(b=800, c=1000), params())["criteria"]}
    assert list(found) == ["finite_outputs", "exported_program", "value_threshold", "change_threshold"]
    change = found["change_threshold"]
    assert (change["b"], change["c"], change["value"], change["bound"], change["level"]) == (
        800,
        1000,
        0.02,
        -0.005,
        0.05,
    )
    assert change["low"] < 0.02 < change["high"]


@pytest.mark.parametrize(
    ("b", "c", "n", "low", "high"),
    [
        # Fagerland, Lydersen and Laake 2014, table of 21 children: Tango's 95 % interval of 1/21 - 7/21
        (7, 1, 21, -0.517, -0.026),
        # b = c = 0: the bounds are those of Wilson's interval of 0 in n (Tango 1998)
        (0, 0, 40, -0.0876, 0.0876),
    ],
)
def test_the_paired_interval_is_the_published_one(b: int, c: int, n: int, low: float, high: float) -> None:
    assert paired_interval(b, c, n, 0.025) == pytest.approx((low, high), abs=6e-4)


def test_the_paired_interval_of_many_rows_is_the_textbook_one() -> None:
    b, c, n = 800, 1000, 10_000
    half = 1.6449 * (b + c - (c - b) ** 2 / n) ** 0.5 / n
    assert paired_interval(b, c, n, 0.05) == pytest.approx((0.02 - half, 0.02 + half), abs=2e-4)


def test_swapping_the_models_mirrors_the_interval() -> None:
    low, high = paired_interval(30, 50, 400, 0.05)
    assert paired_interval(50, 30, 400, 0.05) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("rows", "disagreement"), [(10_000, 0.18), (1_000, 0.10), (300, 0.06)])
def test_a_model_worse_by_the_margin_passes_no_oftener_than_the_level(rows: int, disagreement: float) -> None:
    how = params(change_threshold={"margin": 0.02, "level": 0.05})
    rng = np.random.default_rng(0)
    b, c = disagreement / 2 + 0.01, disagreement / 2 - 0.01  # truly 2 points worse
    nights = rng.multinomial(rows, [b, c, 1 - b - c], 1500)
    passed = np.mean([decide(metrics(int(b), int(c), rows=rows), how)["verdict"] == "pass" for b, c, _ in nights])
    assert 0.02 < passed < 0.05 + 3 * (0.05 * 0.95 / 1500) ** 0.5


def test_a_truly_better_model_passes() -> None:
    nights = np.random.default_rng(0).multinomial(10_000, [0.08, 0.10, 0.82], 300)
    assert np.mean([decide(metrics(int(b), int(c)), params())["verdict"] == "pass" for b, c, _ in nights]) > 0.99


def test_a_misspelt_threshold_is_answered_with_the_right_one() -> None:
    with pytest.raises(ParamsError, match=r"gate\.change_threshold\.marjin is unknown; did you mean margin\?"):
        params(change_threshold={"marjin": 0.1, "margin": 0.1, "level": 0.05})
    with pytest.raises(ParamsError, match=r"gate\.inconclusive is 'wait'"):
        params(inconclusive="wait")


def test_the_report_escapes_what_it_shows_and_runs_nothing() -> None:
    labels = ["<script>alert(1)</script>", "b&b"]
    y = np.array([0, 1, 1, 0])
    scores = score(np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]]), y, labels, 5)
    evaluation = metrics(b=900, c=900)
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text())
    for champion in (None, scores):
        text = page.render(
            model="<b>m</b>",
            decision=decide(evaluation, params()),
            metrics=evaluation,
            challenger=scores,
            champion=champion,
        )
        assert "<script" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert "&lt;b&gt;m&lt;/b&gt;" in text
        assert "default-src 'none'" in text
        assert "http://" not in text
        assert "https://" not in text
        assert "<svg" in text
