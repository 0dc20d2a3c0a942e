"""Rankers whose answers a test can foretell, and one that dies. Real ones: they look at the videos they are given."""

from pathlib import Path

import torch
from torch import Tensor

from apo.interfaces import Condition, Verdict
from apo.world.ranker import OracleRanker


def brightness(videos: Tensor) -> Tensor:
    return videos.double().mean((-4, -3, -2, -1))


class BrighterWins:
    """Confidence is 1 for a difference of at least `sure` levels, and falls to 0.5. Remembers which
    conditions it saw.
    """

    def __init__(self, sure: float = 1e-9):
        self.sure, self.seen = sure, []

    def check(self) -> None: ...

    def __call__(self, first: Tensor, second: Tensor, cond: Condition) -> Verdict:
        self.seen.append(list(cond.prompt))
        difference = brightness(first) - brightness(second)
        return Verdict(torch.where(difference > 0, 3, 4), 0.5 + 0.5 * (difference.abs() / self.sure).clamp(max=1))


class MortalOracle(OracleRanker):
    """The oracle; it dies at its n-th call of the first process that gets there, and leaves a mark."""

    def __init__(self, mark: str, call: int, **settings):
        super().__init__(**settings)
        self.mark, self.left = Path(mark), call

    def __call__(self, first: Tensor, second: Tensor, cond: Condition) -> Verdict:
        self.left -= 1
        if self.left == 0 and not self.mark.exists():
            self.mark.touch()
            raise ConnectionError("the server is gone")
        return super().__call__(first, second, cond)
