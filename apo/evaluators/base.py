"""Two kinds of metric over per-video measurements: a proportion and a mean. A metric says what it selects."""

import torch
from torch import Tensor
from torchmetrics import Metric

from apo.evaluators.intervals import Interval, mean_interval, wilson


class Proportion(Metric):
    """The share of videos for which `select` is true, with Wilson's interval. Sums over ranks."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def select(self, measurement) -> Tensor:
        """(B,) bool."""
        raise NotImplementedError

    def update(self, measurement) -> None:
        selected = self.select(measurement)
        self.hits += selected.sum().to(self.hits.device)
        self.count += len(selected)

    def compute(self) -> Interval:
        return wilson(int(self.hits), int(self.count))


class Mean(Metric):
    """The mean over videos of what `select` gives, with Student's interval. Sums over ranks."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        for name in ("total", "squares"):  # double: the variance is a difference of two large sums
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def select(self, measurement) -> Tensor:
        """(B,) float."""
        raise NotImplementedError

    def update(self, measurement) -> None:
        values = self.select(measurement).to(self.total)
        self.total += values.sum()
        self.squares += values.square().sum()
        self.count += len(values)

    def compute(self) -> Interval:
        return mean_interval(int(self.count), float(self.total), float(self.squares))
