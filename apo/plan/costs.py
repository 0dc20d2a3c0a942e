"""From the passes of one expert to a training step's FLOPs, memory and communication on a cluster."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from apo.interfaces import Condition, Guidance, T
from apo.modules.cluster import group_size
from apo.plan.counting import Passes
from apo.plan.frozen import Frozen
from apo.policies.architecture import Architecture
from apo.policies.model import VideoSpec
from apo.solvers.ode import SAMPLES


@dataclass(frozen=True)
class Layout:
    """How a step is spread over the cluster. ValueError if the numbers don't divide."""

    nodes: int
    devices: int  # of a node
    shard: int  # ranks that hold one copy of the weights together
    context_parallel: int  # ranks that share a video's tokens
    checkpointing: bool
    split_backward: bool

    def __post_init__(self):
        for key in ("shard", "context_parallel"):
            if getattr(self, key) < 1 or self.ranks % getattr(self, key):
                raise ValueError(f"trainer.{key}={getattr(self, key)}: give a divisor of the {self.ranks} ranks")

    @property
    def ranks(self) -> int:
        return self.nodes * self.devices

    @property
    def replicas(self) -> int:
        """Groups of ranks that each have pairs of their own."""
        return self.ranks // self.context_parallel


@dataclass(frozen=True)
class Step:
    """What an optimizer step asks of a replica."""

    rows: int  # K
    pairs: int
    videos: int  # of a pair that are trained on: 2, or 1 in stage=sft
    reference: bool
    adapted_reference: bool  # the reference has an adapter of its own
    generated: int  # videos
    at_once: int  # of them
    solver_steps: int
    guidance_rows: int  # forwards of a video per solver step
    judged: int  # pairs of videos that a ranking model compares
    guidance_at_once: int = 1  # of guidance_rows
    windows: int = 1  # optimizer steps that generated videos are used for
    left_out: int = 0  # blocks, of all forwards of a solver step (STG)
    reference_forwards: int = 1  # of a video: a teacher's guidance takes several
    reference_at_once: int = 1  # of them
    reference_left_out: int = 0  # blocks, of all of them
    preference: bool = (
        True  # chosen and rejected have one loss, which takes a forward more where they are trained on in turn
    )
    averaged: bool = False  # a moving average of the adapter is kept beside it
    samples: float = 0.0  # sample videos per optimizer step; the replicas share them, one at a time
    sample_steps: int = 0  # of the solver
    sample_rows: int = 1  # forwards of a sample video per solver step
    sample_at_once: int = 1  # of them


def step_of(cfg: DictConfig) -> Step:
    """Of train.py's config."""
    return step_from(cfg, instantiate(cfg.module.pairs))


def step_from(cfg: DictConfig, source) -> Step:
    """The same of a source of pairs, or of what stands for one: it has `generated`, `judged()` and `rollout`."""
    rollout, videos = source.rollout, cfg.batch_size * source.generated
    guidance, sample = (
        forwards_of(instantiate(cfg.guidance)),
        forwards_of(instantiate(cfg.stage.get("sample_guidance", cfg.guidance))),
    )
    moves = OmegaConf.select(cfg, "module.reference_update_every_n_steps") is not None
    step = Step(
        rows=len(instantiate(cfg.sampler).sample(0, 1)),
        pairs=cfg.batch_size,
        videos=2 if cfg.stage.needs_reference else 1,
        reference=cfg.stage.needs_reference,
        adapted_reference=cfg.adapter is not None or moves,
        generated=videos,
        at_once=min(videos, (rollout and rollout.batch_size) or videos),
        solver_steps=(rollout and rollout.num_inference_steps) or cfg.model.num_inference_steps,
        guidance_rows=guidance.rows,
        guidance_at_once=guidance.at_once,
        left_out=guidance.left_out,
        judged=cfg.batch_size * source.judged(),
        windows=OmegaConf.select(cfg, "module.windows_per_pair") or 1,
        averaged=cfg.get("ema_decay") is not None,
        samples=SAMPLES / cfg.sample_every_n_steps if cfg.get("sample_every_n_steps") else 0.0,
        sample_steps=cfg.model.num_inference_steps,
        sample_rows=sample.rows,
        sample_at_once=sample.at_once,
    )
    if OmegaConf.select(cfg, "module.loss.distill") is None:
        return step
    teacher = forwards_of(instantiate(cfg.module.loss.distill).guidance)
    return replace(
        step,
        videos=1 + cfg.module.loss.rejected,
        preference=False,
        reference_forwards=teacher.rows,
        reference_at_once=teacher.at_once,
        reference_left_out=teacher.left_out,
    )


