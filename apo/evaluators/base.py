"""Two kinds of metric over a column of measurements, one value a video: a proportion and a mean. A config says of which
column.
"""

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor
from torchmetrics import Metric

from apo.config.numbers import Text
from apo.intervals import Interval, mean_interval, wilson


class Proportion(Metric):
    """The share of videos for which column `of` is true, in [0, 1], with Wilson's interval. Sums over ranks."""

    full_state_update = False

    def __init__(self, of: Text):
        super().__init__()
        self.of = of
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, columns: Mapping[str, Tensor]) -> None:
        """columns: (B,) each."""
        true = columns[self.of].bool()
        self.hits += true.sum().to(self.hits.device)
        self.count += len(true)

    def compute(self) -> Interval:
        return wilson(int(self.hits), int(self.count))


class Mean(Metric):
    """The mean of column `of` over videos, with a bootstrap interval. Collects over ranks.

    least, most: that a video's value can have, and so the interval's ends.
    """

    full_state_update = False

    def __init__(self, of: Text, least: float = -inf, most: float = inf):
        super().__init__()
        self.of, self.least, self.most = of, least, most
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, columns: Mapping[str, Tensor]) -> None:
        """columns: (B,) each."""
        self.values.append(columns[self.of].double())

    def compute(self) -> Interval:
        collected = (
            [self.values] if isinstance(self.values, Tensor) else self.values
        )  # torchmetrics concatenates over ranks
        values = torch.cat([torch.empty(0), *(part.cpu() for part in collected)])
        return mean_interval(values.tolist(), self.least, self.most)
