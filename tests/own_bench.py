"""A bench that somebody else might write: grey squares, of which the brighter ones are better. docs/add_a_part.md
points here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from apo.config.numbers import Count, Seed, Size
from apo.data.pairs import PairDataset
from apo.data.stream import Data, Split
from apo.evaluators.measured import MeasuringEvaluator
from apo.interfaces import Condition, Conditions, Criterion, Policy, Ranker, Verdict
from apo.parts import Setting
from apo.random import generator

PROMPT = "a square becomes brighter"


@dataclass
class SquareConditions(Conditions):
    """`conditions=squares`: held-out prompts and first frames."""

    count: Count
    size: Size
    seed: Seed

    def check(self, setting: Setting) -> None:
        spec = setting.spec
        if (spec.height, spec.width) != (self.size, self.size):
            raise ValueError(
                f"conditions.size={self.size}: model.spec has {spec.height} x {spec.width}; give equal ones"
            )

    def __len__(self) -> int:
        return self.count

    def batch(self, start: int, stop: int) -> tuple[list[str], Tensor]:
        levels = [torch.randint(256, (3, 1, 1), generator=generator(self.seed, i)) for i in range(start, stop)]
        frames = torch.stack(levels).byte().expand(-1, -1, self.size, self.size)
        return [PROMPT] * len(levels), frames


class SquarePrompts(Data):
    """`data=squares`, for stage=online: the same kind of conditions, of another seed."""

    gives = "prompts"

    def __init__(self, count: Count, size: Size, seed: Seed):
        self.conditions = SquareConditions(count, size, seed)

    def check(self, setting: Setting) -> None:
        self.conditions.check(setting)

    def evaluation(self) -> dict[str, object]:
        return {"conditions": "squares", "evaluator": "squares"}

    def prepare(self, policy: Policy) -> Split:
        return Split(Encoded(self.conditions, policy), PairDataset([], policy.max_sequence_length))


class Encoded(Dataset):
    """Batches of conditions, encoded by the policy's frozen parts."""

    def __init__(self, conditions: SquareConditions, policy: Policy):
        self.conditions, self.policy = conditions, policy
        self.identity = (
            f"squares {conditions.count} {conditions.size} {conditions.seed}"  # stands in the adapter's lineage
        )

    def __len__(self) -> int:
        return len(self.conditions)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, items: list[int]) -> Condition:
        parts = [self.conditions.batch(i, i + 1) for i in items]
        return self.policy.encode_condition([PROMPT] * len(items), torch.cat([frames for _, frames in parts]))


class BrighterWins(Ranker):
    """`ranker=squares`. Any video has a brightness, so there is nothing to check."""

    is_model = False

    def __call__(self, first: Tensor, second: Tensor, cond: Condition) -> Verdict:
        return Verdict(torch.where(level(first) > level(second), 1, 2), torch.ones(len(first)))


class SquareEvaluator(MeasuringEvaluator):
    """`evaluator=squares`, of any videos."""

    columns = ("level", "brighter")
    criteria = (Criterion("brighter_share", "brighter", better=True, good="brighter", bad="darker"),)

    def measure(self, videos: Tensor, cond: Condition) -> dict[str, Tensor]:
        return {"level": level(videos), "brighter": level(videos[:, -1:]) > level(videos[:, :1])}


def level(videos: Tensor) -> Tensor:
    """(B,) mean of (B, frames, 3, height, width) uint8."""
    return videos.float().mean((1, 2, 3, 4))
