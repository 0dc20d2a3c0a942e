"""What can be known to be wrong with a run before anything is loaded, part by part."""

import torch
from omegaconf import DictConfig, OmegaConf

from apo.modules.sharded import group_size
from apo.policies.architecture import check_targets, fitting
from apo.policies.context import require_divisible
from apo.policies.model import WanModel, check_blocks
from apo.rankers.folders import check_paths

ACCELERATORS, STRATEGIES = ("cpu", "gpu", "cuda", "auto"), ("auto", "ddp", "fsdp")


def check_trainer(cfg: DictConfig) -> None:
    """ValueError for what is wrong with the number of processes and what they share."""
    trainer = cfg.trainer
    for key, known in (("accelerator", ACCELERATORS), ("strategy", STRATEGIES)):
        if trainer[key] not in known:
            raise ValueError(f"trainer.{key}={trainer[key]}: give one of {', '.join(known)}")
    if trainer.accelerator in ("gpu", "cuda") and (there := torch.cuda.device_count()) < trainer.devices:
        raise ValueError(
            f"trainer.accelerator={trainer.accelerator} trainer.devices={trainer.devices}: torch sees {there} GPU(s) here; give "
            "trainer=cpu, fewer devices, or install the torch build of your GPU's driver"
        )
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
            raise ValueError(f"{name}={cfg[name]} is no multiple of module.windows_per_pair={windows}: give {name}={whole}")


def check_vlm(cfg: DictConfig) -> None:
    """ValueError for what is wrong with the ranking model that is to be trained."""
    check_paths("vlm", cfg.vlm.path, cfg.vlm.adapter)
    if cfg.vlm.lora is None and cfg.vlm.adapter is not None:
        raise ValueError("vlm.lora=null trains all weights and has no adapter to start: unset adapter, or give vlm.lora.rank")
    if cfg.sample_every_n_steps:
        raise ValueError(f"sample_every_n_steps={cfg.sample_every_n_steps}: a ranker generates no videos; leave it 0")
