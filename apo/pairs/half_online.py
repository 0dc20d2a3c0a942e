"""Half-online pairs (Section 3.3.2): a labelled anchor against what the active policy makes of its condition."""

import torch
from torch import Tensor

from apo.data.anchors import Anchor
from apo.interfaces import Guidance, Pair
from apo.pairs.rollout import rollout, timed
from apo.policies.wan import WanPolicy
from apo.seeds import rank


class HalfOnlinePairs:
    """A positive anchor is chosen and the generation rejected; a negative anchor is rejected and the generation chosen.

    Seeds depend on (seed, step, place in the global batch) alone. guidance: of the generations.
    batch_size: videos generated at once; None for the whole batch.
    """

    def __init__(self, guidance: Guidance, batch_size: int | None, seed: int):
        self.guidance, self.batch_size, self.seed = guidance, batch_size, seed
        self.meters: dict[str, Tensor] = {}

    def __call__(self, batch: Anchor, policy: WanPolicy, step: int) -> Pair:
        """Exactly B pairs."""
        self.meters = {"rank/positive": batch.positive.float().mean()}
        first = rank() * len(batch.positive)
        keys = [(self.seed, step, first + i) for i in range(len(batch.positive))]
        with timed(self.meters, "time/generate"):
            generated = rollout(policy, self.guidance, batch.cond, keys, self.batch_size)
        anchor, positive = batch.video.to(generated), batch.positive[:, None, None, None, None]
        return Pair(torch.where(positive, anchor, generated), torch.where(positive, generated, anchor), batch.cond)
