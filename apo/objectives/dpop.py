"""DPO-Positive (Pal et al., 2024): Diffusion-DPO that may not pay for its margin with the chosen sample."""

from dataclasses import dataclass

import torch.nn.functional as nnf
from torch import Tensor

from apo.config.numbers import NonNegative, Positive
from apo.objectives.diffusion_dpo import preference_margin
from apo.parts import Part


@dataclass
class DPOPositive(Part):
    """−log σ(β/2 · (margin − λ·max(0, e_w − e_w^ref))): a chosen sample that is denoised worse than the reference
    does it counts against the margin, λ times over. λ = 0 is Diffusion-DPO."""

    beta: Positive
    lambda_: NonNegative

    def __call__(self, chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
        margin = preference_margin(chosen, rejected, ref_chosen, ref_rejected)
        return -nnf.logsigmoid(self.beta / 2 * (margin - self.lambda_ * (chosen - ref_chosen).relu()))
