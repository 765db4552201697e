"""The gate: each rule decides what it says it decides, and lets a worse model pass as seldom as it says."""

from typing import Any

import numpy as np
import pytest

from pipelines.gate import decide
from pipelines.params.gate import Gate
from pipelines.params.section import ParamsError
from pipelines.reports.page import render
from pipelines.statistics.criteria import groups, new_days
from pipelines.tasks.image_classification.score import score


def params(**changes: Any) -> Gate:
    groups = {"margin": 0.03, "level": 0.05, "min_rows": 200}
    values = {
        "value_threshold": {"accuracy": 0.6, "ece": 0.2},
        "change_threshold": {"bound": 0.0, "look_level": 0.15, "level": 0.005},
        "slices": groups,
        "perturbations": groups,
        "new_days": {"margin": 0.05, "level": 0.01, "min_rows": 50},
        "drift": {"warn": 0.1, "stop": 0.5, "min_rows": 300},
        "cost": {"operations": 4.0, "bytes": None},
        "fresh_rows_after": 30,
        "inconclusive": "keep",
    }
    return Gate.check(values | changes, "gate")


NO_WORSE = {"change_threshold": {"bound": -0.005, "look_level": 0.15, "level": 0.05}}
ROWS = 5_000
FROZEN = {"split": "official", "edition": "start", "looks": 3, "promotions": 1, "waiting": 0, "least": 1000,
          "newest": "2026-01-01", "trained_until": "2026-02-10"}  # fmt: skip


def counts(b: int, c: int, rows: int) -> dict[str, int]:
    return {"both_right": rows - b - c, "b": b, "c": c, "both_wrong": 0}


