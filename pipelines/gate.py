"""``python -m pipelines.gate MODEL``: pass, fail or inconclusive, with every number that led to it.

    evaluations/<m>/metrics.json --decide--> decisions/<m>/decision.json, report.html

Every criterion has a verdict of its own; one that fails decides, else one that is inconclusive does. The stage ends
well with any verdict: a verdict is an output.
"""

import json
import sys
from pathlib import Path
from statistics import NormalDist
from typing import Any

from jinja2 import Environment, StrictUndefined

from pipelines.params.gate import ChangeThreshold, Gate
from pipelines.params.section import ParamsError

TEMPLATE = Path(__file__).parent / "reports" / "gate.html"


def main(model: str) -> None:
    params = Gate.load("models", model, "gate")
    evaluation = Path("artifacts/evaluations", model)
    metrics = json.loads((evaluation / "metrics.json").read_text())
    scores = json.loads((evaluation / "details" / "scores.json").read_text())
    decision = decide(metrics, params)
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    report = page.from_string(TEMPLATE.read_text()).render(
        model=model, decision=decision, metrics=metrics, challenger=scores["challenger"], champion=scores["champion"]
    )
    folder = Path("artifacts/decisions", model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "decision.json").write_text(json.dumps(decision, indent=2, sort_keys=True) + "\n")
    (folder / "report.html").write_text(report)
    print(f"gate {model}: {decision['verdict']}", *decision["reasons"], sep="\n  ", flush=True)


def decide(metrics: dict[str, Any], params: Gate) -> dict[str, Any]:
    """The decision on an evaluation's metrics; a pure function.

    ``verdict`` is pass, fail or inconclusive; ``promotes`` is what the policy makes of it.
    """
    criteria = [_finite(metrics["program"]), _program(metrics["program"]), _value(metrics, params)]
    if metrics["champion"] is not None:
        criteria.append(_change(metrics, params.change_threshold))
    verdicts = [criterion["verdict"] for criterion in criteria]
    verdict = next((found for found in ("fail", "inconclusive") if found in verdicts), "pass")
    reasons = [criterion["reason"] for criterion in criteria if criterion["verdict"] == verdict]
    if metrics["champion"] is None:
        reasons.append("There is no champion: the absolute bounds decide alone.")
    if verdict == "inconclusive":
        then = "the champion is kept" if params.inconclusive == "keep" else "the challenger is promoted"
        reasons.append(f"The policy for inconclusive is {params.inconclusive}: {then}.")
    return {
        "verdict": verdict,
        "promotes": verdict == "pass" or (verdict == "inconclusive" and params.inconclusive == "promote"),
        "reasons": reasons,
        "criteria": criteria,
        "opponent": metrics["opponent"],
        "rows": metrics["rows"],
        "test_sha256": metrics["test_sha256"],
        "accuracy": metrics["accuracy"],
        "accuracy_low": metrics["accuracy_low"],
        "accuracy_high": metrics["accuracy_high"],
    }


def paired_interval(b: int, c: int, n: int, level: float) -> tuple[float, float]:
    """Bounds on accuracy(challenger) − accuracy(champion), each one-sided at ``level`` (Tango 1998, score interval).

    ``b`` rows only the champion has right, ``c`` only the challenger, of ``n``. Unlike the usual ± z·se it does not
    shrink to nothing when two models happen to agree on a few rows.
    """
    z = NormalDist().inv_cdf(1 - level)

    def statistic(delta: float) -> float:
        # The constrained estimate of the share of b, given that the difference is delta.
        p, q = -b - c + (2 * n - c + b) * delta, -b * delta * (1 - delta)
        share = (max(p * p - 8 * n * q, 0.0) ** 0.5 - p) / (4 * n)
        variance = n * (2 * share + delta * (1 - delta))
        distance = c - b - n * delta
        return distance / variance**0.5 if variance > 0 else float("inf") * distance if distance else 0.0

    def bound(inside: float, outside: float, sign: int) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if sign * statistic(middle) <= z else (inside, middle)
        return inside

    estimate = (c - b) / n
    return bound(estimate, -1.0, 1), bound(estimate, 1.0, -1)


def _finite(program: dict[str, Any]) -> dict[str, Any]:
    said = "All probabilities are finite." if program["finite"] else "Some probabilities are not finite numbers."
    return _criterion("finite_outputs", "pass" if program["finite"] else "fail", said)


def _program(program: dict[str, Any]) -> dict[str, Any]:
    difference, allowed, changes = (program[n] for n in ("max_difference", "max_difference_allowed", "argmax_changes"))
    agrees = difference is not None and difference <= allowed and changes == 0
    said = (
        f"The exported program differs from its weights by {'?' if difference is None else f'{difference:g}'} at most "
        f"(allowed: {allowed:g}) and gives another answer on {changes} rows (allowed: 0)."
    )
    verdict = "pass" if agrees else "fail"
    return _criterion("exported_program", verdict, said, value=difference, bound=allowed, argmax_changes=changes)


def _value(metrics: dict[str, Any], params: Gate) -> dict[str, Any]:
    value, bound = metrics["accuracy"], params.value_threshold.accuracy
    said = f"Accuracy {value:.2%} is {'at least' if value >= bound else 'below'} the bound of {bound:.2%}."
    return _criterion("value_threshold", "pass" if value >= bound else "fail", said, value=value, bound=bound)


def _change(metrics: dict[str, Any], threshold: ChangeThreshold) -> dict[str, Any]:
    b, c, n = metrics["paired"]["b"], metrics["paired"]["c"], metrics["rows"]
    margin, difference = threshold.margin, (c - b) / n
    if metrics["same_program"]:  # not two samples that agree: one model
        low = high = 0.0
        verdict, said = "pass", "The challenger is the same program as the champion: nothing would change."
    else:
        low, high = paired_interval(b, c, n, threshold.level)
        verdict = "pass" if low > -margin else "fail" if high < -margin else "inconclusive"
        claim = {
            "pass": "is better than" if low > 0 else f"is no worse than (within {_points(margin)} of)",
            "fail": f"is worse, by more than {_points(margin)}, than",
            "inconclusive": f"cannot be told from one that is {_points(margin)} worse than",
        }[verdict]
        said = (
            f"The challenger {claim} the champion: {_points(difference, '+')} on the same {n} rows "
            f"(from {_points(low, '+')} to {_points(high, '+')}, one-sided {1 - threshold.level:.1%}; "
            f"{c} rows won, {b} lost)."
        )
    numbers = {"value": round(difference, 6), "low": round(low, 6), "high": round(high, 6), "b": b, "c": c}
    return _criterion("change_threshold", verdict, said, bound=-margin, level=threshold.level, **numbers)


def _criterion(name: str, verdict: str, reason: str, **numbers: Any) -> dict[str, Any]:
    return {"name": name, "verdict": verdict, "reason": reason, **numbers}


def _points(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.2f} points"


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ParamsError, OSError, ValueError) as error:
        sys.exit(f"gate {' '.join(sys.argv[1:])}: {error}")
