"""The data set as the source: what it holds is what is trained on (Section 4.2)."""

from torch import Tensor

from apo.interfaces import Pair, Policy, Source


class OfflinePairs(Source):
    def __init__(self):
        self.meters: dict[str, Tensor] = {}

    def __call__(self, batch: Pair, policy: Policy, step: int) -> Pair:
        """The batch itself: its latents were computed once, by the cache. A ranker's rankings are handed on as well."""
        return batch
