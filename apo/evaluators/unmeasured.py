"""For videos that nothing here can measure: they are generated, kept and shown."""

from torch import Tensor

from apo.interfaces import Condition
from apo.intervals import Interval
from apo.parts import Part


class Unmeasured(Part):
    """`rows` has the prompt of each video, and nothing else."""

    criteria = ()

    def __init__(self):
        self.rows: list[dict] = []

    def update(self, videos: Tensor, cond: Condition) -> None:
        self.rows += [{"prompt": prompt} for prompt in cond.prompt]

    def compute(self) -> dict[str, Interval]:
        return {}
