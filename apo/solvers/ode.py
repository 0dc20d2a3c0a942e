"""Solves the generation ODE under a guidance, with the pipeline's own solver."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from apo.interfaces import Condition, Guidance

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from apo.policies.wan import WanPolicy

SAMPLES = 4  # videos that a run shows each time


def solver(policy: "WanPolicy", num_inference_steps: int | None = None) -> "SchedulerMixin":
    """A fresh copy of the pipeline's scheduler on the grid of `model.shift` and so many steps; None:
    `model.num_inference_steps`.

    The shift always comes from our config: converted checkpoints carry 3.0 whatever the model wants.
    """
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
    )  # takes seconds, and what only generates later imports this file, too

    kind, shift, steps = (
        type(policy.scheduler),
        policy.model.shift,
        num_inference_steps or policy.model.num_inference_steps,
    )
    if kind is FlowMatchEulerDiscreteScheduler:
        scheduler = kind.from_config(policy.scheduler.config, shift=shift)
        # set_timesteps(steps) alone would apply the shift twice
        scheduler.set_timesteps(sigmas=(1 - torch.arange(steps) / steps).tolist())
    else:
        scheduler = kind.from_config(policy.scheduler.config, flow_shift=shift)
        scheduler.set_timesteps(steps)
    return scheduler


def initial_noise(policy: "WanPolicy", seeds: Sequence[int]) -> Tensor:
    """(B, C, F, H, W), one CPU generator per video: the same seed gives the same noise in any batch."""
    shape = policy.codec.latent_shape
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def generate(
    policy: "WanPolicy", guidance: Guidance, cond: Condition, noise: Tensor, num_inference_steps: int | None = None
) -> Tensor:
    """Latents x_0 (B, C, F, H, W) from noise x_T of the same shape."""
    scheduler, x_t = solver(policy, num_inference_steps), noise.to(cond.image.device, torch.float32)
    known = cond.image[:, :1] if policy.codec.expand_timesteps else None
    for t in scheduler.timesteps.cpu():
        velocity = guidance(policy, x_t, t.float().expand(len(x_t)), cond)
        x_t = scheduler.step(velocity, t, x_t, return_dict=False)[0]
    return x_t if known is None else known * cond.image[:, 4:] + (1 - known) * x_t
