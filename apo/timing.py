"""Time as an accelerator's user sees it."""

import time

import torch


def clock() -> float:
    """Seconds, once everything that was queued on the accelerator is done: what was started before counts as before."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
