"""95 % confidence intervals."""

from dataclasses import dataclass
from math import nan, sqrt

from scipy.stats import t as student

Z = 1.959964  # normal quantile of 95 %


@dataclass
class Interval:
    """An estimate and its 95 % confidence interval; all NaN without observations."""

    value: float
    low: float
    high: float


def wilson(k: int, n: int) -> Interval:
    """Wilson's score interval of a proportion k / n: inside [0, 1], and not empty at k = 0 or k = n."""
    if n == 0:
        return Interval(nan, nan, nan)
    p, scale = k / n, 1 + Z**2 / n
    centre = (p + Z**2 / (2 * n)) / scale
    half = Z * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / scale
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def mean_interval(n: int, total: float, squares: float) -> Interval:
    """Student's interval of a mean from n values, their sum and their sum of squares; unbounded for n = 1."""
    if n == 0:
        return Interval(nan, nan, nan)
    mean = total / n
    if n == 1:
        return Interval(mean, -float("inf"), float("inf"))
    variance = max(squares - n * mean**2, 0) / (n - 1)
    half = student.ppf(0.975, n - 1) * sqrt(variance / n)
    return Interval(mean, mean - half, mean + half)
