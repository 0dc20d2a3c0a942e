"""Rectified flow: the path from data to noise that Wan is trained on, and its schedule."""

import torch
from torch import Tensor

from apo.interfaces import T


def shift_sigma(sigma: Tensor, s: float) -> Tensor:
    """Shifted noise level s·σ / (1 + (s−1)·σ), Eq. 5.

    sigma: any shape, in [0, 1]. s > 0; s = 1 is the identity, 1/s undoes s.
    """
    return s * sigma / (1 + (s - 1) * sigma)


def to_timestep(sigma: Tensor) -> Tensor:
    """The timestep t = round(σ·T) in [0, T] of a noise level (Section 3.2), kept in floating point."""
    return (sigma * T).round()


def to_sigma(t: Tensor) -> Tensor:
    """The noise level σ = t / T in [0, 1]."""
    return t / T


def inference_sigmas(num_steps: int, s: float) -> Tensor:
    """(num_steps,) the noise levels that an inference schedule of shift s visits, falling from 1."""
    return shift_sigma(1 - torch.arange(num_steps) / num_steps, s)


def noised(x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1−σ)·x_0 + σ·ε at timesteps t (B,); x_0 and noise (B, ...)."""
    sigma = to_sigma(t).view(-1, *[1] * (x_0.ndim - 1)).to(x_0)
    return (1 - sigma) * x_0 + sigma * noise


def velocity(x_0: Tensor, noise: Tensor) -> Tensor:
    """The target v = ε − x_0 of a flow model, dx_t/dσ."""
    return noise - x_0


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """(B,) mean squared error over C, F, H, W in fp32: −log p of Eq. 2 up to a factor, for velocities."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)
