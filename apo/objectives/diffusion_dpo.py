"""The Diffusion-DPO objective (Eqs. 1-2; Wallace et al., 2024) in velocity form."""

from dataclasses import dataclass

import torch.nn.functional as nnf
from torch import Tensor

from apo.config.numbers import Positive
from apo.parts import Part


def preference_margin(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    """(B,) how much more the policy improves on the reference for the chosen than for the rejected sample.

    Arguments are denoising errors (B,): log π_θ/π_ref of Eq. 1 is ref − policy, by Eq. 2.
    """
    return (ref_chosen - chosen) - (ref_rejected - rejected)


@dataclass
class DiffusionDPO(Part):
    """−log σ(β/2 · margin). β multiplies a mean over C·F·H·W = D values: β_sum = β / D."""

    beta: Positive

    def __call__(self, chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
        return -nnf.logsigmoid(self.beta / 2 * preference_margin(chosen, rejected, ref_chosen, ref_rejected))
