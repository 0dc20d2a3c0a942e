"""Identity preference optimization (Azar et al., 2024): a target margin instead of an ever larger one."""

from dataclasses import dataclass

from torch import Tensor

from apo.config.numbers import Positive
from apo.objectives.diffusion_dpo import preference_margin
from apo.parts import Part


@dataclass
class IPO(Part):
    """(β/2 · margin − 1/2)². The margin saturates at 1/β, so a noisy pair cannot push without end."""

    beta: Positive

    def __call__(self, chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
        return (self.beta / 2 * preference_margin(chosen, rejected, ref_chosen, ref_rejected) - 0.5).square()
