"""95 % confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

Z = 1.959964  # normal quantile of 95 %
DRAWS = 4000  # of a bootstrap


@dataclass
class Interval:
    """An estimate and its 95 % confidence interval; all NaN without observations."""

    value: float
    low: float
    high: float


def shown(interval: Interval, digits: int = 3, scale: float = 1, unit: str = "") -> str:
    """'0.185 (0.164-0.208)', or with scale=100 and a unit '18.5 % (16.4-20.8)'."""
    value, low, high = (f"{scale * end:.{digits}f}" for end in (interval.value, interval.low, interval.high))
    return f"{value}{unit} ({low}-{high})"


def brackets(interval: Interval, digits: int = 1, scale: float = 100) -> str:
    """The ends alone: '[16.4, 20.8]'."""
    return f"[{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]"


def wilson(k: int, n: int) -> Interval:
    """Wilson's score interval of a proportion k / n: inside [0, 1], and not empty at k = 0 or k = n."""
    if n == 0:
        return Interval(nan, nan, nan)
    p, scale = k / n, 1 + Z**2 / n
    centre = (p + Z**2 / (2 * n)) / scale
    half = Z * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / scale
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def mean_interval(values: Sequence[float], least: float = -inf, most: float = inf) -> Interval:
    """Bootstrap interval of the mean of n values in [least, most]: inside it, like every mean of them, and of no width
    if all are equal.

    The percentiles are expanded for small n, so that it is no narrower than Student's (Hesterberg 2015, "What teachers
    should know about the bootstrap", Section 5.3). One value says nothing about the spread: the interval is the whole
    range then. The same for any order of the values.
    """
    values = np.sort(np.asarray(values, np.float64))
    n = len(values)
    if n == 0:
        return Interval(nan, nan, nan)
    mean = float(values.mean().clip(values[0], values[-1]))  # a sum is rounded
    if n == 1:
        return Interval(mean, least, most)
    tail = norm.cdf(-sqrt(n / (n - 1)) * student.ppf(0.975, n - 1))
    rng = np.random.default_rng(0)
    means = [values[rng.integers(n, size=n)].mean() for _ in range(DRAWS)]
    low, high = np.quantile(means, [tail, 1 - tail]).clip(values[0], values[-1])
    return Interval(mean, min(float(low), mean), max(float(high), mean))


def bootstrap_median(values: Sequence[float], draws: int = 2000) -> Interval:
    """The median with its 95 % bootstrap interval (Efron and Tibshirani 1993, Section 13.3)."""
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (draws, len(values))), axis=1)
    return Interval(float(np.median(values)), *(float(q) for q in np.quantile(medians, [0.025, 0.975])))
