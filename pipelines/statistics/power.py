"""What the gate's two looks can see: the chance that a challenger passes, given how much better it truly is.

The first look is at the test rows; only if it passes is the second taken, at test and confirm rows together. Both
statistics are normal to good approximation at the sizes in use (thousands of rows), and their correlation is known:
the second contains the rows of the first.
"""

from statistics import NormalDist

NORMAL = NormalDist()
_STEPS = 400


def pass_chance(
    gain: float, disagreement: float, test: int, confirm: int, look_level: float, level: float, bound: float = 0.0
) -> float:
    """The chance that both looks pass in one night.

    Args:
        gain: the true accuracy(challenger) − accuracy(champion).
        disagreement: the share of rows on which exactly one of the two is right.
        test, confirm: how many rows each share has; confirm may be 0, then the verdict is on the test rows.
        look_level, level: one-sided levels of the first and of the second look.
        bound: what the difference must be shown to exceed (0: better; −margin: no worse).
    """
    spread = max(disagreement - gain * gain, 1e-12) ** 0.5
    both = test + confirm
    first, second = (gain - bound) * test**0.5 / spread, (gain - bound) * both**0.5 / spread
    look, verdict = NORMAL.inv_cdf(1 - look_level), NORMAL.inv_cdf(1 - level)
    if confirm == 0:
        return 1 - NORMAL.cdf(max(look, verdict) - second)
    # Over what the first look may have shown, z: the second passes if confirm's own part makes up the rest.
    own = (gain - bound) * confirm**0.5 / spread
    width = (max(look, first) + 9 - look) / _STEPS
    total = 0.0
    for step in range(_STEPS):
        z = look + (step + 0.5) * width
        needed = (verdict * both**0.5 - z * test**0.5) / confirm**0.5
        total += NORMAL.pdf(z - first) * (1 - NORMAL.cdf(needed - own)) * width
    return min(total, 1.0)


def least_gain(
    disagreement: float,
    test: int,
    confirm: int,
    look_level: float,
    level: float,
    bound: float = 0.0,
    power: float = 0.8,
) -> float:
    """The smallest true gain that passes with this ``power``, to a hundredth of a point; 1.0 when none does."""
    low, high = bound, min(1.0, max(disagreement, 1e-4))
    if pass_chance(high, disagreement, test, confirm, look_level, level, bound) < power:
        return 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        enough = pass_chance(middle, disagreement, test, confirm, look_level, level, bound) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high
