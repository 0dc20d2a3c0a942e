"""Time as an accelerator's user sees it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def clock() -> float:
    """Seconds, once everything that was queued on the accelerator is done: what was started before counts as before."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


@contextmanager
def timed(meters: dict[str, Tensor], key: str) -> Iterator[None]:
    """Adds the seconds spent inside to a meter."""
    began = clock()
    yield
    meters[key] = meters.get(key, torch.zeros(())) + (clock() - began)
