"""Properties of the paper's sampler (Section 3.2)."""

import pytest
import torch
from torch.testing import assert_close

from apo.flow import inference_sigmas, to_timestep
from apo.interfaces import T
from apo.timesteps.apo import APOSampler

PAPER = dict(
    num_inference_steps=40,
    shifts=[3, 4, 5, 6],
    offset_variance=5,
    high_rows=4,
    low_rows=1,
    stride=4,
    split=0.8,
    boundary=0.9,
    seed=0,
)


def sampler(**changes) -> APOSampler:
    return APOSampler(**(PAPER | changes))


def test_every_window_has_its_high_and_low_rows():
    for step in range(200):
        t = sampler().sample(step, 8)
        assert t.shape == (5, 8)
        assert (t[:4] >= 0.8 * T).all() and (t[:4] <= T).all()
        assert (t[4] < 0.8 * T).all() and (t[4] >= 0).all()


def test_no_row_straddles_the_expert_boundary():
    rows = torch.cat([sampler(offset_variance=2000).sample(step, 16) for step in range(300)])
    high = rows >= 0.9 * T
    assert (high.all(1) == high.any(1)).all() and high.any() and not high.all()


def test_stateless_in_step():
    one, two = sampler(), sampler()
    for step in range(5):
        one.sample(step, 4)
    assert torch.equal(one.sample(7, 4), two.sample(7, 4))
    assert not torch.equal(one.sample(7, 4), one.sample(8, 4))
    assert not torch.equal(one.sample(7, 4), sampler(seed=1).sample(7, 4))


def test_timesteps_without_offset_are_anchors_of_a_shift_in_the_set():
    grids = {s: to_timestep(inference_sigmas(40, s)) for s in PAPER["shifts"]}
    seen = set()
    for step in range(60):
        t = sampler(offset_variance=0).sample(step, 3)
        assert (t == t[:, :1]).all()
        matching = {s for s, grid in grids.items() if torch.isin(t, grid).all()}
        assert matching
        seen |= matching if len(matching) == 1 else set()
    assert seen == set(PAPER["shifts"])


def test_one_shift_is_without_random_shift():
    grid = to_timestep(inference_sigmas(40, 5))
    for step in range(20):
        assert torch.isin(sampler(shifts=[5], offset_variance=0).sample(step, 2), grid).all()


def test_offsets_are_normal_with_the_stated_variance():
    quiet, loud = sampler(offset_variance=0, boundary=None), sampler(boundary=None)
    offsets = torch.cat([(loud.sample(s, 64) - quiet.sample(s, 64)).flatten() for s in range(200)])
    assert abs(offsets.mean()) < 0.1
    assert abs(offsets.var() - (5 + 1 / 12)) < 0.35  # rounding adds 1/12; clipping at the regimes' edges takes a little
    assert (offsets == offsets.round()).all()


def test_snap_lands_on_anchors():
    assert torch.isin(
        sampler(shifts=[5], snap=True, boundary=None).sample(3, 8), to_timestep(inference_sigmas(40, 5))
    ).all()


def test_the_window_slides_by_its_stride_and_visits_every_anchor():
    anchors = to_timestep(inference_sigmas(40, 5))
    high, low = anchors[anchors >= 800], anchors[anchors < 800]
    windows = [sampler(shifts=[5], offset_variance=0).sample(step, 1)[:, 0] for step in range(23)]
    assert_close(windows[0][:4], high[:4])
    assert_close(windows[1][:4], high[4:8])
    assert_close(torch.stack([w[4] for w in windows[:17]]), low)
    assert set(torch.cat([w[:4] for w in windows]).tolist()) == set(high.tolist())


def test_counts_of_high_anchors_at_40_steps():
    counts = {s: int((to_timestep(inference_sigmas(40, s)) >= 800).sum()) for s in (3, 4, 5, 6)}
    assert counts == {3: 18, 4: 21, 5: 23, 6: 25}


def test_single_regime_windows():
    assert (sampler(high_rows=5, low_rows=0, stride=5).sample(3, 4) >= 800).all()
    assert (sampler(high_rows=0, low_rows=5).sample(3, 4) < 800).all()


def test_no_window_visits_the_same_rows_one_by_one():
    windowed, single = sampler(), sampler(accumulate=False)
    rows = torch.cat([single.sample(step, 4) for step in range(10)])
    assert torch.equal(rows, torch.cat([windowed.sample(0, 4), windowed.sample(1, 4)]))


def test_ranks_take_their_slice_of_the_global_batch(monkeypatch):
    whole = sampler().sample(3, 8)
    monkeypatch.setattr("apo.timesteps.apo.replicas", lambda: 2)
    for place in range(2):
        monkeypatch.setattr("apo.timesteps.apo.replica", lambda place=place: place)
        assert torch.equal(sampler().sample(3, 4), whole[:, 4 * place : 4 * place + 4])


def test_an_empty_window_is_refused():
    with pytest.raises(ValueError, match="high_rows"):
        sampler(high_rows=0, low_rows=0)
