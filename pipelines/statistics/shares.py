"""The interval of one share: how often a model is right on some rows."""

from statistics import NormalDist


def wilson(right: int, rows: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's two-sided interval (Wilson 1927); 0 to 1 without rows."""
    if not rows:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, weight = right / rows, z * z / rows
    center = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * ((share * (1 - share) + weight / 4) / rows) ** 0.5
    return max(0.0, center - half), min(1.0, center + half)
