"""How many videos are distorted, and by what."""

import torch
from torch import Tensor

from apo.evaluators.base import Proportion
from apo.world.oracle import CAUSES


class DistortionRate(Proportion):
    """The share of distorted videos, in [0, 1]; `counts` says by what."""

    def __init__(self):
        super().__init__()
        self.add_state("causes", torch.zeros(len(CAUSES), dtype=torch.long), dist_reduce_fx="sum")

    def select(self, measurement) -> Tensor:
        return measurement.distorted

    def update(self, measurement) -> None:
        super().update(measurement)
        found = measurement.cause_code.to(self.causes.device)
        self.causes += torch.bincount(found, minlength=len(CAUSES) + 1)[1:]

    def counts(self) -> dict[str, int]:
        """Videos per cause, over all ranks; every rank must call it."""
        with self.sync_context():
            return dict(zip(CAUSES, self.causes.tolist()))