def layout_of(cfg: DictConfig) -> Layout:
    trainer, plan = cfg.trainer, cfg.plan
    shard = 1 if plan.shard is None else group_size(plan.shard, trainer.nodes, trainer.devices)
    return Layout(
        trainer.nodes,
        trainer.devices,
        shard,
        plan.context_parallel,
        trainer.gradient_checkpointing,
        plan.split_backward,
    )


class CountingPolicy:
    """A policy that counts the videos it is asked to denoise, in all and at once, and the blocks that those are to
    skip.
    """

    rows = at_once = left_out = blocks = start = 0

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        self.rows += len(x_t)
        self.at_once = max(self.at_once, len(x_t))
        self.left_out += self.blocks * (len(x_t) - self.start)
        return x_t

    def unconditional(self, cond: Condition) -> Condition:
        return cond

    @contextmanager
    def skip(self, blocks: Sequence[int], start: int = 0) -> Iterator[None]:
        self.blocks, self.start = len(blocks), start
        yield
        self.blocks = self.start = 0


def forwards_of(guidance: Guidance) -> CountingPolicy:
    """What a guidance asks for one video and solver step at high noise."""
    policy, one = CountingPolicy(), torch.zeros(1, 1, 1, 1, 1)
    guidance(policy, one, torch.tensor([float(T)]), Condition([""], one[..., 0, 0], one))
    return policy


def flops(step: Step, passes: Passes, layout: Layout, ranking: float) -> dict[str, float]:
    """Of one rank's share of an optimizer step. ranking: FLOPs of a judged pair."""
    trained = step.rows * step.pairs * step.videos
    forward, block = passes.base_forward, passes.block_base_forward
    if step.adapted_reference:
        forward, block = passes.forward, passes.block_forward
    reference = step.reference_forwards * forward - step.reference_left_out * block
    solver_step = step.guidance_rows * passes.forward - step.left_out * passes.block_forward
    ahead = (
        step.rows * step.pairs if in_turn(step, layout) and step.preference else 0
    )  # the loser's error, for the winner's backward
    repeated = (passes.recomputation if layout.checkpointing else 0) + (
        passes.self_attention if layout.context_parallel > 1 else 0
    )
    whole = {
        "generation": step.generated * step.solver_steps * solver_step / step.windows,
        "ranking": step.judged * ranking / step.windows,
        "reference": trained * reference if step.reference else 0.0,
        "policy forward": (trained + ahead) * passes.forward,
        "policy backward": trained * (passes.backward + repeated),
        "sample videos": samples(step, layout) * step.sample_steps * step.sample_rows * passes.forward,
    }
    return {part: value / layout.context_parallel for part, value in whole.items()}


def samples(step: Step, layout: Layout) -> float:
    """Sample videos per optimizer step and replica."""
    return step.samples / SAMPLES * math.ceil(SAMPLES / layout.replicas)


def in_turn(step: Step, layout: Layout) -> bool:
    """Whether chosen and rejected are trained on one after the other."""
    return layout.split_backward and step.videos == 2


def ranking_flops(cfg: DictConfig) -> float:
    """2 · parameters · tokens for two videos in each order; attention left out."""
    ranker, spec = cfg.plan.ranker, cfg.model.spec
    tokens = 2 * ranker.frames * spec.height * spec.width / ranker.pixels_per_token
    return 2 * ranker.parameters * tokens * ranker.orders


