"""What comes between a run and its end: a full disk, a model card that can't be drawn, a predecessor that is gone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clips import write_manifest
from tests.commands import ROOT, adapter, execute, metrics, short, train

START = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path('train.py', run_name='__main__')"
FULL_DISK = """
import errno, os
import apo.modules.checkpoints as checkpoints
write, written = checkpoints.write, []
def refusing(checkpoint, path):
    written.append(path)
    if len(written) == 2:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    write(checkpoint, path)
checkpoints.write = refusing
"""
LOST = """
import shutil
import apo.run
from apo import card
build_trainer = apo.run.build_trainer
def without_predecessor(cfg, *rest):
    shutil.rmtree(cfg.adapter)
    return build_trainer(cfg, *rest)
def undrawable(*_):
    raise KeyError("no such table")
apo.run.build_trainer, card.write = without_predecessor, undrawable
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory, wan22_folder):
    """run, *overrides -> train.py's overrides for 6 steps on a manifest, with a checkpoint at every second one."""
    home = tmp_path_factory.mktemp("endings")
    manifest = write_manifest(home / "data", 4)

    def build(run: str, *overrides: str) -> list[str]:
        return [
            *short(home, wan22_folder, manifest, run),
            "max_steps=6",
            "checkpoint_every_n_steps=2",
            "logger=csv",
            *overrides,
        ]

    build.home = home
    return build


@pytest.fixture(scope="module")
def whole(command) -> Path:
    execute(train(*command("whole")))
    return command.home / "whole"


def changed(code: str, overrides: list[str]) -> subprocess.CompletedProcess:
    """train.py in a process that runs `code` before it."""
    return subprocess.run(
        [sys.executable, "-c", code + START, "train.py", *overrides], cwd=ROOT, capture_output=True, text=True
    )


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_bit_for_bit(command, whole):
    folder = command.home / "full"
    done = changed(FULL_DISK, command("full"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith(f"config: {folder}/checkpoints/last.ckpt: No space left on device; make room")
    )
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["last.ckpt"] and not (
        folder / "adapter"
    ).exists()
    assert "continuing at step 2 of 6" in execute(train(*command("full"))).stdout
    assert metrics(folder) == metrics(whole) and adapter(folder) == adapter(whole)


def test_a_training_closes_without_its_predecessor_and_without_a_card(command, whole):
    before = command.home / "before" / "adapter"
    before.parent.mkdir()
    (whole / "adapter").rename(before)
    done = changed(LOST, command("closed", f"adapter={before}", "max_steps=1"))
    assert done.returncode == 0 and "warning: no model card in " in done.stderr, done.stderr
    found = json.loads((command.home / "closed" / "adapter" / "lineage.json").read_text())
    assert found["stages"] == ["offline", "offline"] and set(found["preceding"]) == {
        "high_noise.safetensors",
        "low_noise.safetensors",
    }
