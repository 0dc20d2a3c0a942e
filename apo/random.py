"""Randomness that depends on nothing but its key."""

import numpy as np
import torch


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by the integers of `key`: (seed, step, row, ...). Equal keys draw equal numbers."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
