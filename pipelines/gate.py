"""``python -m pipelines.gate MODEL``: pass, fail or inconclusive, with every number that led to it.

    evaluations/<m>/metrics.json, details/ --decide--> decisions/<m>/decision.json, report.html

Every criterion has a verdict of its own; one that fails decides, else one that is inconclusive does. The stage ends
well with any verdict: a verdict is an output.
"""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

from pipelines.params.gate import ChangeThreshold, Gate
from pipelines.params.section import ParamsError
from pipelines.reports.page import render
from pipelines.statistics import criteria
from pipelines.statistics.power import least_gain, pass_chance

GAINS = (0.005, 0.01, 0.015, 0.02, 0.03)  # true gains whose chance to pass the page shows
LEVELS = (0.05, 0.01, 0.005, 0.001)  # nightly levels whose price the page shows


def main(model: str) -> None:
    params = Gate.load("models", model, "gate")
    evaluation = Path("artifacts/evaluations", model)
    metrics = json.loads((evaluation / "metrics.json").read_text())
    compared = json.loads((evaluation / "details" / "compared.json").read_text())
    scores = json.loads((evaluation / "details" / "scores.json").read_text())
    decision = decide(metrics, compared, params)
    shown = {"challenger": scores["challenger"], "champion": scores["champion"]}
    report = render("gate.html", model=model, decision=decision, metrics=metrics, **shown)
    folder = Path("artifacts/decisions", model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "decision.json").write_text(json.dumps(decision, indent=2, sort_keys=True) + "\n")
    (folder / "report.html").write_text(report)
    print(f"gate {model}: {decision['verdict']}", *decision["reasons"], sep="\n  ", flush=True)


def decide(metrics: dict[str, Any], compared: dict[str, Any] | None, params: Gate) -> dict[str, Any]:
    """The decision on an evaluation; a pure function.

    Args:
        metrics: as in ``metrics.json``.
        compared: as in ``compared.json``; None when there is no champion.

    Returns:
        ``verdict`` is pass, fail or inconclusive; ``promotes`` is what the policy makes of it.
    """
    program, frozen = metrics["program"], _frozen(metrics["frozen"], params)
    found = [
        criteria.finite(program),
        criteria.exported(program, metrics["test"]["rows"]),
        *criteria.value(metrics["test"], params.value_threshold),
        criteria.frozen(frozen, params.stale),
        *criteria.met(metrics["met"]),
    ]
    if compared:
        found.append(criteria.change(metrics, compared["confirm"], params.change_threshold))
        found.append(criteria.groups("slices", compared["slices"], params.slices))
        found.append(criteria.groups("perturbations", compared["perturbations"], params.perturbations))
        on_test = {"accuracy": metrics["champion"]["accuracy"], "rows": metrics["test"]["rows"]}
        found.append(criteria.new_days(compared["new_days"], on_test, params.new_days))
        found.append(criteria.drift(compared["drift"], params.drift))
        found += criteria.cost(program, metrics["champion"], params.cost)
    verdicts = [criterion["verdict"] for criterion in found]
    verdict = next((found for found in ("fail", "inconclusive") if found in verdicts), "pass")
    reasons = [criterion["reason"] for criterion in found if criterion["verdict"] == verdict]
    if verdict != "pass":
        reasons += [
            criterion["reason"] for criterion in found if criterion.get("warns") and criterion["verdict"] == "pass"
        ]
    if not metrics["opponent"]:
        reasons.append("There is no champion: the absolute bounds decide alone.")
    if verdict == "inconclusive":
        then = "the champion is kept" if params.inconclusive == "keep" else "the challenger is promoted"
        reasons.append(f"The policy for inconclusive is {params.inconclusive}: {then}.")
    if frozen["due"] or frozen["stale"]:
        reasons = [reason for reason in reasons if reason != frozen["sentence"]]
        reasons.append(frozen["sentence"])
    return {
        "verdict": verdict,
        "promotes": verdict == "pass" or (verdict == "inconclusive" and params.inconclusive == "promote"),
        "reasons": reasons,
        "criteria": found,
        "frozen": frozen,
        "power": power(metrics, compared["confirm"]["rows"], params.change_threshold) if compared else None,
        "opponent": metrics["opponent"],
        "test_sha256": metrics["test"]["sha256"],
        "rows": metrics["rows"],
        "accuracy": metrics["accuracy"],
        "accuracy_low": metrics["accuracy_low"],
        "accuracy_high": metrics["accuracy_high"],
    }


def power(metrics: dict[str, Any], confirm: int, threshold: ChangeThreshold) -> dict[str, Any]:
    """What this gate can see with these rows, for two models that disagree as often as these two do."""
    test, paired = metrics["test"]["rows"], metrics["paired"]
    disagreement = max((paired["b"] + paired["c"]) / test, 0.01)

    def chance(gain: float, level: float = threshold.level) -> float:
        look = max(threshold.look_level, level)
        return round(pass_chance(gain, disagreement, test, confirm, look, level, threshold.bound), 4)

    def least(level: float = threshold.level) -> float:
        look = max(threshold.look_level, level)
        return round(least_gain(disagreement, test, confirm, look, level, threshold.bound), 4)

    return {
        "test": test,
        "confirm": confirm,
        "disagreement": round(disagreement, 4),
        "at_bound": chance(threshold.bound),
        "gains": [{"gain": gain, "passes": chance(gain)} for gain in GAINS],
        "least_gain": least(),
        "strictness": [
            {
                "level": level,
                "at_bound": chance(threshold.bound, level),
                "in_30_nights": round(1 - (1 - chance(threshold.bound, level)) ** 30, 4),
                "least_gain": least(level),
            }
            for level in sorted({*LEVELS, threshold.level}, reverse=True)
        ],
    }


def _frozen(frozen: dict[str, Any], params: Gate) -> dict[str, Any]:
    """How worn and how old the frozen rows are, and when fresh ones are due."""
    after, limit, moving = params.fresh_rows_after, params.stale_after_days, frozen["split"] == "time"
    newest, trained = frozen["newest"], frozen["trained_until"]
    age = max(0, (date.fromisoformat(trained) - date.fromisoformat(newest)).days)
    due, stale = frozen["looks"] >= after, limit is not None and age > limit
    cure = "`nightshift renew`" if not moving else "the days to come bring them"
    said = (
        f"Look {frozen['looks']} at "
        + (f"rows of {frozen['edition']} to {newest}" if moving else "these frozen rows")
        + f", {frozen['promotions']} promotions by them; fresh rows are "
        + (f"due since look {after}: {cure}" if due else f"due at look {after}")
        + (f"; {frozen['waiting']} fresh rows wait until there are {frozen['least']}" if frozen["waiting"] else "")
        + "."
    )
    if stale:
        said = (
            f"The newest frozen row is of {newest}, {age} days before the newest training day, {trained}; at most "
            f"{limit} are allowed: {cure}. {said}"
        )
    return {
        **frozen,
        "fresh_rows_after": after,
        "stale_after_days": limit,
        "age_days": age,
        "due": due,
        "stale": stale,
        "sentence": said,
    }


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ParamsError, OSError, ValueError) as error:
        sys.exit(f"gate {' '.join(sys.argv[1:])}: {error}")
