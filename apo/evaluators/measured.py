"""An evaluator whose metrics share one measurement of each video."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from apo.errors import UserError
from apo.interfaces import Condition, Criterion
from apo.intervals import Interval
from apo.parts import Part


class MeasuringEvaluator(Part, ABC):
    """Measures a batch of videos once and hands the columns to every metric. A bench states its columns and criteria,
    and measures.

    metrics: metric key of report.json -> the config of a Metric. `rows` has one entry per video of this rank, in order.
    A YAML file that names such a class has `_recursive_: false`.
    """

    columns: Sequence[str]  # of `rows`, after the prompt
    criteria: Sequence[Criterion]

    def __init__(self, metrics: DictConfig):
        self.config = metrics
        self.rows: list[dict] = []
        for name, metric in metrics.items():
            if (of := metric.get("of")) is not None and of not in self.columns:
                raise UserError(f"evaluator.metrics.{name}.of={of}: give one of {', '.join(self.columns)}")

    @abstractmethod
    def measure(self, videos: Tensor, cond: Condition) -> Mapping[str, Tensor | list]:
        """A value of each column for each of B videos: (B,) tensors of numbers or booleans, or B texts."""

    @cached_property
    def metrics(self) -> nn.ModuleDict:
        """Built with the first videos: torchmetrics takes seconds to import."""
        return nn.ModuleDict(instantiate(self.config))

    def update(self, videos: Tensor, cond: Condition) -> None:
        """videos: (B, frames, 3, height, width) uint8 generated from `cond`."""
        found = self.measure(videos, cond)
        for metric in self.metrics.values():
            metric.update(found)
        values = [found[name].tolist() if isinstance(found[name], Tensor) else found[name] for name in self.columns]
        self.rows += [{"prompt": prompt, **dict(zip(self.columns, row))} for prompt, *row in zip(cond.prompt, *values)]

    def compute(self) -> dict[str, Interval]:
        """The metrics over all ranks; every rank must call it."""
        return {key: metric.compute() for key, metric in self.metrics.items()}

    def reset(self) -> None:
        for metric in self.metrics.values():
            metric.reset()
        self.rows = []
