"""Randomness that depends on nothing but its key, and this process's place among the ranks."""

import numpy as np
import torch
import torch.distributed as dist


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by the integers of `key`: (seed, step, row, ...). Equal keys draw equal numbers."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gathered(value) -> list:
    """What each rank gives, on all of them, in the order of ranks."""
    values = [value] * world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values
