"""How far two sets of rows lie apart, given how many of each fall into the same bins.

Sizes, not p-values: they do not grow with the rows. From few rows they are noise: two samples of ``n`` and ``m`` rows
that come from the same place have an index of about (bins − 1)(1/n + 1/m).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

Counts = np.ndarray[Any, Any] | list[int]


def stability_index(one: Counts, other: Counts) -> float:
    """The population stability index (PSI): by custom 0.1 is a small shift and 0.25 a large one.

    Half a row is added to each bin, so that an empty one is a large shift and not an infinite one.
    """
    p, q = ((side + 0.5) / (side + 0.5).sum() for side in (np.asarray(one), np.asarray(other)))
    return round(float(((p - q) * np.log(p / q)).sum()), 4)


def divergence(one: Counts, other: Counts) -> float:
    """The Jensen-Shannon divergence in bits: 0 for the same shares, 1 for sets with no bin in common."""
    p, q = (np.asarray(side) / max(np.sum(side), 1) for side in (one, other))
    middle = (p + q) / 2
    found = 0.0
    for side in (p, q):
        there = side > 0
        found += float((side[there] * np.log2(side[there] / middle[there])).sum()) / 2
    return round(found, 4)


def by_day(counts: np.ndarray[Any, Any], least: int) -> np.ndarray[Any, Any]:
    """The stability index of each day (a row of ``counts``) against all days before it together.

    NaN where either side has fewer than ``least`` rows.
    """
    found = np.full(len(counts), np.nan)
    before = np.zeros(counts.shape[1])
    for i, day in enumerate(counts):
        if day.sum() >= least and before.sum() >= least:
            found[i] = stability_index(day, before)
        before = before + day
    return found


def total(profile: dict[str, Any], days: Iterable[str]) -> dict[str, Any]:
    """The distributions of validation's ``profile.json``, summed over ``days``: of each its ``bins`` and ``counts``."""
    wanted = list(days)
    return {
        name: {
            "bins": found["bins"],
            "counts": np.sum([found["days"].get(day, [0] * len(found["bins"])) for day in wanted], axis=0).tolist(),
        }
        for name, found in profile["distributions"].items()
    }


def compared(one: dict[str, Any], other: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``psi`` and ``js`` of two totals by name, with the rows of each side; only of what has the same bins in both."""
    return {
        name: {
            "rows": sum(here["counts"]),
            "others": sum(there["counts"]),
            "psi": stability_index(here["counts"], there["counts"]),
            "js": divergence(here["counts"], there["counts"]),
        }
        for name, here in one.items()
        if (there := other.get(name)) and there["bins"] == here["bins"]
    }
