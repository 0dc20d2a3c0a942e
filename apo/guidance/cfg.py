"""Classifier-free guidance in the paper's convention (Section 3.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from apo.config.numbers import Finite, Share
from apo.flow import to_sigma
from apo.interfaces import Condition, Policy
from apo.parts import Part


@dataclass
class CFG(Part):
    """(1+ω)·v_c − ω·v_∅ in one forward of twice the batch; ω = guidance scale − 1.

    Each expert has its own strength: omega_high at t >= boundary · T, else omega_low.
    """

    omega_high: Finite
    omega_low: Finite
    boundary: Share | None
    skips_blocks = False

    def omega(self, t: Tensor) -> float:
        """ω at timesteps t (B,), which lie on one side of the boundary."""
        return self.omega_high if self.boundary is None or to_sigma(t[0]) >= self.boundary else self.omega_low

    def __call__(self, policy: Policy, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        omega = self.omega(t)
        if omega == 0:
            return policy(x_t, t, cond)
        both = policy(torch.cat([x_t, x_t]), torch.cat([t, t]), Condition.cat(cond, policy.unconditional(cond)))
        v_c, v_null = both.chunk(2)
        return (1 + omega) * v_c - omega * v_null
