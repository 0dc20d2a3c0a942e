"""Uniform and logit-normal timesteps keep their density although rows keep to one side of the boundary."""

import pytest
import torch
from torch.testing import assert_close

from apo.timesteps.logit_normal import LogitNormalSampler
from apo.timesteps.uniform import UniformSampler

SAMPLERS = {
    "uniform": lambda **k: UniformSampler(**(dict(rows=5, boundary=0.9, seed=0) | k)),
    "logit_normal": lambda **k: LogitNormalSampler(**(dict(rows=5, boundary=0.9, seed=0, mean=0.0, std=1.0) | k)),
}
BOTH = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


@BOTH
def test_no_row_straddles_the_boundary(make):
    rows = torch.cat([make().sample(step, 8) for step in range(400)])
    high = rows >= 900
    assert (high.all(1) == high.any(1)).all() and high.any() and rows.min() >= 0 and rows.max() <= 1000


@BOTH
def test_the_density_is_the_samplers_own(make):
    sigma = torch.cat([make().sample(step, 64).flatten() for step in range(2000)]).double() / 1000
    u = make().cdf(sigma.clamp(1e-9, 1 - 1e-9))
    assert_close(torch.histc(u.float(), 10, 0, 1) / len(u), torch.full((10,), 0.1), atol=0.02, rtol=0)


@BOTH
def test_cdf_undoes_quantile(make):
    u = torch.linspace(0.01, 0.99, 20, dtype=torch.float64)
    assert_close(make().cdf(make().quantile(u)), u)


@BOTH
def test_stateless_and_sliced_by_rank(make, monkeypatch):
    whole = make().sample(5, 6)
    assert torch.equal(whole, make().sample(5, 6)) and not torch.equal(whole, make().sample(6, 6))
    monkeypatch.setattr("apo.timesteps.quantile.replicas", lambda: 2)
    monkeypatch.setattr("apo.timesteps.quantile.replica", lambda: 1)
    assert torch.equal(make().sample(5, 3), whole[:, 3:])
