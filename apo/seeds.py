"""Randomness that depends on nothing but its key, and this process's place among the ranks.

A replica is the processes that hold the same pairs: one, or as many as share a sequence (`apo.policies.context`).
"""

import numpy as np
import torch
import torch.distributed as dist

_of_replica = 1  # processes
_on_cpus: dist.ProcessGroup | None = None  # of all ranks, where the default group is on GPUs


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by the integers of `key`: (seed, step, row, ...). Equal keys draw equal numbers."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share_pairs(processes: int) -> None:
    """From now on so many processes of consecutive ranks are a replica."""
    global _of_replica
    _of_replica = processes


def replica() -> int:
    """The place of this process's replica among `replicas()`: what pairs, timesteps and noise are drawn for."""
    return rank() // _of_replica


def replicas() -> int:
    return world_size() // _of_replica


def leads() -> bool:
    """Whether this process is the first of its replica."""
    return rank() % _of_replica == 0


def told(value):
    """What the first process of this one's replica gives; every rank must ask."""
    return value if _of_replica == 1 else gathered(value)[replica() * _of_replica]


def gathered(value) -> list:
    """What each rank gives, on all of them, in the order of ranks."""
    values = [value] * world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def collected(value) -> list | None:
    """What each rank gives, in the order of ranks, on rank 0 alone: the others get None."""
    if world_size() == 1:
        return [value]
    global _on_cpus
    if _on_cpus is None and dist.get_backend() != "gloo":
        _on_cpus = dist.new_group(backend="gloo")  # NCCL would gather in rank 0's GPU memory
    values = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values, group=_on_cpus)
    return values
