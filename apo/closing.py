"""What train.py says when it stops or has finished: where everything is, and the exact next command."""

import shlex
import sys
import time
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from apo.errors import this_command
from apo.modules.loggers import MetricsCSV
from apo.places import INSTALLED, ROOT
from apo.terminal import shown


def stopped(step: int, max_steps: int, folder: Path) -> str:
    place = shown(folder / "checkpoints")
    return f"told to stop: step {step} of {max_steps} is saved in {place}; to continue: {this_command()}"


def block(cfg: DictConfig, folder: Path, began: float) -> str:
    """Of a finished run. began: `time.monotonic()` of this start."""
    took, curve = tqdm.format_interval(time.monotonic() - began), MetricsCSV(folder).read()
    lines = {"finished": f"{cfg.max_steps} steps; this start took {took}"}
    if curve:  # the user may have deleted it
        lines["loss"] = f"{float(curve[-1]['train/loss']):.4f} at the last step"
    lines["adapter"] = shown(folder / "adapter")
    if samples := sorted(folder.glob("samples/*/contact_sheet.png")):
        lines["samples"] = shown(samples[-1])
    lines["next"] = next_command(cfg, folder)
    return "\n".join(f"{name + ':':10}{text}" for name, text in lines.items())


def next_command(cfg: DictConfig, folder: Path) -> str:
    """What makes use of the run."""
    return script(*instantiate(cfg.stage).next_command(cfg, folder))


def script(name: str, *given: str) -> str:
    """A command line, from where the user is."""
    words = [f"apo-{name}"] if INSTALLED else [sys.orig_argv[0], str(shown(ROOT / f"{name}.py"))]
    return shlex.join([*words, *given])
