"""Runs that die, and what continues them."""

from collections.abc import Callable
from pathlib import Path

import pytest


def dies_and_resumes(module: type, run: Callable[[Path], None], folder: Path, step: int = 5) -> None:
    """`run(folder)` dies at an optimizer step of `module`, leaves no adapter, and is run again."""
    training_step = module.training_step

    def dies(self, batch, index):
        if self.global_step == step:
            raise RuntimeError("the machine is gone")
        training_step(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "training_step", dies)
        with pytest.raises(RuntimeError, match="the machine is gone"):
            run(folder)
    assert not (folder / "adapter").exists()
    run(folder)
