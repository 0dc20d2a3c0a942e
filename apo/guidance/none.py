"""No guidance: one forward."""

from torch import Tensor

from apo.interfaces import Condition, Policy
from apo.parts import Part


class NoGuidance(Part):
    skips_blocks = False

    def __call__(self, policy: Policy, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return policy(x_t, t, cond)