def evaluation(
    test: tuple[int, int] | None = None, confirm: tuple[int, int] = (0, 0), **changes: Any
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """On 5,000 test and 5,000 confirm rows, ``b`` and ``c`` each; without ``test`` there is no champion."""
    program = {"finite": True, "max_difference": 1e-6, "max_difference_allowed": 1e-4, "argmax_changes": 0}
    program |= {"operations": 1000, "parameters": 10, "bytes": 100}
    program |= {name: changes.pop(name) for name in list(changes) if name in program}
    on_test = {"rows": ROWS, "sha256": "ab" * 32, "accuracy": 0.7, "ece": 0.05, "ece_low": 0.04, "ece_high": 0.06}
    on_test |= {name: changes.pop(name) for name in list(changes) if name in on_test}
    parts = {name: changes.pop(name, []) for name in ("slices", "perturbations", "new_days")}
    changes_of_data = changes.pop("drift", None)
    metrics = {
        "rows": 2_000,
        "perturbed": {"noise": 0.6},
        "accuracy": 0.71,
        "accuracy_low": 0.69,
        "accuracy_high": 0.73,
        "frozen": FROZEN,
        "met": {"rows": 2 * ROWS, "left_out": 0, "least": 1000, "enough": True},
        "test": on_test,
        "program": program,
        "opponent": test and "cd" * 32,
        "champion": test and {"accuracy": 0.7, "operations": 1000, "parameters": 10, "bytes": 100},
        "paired": test and counts(*test, on_test["rows"]),
        "same_program": False,
    } | changes
    parts["drift"] = changes_of_data
    compared = test and {"confirm": {"rows": ROWS, "paired": counts(*confirm, ROWS)}, **parts}
    return metrics, compared or None


def judged(
    test: tuple[int, int] | None = None, confirm: tuple[int, int] = (0, 0), how: Gate | None = None, **changes: Any
) -> dict[str, Any]:
    return decide(*evaluation(test, confirm, **changes), how or params())


def criterion(decision: dict[str, Any], name: str) -> dict[str, Any]:
    return next(found for found in decision["criteria"] if found["name"] == name)


@pytest.mark.parametrize(
    ("decision", "verdict", "reason"),
    [
        (judged(), "pass", "There is no champion: the absolute bounds decide alone."),
        (judged(accuracy=0.6), "pass", "There is no champion"),
        (judged(accuracy=0.5999), "fail", "Accuracy 59.99% is below the bound of 60.00% (95 % interval 58.6"),
        (
            judged(ece=0.21),
            "fail",
            "error 0.2100 is above the bound of 0.2 (95 % interval 0.0400 to 0.0600, 5000 rows)",
        ),
        (judged(finite=False, max_difference=None), "fail", "Some probabilities are not finite numbers."),
        (judged(max_difference=2e-4), "fail", "differs from its weights by 0.0002 at most (allowed: 0.0001)"),
        (judged(argmax_changes=1), "fail", "gives another answer on 1 of 5000 rows"),
        (judged((400, 500), (400, 500)), "pass", "is better than the champion: +2.00 points on the same 10000 rows"),
        (judged((400, 500), (450, 450)), "inconclusive", "cannot be told from one that is no better"),
        (judged((400, 500), (600, 300)), "fail", "is worse than the champion: -2.00 points on the same 10000 rows"),
        (judged((450, 450), (300, 600)), "inconclusive", "on the same 5000 rows of test (from"),
        (judged((550, 350), (300, 600)), "fail", "is worse than the champion: -4.00 points on the same 5000 rows"),
        (judged((0, 0), same_program=True), "pass", "the same program as the champion: nothing would change"),
        (judged((400, 500), (400, 500), accuracy=0.5), "fail", "below the bound"),
        (judged((450, 450), finite=False), "fail", "not finite"),
        (judged((150, 150), (150, 150), params(**NO_WORSE)), "pass", "is no worse than (within 0.50 points of)"),
        (judged((450, 450), (450, 450), params(**NO_WORSE)), "inconclusive", "told from one that is 0.50 points worse"),
        (judged((550, 350), how=params(**NO_WORSE)), "fail", "is worse, by more than 0.50 points, than the champion"),
        (judged((400, 500), (400, 500), operations=50_000), "fail", "50,000 operations, 50.00 times the champion's"),
        (judged((400, 500), (400, 500), bytes=50_000), "pass", "is better than"),
    ],
)
def test_the_table_of_verdicts(decision: dict[str, Any], verdict: str, reason: str) -> None:
    assert decision["verdict"] == verdict
    assert any(reason in said for said in decision["reasons"]), decision["reasons"]
    assert decision["promotes"] == (verdict == "pass")
    assert decision["test_sha256"] == "ab" * 32


def test_the_confirm_rows_are_looked_at_only_after_the_test_rows_passed() -> None:
    not_looked = criterion(judged((450, 450), (0, 900)), "change_threshold")
    assert [look["split"] for look in not_looked["looks"]] == ["test"]
    looked = criterion(judged((400, 500), (0, 900)), "change_threshold")
    assert [(look["split"], look["rows"]) for look in looked["looks"]] == [("test", 5000), ("test and confirm", 10_000)]


def test_the_policy_says_what_an_inconclusive_verdict_leads_to() -> None:
    promote = params(inconclusive="promote")
    kept, promoted = judged((450, 450)), judged((450, 450), how=promote)
    assert (kept["verdict"], kept["promotes"]) == ("inconclusive", False)
    assert (promoted["verdict"], promoted["promotes"]) == ("inconclusive", True)
    assert not judged((550, 350), how=promote)["promotes"]


def test_every_number_that_led_to_it_is_in_the_decision() -> None:
    decision = judged((400, 500), (380, 520))
    assert [found["name"] for found in decision["criteria"]] == [
        "finite_outputs", "exported_program", "value_threshold", "calibration", "frozen_rows", "change_threshold",
        "slices", "perturbations", "new_days", "drift", "cost_operations",
    ]  # fmt: skip
    test, both = criterion(decision, "change_threshold")["looks"]
    assert (test["b"], test["c"], test["value"], test["level"]) == (400, 500, 0.02, 0.15)
    assert (both["b"], both["c"], both["value"], both["level"]) == (780, 1020, 0.024, 0.005)
    assert 0 < both["low"] < 0.024 < both["high"]


def test_a_model_that_wins_overall_and_loses_a_slice_fails_and_the_slice_is_named() -> None:
    parts = [{"slice": f"label {i}", **counts(20, 60, 500)} for i in range(9)]
    parts += [{"slice": "label cat", **counts(150, 10, 500)}, {"slice": "group few", **counts(90, 0, 100)}]
    decision = judged((400, 500), (400, 500), slices=parts)
    assert decision["verdict"] == "fail"
    (reason,) = decision["reasons"]
    assert "worse, by more than 3.00 points, on slices: label cat: -28.00 points on 500 rows" in reason
    assert "Not judged, with fewer than 200 rows: group few." in reason
    assert [part["slice"] for part in criterion(decision, "slices")["parts"] if part["worse"]] == ["label cat"]


def test_a_slice_that_is_only_too_small_to_tell_does_not_stop_a_better_model() -> None:
    parts = [{"slice": f"label {i}", **counts(22, 20, 250)} for i in range(10)]
    assert judged((400, 500), (400, 500), slices=parts)["verdict"] == "pass"


def test_equal_models_lose_none_of_ten_slices_but_at_the_level() -> None:
    rng = np.random.default_rng(0)
    nights = rng.multinomial(500, [0.12, 0.09, 0.79], (600, 10))  # truly worse by exactly the margin on each
    failed = [
        groups("slices", [{"slice": "x", **counts(int(b), int(c), 500)} for b, c, _ in night], params().slices)
        for night in nights
    ]
    assert np.mean([found["verdict"] == "fail" for found in failed]) < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5


def test_a_model_that_falls_apart_under_noise_fails() -> None:
    parts = [{"slice": "noise", **counts(900, 300, 5000)}, {"slice": "blur", **counts(300, 300, 5000)}]
    decision = judged((400, 500), (400, 500), perturbations=parts)
    assert decision["reasons"] == [
        "The challenger is worse, by more than 3.00 points, on perturbations: noise: -12.00 points on 5000 rows."
    ]


def test_a_day_that_the_champion_does_not_know_fails_whatever_the_challenger_made_of_it() -> None:
    days = [{"day": "2026-01-02", "rows": 60, "right": 41}, {"day": "2026-01-03", "rows": 60, "right": 28}]
    days += [{"day": "2026-01-04", "rows": 10, "right": 0}]
    decision = judged((400, 500), (400, 500), new_days=days)
    assert decision["verdict"] == "fail"
    (reason,) = decision["reasons"]
    assert "The champion has 70.0% of the test rows right and only 46.7% of 60 rows of 2026-01-03" in reason
    assert "Not judged, with fewer than 50 rows: 2026-01-04." in reason
    assert "2026-01-02" not in reason


def test_a_day_like_the_others_is_blamed_no_oftener_than_the_level() -> None:
    rng = np.random.default_rng(0)
    right = rng.binomial(100, 0.65, 3000)  # truly as far below as the margin allows
    found = [new_days([{"day": "d", "rows": 100, "right": int(n)}], {"accuracy": 0.7, "rows": 10**6}, params().new_days)
             for n in right]  # fmt: skip
    assert np.mean([one["verdict"] == "fail" for one in found]) < 0.01 + 3 * (0.01 / 3000) ** 0.5


def moved(part: str, psi: float, rows: int = 5000, accepted: str | None = None) -> dict[str, Any]:
    shifts = {"label": {"psi": psi, "js": 0.1}, "brightness": {"psi": 0.02, "js": 0.001}}
    both = {name: {**shift, "rows": rows, "others": 20_000} for name, shift in shifts.items()}
    return {"part": part, "accepted": accepted, "shifts": both}


def with_drift(*days: dict[str, Any], all_: float = 0.01, test: tuple[int, int] = (400, 500)) -> dict[str, Any]:
    return judged(test, test, drift={"all": moved("", all_)["shifts"], "days": list(days), "other_bins": []})


def test_a_day_unlike_what_the_champion_was_trained_on_fails_by_its_name() -> None:
    decision = with_drift(moved("2026-01-02", 0.83), moved("2026-01-03", 0.03))
    assert decision["verdict"] == "fail"
    assert decision["reasons"] == [
        "The training rows are not like those of the champion (PSI above 0.5): label of 2026-01-02: 0.83. `nightshift "
        "drop` takes a day out; where the world itself has changed, `nightshift promote` serves the challenger all the "
        "same."
    ]
    levels = {(row["part"], row["what"]): row["level"] for row in criterion(decision, "drift")["parts"]}
    assert levels.pop(("2026-01-02", "label")) == "stop"
    assert set(levels.values()) == {""}
    assert len(levels) == 5


def test_training_rows_that_crept_away_day_by_day_fail_as_a_whole() -> None:
    assert with_drift(moved("2026-01-02", 0.4), all_=0.51)["verdict"] == "fail"


def test_a_smaller_drift_warns_whatever_the_verdict() -> None:
    said = "The training rows drift from those of the champion (PSI above 0.1): label of 2026-01-02: 0.30."
    for test, verdict in (((400, 500), "pass"), ((450, 450), "inconclusive")):
        decision = with_drift(moved("2026-01-02", 0.3), test=test)
        assert decision["verdict"] == verdict
        assert said in decision["reasons"]


def test_a_day_that_a_person_let_in_only_warns_and_a_small_one_is_not_judged() -> None:
    decision = with_drift(moved("2026-01-02", 0.83, accepted="accepted by ann: so"), moved("2026-01-03", 0.9, rows=299))
    assert decision["verdict"] == "pass"
    said = criterion(decision, "drift")["reason"]
    assert "label of 2026-01-02: 0.83" in said
    assert "Not judged, with fewer than 300 rows: 2026-01-03." in said


def test_what_is_cut_into_other_bins_by_now_is_named() -> None:
    drift = {"all": moved("", 0.01)["shifts"], "days": [], "other_bins": ["age"]}
    said = criterion(judged((400, 500), (400, 500), drift=drift), "drift")["reason"]
    assert said.endswith("Not compared, because the first days are others now and cut it otherwise: age.")


def test_a_champion_of_before_profiles_is_not_held_against_anything() -> None:
    found = criterion(judged((400, 500), (400, 500)), "drift")
    assert found["verdict"] == "pass"
    assert found["reason"].endswith("drift is not judged.")


def test_worn_rows_are_named_and_when_fresh_ones_are_due() -> None:
    worn = FROZEN | {"looks": 30, "promotions": 2, "waiting": 120}
    decision = judged((400, 500), (400, 500), frozen=worn)
    assert decision["reasons"][-1] == (
        "Look 30 at these frozen rows, 2 promotions by them; fresh rows are due since look 30: `nightshift renew`; "
        "120 fresh rows wait until there are 1000."
    )
    assert "due at look 30" in judged()["frozen"]["sentence"]


OLD = {"newest": "2026-01-01", "trained_until": "2026-02-10"}
TOO_OLD = "The newest frozen row is of 2026-01-01, 40 days before the newest training day, 2026-02-10; at most 30"


@pytest.mark.parametrize(
    ("then", "frozen", "verdict", "said"),
    [
        ("warn", OLD, "pass", TOO_OLD),
        ("stop", OLD, "fail", TOO_OLD),
        ("stop", OLD | {"newest": "2026-01-11"}, "pass", None),
        ("warn", {"newest": "2026-02-10", "looks": 30}, "pass", "fresh rows are due since look 30"),
        ("stop", {"newest": "2026-02-10", "looks": 30}, "fail", "fresh rows are due since look 30"),
        ("stop", {"newest": "2026-02-12", "looks": 29}, "pass", None),
    ],
)
def test_frozen_rows_that_are_too_old_or_worn_are_named_or_stop_every_challenger(
    then: str, frozen: dict[str, Any], verdict: str, said: str | None
) -> None:
    decision = judged((400, 500), (400, 500), params(stale_after_days=30, stale=then), frozen=FROZEN | frozen)
    assert decision["verdict"] == verdict
    assert criterion(decision, "frozen_rows")["verdict"] == verdict
    last = decision["reasons"][-1]
    assert said in last if said else decision["frozen"]["sentence"] != last
    assert decision["reasons"].count(decision["frozen"]["sentence"]) == 1
    if verdict == "fail":
        assert len(decision["reasons"]) == 1
    assert judged(how=params(stale_after_days=30, stale=then), frozen=FROZEN | frozen)["verdict"] == verdict


def test_a_window_of_days_says_which_and_needs_no_renewal() -> None:
    window = FROZEN | {"split": "time", "edition": "2026-02-11", "newest": "2026-02-12", "looks": 30}
    assert judged((400, 500), (400, 500), frozen=window)["reasons"][-1] == (
        "Look 30 at rows of 2026-02-11 to 2026-02-12, 1 promotions by them; fresh rows are due since look 30: the days "
        "to come bring them."
    )


def test_a_champion_that_has_seen_the_frozen_rows_is_not_compared_and_stays() -> None:
    met = {"rows": 700, "left_out": 9300, "least": 1000, "enough": False}
    metrics, _ = evaluation((400, 500))
    decision = decide(metrics | {"met": met, "paired": None, "champion": None}, None, params())
    assert (decision["verdict"], decision["promotes"]) == ("inconclusive", False)
    assert decision["reasons"] == [
        "The champion may have been trained on 9300 of the frozen test and confirm rows, by its lineage: 700 are left, "
        "fewer than frozen.least (1000): nothing is compared.",
        "The policy for inconclusive is keep: the champion is kept.",
    ]
    some = judged((400, 500), (400, 500), met=met | {"rows": 1000, "left_out": 9000, "enough": True})
    assert (some["verdict"], criterion(some, "unseen_rows")["value"]) == ("pass", 1000)


def test_the_decision_says_what_this_gate_can_see_and_what_strictness_costs() -> None:
    power = judged((450, 450))["power"]
    assert (power["test"], power["confirm"], power["disagreement"]) == (5000, 5000, 0.18)
    assert power["at_bound"] <= 0.005
    assert {row["gain"]: row["passes"] for row in power["gains"]}[0.015] >= 0.8
    levels = [(row["level"], row["least_gain"]) for row in power["strictness"]]
    assert levels == sorted(levels, key=lambda row: row[1]), "stricter finds only greater gains"
    assert judged()["power"] is None


def test_a_misspelt_threshold_is_answered_with_the_right_one() -> None:
    with pytest.raises(ParamsError, match=r"gate\.change_threshold\.bond is unknown; did you mean bound\?"):
        params(change_threshold={"bond": 0.0, "bound": 0.0, "look_level": 0.1, "level": 0.05})
    with pytest.raises(ParamsError, match=r"gate\.inconclusive is 'wait'"):
        params(inconclusive="wait")


def test_the_report_of_a_pass_leads_with_the_gain_and_what_warns() -> None:
    scores = score(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]), ["a", "b"], 5)
    found = evaluation((400, 500), (400, 500), drift={"all": moved("", 0.2)["shifts"], "days": [], "other_bins": []})
    text = render(
        "gate.html", model="m", decision=decide(*found, params()), metrics=found[0], challenger=scores, champion=scores
    )
    led = text[: text.index("Criteria")]
    assert led.index("is better than the champion") < led.index("drift from those of the champion")
    assert "All probabilities are finite" not in led
    assert ">warns</span>" in text


def test_the_report_escapes_what_it_shows_and_runs_nothing() -> None:
    labels = ["<script>alert(1)</script>", "b&b"]
    y = np.array([0, 1, 1, 0])
    scores = score(np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]]), y, labels, 5)
    parts = [{"slice": labels[0], **counts(20, 20, 500)}]
    drift = {"all": moved("", 0.2)["shifts"], "days": [moved(labels[0], 0.6)], "other_bins": []}
    met = evaluation((400, 500), (400, 500), slices=parts, drift=drift)
    for champion, found in ((None, evaluation()), (scores, met)):
        text = render(
            "gate.html",
            model="<b>m</b>",
            decision=decide(*found, params()),
            metrics=found[0],
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
