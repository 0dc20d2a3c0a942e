"""Context parallelism: processes that share the tokens of one forward, by Ulysses attention (Jacobs et al., 2023; arXiv
2309.14509).

diffusers does the work: it splits what enters the first block (and rotary embeddings, and TI2V's timestep per token),
exchanges tokens for attention heads around every self-attention, and gathers what leaves the last layer, on every
process.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


def require_divisible(degree: int, heads: int, tokens: int) -> None:
    """ValueError unless `degree` processes can share attention heads and the tokens of a video equally; names what they
    could.

    diffusers' `ulysses_anything` would divide unequally, but has no backward.
    """
    if heads % degree or tokens % degree:
        possible = [n for n in range(1, heads + 1) if heads % n == 0 and tokens % n == 0]
        raise ValueError(
            f"trainer.context_parallel={degree}: the model has {heads} attention heads and a video {tokens:,} tokens, "
            "and both are "
            f"divided equally; give one of {', '.join(map(str, possible))}, or another model.spec"
        )


def require_first_block(blocks: Sequence[int], degree: int) -> None:
    """ValueError if the first block is to be skipped, where the tokens are divided on entering it."""
    if degree > 1 and 0 in blocks:
        raise ValueError(
            f"guidance.blocks={list(blocks)}: trainer.context_parallel={degree} divides the tokens where they enter "
            "block 0, which "
            "can't be skipped then; name other blocks, or set trainer.context_parallel=1"
        )


def share_tokens(experts: Iterable["WanTransformer3DModel"], degree: int, device: str) -> None:
    """From now on `degree` processes of consecutive ranks make each forward together; all must call it with the same
    inputs.

    A process has then its own tokens' part of the gradient: diffusers' gather hands back the slice of the gradient that
    belongs to them (`AllGatherFunction.backward`), and only the sum over the processes is the whole. device: the type
    of the weights'.
    """
    from diffusers import ContextParallelConfig

    mesh = init_device_mesh(
        device, (dist.get_world_size() // degree, 1, degree), mesh_dim_names=("replica", "ring", "ulysses")
    )
    # without a GPU there are 0 devices, and diffusers 0.42 divides by their number to name one that it does not use
    with patch("torch.accelerator.device_count", return_value=max(1, torch.accelerator.device_count())):
        for expert in experts:
            expert.enable_parallelism(config=ContextParallelConfig(ulysses_degree=degree, mesh=mesh))
