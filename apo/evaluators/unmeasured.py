"""For videos that nothing here can measure: they are generated, kept and shown."""

from collections.abc import Sequence

from torch import Tensor

from apo.interfaces import Condition, DataRow
from apo.intervals import Interval


class Unmeasured:
    """`rows` has the prompt of each video, and nothing else."""

    criteria = ()

    def __init__(self):
        self.rows: list[dict] = []

    def check(self, spec, rows: Sequence[DataRow] = ()) -> None:
        """Any videos will do."""

    def update(self, videos: Tensor, cond: Condition) -> None:
        self.rows += [{"prompt": prompt} for prompt in cond.prompt]

    def compute(self) -> dict[str, Interval]:
        return {}
