"""Two kinds of metric over per-video measurements: a proportion and a mean. A metric says what it selects."""

from math import inf

import torch
from torch import Tensor
from torchmetrics import Metric

from apo.intervals import Interval, mean_interval, wilson


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
    """The mean over videos of what `select` gives, with a bootstrap interval inside [least, most]. Collects over ranks."""

    full_state_update = False
    least, most = -inf, inf  # of a value: what a metric knows of its own

    def __init__(self):
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")

    def select(self, measurement) -> Tensor:
        """(B,) float."""
        raise NotImplementedError

    def update(self, measurement) -> None:
        self.values.append(self.select(measurement).double())

    def compute(self) -> Interval:
        collected = (
            [self.values] if isinstance(self.values, Tensor) else self.values
        )  # a tensor once ranks have been put together
        return mean_interval(
            torch.cat([torch.empty(0), *(part.cpu() for part in collected)]).tolist(), self.least, self.most
        )
