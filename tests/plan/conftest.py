"""Tiny random pipelines with their counted passes."""

import pytest
import torch

from apo.plan.counting import passes
from apo.policies.architecture import read
from tests.policies.test_wan import LORA, make


@pytest.fixture
def tiny(request):
    """style -> (policy, architecture, passes) of a random pipeline."""

    def build(style: str, checkpointing: bool = False, **changes):
        policy = make(request, style, checkpointing=checkpointing, **changes)
        assert len(policy.null_text) == 1  # is encoded here, once: no part of a step
        architecture = read(policy.model.folder())
        dtype = getattr(torch, policy.model.dtype)
        return (
            policy,
            architecture,
            passes(architecture, policy.codec.latent_shape, policy.max_sequence_length, LORA, dtype),
        )

    return build
