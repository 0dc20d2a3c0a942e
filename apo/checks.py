"""What can be known to be wrong with a run before anything is loaded, part by part."""

from collections.abc import Sequence

import torch
from diffusers import WanTransformer3DModel
from omegaconf import DictConfig, OmegaConf
from torch import nn

from apo.modules.sharded import group_size
from apo.plan.architecture import PUBLISHED, Architecture, architecture_of
from apo.policies.context import require_divisible
from apo.policies.model import WanModel, check_blocks
from apo.rankers.folders import check_paths

ONE = ("max_steps", "batch_size", "checkpoint_every_n_steps", "validate_every_n_steps", "decay_steps", "trainer.devices",
       "trainer.nodes", "policy.lora.rank", "vlm.lora.rank", "module.windows_per_pair", "module.reference_update_every_n_steps",
       "module.pairs.rollout.batch_size")  # fmt: skip
LEAST = dict.fromkeys(ONE, 1) | dict.fromkeys(("seed", "warmup_steps", "sample_every_n_steps"), 0)
NULL = {  # what leaving a number out means
    "decay_steps": ", or null for a rate that stays", "module.reference_update_every_n_steps": ", or null to keep the reference",
    "module.pairs.rollout.batch_size": ", or null for all at once",
}


def check_trainer(cfg: DictConfig) -> None:
    """ValueError for what is wrong with the number of processes and what they share."""
    trainer = cfg.trainer
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
        if not isinstance(shared := trainer.context_parallel, int) or shared < 1 or trainer.nodes * trainer.devices % shared:
            raise ValueError(
                f"trainer.context_parallel={shared}: give a divisor of the {trainer.nodes} x {trainer.devices} processes, "
                "which share a video's tokens in groups of so many; 1 for none"
            )
        if "vlm" in cfg:
            raise ValueError("trainer=fsdp shards Wan's transformers, and stage=ranker trains a ranking model: use trainer=ddp")
        if shared > 1 and (threshold := OmegaConf.select(cfg, "module.pairs.rollout.cache_threshold")) is not None:
            raise ValueError(
                f"module.pairs.rollout.cache_threshold={threshold}: what the first block changes is not known whole where "
                f"trainer.context_parallel={shared} divides the tokens; set one of them null, or 1"
            )


def check_architecture(cfg: DictConfig, model: WanModel) -> None:
    """ValueError for settings that do not fit what the model is made of; WanPolicy asks again, since a model of the hub need not be
    known yet."""
    if model.local() is None and model.path not in PUBLISHED:
        return
    architecture = architecture_of(model)
    tokens = architecture.tokens(model.spec)
    model.check_tiles(architecture.spatial)
    model.check_boundary(architecture.experts)
    require_divisible(cfg.trainer.context_parallel, architecture.heads, tokens)
    if (blocks := OmegaConf.select(cfg, "module.blocks")) is not None:
        check_blocks(blocks, architecture.transformer["num_layers"], "module.blocks")
    if cfg.policy.lora is not None and "vlm" not in cfg:
        check_targets(cfg.policy.lora.targets, architecture)


def check_targets(targets: Sequence[str], architecture: Architecture) -> None:
    """ValueError for a LoRA target that the transformer lacks; peft itself asks that one of them is there."""
    with torch.device("meta"):
        model = WanTransformer3DModel(**architecture.transformer)
    layers = dict(model.named_modules())
    if lacking := [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in layers)]:
        there = sorted(name for name, layer in layers["blocks.0.attn1"].named_modules() if isinstance(layer, nn.Linear))
        raise ValueError(f"policy.lora.targets: the model has no layer {lacking[0]}; blocks have, among others, {', '.join(there)}")


def check_numbers(cfg: DictConfig) -> None:
    """ValueError for a number of something that can't be that number."""
    for key, least in LEAST.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"{key}={value}: give a whole number of at least {least}" + NULL.get(key, ""))


def windows_per_pair(cfg: DictConfig) -> int:
    return OmegaConf.select(cfg, "module.windows_per_pair") or 1


def check_windows(cfg: DictConfig) -> None:
    """ValueError unless what happens every N steps happens when a pair has gone through all its windows."""
    windows = windows_per_pair(cfg)
    for name in ("max_steps", "checkpoint_every_n_steps", "sample_every_n_steps", "validate_every_n_steps"):
        if cfg[name] % windows:
            whole = cfg[name] // windows * windows or windows
            raise ValueError(f"{name}={cfg[name]} is no multiple of module.windows_per_pair={windows}: give {name}={whole}")


def check_vlm(cfg: DictConfig) -> None:
    """ValueError for what is wrong with the ranking model that is to be trained."""
    check_paths("vlm", cfg.vlm.path, cfg.vlm.adapter)
    if cfg.vlm.lora is None and cfg.vlm.adapter is not None:
        raise ValueError("vlm.lora=null trains all weights and has no adapter to start: unset adapter, or give vlm.lora.rank")
    if cfg.sample_every_n_steps:
        raise ValueError(f"sample_every_n_steps={cfg.sample_every_n_steps}: a ranker generates no videos; leave it 0")
