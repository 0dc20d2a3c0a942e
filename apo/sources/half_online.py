"""Half-online pairs (Section 3.3.2): a labelled anchor against what the active policy makes of its condition."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from apo.config.numbers import Seed
from apo.data.anchors import Anchor
from apo.distributed import replica
from apo.interfaces import Pair, Source
from apo.parts import Setting
from apo.sources.rollout import Rollout
from apo.timing import timed

if TYPE_CHECKING:
    from apo.policies.wan import WanPolicy


class HalfOnlinePairs(Source):
    """A positive anchor is chosen and the generation rejected; a negative anchor is rejected and the generation chosen.

    Seeds depend on (seed, step, place in the global batch) alone. rollout: how they are generated.
    """

    generated = 1

    def __init__(self, rollout: Rollout, seed: Seed):
        self.rollout, self.seed = rollout, seed
        self.meters: dict[str, Tensor] = {}

    def check(self, setting: Setting) -> None:
        self.rollout.check(setting)

    def __call__(self, batch: Anchor, policy: "WanPolicy", step: int) -> Pair:
        """Exactly B pairs."""
        self.meters = {"rank/positive": batch.positive.float().mean()}
        first = replica() * len(batch.positive)
        keys = [(self.seed, step, first + i) for i in range(len(batch.positive))]
        with timed(self.meters, "time/generate"):
            generated = self.rollout(policy, batch.cond, keys)
        self.meters |= self.rollout.meters
        anchor, positive = batch.video.to(generated), batch.positive[:, None, None, None, None]
        return Pair(torch.where(positive, anchor, generated), torch.where(positive, generated, anchor), batch.cond)
