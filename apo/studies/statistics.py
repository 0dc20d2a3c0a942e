"""What a study says of numbers: means over seeds, intervals, paired differences and tests.

Rates are in [0, 1]. The intervals of one proportion and of one mean stand lower down, in `apo.intervals`: metrics need
them, too.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from apo.intervals import DRAWS, Interval


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over seeds; no standard deviation of a single one."""

    mean: float
    sd: float | None


def spread(values: Sequence[float]) -> Spread:
    """ValueError for no values."""
    if len(values) == 0:
        raise ValueError("the mean of no seeds is not defined")
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


def paired_bootstrap(differences: np.ndarray, draws: int = DRAWS) -> Interval:
    """The mean of paired differences (seeds, conditions) with the 95 % percentile interval of resampling both.

    Seeds and conditions are drawn independently, with replacement: two crossed random effects (Owen 2007, "The
    pigeonhole bootstrap", Annals of Applied Statistics 1(2)). With few seeds it is still somewhat narrow. The same for
    every call.
    """
    rng, (seeds, places) = np.random.default_rng(0), differences.shape
    means = [
        differences[rng.integers(seeds, size=seeds)][:, rng.integers(places, size=places)].mean() for _ in range(draws)
    ]
    return Interval(float(differences.mean()), *(float(q) for q in np.quantile(means, [0.025, 0.975])))


@dataclass(frozen=True)
class Outcomes:
    """How often one arm beats another on the same conditions; equal verdicts tie."""

    win: int
    tie: int
    loss: int

    def __str__(self) -> str:
        return f"{self.win}/{self.tie}/{self.loss}"


def outcomes(ours: np.ndarray, theirs: np.ndarray) -> Outcomes:
    """Of scores of equal shape, of which the higher one is better."""
    return Outcomes(int((ours > theirs).sum()), int((ours == theirs).sum()), int((ours < theirs).sum()))


def mcnemar(found: Outcomes) -> float:
    """Two-sided p of winning and losing equally often (McNemar 1947), exact: wins are binomial(win + loss, 1/2); 1 if
    all tie."""
    n = found.win + found.loss
    return float(binomtest(found.win, n).pvalue) if n else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """p-values that hold for the whole family, in the order given (Holm 1979): (m - i) times the ith smallest, never
    falling."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = float(largest)
    return corrected
