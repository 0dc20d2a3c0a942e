"""What stands in for a transformer block's `forward` while blocks are counted or left out."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor


def counting(forward: Callable, blocks: Counter, kind: str, *args, **kwargs):
    """A transformer block's `forward`, counted."""
    blocks[kind] += 1
    return forward(*args, **kwargs)


def skipping(forward: Callable, start: int, hidden: Tensor, text: Tensor, time: Tensor, rotary: tuple) -> Tensor:
    """A transformer block's `forward` on the batch rows before `start`; the others pass as they are."""
    if start == 0:
        return hidden
    return torch.cat([forward(hidden[:start], text[:start], time[:start], rotary), hidden[start:]])
