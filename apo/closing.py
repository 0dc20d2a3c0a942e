"""What train.py says when it stops or has finished: where everything is, and the exact next command."""

import re
import shlex
import sys
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from apo.config.outputs import OUTPUTS
from apo.errors import this_command
from apo.modules.loggers import MetricsCSV
from apo.places import INSTALLED, ROOT

CARRIED = re.compile(r"\+*(model|trainer)([.=].*)")  # overrides of a training that its evaluation needs, too


def stopped(step: int, max_steps: int, folder: Path) -> str:
    return f"told to stop: step {step} of {max_steps} is saved in {shown(folder / 'checkpoints')}; to continue: {this_command()}"


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
    """What evaluates the run, or lets the trained ranker judge."""
    adapter = quoted(shown(folder / "adapter"))
    if "vlm" in cfg:
        given = (
            [f"ranker.path={adapter}"]
            if cfg.vlm.lora is None
            else [f"ranker.path={quoted(cfg.vlm.path)}", f"ranker.adapter={adapter}"]
        )
        return script("train", "stage=online", "ranker=qwen3_vl", *given)
    run = OUTPUTS / str(cfg.run)
    inside = folder.absolute().is_relative_to(run.absolute())
    name = folder.absolute().relative_to(run.absolute()) if inside else shown(folder)
    given = [f"run={quoted(cfg.run)}", f"stage={quoted(name)}"]
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    given += [override for override in overrides if CARRIED.fullmatch(override)]
    given += [f"{key}={quoted(value)}" for key, value in instantiate(cfg.data).evaluation().items()]
    return script("evaluate", *given)


def script(name: str, *given: str) -> str:
    """A command line, from where the user is."""
    words = [f"apo-{name}"] if INSTALLED else [sys.orig_argv[0], str(shown(ROOT / f"{name}.py"))]
    return shlex.join([*words, *given])


def shown(path: Path) -> Path:
    """From where the user is."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def quoted(value) -> str:
    """As a value of Hydra's override grammar."""
    text = str(value)
    return text if re.fullmatch(r"[\w./%@+-]+", text) else '"' + text.replace('"', '\\"') + '"'
