"""This process's place among the ranks, and what ranks hand to each other.

A replica is the processes that hold the same pairs: one, or as many as share a sequence (`apo.policies.context`).
"""

import torch
import torch.distributed as dist

_of_replica = 1  # processes
_on_cpus: dist.ProcessGroup | None = None  # of all ranks, where the default group is on GPUs


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


def is_leader() -> bool:
    """Whether this process is the first of its replica."""
    return rank() % _of_replica == 0


def broadcast(value):
    """The value of the first process of this replica. Collective: every rank must call it."""
    return value if _of_replica == 1 else all_gather(value)[replica() * _of_replica]


def all_gather(value) -> list:
    """The value of each rank, in the order of ranks. Collective: every rank must call it."""
    values = [value] * world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def gather_to_rank_0(value) -> list | None:
    """The value of each rank, in the order of ranks, on rank 0; None on the others. Collective."""
    if world_size() == 1:
        return [value]
    global _on_cpus
    if _on_cpus is None and dist.get_backend() != "gloo":
        _on_cpus = dist.new_group(backend="gloo")  # NCCL would gather in rank 0's GPU memory
    values = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values, group=_on_cpus)
    return values


def all_reduce_max(value: int, device: torch.device) -> int:
    """The largest of all ranks' values. Collective: every rank must call it."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def device(accelerator: str, local: int) -> torch.device:
    """One GPU a process in turn, where there are any; accelerator=cpu: none."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local % torch.cuda.device_count())
