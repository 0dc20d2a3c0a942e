"""A training run from its config: check, build, fit (or resume), leave an adapter with its lineage."""

import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import torch
from hydra.utils import instantiate
from lightning import Callback
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Sampler

from apo import card, closing, quiet
from apo.adapter import lineage
from apo.checks import ConfigError
from apo.data.stream import Split, StepBatches
from apo.distributed import replica, replicas
from apo.io.files import replacing_folder
from apo.io.lock import is_first_process
from apo.modules.callbacks import SampleVideos, StepProgress, WholeCheckpoint
from apo.modules.cluster import Cluster
from apo.modules.loggers import MetricsCSV
from apo.modules.preemption import REQUEUE, STOPPED, StopWhenTold
from apo.modules.trackers import finished, labels, trackers
from apo.resume import clean, is_finished, pairs_per_step, remember, require_same_run
from apo.stages import Stage, windows_per_pair
from apo.terminal import say_where


def train(cfg: DictConfig, folder: Path) -> None:
    """Runs the stage that `cfg` describes in `folder`, once `apo.checks.check` let it pass; run again, it continues,
    and does nothing once finished.
    """
    began = time.monotonic()
    quiet.silence()
    begins = require_same_run(cfg, folder)
    if is_finished(folder):
        print(
            f"finished already: {folder / 'adapter'} (delete {folder} to train it again)\nnext:     "
            f"{closing.next_command(cfg, folder)}"
        )
        return
    if is_first_process():
        clean(folder)
        if begins is not None and begins.instead:
            print(begins.instead, file=sys.stderr)
    cluster, stage = instantiate(cfg.trainer), instantiate(cfg.stage)
    if cluster.threads:
        torch.set_num_threads(cluster.threads)
    say_where()
    written, before = remember(cfg, folder), lineage.preceding(cfg)
    module = instantiate(cfg.module)
    try:
        lineage.require_start(cfg, module.policy.base_hash)  # again: a model of the hub is on this disk only now
    except ValueError as error:
        raise ConfigError(str(error)) from error
    data = instantiate(cfg.data)
    if data.encodes:  # what is not in the cache yet is encoded where training will be
        module.policy.codec.to(cluster.device())
    split = data.prepare(module.policy)
    if (folder / "config.yaml").read_text(encoding="utf-8") != written:
        raise ConfigError(
            f"{folder}: while this run got ready, another began there with other settings; give another run=NAME"
        )
    settings = OmegaConf.to_container(cfg, resolve=True)
    checkpoint = WholeCheckpoint(folder, cfg.checkpoint_every_n_steps, settings, begins and begins.path)
    stop = StopWhenTold(checkpoint)
    callbacks = [*watching(cfg, folder, split, stage), checkpoint, stop]  # last: a step is whole once its samples are
    trainer = build_trainer(cfg, folder, cluster, callbacks)
    with finished():
        trainer.fit(module, StepData(split, cfg), ckpt_path=begins and begins.path, weights_only=True)
    if stop.stopped:
        if trainer.is_global_zero:
            print(closing.stopped(trainer.global_step, cfg.max_steps, folder), file=sys.stderr)
        if trainer.is_global_zero and STOPPED in os.environ and stop.status == REQUEUE:
            Path(os.environ[STOPPED]).touch()
        raise SystemExit(
            stop.status if trainer.is_global_zero else 0
        )  # Lightning kills rank 0 if another rank fails first
    if trainer.global_step < cfg.max_steps:
        raise SystemExit(f"stopped at step {trainer.global_step} of {cfg.max_steps}; the same command continues")
    with replacing_folder(folder / "adapter") if trainer.is_global_zero else nullcontext(folder / "adapter") as adapter:
        module.policy.save_adapter(adapter)  # by all ranks; the first writes
        if trainer.is_global_zero:
            made = lineage.of(cfg, adapter, module.policy.base_hash, split.train, before)
            lineage.write(adapter, made)
            draw_card(adapter, made)
    if trainer.is_global_zero:
        print(closing.block(cfg, folder, began))


def draw_card(adapter: Path, made: dict) -> None:
    """README.md beside an adapter. What keeps it from being drawn is said, and the adapter is as good without it."""
    try:
        card.write(adapter, made)
    except Exception as error:  # it reads other folders, which others may have changed
        print(
            f"warning: no model card in {adapter.parent / 'adapter'} ({type(error).__name__}: {error})", file=sys.stderr
        )


def watching(cfg: DictConfig, folder: Path, split: Split, stage: Stage) -> list[Callback]:
    """What happens beside the steps: progress, sample videos, data that is held out."""
    found = [StepProgress(pairs_per_step(OmegaConf.to_container(cfg, resolve=True)))]
    if cfg.sample_every_n_steps:
        guidance = stage.sample_guidance or instantiate(cfg.guidance)
        found.append(SampleVideos(folder, split.train, cfg.sample_every_n_steps, guidance, seed=cfg.seed))
    return found + stage.held_out(split, cfg.validate_every_n_steps, cfg.batch_size)


def build_trainer(cfg: DictConfig, folder: Path, cluster: Cluster, callbacks: list[Callback]) -> L.Trainer:
    """Lightning's trainer, without what it would do on its own."""
    return L.Trainer(
        **cluster.lightning(),
        max_steps=cfg.max_steps,
        max_epochs=-1,
        log_every_n_steps=1,
        default_root_dir=folder,
        callbacks=callbacks,
        logger=[MetricsCSV(folder), *trackers(cfg, folder, **labels(cfg))],
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
    )


class StepSampler(Sampler):
    """Steps from the trainer's current one on, every `stride`th: the data of a step depends on the step alone."""

    def __init__(self, trainer: L.Trainer, max_steps: int, stride: int):
        self.trainer, self.max_steps, self.stride = trainer, max_steps, stride

    def __iter__(self):
        return iter(range(self.trainer.global_step, self.max_steps, self.stride))

    def __len__(self) -> int:
        return self.max_steps


class StepData(L.LightningDataModule):
    """Serves the batch of each optimizer step, and rewinds metrics.csv to the step that training starts at."""

    def __init__(self, split: Split, cfg: DictConfig):
        super().__init__()
        self.split, self.cfg = split, cfg

    def train_dataloader(self) -> DataLoader:
        self.trainer.loggers[0].rewind(self.trainer.global_step)
        place = replica(), replicas()
        steps = StepBatches(
            self.split.train, self.cfg.batch_size, self.cfg.max_steps, self.cfg.seed, *place, self.split.order
        )
        sampler = StepSampler(self.trainer, self.cfg.max_steps, windows_per_pair(self.cfg))
        return DataLoader(steps, batch_size=None, sampler=sampler)
