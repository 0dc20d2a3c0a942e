"""Logit-normal timesteps (Esser et al., 2024), the usual density of flow-matching pretraining."""

from dataclasses import dataclass

import torch
from torch import Tensor

from apo.config.numbers import Finite, Positive
from apo.timesteps.quantile import QuantileSampler


@dataclass
class LogitNormalSampler(QuantileSampler):
    """t = T · sigmoid(n), n ~ N(mean, std²)."""

    mean: Finite
    std: Positive

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def cdf(self, sigma: Tensor) -> Tensor:
        return torch.special.ndtr((torch.logit(sigma) - self.mean) / self.std)
