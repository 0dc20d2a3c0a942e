"""The shipped baseline with few solver steps, and an adapter that does something."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from apo.config.compose import compose

ROOT = Path(__file__).parents[2]
FEW = ["model.num_inference_steps=4", "policy.lora.rank=2"]


def composed(*overrides: str):
    return compose("train", [*FEW, *overrides])


def adapted(policy, seed: int = 0):
    """The policy, its adapter no longer zero."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=rng))
    return policy


@pytest.fixture(scope="module")
def policy():
    return adapted(instantiate(composed("stage=online").policy))
