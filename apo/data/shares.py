"""Which of a manifest's rows this process encodes, before processes know of each other."""

from collections.abc import Mapping
from dataclasses import dataclass

RANKS = (  # names of rank, world and local rank, and what is set only where those count
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID"),  # sbatch's own shell has no step
)


@dataclass(frozen=True)
class Share:
    """rows[rank::world] of a manifest; `local` numbers the processes of one machine."""

    rank: int
    world: int
    local: int


ALL = Share(0, 1, 0)


def from_environment(environment: Mapping[str, str]) -> Share | None:
    """The share that torchrun's or srun's variables give this process."""
    for rank, world, local, sign in RANKS:
        if all(name in environment for name in (rank, world, sign)):
            return Share(int(environment[rank]), int(environment[world]), int(environment.get(local, 0)))
    return None
