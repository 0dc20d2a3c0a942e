"""The optimizer step: the only place that knows how gradients and parameters are spread over ranks."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class NonFiniteGradient(RuntimeError):
    """Stops a run before a broken gradient reaches the weights."""


def clipped_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clips gradients to a global norm; returns the norm before clipping, the same on all ranks.

    NonFiniteGradient if it is inf or nan.
    """
    norm = nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if not torch.isfinite(norm):
        raise NonFiniteGradient(
            f"gradient norm is {norm.item()}: no step was taken and the last checkpoint is whole. "
            "Lower optimizer.lr or objective.beta, or look at the batch of this step; the same command resumes"
        )
    return norm
