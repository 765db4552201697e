"""What a challenger must show, one function a criterion: its verdict, a sentence, and the numbers that led to it.

A criterion is ``{"name", "verdict": pass | fail | inconclusive, "reason", …}``; shares are from 0 to 1, rounded to six
decimals.
"""

from typing import Any

from pipelines.params.drift import Drift
from pipelines.params.gate import ChangeThreshold, Cost, Groups, NewDays, ValueThreshold
from pipelines.statistics.paired import holm, interval, lower_by, mcnemar, worse_by
from pipelines.statistics.shares import wilson


def finite(program: dict[str, Any]) -> dict[str, Any]:
    verdict = "pass" if program["finite"] else "fail"
    said = "All probabilities are finite." if program["finite"] else "Some probabilities are not finite numbers."
    return _criterion("finite_outputs", verdict, said)


def exported(program: dict[str, Any], rows: int) -> dict[str, Any]:
    difference, allowed, changes = (program[n] for n in ("max_difference", "max_difference_allowed", "argmax_changes"))
    agrees = difference is not None and difference <= allowed and changes == 0
    said = (
        f"The exported program differs from its weights by {'?' if difference is None else f'{difference:g}'} at most "
        f"(allowed: {allowed:g}) and gives another answer on {changes} of {rows} rows (allowed: 0)."
    )
    verdict = "pass" if agrees else "fail"
    return _criterion(
        "exported_program", verdict, said, value=difference, bound=allowed, argmax_changes=changes, rows=rows
    )


def value(test: dict[str, Any], params: ValueThreshold) -> list[dict[str, Any]]:
    value, bound, rows = test["accuracy"], params.accuracy, test["rows"]
    numbers = {"value": value, **_interval(round(value * rows), rows), "bound": bound, "rows": rows}
    said = (
        f"Accuracy {value:.2%} is {'at least' if value >= bound else 'below'} the bound of {bound:.2%} (95 % interval "
        f"{numbers['low']:.2%} to {numbers['high']:.2%}, {rows} rows)."
    )
    criteria = [_criterion("value_threshold", "pass" if value >= bound else "fail", said, **numbers)]
    if (most := params.ece) is not None:
        error, low, high = (test[name] for name in ("ece", "ece_low", "ece_high"))
        said = (
            f"Calibration error {error:.4f} is {'at most' if error <= most else 'above'} the bound of {most:g} (95 % "
            f"interval {low:.4f} to {high:.4f}, {rows} rows)."
        )
        numbers = {"value": error, "low": low, "high": high, "bound": most, "rows": rows}
        criteria.append(_criterion("calibration", "pass" if error <= most else "fail", said, **numbers))
    return criteria