def memory(step: Step, passes: Passes, layout: Layout, experts: int, lora: bool) -> dict[str, float]:
    """Bytes per rank at the peak, by kind. VAE and text encoder are counted by `with_frozen`; the
    ranker is elsewhere.
    """
    trained = 4 * passes.trained * experts
    gathered = (
        min(2, layout.shard - 1) * passes.block + (layout.shard > 1) * passes.around
    )  # the block in use, the next, all around
    copies = 1 + step.adapted_reference + step.averaged if lora else 0  # of the adapter, in float32
    at_once = step.pairs * (1 if in_turn(step, layout) else step.videos)
    live = passes.live_checkpointed if layout.checkpointing else passes.live_train
    generating = (
        max(step.at_once * step.guidance_at_once, step.sample_at_once if step.samples else 0) * passes.live_forward
    )
    teaching = at_once * step.reference_at_once * passes.live_forward if step.reference else 0.0
    return {
        "weights": experts * passes.weights / layout.shard + gathered + copies * trained / layout.shard,
        "gradients": trained,  # not sharded before the window's last row
        "optimizer": 2 * trained / layout.shard,
        "activations": max(at_once * live, generating, teaching) / layout.context_parallel,
    }


def with_frozen(memory: dict[str, float], step: Step, frozen: Frozen, offload: bool) -> dict[str, float]:
    """`memory` with the parts around the transformer, which does not work while they do.

    offload: they are on the device only then.
    """
    videos = max(step.at_once, 1 if step.samples else 0)
    decoding = frozen.at_the_peak(videos) + frozen.vae * (offload and videos > 0)
    return memory | {
        "activations": max(memory["activations"], decoding),
        "VAE and text encoder": 0.0 if offload else frozen.weights,
    }


def communication(
    step: Step, passes: Passes, layout: Layout, architecture: Architecture, spec: VideoSpec
) -> dict[str, float]:
    """Bytes that a rank receives in an optimizer step, by purpose."""
    chunks = math.ceil(step.generated / step.at_once) if step.generated else 0
    split, reference = in_turn(step, layout), step.reference * step.reference_forwards
    passes_of_reference = reference // step.reference_at_once  # those at once gather the weights once
    gathers = chunks * step.solver_steps * (step.guidance_rows // step.guidance_at_once) / step.windows
    gathers += samples(step, layout) * step.sample_steps * (step.sample_rows // step.sample_at_once)
    gathers += step.rows * ((1 + split) * (passes_of_reference + 2) + (split and step.preference))
    others, groups = 1 - 1 / layout.shard, layout.ranks // layout.shard
    trained = 4 * passes.trained * architecture.experts
    forwards = step.generated * step.solver_steps * step.guidance_rows / step.windows
    forwards += samples(step, layout) * step.sample_steps * step.sample_rows
    forwards += (
        step.rows * step.pairs * (step.videos * (reference + 2 + layout.checkpointing) + (split and step.preference))
    )
    exchange = (
        4
        * 2
        * architecture.tokens(spec)
        * architecture.width
        / layout.context_parallel
        * (1 - 1 / layout.context_parallel)
    )
    return {
        "weights gathered": gathers * passes.weights * others,
        "gradients summed": trained * others + 2 * (1 - 1 / groups) * trained / layout.shard,
        "attention exchanged": forwards * architecture.transformer["num_layers"] * exchange,
    }


def seconds(volumes: dict[str, float], layout: Layout, bandwidth: DictConfig) -> float:
    """Of a step's communication if none of it were hidden. Groups within a node use its links."""
    near = {
        "weights gathered": layout.shard,
        "attention exchanged": layout.context_parallel,
        "gradients summed": layout.ranks,
    }
    return sum(
        bytes / bandwidth["node" if near[key] <= layout.devices else "network"] for key, bytes in volumes.items()
    )
