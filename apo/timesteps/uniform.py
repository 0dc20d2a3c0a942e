"""Uniform timesteps: what Diffusion-DPO draws from (Wallace et al., 2024)."""

from dataclasses import dataclass

from torch import Tensor

from apo.timesteps.quantile import QuantileSampler


@dataclass
class UniformSampler(QuantileSampler):
    """t ~ U(0, T)."""

    def quantile(self, u: Tensor) -> Tensor:
        return u

    def cdf(self, sigma: Tensor) -> Tensor:
        return sigma
