"""A finished run, and evaluations of it that take no model."""

import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as nnf
from hydra.utils import instantiate

from apo import generation
from apo.adapter import lineage
from apo.config.compose import compose
from apo.interfaces import Condition
from apo.policies import sampling
from tests.adapters import of_some_effect

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder with a finished adapter."""
    train = compose("train", ["policy.lora.rank=2", f"model.path={ROOT / 'apo/world/checkpoints/wan22'}"])
    policy, folder = of_some_effect(instantiate(train.policy)), tmp_path_factory.mktemp("trained")
    policy.save_adapter(folder / "adapter")
    made = lineage.of(train, folder / "adapter", policy.base_hash, SimpleNamespace(identity="data"), None)
    lineage.write(folder / "adapter", made)
    return folder


@pytest.fixture
def composed(tmp_path, monkeypatch, trained):
    """Makes the config of overrides; outputs/r/offline is finished."""
    shutil.copytree(trained, tmp_path / "outputs/r/offline")
    monkeypatch.chdir(tmp_path)

    def compose_with(*overrides: str):
        return compose("evaluate", ["run=r", f"model.path={ROOT / 'apo/world/checkpoints/wan22'}", *overrides])

    return compose_with


@pytest.fixture
def cfg(composed):
    return composed("conditions.count=4", "batch_size=4", "videos=1", "model.num_inference_steps=2")


class QuickPolicy:
    """In the place of `sampling_policy`: its videos are its latents, brighter for an adapter than for the base."""

    codec, base_hash = SimpleNamespace(latent_shape=(3, 9, 8, 8)), None

    def __init__(self, model, *_):
        self.model, self.spec, self.offset = model, model.spec, 0.0

    def to(self, _):
        return self

    def load_adapter(self, _):
        self.offset = 20.0

    @contextmanager
    def using(self, _):
        kept, self.offset = self.offset, 0.0
        yield
        self.offset = kept

    def encode_condition(self, prompt, frame):
        return Condition(prompt, torch.zeros(len(prompt), 1, 1), frame, frame=frame)

    def decode(self, latents):
        return nnf.interpolate(latents.clamp(0, 255), (9, 64, 64)).transpose(1, 2).byte()


@pytest.fixture
def quick(monkeypatch):
    """Counts what is generated, without a model; monkeypatch undoes it."""
    calls = []

    def generate(policy, guidance, cond, noise):
        calls.append(len(noise))
        return 60 * noise + policy.offset + 100

    monkeypatch.setattr(sampling, "sampling_policy", QuickPolicy)
    monkeypatch.setattr(generation, "generate", generate)
    return calls
