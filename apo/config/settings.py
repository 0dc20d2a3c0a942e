"""The config's own keys, where no `_target_` takes them: what conf/train.yaml, conf/evaluation/evaluate.yaml and
conf/plan say.
"""

from dataclasses import dataclass
from typing import Annotated, TypedDict

from apo.config.numbers import (
    Count,
    NonNegative,
    Positive,
    ProperShare,
    Range,
    Seed,
    Size,
    Text,
    Whole,
)


class Part:
    """A group that is built: it has a `_target_`."""


class Optimizer(TypedDict, total=False):
    """What torch leaves open of its optimizers' numbers, or says only once a model is there."""

    lr: NonNegative
    betas: tuple[ProperShare, ProperShare]
    eps: NonNegative
    momentum: NonNegative
    weight_decay: NonNegative


@dataclass
class Trackers:
    wandb: Part | None
    tensorboard: Part | None = None


@dataclass
class Resume:
    may_change: list[str]


@dataclass
class Training:
    """Of train.py, and of what takes its overrides: what no part takes. The other keys are of the kinds of the parts
    they go to.
    """

    run: Text | int
    adapter: Text | None
    max_steps: Count
    batch_size: Size
    sample_every_n_steps: Whole
    checkpoint_every_n_steps: Count
    validate_every_n_steps: Count
    policy: Part
    optimizer: Optimizer
    sampler: Part
    guidance: Part
    data: Part
    model: Part
    stage: Part
    trainer: Part
    logger: Trackers
    resume: Resume
    module: Part
    objective: Part | None = None
    ranker: Part | None = None
    distill: Part | None = None
    vlm: Part | None = None
    learning_rate: NonNegative = 0.0  # these two are of conf/scale, and act through optimizer.lr and max_steps
    stage_steps: Count = 0


class Gpu(TypedDict):
    name: Text
    memory_gib: Positive
    flops: Positive


class Bandwidth(TypedDict):
    node: Positive
    network: Positive


class JudgedBy(TypedDict):
    """Of the ranking model that is planned for."""

    parameters: Positive
    frames: Size
    pixels_per_token: Positive
    orders: Annotated[int, Range(1, 2)]


@dataclass
class Assumptions:
    """Of conf/plan."""

    gpu: Gpu
    utilisation: Annotated[float, Range(0, 1, above=True)]
    reserve_gib: NonNegative
    bandwidth: Bandwidth
    shard: int | str | None
    context_parallel: Whole
    split_backward: bool
    ranker: JudgedBy


@dataclass
class Planning(Training):
    """Of `python -m apo.plan`."""

    plan: Assumptions


@dataclass
class Evaluating:
    """Of evaluate.py."""

    run: Text | int
    stage: Text | int | None
    against: Text | int | None
    results: Text | int | None
    seed: Seed
    batch_size: Size
    videos: Annotated[int, Range(0, 10_000)]
    guidance: Part
    model: Part
    conditions: Part
    evaluator: Part
    trainer: Part
    logger: Trackers
    learning_rate: NonNegative = 0.0  # these three are of conf/common/scale, which a model selects
    stage_steps: Count = 0
    checkpoint_every_n_steps: Count = 0
