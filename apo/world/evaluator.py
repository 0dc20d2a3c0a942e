"""All metrics of the embedded world's videos, from one measurement."""

from collections.abc import Sequence
from functools import cached_property

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from apo.interfaces import Asked, Condition
from apo.intervals import Interval
from apo.world.conditions import require_sentences, require_world
from apo.world.oracle import measure

ROW = (
    "distorted",
    "cause",
    "followed",
    "direction_followed",
    "speed_followed",
    "speed",
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
)


class WorldEvaluator:
    """Measures the embedded world's videos once and hands the measurement to every metric.

    metrics: metric key of report.json -> the config of a Metric. `rows` has one entry per video of this rank, in order.
    """

    def __init__(self, metrics: DictConfig):
        self.config = metrics
        self.rows: list[dict] = []

    @cached_property
    def metrics(self) -> nn.ModuleDict:
        """Built with the first videos: torchmetrics takes seconds."""
        return nn.ModuleDict(instantiate(self.config))

    def check(self, spec, asked: Sequence[Asked] = ()) -> None:
        """UserError unless a model's videos have the world's size and the prompts are its sentences."""
        require_world(spec, "evaluator=world", "evaluator=none conditions=prompts conditions.path=MANIFEST")
        require_sentences(asked, "evaluator=world", "evaluator=none")

    def update(self, videos: Tensor, cond: Condition) -> None:
        """videos: (B, F, 3, 64, 64) uint8 generated from `cond`, whose first frames in pixels are needed."""
        if cond.frame is None:
            raise ValueError("the condition has no first frame in pixels: set Condition.frame to (B, 3, 64, 64) uint8")
        measurement = measure(videos, cond.prompt, cond.frame.to(videos.device))
        for metric in self.metrics.values():
            metric.update(measurement)
        columns = [getattr(measurement, name) for name in ROW]
        columns = [column.tolist() if isinstance(column, Tensor) else column for column in columns]
        self.rows += [{"prompt": prompt, **dict(zip(ROW, row))} for prompt, *row in zip(cond.prompt, *columns)]

    def compute(self) -> dict[str, Interval]:
        """The metrics over all ranks; every rank must call it."""
        return {key: metric.compute() for key, metric in self.metrics.items()}

    def reset(self) -> None:
        for metric in self.metrics.values():
            metric.reset()
        self.rows = []
