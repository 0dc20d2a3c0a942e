"""How candidates are generated: solver steps, First Block Cache, what can't be set."""

import pytest
import torch
from hydra.utils import instantiate
from torch.testing import assert_close

from apo.data.stream import StepBatches
from apo.guidance.cfg_stg import CFGSTG
from apo.guidance.none import NoGuidance
from apo.random import generator
from apo.solvers.ode import generate
from apo.sources.rollout import NOISE, Rollout
from tests.sources.conftest import composed

KEYS = [(0, 1, i) for i in range(2)]


@pytest.fixture(scope="module")
def batch(policy):
    split = instantiate(composed("stage=online").data).prepare(policy)
    return StepBatches(split.train, 2, 10, 0, 0, 1, split.order)[0]


@pytest.fixture
def calls(policy):
    """How often the last block of each expert was computed."""
    seen = {name: 0 for name in policy.experts}
    hooks = []
    for name, expert in policy.experts.items():
        count = lambda *_, name=name: seen.update({name: seen[name] + 1})  # noqa: E731
        hooks.append(expert.blocks[-1].ffn.register_forward_pre_hook(count))
    yield seen
    for hook in hooks:
        hook.remove()


def test_the_solver_takes_as_many_steps_as_set(policy, batch, calls):
    made = Rollout(NoGuidance(), num_inference_steps=3)(policy, batch, KEYS)
    assert sum(calls.values()) == 3
    noise = torch.stack([torch.randn(policy.codec.latent_shape, generator=generator(NOISE, *key)) for key in KEYS])
    assert_close(made, generate(policy.eval(), NoGuidance(), batch, noise, num_inference_steps=3))
    before = sum(calls.values())
    Rollout(NoGuidance())(policy, batch, KEYS)
    assert sum(calls.values()) == before + policy.model.num_inference_steps


def test_a_cache_leaves_out_blocks_and_is_gone_afterwards(policy, batch, calls):
    whole = Rollout(NoGuidance(), num_inference_steps=8)(policy, batch, KEYS)
    every = sum(calls.values())
    barely = Rollout(NoGuidance(), num_inference_steps=8, cache_threshold=1e-9)(policy, batch, KEYS)
    assert torch.equal(barely, whole) and sum(calls.values()) == 2 * every  # every step changes more than that
    rollout = Rollout(NoGuidance(), num_inference_steps=8, cache_threshold=1e9)
    rough = rollout(policy, batch, KEYS)
    blocks = len(policy.experts["transformer"].blocks)
    assert_close(rollout.meters["generate/blocks"], torch.tensor((8 + 2 * (blocks - 1)) / (8 * blocks)))
    assert sum(calls.values()) == 2 * every + len(policy.experts)  # only each expert's first step is whole
    assert (rough - whole).abs().max() > 0.01
    assert torch.equal(rollout(policy, batch, KEYS), rough)  # nothing of the last trajectory is left in the cache
    assert torch.equal(Rollout(NoGuidance(), num_inference_steps=8)(policy, batch, KEYS), whole)
    assert not any(expert.is_cache_enabled for expert in policy.experts.values())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_inference_steps": 0}, "rollout.num_inference_steps=0: give at least 1"),
        ({"cache_threshold": 0.0}, "rollout.cache_threshold=0.0: give a positive share"),
        ({"cache_threshold": 0.1, "guidance": CFGSTG(0.5, 0.5, 0.9, 0.5, [1], True)}, "STG skips blocks"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Rollout(**{"guidance": NoGuidance()} | settings)