def met(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Asked only when some frozen rows are left out of the comparison, because the champion was trained on them."""
    if not found["left_out"]:
        return []
    verdict = "pass" if found["enough"] else "inconclusive"
    said = (
        f"The champion may have been trained on {found['left_out']} of the frozen test and confirm rows, by its "
        f"lineage: {found['rows']} are left"
        + (" and judge." if found["enough"] else f", fewer than frozen.least ({found['least']}): nothing is compared.")
    )
    return [_criterion("unseen_rows", verdict, said, value=found["rows"], bound=found["least"])]


def frozen(rows: dict[str, Any], then: str) -> dict[str, Any]:
    """Whether the frozen rows may still judge; ``rows`` is what the decision says of them, ``then`` is warn or stop."""
    verdict = "fail" if then == "stop" and (rows["due"] or rows["stale"]) else "pass"
    numbers = {"value": rows["age_days"], "bound": rows["stale_after_days"], "looks": rows["looks"]}
    return _criterion("frozen_rows", verdict, rows["sentence"], **numbers)


def change(metrics: dict[str, Any], confirm: dict[str, Any], threshold: ChangeThreshold) -> dict[str, Any]:
    """Two looks: at the test rows, and only if that passes at test and confirm rows together."""
    test = metrics["paired"]
    looks = [_look("test", test["b"], test["c"], metrics["test"]["rows"], threshold.look_level)]
    if metrics["same_program"]:  # not two samples that agree: one model
        said = "The challenger is the same program as the champion: nothing would change."
        looks[0] |= {"low": 0.0, "high": 0.0}
        return _criterion("change_threshold", "pass", said, bound=threshold.bound, looks=looks)
    if looks[0]["low"] > threshold.bound:
        both = confirm["paired"]
        rows = metrics["test"]["rows"] + confirm["rows"]
        looks.append(_look("test and confirm", test["b"] + both["b"], test["c"] + both["c"], rows, threshold.level))
    last, bound = looks[-1], threshold.bound
    if last["low"] > bound:  # at the last look only if there were two: a first that passes leads to a second
        verdict = "pass"
    else:
        _, high = interval(last["b"], last["c"], last["rows"], threshold.level)
        verdict = "fail" if high < bound else "inconclusive"
    worse = f"{_points(-bound)} worse" if bound else "no better"
    claim = {
        "pass": "is better than" if last["low"] > 0 else f"is no worse than (within {_points(-bound)} of)",
        "fail": f"is worse, by more than {_points(-bound)}, than" if bound else "is worse than",
        "inconclusive": f"cannot be told from one that is {worse} than",
    }[verdict]
    said = (
        f"The challenger {claim} the champion: {_points(last['value'], '+')} on the same {last['rows']} rows of "
        f"{last['split']} (from {_points(last['low'], '+')} to {_points(last['high'], '+')}, one-sided "
        f"{1 - last['level']:.1%}; {last['c']} rows won, {last['b']} lost)."
    )
    return _criterion("change_threshold", verdict, said, bound=bound, looks=looks)


def _look(split: str, b: int, c: int, rows: int, level: float) -> dict[str, Any]:
    numbers = {"mcnemar_p": float(f"{mcnemar(b, c):.3g}"), **_difference(b, c, rows, level)}
    return {"split": split, "rows": rows, "b": b, "c": c, "level": level, **numbers}


def _interval(right: int, rows: int) -> dict[str, float]:
    low, high = wilson(right, rows)
    return {"low": round(low, 6), "high": round(high, 6)}


def _difference(b: int, c: int, rows: int, level: float) -> dict[str, float]:
    low, high = interval(b, c, rows, level)
    return {"value": round((c - b) / rows, 6), "low": round(low, 6), "high": round(high, 6)}


def groups(name: str, parts: list[dict[str, Any]], params: Groups) -> dict[str, Any]:
    """Fails when the challenger is shown to be worse by more than the margin on some part, with Holm's correction.

    To be shown, not merely suspected: a part of two hundred rows cannot prove that nothing was lost there.
    """
    counts = [sum(part[count] for count in ("both_right", "b", "c", "both_wrong")) for part in parts]
    judged = [(part, n) for part, n in zip(parts, counts, strict=True) if n >= params.min_rows]
    p_values = [worse_by(part["b"], part["c"], n, params.margin) for part, n in judged]
    table = [
        {"slice": part["slice"], "rows": n, **_difference(part["b"], part["c"], n, params.level),
         "p": float(f"{p:.3g}"), "worse": worse}
        for (part, n), p, worse in zip(judged, p_values, holm(p_values, params.level), strict=True)
    ]  # fmt: skip
    small = [part["slice"] for part, n in zip(parts, counts, strict=True) if n < params.min_rows]
    lost = [row for row in table if row["worse"]]
    if lost:
        said = "; ".join(f"{row['slice']}: {_points(row['value'], '+')} on {row['rows']} rows" for row in lost)
        said = f"The challenger is worse, by more than {_points(params.margin)}, on {name}: {said}."
    else:
        said = (
            f"On none of {len(table)} {name} is the challenger shown to be worse by more than {_points(params.margin)}."
        )
    if small:
        said += f" Not judged, with fewer than {params.min_rows} rows: {', '.join(small)}."
    verdict = "fail" if lost else "pass"
    return _criterion(name, verdict, said, margin=params.margin, level=params.level, parts=table, too_small=small)


def new_days(days: list[dict[str, Any]], test: dict[str, Any], params: NewDays) -> dict[str, Any]:
    """Fails when the champion, which has learnt nothing of a new day, is shown to know its labels much worse.

    That is what shuffled labels, damaged images and another data set's day look like, whatever the challenger made of
    them. ``test`` holds the champion's accuracy and the number of rows.
    """
    judged = [day for day in days if day["rows"] >= params.min_rows]
    small = [day["day"] for day in days if day["rows"] < params.min_rows]
    p_values = [lower_by(day["right"], day["rows"], test["accuracy"], test["rows"], params.margin) for day in judged]
    table = [
        {"day": day["day"], "rows": day["rows"], "value": round(day["right"] / day["rows"], 6),
         **_interval(day["right"], day["rows"]), "p": float(f"{p:.3g}"), "worse": worse}
        for day, p, worse in zip(judged, p_values, holm(p_values, params.level), strict=True)
    ]  # fmt: skip
    strange = [row for row in table if row["worse"]]
    if strange:
        said = "; ".join(f"{row['value']:.1%} of {row['rows']} rows of {row['day']}" for row in strange)
        said = (
            f"The champion has {test['accuracy']:.1%} of the test rows right and only {said}: labels or images there "
            "are not like those before. Look at that day; `nightshift drop` takes it out."
        )
    else:
        said = (
            f"The champion knows the {len(table)} new days as well as the test rows, within {_points(params.margin)}."
        )
    if small:
        said += f" Not judged, with fewer than {params.min_rows} rows: {', '.join(small)}."
    verdict = "fail" if strange else "pass"
    return _criterion("new_days", verdict, said, margin=params.margin, level=params.level, days=table, too_small=small)


def drift(found: dict[str, Any] | None, params: Drift) -> dict[str, Any]:
    """Fails when the challenger's training rows, or those of a new day, are not like those of the champion.

    Validation asks the same of each day against the days before it; here a slow drift adds up, because the champion
    stays the same until another one is promoted. A day that a person let in only warns.
    """
    name = "drift"
    if found is None:
        said = "The champion's release does not say how its training rows were distributed: drift is not judged."
        return _criterion(name, "pass", said, parts=[], warns=False)
    table = []
    for part in [{"part": "all its training rows", "accepted": None, "shifts": found["all"]}, *found["days"]]:
        for what, shift in part["shifts"].items():
            judged = min(shift["rows"], shift["others"]) >= params.min_rows
            level = "stop" if shift["psi"] > params.stop else "warn" if shift["psi"] > params.warn else ""
            if level == "stop" and part["accepted"]:
                level = "warn"
            row = {"part": part["part"], "what": what, **shift, "level": level if judged else "", "judged": judged}
            table.append(row)
    stopped, warned = ([row for row in table if row["level"] == level] for level in ("stop", "warn"))
    small = sorted({row["part"] for row in table if not row["judged"]})
    most = max((row["psi"] for row in table if row["judged"]), default=0)

    def listed(rows: list[dict[str, Any]]) -> str:
        return "; ".join(f"{row['what']} of {row['part']}: {row['psi']:.2f}" for row in rows)

    if stopped:
        said = (
            f"The training rows are not like those of the champion (PSI above {params.stop:g}): {listed(stopped)}. "
            "`nightshift drop` takes a day out; where the world itself has changed, `nightshift promote` serves the "
            "challenger all the same."
        )
    elif warned:
        said = f"The training rows drift from those of the champion (PSI above {params.warn:g}): {listed(warned)}."
    else:
        said = (
            f"All training rows, and those of {len(found['days'])} new days each, are like those of the champion "
            f"(PSI {most:.2f} at most)."
        )
    if small:
        said += f" Not judged, with fewer than {params.min_rows} rows: {', '.join(small)}."
    if others := found["other_bins"]:
        said += f" Not compared, because the first days are others now and cut it otherwise: {', '.join(others)}."
    levels = {"warn": params.warn, "stop": params.stop}
    return _criterion(name, "fail" if stopped else "pass", said, **levels, parts=table, warns=bool(warned))


def cost(program: dict[str, Any], champion: dict[str, Any], params: Cost) -> list[dict[str, Any]]:
    criteria = []
    for what, most in (("operations", params.operations), ("bytes", params.bytes)):
        if most is None:
            continue
        ratio = program[what] / max(champion[what], 1)
        said = (
            f"{program[what]:,} {what}, {ratio:.2f} times the champion's {champion[what]:,} (allowed: {most:g} times)."
        )
        verdict = "pass" if ratio <= most else "fail"
        criteria.append(_criterion(f"cost_{what}", verdict, said, value=round(ratio, 4), bound=most))
    return criteria


def _criterion(name: str, verdict: str, reason: str, **numbers: Any) -> dict[str, Any]:
    return {"name": name, "verdict": verdict, "reason": reason, **numbers}


def _points(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.2f} points"
