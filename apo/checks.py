"""What can be known to be wrong with a run before anything is loaded, part by part. Imports nothing that takes seconds but torch."""

from functools import partial
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from apo.adapter import lineage
from apo.config.validation import check_values
from apo.data.pairs import UserRows
from apo.errors import UserError, refused
from apo.guidance.cfg_stg import CFGSTG
from apo.modules.cluster import group_size, require_accelerator
from apo.policies.architecture import check_targets, fitting
from apo.policies.context import require_divisible, require_first_block
from apo.policies.model import WanModel, check_blocks
from apo.rankers.folders import check_paths
from apo.resume import require_same_run


class ConfigError(UserError):
    """A mistake in the config, found before anything is loaded."""


def check(cfg: DictConfig, folder: Path) -> None:
    """ConfigError for what can be known to be wrong before any model is loaded; the whole takes seconds."""
    part = partial(refused, kind=ConfigError)
    with part("the config"):
        check_values(cfg, "Training")
    with part("trainer"):
        check_trainer(cfg)
    with part("model"):
        model = instantiate(cfg.model)
        model.check()
        if "vlm" not in cfg:
            model.check_weights()
        check_architecture(cfg, model)
    with part("adapter"):
        lineage.require_start(cfg, None if "vlm" in cfg or model.local() is None else model.base_hash(model.local()))
    with part("sampler"):
        instantiate(cfg.sampler).sample(0, 1)
    with part("guidance"):
        if isinstance(guidance := instantiate(cfg.guidance), CFGSTG):
            guidance.check(model)
            require_first_block(guidance.blocks, cfg.trainer.context_parallel)
    if OmegaConf.select(cfg, "module.loss.distill") is not None:
        with part("distill"):
            instantiate(cfg.distill)
    with part("data"):
        data = instantiate(cfg.data)
        require_kind(cfg, data.gives)
        data.check(model.spec)
    if OmegaConf.select(cfg, "module.pairs") is not None:
        with part("module.pairs"):
            pairs = instantiate(cfg.module.pairs)
            if hasattr(pairs, "ranker"):
                pairs.ranker.check(model.spec, data.manifest().rows if isinstance(data, UserRows) else ())
    if cfg.get("vlm") is not None:
        with part("vlm"):
            check_vlm(cfg)
    with part("the config"):
        check_windows(cfg)
        require_same_run(cfg, folder)
    if cfg.policy.lora is None and cfg.stage.needs_reference:
        raise ConfigError(
            "policy.lora=null trains all weights and leaves no frozen reference: preference stages need LoRA"
        )
    if cfg.ema_decay is not None and (not 0 < cfg.ema_decay < 1 or cfg.policy.lora is None or "vlm" in cfg):
        raise ConfigError(
            f"ema_decay={cfg.ema_decay}: give a number in (0, 1), for the adapter of a stage that trains Wan; or leave it null"
        )
    if cfg.policy.lora is None and "vlm" not in cfg:
        raise ConfigError("policy.lora=null trains all weights, and a run leaves an adapter: give policy.lora.rank")


def require_kind(cfg: DictConfig, gives: str) -> None:
    """ConfigError unless `data` gives what the stage trains on."""
    needs = cfg.stage.data
    if gives != needs:
        raise ConfigError(
            f"stage={cfg.stage.name} trains on {needs}, and this data= gives {gives}: use data=world_{needs}, or "
            f"data={needs} data.path=MANIFEST, or a stage that trains on {gives}"
        )


def check_trainer(cfg: DictConfig) -> None:
    """ValueError for what is wrong with the number of processes and what they share."""
    trainer = cfg.trainer
    require_accelerator(trainer.accelerator, trainer.devices, torch.cuda.device_count())
    if trainer.strategy == "auto" and trainer.nodes * trainer.devices > 1:
        raise ValueError(
            f"trainer.strategy=auto is for one process, and there are {trainer.nodes} x {trainer.devices}: give trainer=fsdp, or "
            "trainer=ddp where every device holds the whole model"
        )
    if (trainer.shard is None) == (trainer.strategy == "fsdp"):
        needed = "node, all or a number of processes" if trainer.shard is None else "null; or give trainer=fsdp"
        raise ValueError(f"trainer.shard={trainer.shard}: trainer.strategy={trainer.strategy} needs {needed}")
    if trainer.shard is None and trainer.context_parallel != 1:
        raise ValueError(
            f"trainer.context_parallel={trainer.context_parallel}: trainer.strategy={trainer.strategy} gives every process pairs of its "
            "own; set it 1, or give trainer=fsdp"
        )
    if trainer.shard is not None:
        group_size(trainer.shard, trainer.nodes, trainer.devices)
        if (shared := trainer.context_parallel) < 1 or trainer.nodes * trainer.devices % shared:
            raise ValueError(
                f"trainer.context_parallel={shared}: give a divisor of the {trainer.nodes} x {trainer.devices} processes, "
                "which share a video's tokens in groups of so many; 1 for none"
            )
        if "vlm" in cfg:
            raise ValueError(
                "trainer=fsdp shards Wan's transformers, and stage=ranker trains a ranking model: use trainer=ddp"
            )
        if shared > 1 and (threshold := OmegaConf.select(cfg, "module.pairs.rollout.cache_threshold")) is not None:
            raise ValueError(
                f"module.pairs.rollout.cache_threshold={threshold}: what the first block changes is not known whole where "
                f"trainer.context_parallel={shared} divides the tokens; set one of them null, or 1"
            )


def check_architecture(cfg: DictConfig, model: WanModel) -> None:
    """ValueError for settings that do not fit what the model is made of; WanPolicy asks again, since a model of the hub need not be
    known yet."""
    if (architecture := fitting(model)) is None:
        return
    require_divisible(cfg.trainer.context_parallel, architecture.heads, architecture.tokens(model.spec))
    if (blocks := OmegaConf.select(cfg, "module.blocks")) is not None:
        check_blocks(blocks, architecture.transformer["num_layers"], "module.blocks")
    if cfg.policy.lora is not None and "vlm" not in cfg:
        check_targets(cfg.policy.lora.targets, architecture)


def windows_per_pair(cfg: DictConfig) -> int:
    return OmegaConf.select(cfg, "module.windows_per_pair") or 1


def check_windows(cfg: DictConfig) -> None:
    """ValueError unless what happens every N steps happens when a pair has gone through all its windows."""
    windows = windows_per_pair(cfg)
    for name in ("max_steps", "checkpoint_every_n_steps", "sample_every_n_steps", "validate_every_n_steps"):
        if cfg[name] % windows:
            whole = cfg[name] // windows * windows or windows
            raise ValueError(
                f"{name}={cfg[name]} is no multiple of module.windows_per_pair={windows}: give {name}={whole}"
            )


def check_vlm(cfg: DictConfig) -> None:
    """ValueError for what is wrong with the ranking model that is to be trained."""
    check_paths("vlm", cfg.vlm.path, cfg.vlm.adapter)
    if cfg.vlm.lora is None and cfg.vlm.adapter is not None:
        raise ValueError(
            "vlm.lora=null trains all weights and has no adapter to start: unset adapter, or give vlm.lora.rank"
        )
    if cfg.sample_every_n_steps:
        raise ValueError(f"sample_every_n_steps={cfg.sample_every_n_steps}: a ranker generates no videos; leave it 0")
