"""Two models on the same rows. Only the rows on which exactly one of them is right tell them apart.

``b`` rows only the champion has right, ``c`` only the challenger, of ``n``; the difference is (c − b)/n. Intervals and
p-values come from one statistic, Tango's score (Tango, Equivalence test and confidence interval for the difference in
proportions for the paired-sample design, 1998): unlike the usual ± z·se it does not shrink to nothing when two models
happen to agree on a few rows.
"""

from collections.abc import Sequence
from math import exp, fsum, lgamma, log
from statistics import NormalDist

NORMAL = NormalDist()


def score(b: int, c: int, n: int, delta: float) -> float:
    """How many standard errors the observed difference lies above ``delta``; standard normal if ``delta`` is true."""
    # The constrained estimate of the share of b, given that the difference is delta.
    p, q = -b - c + (2 * n - c + b) * delta, -b * delta * (1 - delta)
    share = (max(p * p - 8 * n * q, 0.0) ** 0.5 - p) / (4 * n)
    variance = n * (2 * share + delta * (1 - delta))
    distance = c - b - n * delta
    return distance / variance**0.5 if variance > 0 else float("inf") * distance if distance else 0.0


def interval(b: int, c: int, n: int, level: float) -> tuple[float, float]:
    """Bounds on accuracy(challenger) − accuracy(champion), each one-sided at ``level``."""
    z = NORMAL.inv_cdf(1 - level)

    def bound(inside: float, outside: float, sign: int) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if sign * score(b, c, n, middle) <= z else (inside, middle)
        return inside

    estimate = (c - b) / n
    return bound(estimate, -1.0, 1), bound(estimate, 1.0, -1)


def mcnemar(b: int, c: int) -> float:
    """The exact two-sided p-value of "both are right equally often" (McNemar's test with the mid-p correction).

    It says the same as the interval in another way, for whoever knows the test; no verdict rests on it.
    """
    n, few = b + c, min(b, c)
    if b == c:
        return 1.0
    # P(X ≤ few) for X binomial with n and 1/2, of which the last term counts half, on both sides.
    terms = [exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - n * log(2)) for k in range(few + 1)]
    return min(1.0, 2 * (fsum(terms) - terms[-1] / 2))


def worse_by(b: int, c: int, n: int, margin: float) -> float:
    """The one-sided p-value of "the challenger is worse by more than ``margin``", against "by that at most"."""
    return NORMAL.cdf(score(b, c, n, -margin))


def lower_by(right: int, rows: int, accuracy: float, others: int, margin: float) -> float:
    """The one-sided p-value of "accuracy here is lower than there by more than ``margin``", on different rows.

    ``right`` of ``rows`` here, ``accuracy`` on ``others`` rows there; the variance is that of Agresti and Caffo (2000),
    two rows added to each side, which holds for a few dozen rows too.
    """
    here, there = (right + 1) / (rows + 2), (accuracy * others + 1) / (others + 2)
    spread = (here * (1 - here) / (rows + 2) + there * (1 - there) / (others + 2)) ** 0.5
    return NORMAL.cdf((here - there + margin) / spread)


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Which hypotheses are rejected when the chance of any false rejection may be ``level`` at most (Holm 1979)."""
    rejected = [False] * len(p_values)
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] > level / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected
