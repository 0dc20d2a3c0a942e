"""Settings of the whole test run, and the random tiny pipelines, built once per session."""

import os

import pytest
import torch

os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"  # read when diffusers and transformers are first imported, which is later
torch.set_num_threads(int(os.environ.get("APO_THREADS", "1")))


def built(tmp_path_factory, name: str):
    from apo.world.build import pipeline  # here, so that tests without a model do not import diffusers

    folder = tmp_path_factory.mktemp("pipelines") / name
    getattr(pipeline, f"tiny_{name}")(folder)
    return folder


@pytest.fixture(scope="session")
def wan21_folder(tmp_path_factory):
    """One transformer, CLIP image encoder."""
    return built(tmp_path_factory, "wan21")


@pytest.fixture(scope="session")
def wan22_folder(tmp_path_factory):
    """Two experts, boundary 0.9."""
    return built(tmp_path_factory, "wan22")


@pytest.fixture(scope="session")
def ti2v_folder(tmp_path_factory):
    """One transformer, per-token timesteps, 24 latent channels, a 16x VAE."""
    return built(tmp_path_factory, "ti2v")
