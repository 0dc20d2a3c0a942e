"""Timesteps drawn from a fixed density, with every row on one side of the expert boundary."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from apo.config.numbers import Rows, Seed, Share
from apo.distributed import replica, replicas
from apo.interfaces import T
from apo.random import generator
from apo.timesteps.base import Sampler


@dataclass
class QuantileSampler(Sampler):
    """t = T · quantile(u). A row draws its side from a u that all ranks share, its entries within that side:
    each entry has exactly the density, and no row straddles the boundary."""

    rows: Rows  # K
    boundary: Share | None  # the expert boundary as a share of T; None for one expert
    seed: Seed

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """The noise level in [0, 1] below which a share u of the density lies."""

    @abstractmethod
    def cdf(self, sigma: Tensor) -> Tensor:
        """The share of the density below a noise level; undoes `quantile`."""

    def sample(self, step: int, batch_size: int) -> Tensor:
        """(K, B) timesteps in [0, T] of optimizer step `step`."""
        draw = generator(self.seed, step, 2)
        shared = torch.rand(self.rows, 1, generator=draw, dtype=torch.float64)
        u = torch.rand(self.rows, batch_size * replicas(), generator=draw, dtype=torch.float64)
        u = u[:, replica() * batch_size :][:, :batch_size]
        if self.boundary is None:
            return (T * self.quantile(u)).float()
        below = self.cdf(torch.tensor(self.boundary, dtype=torch.float64))
        high = shared >= below
        t = T * self.quantile(torch.where(high, below + u * (1 - below), u * below))
        edge = self.boundary * T
        return torch.where(high, t.clamp(min=edge), t.clamp(max=edge - 1e-3)).float()
