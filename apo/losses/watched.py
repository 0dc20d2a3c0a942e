"""What a gradient comes from: whether it is finite, and what to do if it is not."""

import torch
from torch import Tensor

from apo.interfaces import Pair


def finite(*tensors: Tensor) -> Tensor:
    """Whether all values are, as a tensor: nothing waits for the device."""
    return torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all()


def of_pair(pair: Pair) -> dict[str, Tensor]:
    remedy = "delete that row's file in data.cache_dir, or look at what generated it"
    return {
        f"The pairs' latents are not: {remedy}": finite(pair.chosen, pair.rejected),
        f"The pairs' conditions are not: {remedy}": finite(pair.cond.text, pair.cond.image),
    }


def prediction(whose: str, change: str, *values: Tensor) -> dict[str, Tensor]:
    """Of predictions, or of errors of them. change: what helps if they are not finite."""
    return {f"{whose} prediction is not: give another run=NAME with {change}, or model.dtype=float32": finite(*values)}
