"""The rows of an optimizer step's window: timesteps, noise, and which row is the last of its expert."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from apo.distributed import replica
from apo.interfaces import Pair, Row, TimestepSampler
from apo.modules.optim import require_same_experts
from apo.policies.wan import WanPolicy
from apo.random import generator


@dataclass
class Window:
    """Everything random is drawn from (seed, step, row, pair), so a resumed run repeats itself.

    sampler: None for a loss without noise levels, whose window is one row.
    """

    sampler: TimestepSampler | None
    batch_size: int
    seed: int

    def rows(self, policy: WanPolicy, sample: Pair, step: int) -> Iterator[Row]:
        """The rows of optimizer step `step`. MismatchedExperts as of `require_same_experts`."""
        if self.sampler is None:
            yield Row(step)
            return
        window = self.sampler.sample(step, self.batch_size)
        experts = [policy.expert(t) for t in window]
        require_same_experts(experts, list(policy.experts.values()), window)
        for index, t in enumerate(window):
            last = experts[index] not in experts[index + 1 :]
            yield Row(step, index, last, t, self.noise(sample.chosen, step, index))

    def noise(self, like: Tensor, step: int, index: int) -> Tensor:
        """ε (B, C, F, H, W) of a row, one generator per pair of the global batch: any number of ranks
        draws the same.
        """
        first = replica() * len(like)
        draws = [
            torch.randn(like.shape[1:], generator=generator(self.seed, step, index, first + i))
            for i in range(len(like))
        ]
        return torch.stack(draws).to(like)
