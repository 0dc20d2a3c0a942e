"""Settings that have to be numbers of a kind: what is wrong with one is said before anything is built from it."""

import math

from omegaconf import DictConfig, OmegaConf

ONE = (
    "max_steps", "batch_size", "checkpoint_every_n_steps", "validate_every_n_steps", "trainer.devices", "trainer.nodes", "trainer.threads",
    "decay_steps", "policy.lora.rank", "vlm.lora.rank", "vlm.frames", "module.windows_per_pair", "module.reference_update_every_n_steps",
    "module.pairs.rollout.batch_size", "module.pairs.rollout.num_inference_steps", "module.pairs.max_attempts", "data.count",
    "data.batch_size", "sampler.rows", "model.num_inference_steps", "model.max_sequence_length", "model.spec.frames", "conditions.count",
    "plan.ranker.frames", "plan.ranker.orders",
)  # fmt: skip
LEAST = dict.fromkeys(ONE, 1) | dict.fromkeys(("seed", "warmup_steps", "sample_every_n_steps", "videos", "conditions.seed"), 0)
LEAST |= {"module.pairs.candidates": 2}
POSITIVE = (
    "max_grad_norm", "objective.beta", "policy.lora.alpha", "vlm.lora.alpha", "model.shift", "model.spec.fps",
    "sampler.std", "plan.gpu.memory_gib", "plan.gpu.flops", "plan.utilisation", "plan.bandwidth.node", "plan.bandwidth.network",
    "plan.ranker.parameters", "plan.ranker.pixels_per_token",
)  # fmt: skip
SHARES = ("model.boundary", "plan.utilisation", "data.validation_fraction")
FLAGS = ("trainer.gradient_checkpointing", "trainer.split_backward", "trainer.offload", "plan.split_backward")
NULL = {  # what leaving a number out means, where it may be left out
    "decay_steps": "for a rate that stays", "module.reference_update_every_n_steps": "to keep the reference",
    "module.pairs.rollout.batch_size": "for all at once", "module.pairs.rollout.num_inference_steps": "for model.num_inference_steps",
    "trainer.threads": "for torch's own choice", "model.boundary": "for a model with one expert",
    "vlm.frames": "for all", "conditions.count": "for all that a manifest has",
}  # fmt: skip
ABSENT = object()


def check_numbers(cfg: DictConfig) -> None:
    """ValueError for a setting of a command that is there and can't be what it is; names it and what to give."""
    for key, least in LEAST.items():
        require(cfg, key, lambda value, least=least: whole(value) and value >= least, f"a whole number of at least {least}")
    for key in POSITIVE:
        large = ", a large one to clip nothing" if key == "max_grad_norm" else ""
        require(cfg, key, lambda value: real(value) and value > 0, "a number above 0" + large)
    require(cfg, "optimizer.lr", lambda value: real(value) and value >= 0, "a number of at least 0")
    for key in SHARES:
        require(cfg, key, lambda value: real(value) and 0 <= value <= 1, "a share, from 0 to 1")
    for key in FLAGS:
        require(cfg, key, lambda value: isinstance(value, bool), "true or false")


def require(cfg: DictConfig, key: str, fits, asked: str) -> None:
    value = OmegaConf.select(cfg, key, default=ABSENT)
    if value is ABSENT or (value is None and key in NULL) or (value is not None and fits(value)):
        return
    raise ValueError(f"{key}={'null' if value is None else value}: give {asked}" + (f", or null {NULL[key]}" if key in NULL else ""))


def whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def real(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
