"""How good probabilities are, in numbers that stay the same to the last byte."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.statistics.shares import wilson

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
DRAWS = 1000  # of the bootstrap


def score(
    probabilities: Floats, y: Ints, labels: list[str], bins: int, parts: Mapping[str, Mask] | None = None
) -> dict[str, Any]:
    """The figures of one model on one split, and its accuracy on each of the split's ``parts`` (which rows they have).

    ``probabilities`` is ``[n, classes]``, ``y`` int64 ``[n]``. Gives ``accuracy`` with its 95 % Wilson interval,
    ``macro_f1``, ``log_loss`` and ``ece`` (expected calibration error over equal bins of confidence) with its interval,
    and the tables
    ``per_class``, ``confusion`` (rows: actual, columns: predicted), ``calibration`` and ``parts``.
    """
    predicted = probabilities.argmax(1)
    correct, n = int((predicted == y).sum()), len(y)
    low, high = wilson(correct, n)
    confusion = np.bincount(y * len(labels) + predicted, minlength=len(labels) ** 2).reshape(len(labels), -1)
    per_class = [_of_class(confusion, i, label) for i, label in enumerate(labels)]
    calibration = _calibration(probabilities, predicted == y, bins)
    likelihood = np.clip(probabilities[np.arange(n), y].astype(np.float64), 1e-12, 1.0)
    return {
        "accuracy": rounded(correct / n),
        "accuracy_low": rounded(low),
        "accuracy_high": rounded(high),
        "macro_f1": rounded(sum(row["f1"] for row in per_class) / len(labels)),
        "log_loss": rounded(-float(np.log(likelihood).mean())),
        **_calibration_error(calibration, n),
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "calibration": calibration,
        "parts": [_of_part(predicted[mask] == y[mask], name) for name, mask in (parts or {}).items()],
    }


def rounded(value: float) -> float:
    """Six decimals: far below what any test set can tell, far above what summation leaves."""
    return round(float(value), 6)


def _of_class(confusion: Ints, i: int, label: str) -> dict[str, Any]:
    hit, actual, predicted = int(confusion[i, i]), int(confusion[i].sum()), int(confusion[:, i].sum())
    return {
        "label": label,
        "rows": actual,
        "precision": rounded(hit / predicted if predicted else 0.0),
        "recall": rounded(hit / actual if actual else 0.0),
        "f1": rounded(2 * hit / (actual + predicted) if actual + predicted else 0.0),
    }


def _of_part(right: Mask, name: str) -> dict[str, Any]:
    rows, hit = len(right), int(right.sum())
    low, high = wilson(hit, rows)
    return {
        "slice": name,
        "rows": rows,
        "accuracy": rounded(hit / rows if rows else 0.0),
        "low": rounded(low),
        "high": rounded(high),
    }


def _calibration(probabilities: Floats, right: Mask, bins: int) -> list[dict[str, Any]]:
    """Mean confidence and accuracy of each bin that has rows."""
    confidence = probabilities.max(1).astype(np.float64)
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return [
        {
            "bin": int(i),
            "confidence": rounded(confidence[which == i].mean()),
            "accuracy": rounded(right[which == i].mean()),
            "rows": int((which == i).sum()),
        }
        for i in np.unique(which)
    ]


def _calibration_error(calibration: list[dict[str, Any]], n: int) -> dict[str, float]:
    """The expected calibration error and the 95 % interval of a bootstrap of each bin's right answers.

    Chance alone makes bins look a little uncalibrated, and a bootstrap a little more: it leans upwards.
    """
    rows, right, sure = (np.array([row[name] for row in calibration]) for name in ("rows", "accuracy", "confidence"))
    error = float((rows * np.abs(right - sure)).sum() / n)
    drawn = np.random.default_rng(0).binomial(rows, right, (DRAWS, len(rows)))
    low, high = np.quantile(np.abs(drawn - rows * sure).sum(1) / n, (0.025, 0.975))
    return {"ece": rounded(error), "ece_low": rounded(min(low, error)), "ece_high": rounded(max(high, error))}
