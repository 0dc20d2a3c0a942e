"""`trainer=fsdp` through the real command: two processes against one, a rank that dies, other numbers of processes."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from tests import ranks
from tests.clips import write_manifest
from tests.commands import adapter, execute, metrics, short, wait_for_steps

# a large eps keeps Adam from blowing up the rounding of gradients near zero
SAME = (
    "max_steps=10",
    "checkpoint_every_n_steps=2",
    "optimizer.lr=1",
    "+optimizer.eps=1.0",
    "max_grad_norm=0.6",
    "ema_decay=0.5",
    "sample_every_n_steps=10",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("fsdp")


@pytest.fixture(scope="module")
def overrides(home, wan22_folder):
    """run, processes, *more -> overrides of an offline run of four pairs a step."""
    manifest = write_manifest(home / "data", 6)

    def build(run: str, processes: int, *more: str) -> list[str]:
        spread = [f"batch_size={4 // processes}", f"trainer.devices={processes}"]
        return [*short(home, wan22_folder, manifest, run), *SAME, "trainer=fsdp", *spread, *more]

    return build


@pytest.fixture(scope="module")
def one(home, overrides) -> Path:
    ranks.together(1, home / "one.log", ranks.train, *overrides("one", 1, "trainer=cpu", "trainer.threads=1"))
    return home / "one"


@pytest.fixture(scope="module")
def two(home, overrides) -> Path:
    """Started by the command alone, which starts the second process."""
    execute([sys.executable, "train.py", *overrides("two", 2)])
    return home / "two"


def assert_same_run(ours: Path, theirs: Path) -> None:
    for a, b in zip(metrics(ours), metrics(theirs), strict=True):
        for key in ("train/loss", "train/grad_norm", "train/t_mean"):
            assert_close(float(a[key]), float(b[key]), rtol=3e-4, atol=1e-6)
    for name in ("high_noise.safetensors", "low_noise.safetensors"):
        a, b = (load_file(folder / "adapter" / name) for folder in (ours, theirs))
        assert a.keys() == b.keys() and max(value.abs().max() for key, value in b.items() if "lora_B" in key) > 0.02
        for key in b:
            assert_close(a[key], b[key], rtol=1e-3, atol=3e-5)


def test_two_processes_equal_one(one, two):
    assert_same_run(two, one)
    assert len(metrics(one)) == 10 and {row["train/loss_high"] != "" for row in metrics(one)} == {True}
    assert len(list((two / "checkpoints").glob("step_*"))) <= 2
    sheets = [
        np.asarray(Image.open(run / "samples" / "step_000010" / "contact_sheet.png")).astype(int) for run in (one, two)
    ]
    assert abs(sheets[0] - sheets[1]).mean() < 0.5


def test_a_killed_rank_ends_the_run_and_others_continue_it_in_any_number(home, overrides, one, two):
    folder, log = home / "killed", home / "killed.log"
    started = ranks.start(2, log, ranks.train, *overrides("killed", 2))
    wait_for_steps(started[0], folder, 4)
    started[1].kill()
    for process in started:
        process.join(120)
    assert started[0].exitcode not in (0, None) and not (folder / "adapter").exists()
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 2 <= step < 10
    for processes in (1, 4):
        shutil.copytree(folder, home / f"on_{processes}")
        ranks.together(
            processes, home / f"on_{processes}.log", ranks.train, *overrides(f"on_{processes}", processes, "run=killed")
        )
        assert_same_run(home / f"on_{processes}", one)
    ranks.together(2, log, ranks.train, *overrides("killed", 2))
    assert metrics(folder) == metrics(two) and adapter(folder) == adapter(two)


def test_candidates_that_wait_for_the_ranker_survive_a_killed_rank(home):
    def overrides(run: str, processes: int) -> list[str]:
        return [
            "run=ahead",
            f"hydra.run.dir={home}/{run}",
            "stage=online_ahead",
            "model.num_inference_steps=3",
            "max_steps=6",
            "checkpoint_every_n_steps=2",
            "sample_every_n_steps=0",
            "policy.lora.rank=2",
            "trainer=fsdp",
            "optimizer.lr=1",
            "+optimizer.eps=1.0",
            f"batch_size={4 // processes}",
            f"trainer.devices={processes}",
        ]

    ranks.together(2, home / "ahead.log", ranks.train, *overrides("ahead", 2))
    folder, log = home / "ahead_killed", home / "ahead_killed.log"
    started = ranks.start(2, log, ranks.train, *overrides("ahead_killed", 2))
    wait_for_steps(started[0], folder, 3)
    started[1].kill()
    for process in started:
        process.join(120)
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)
    assert saved["global_step"] < 6 and saved["pairs"][0].shape[1] == 4 and not (folder / "adapter").exists()
    shutil.copytree(folder, home / "ahead_on_1")
    ranks.together(2, log, ranks.train, *overrides("ahead_killed", 2))
    assert metrics(folder) == metrics(home / "ahead") and adapter(folder) == adapter(home / "ahead")
    ranks.together(1, log, ranks.train, *overrides("ahead_on_1", 1))
    assert_same_run(home / "ahead_on_1", home / "ahead")
