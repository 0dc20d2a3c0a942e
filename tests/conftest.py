"""Settings of the whole test run, and the random tiny pipelines, built once for all worker processes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests start: the cores are taken by workers
os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"  # read when diffusers and transformers are first imported, which is later
torch.set_num_threads(int(os.environ.get("APO_THREADS", "1")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole commands first, which stand at the top level and take longest: workers share what remains evenly."""
    items.sort(key=lambda item: len(item.path.parts))


def shared(tmp_path_factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """A folder that `build(folder)` filled once, whichever worker process came first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build(half := folder.with_suffix(".half"))
            half.rename(folder)
    return folder


def built(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    from apo.world.build import pipeline  # here, so that tests without a model do not import diffusers

    return shared(tmp_path_factory, name, getattr(pipeline, f"tiny_{name}"))


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
