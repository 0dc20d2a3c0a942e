"""W&B and TensorBoard beside metrics.csv: one run of theirs per run folder, also across resumes and its evaluations."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from apo.adapter import lineage

RECIPES = (
    "ablation",
    "curriculum",
    "cheaper",
    "paper",
    "method",
    "recipe",
    "study",
)  # groups whose choices tell runs apart
INTERVAL = {"value": "", "low": "_low", "high": "_high"}  # of a metric: key in a report -> end of its name here


class StepRun(WandbLogger):
    """A W&B run with one history row per optimizer step, whoever logs to it and in how many calls."""

    def __init__(self, **settings):
        super().__init__(**settings)
        del self._wandb_init["anonymous"]  # deprecated: W&B warns of it, and Lightning always gives it

    @rank_zero_only
    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        self.experiment.log(metrics | {"trainer/global_step": step}, step=step)


class StepCurves(TensorBoardLogger):
    """TensorBoard shows the curves alone."""

    def log_video(self, *args, **kwargs) -> None: ...


def trackers(cfg: DictConfig, folder: Path, **labels) -> list[Logger]:
    """What `logger=` names, for the run in `folder`. W&B is offline unless WANDB_MODE says otherwise.

    labels: of the W&B run, as `wandb.init` takes them.
    """
    found = []
    if cfg.logger.get("wandb") is not None and os.environ.get("WANDB_MODE") != "disabled":
        os.environ.setdefault("WANDB_MODE", "offline")
        name, identity = "-".join(folder.parts[-2:]), hashlib.sha1(str(folder.resolve()).encode()).hexdigest()[:12]
        found.append(
            instantiate(cfg.logger.wandb)(save_dir=folder, name=name, id=identity, group=str(cfg.run), **labels)
        )
    if cfg.logger.get("tensorboard") is not None:
        found.append(instantiate(cfg.logger.tensorboard)(save_dir=folder))
    return found


def labels(cfg: DictConfig) -> dict:
    """Of a training's W&B run: its stage, and as tags the seed and what was chosen of the groups that make studies."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    tags = [f"{group}={choices[group]}" for group in RECIPES if choices.get(group)]
    return {
        "job_type": cfg.stage.name,
        "tags": [*tags, f"seed={cfg.seed}"],
        "config": OmegaConf.to_container(cfg, resolve=True),
    }


@contextmanager
def finished() -> Iterator[None]:
    """Inside, a W&B run may begin; it ends here, so that the next job of this process has one of its own."""
    code = 1
    try:
        yield
        code = 0
    finally:
        if "wandb" in sys.modules and (run := sys.modules["wandb"].run) is not None:
            run.finish(exit_code=code)


def log_report(cfg: DictConfig, folder: Path, report: dict, name: str) -> None:
    """Adds an evaluation's metrics, as `<name>/<metric>`, to the run in `folder`, after its last optimizer step."""
    made = (
        lineage.read(folder / "adapter")
        if (folder / "adapter").exists()
        else {"stage": "baseline", "config": {"max_steps": 0}}
    )
    metrics = {
        f"{name}/{metric}{end}": interval[key]
        for metric, interval in report["metrics"].items()
        for key, end in INTERVAL.items()
    }
    metrics |= {
        f"{name}/{key}": value for key, value in report.get("against", {}).items() if key in ("win", "tie", "loss")
    }
    if not metrics:
        return
    with finished():
        for tracker in trackers(cfg, folder, job_type=made["stage"]):
            tracker.log_metrics(metrics, step=made["config"]["max_steps"])
            tracker.finalize("success")
