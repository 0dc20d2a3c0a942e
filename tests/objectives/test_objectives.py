"""Eqs. 1-2 as properties."""

import math

import torch
from torch.testing import assert_close

from apo.objectives.diffusion_dpo import DiffusionDPO, preference_margin
from apo.objectives.dpop import DPOPositive
from apo.objectives.ipo import IPO

ERRORS = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))


def test_loss_is_log_2_when_policy_equals_reference():
    e_w, e_l = ERRORS[:2]
    assert_close(DiffusionDPO(500)(e_w, e_l, e_w, e_l), torch.full((6,), math.log(2)))
    assert_close(IPO(500)(e_w, e_l, e_w, e_l), torch.full((6,), 0.25))


def test_swapping_chosen_and_rejected_negates_the_margin():
    e_w, e_l, r_w, r_l = ERRORS
    assert_close(preference_margin(e_w, e_l, r_w, r_l), -preference_margin(e_l, e_w, r_l, r_w))


def test_denoising_the_chosen_better_than_the_reference_lowers_the_loss():
    e_w, e_l, r_w, r_l = ERRORS
    for objective in (DiffusionDPO(1.0), IPO(1.0)):
        base = objective(r_w, r_l, r_w, r_l)
        assert (objective(r_w - 0.1, r_l, r_w, r_l) < base).all()
        assert (objective(r_w, r_l + 0.1, r_w, r_l) < base).all()
        assert (objective(r_w + 0.1, r_l, r_w, r_l) > base).all()


def test_dpo_is_the_published_formula():
    e_w, e_l, r_w, r_l = ERRORS
    expected = -torch.log(torch.sigmoid(-50 / 2 * ((e_w - r_w) - (e_l - r_l))))
    assert_close(DiffusionDPO(50)(e_w, e_l, r_w, r_l), expected)


def test_ipo_is_least_at_its_target_margin():
    zero, margin = torch.zeros(1), torch.tensor([1 / 20.0])
    assert IPO(20)(zero, margin, zero, zero) < 1e-10
    assert (IPO(20)(zero, 2 * margin, zero, zero) > 0.2).all()


def test_dpo_positive_is_dpo_until_the_chosen_sample_gets_worse():
    e_w, e_l, r_w, r_l = ERRORS
    assert_close(DPOPositive(50, 0.0)(e_w, e_l, r_w, r_l), DiffusionDPO(50)(e_w, e_l, r_w, r_l))
    better, worse = r_w - 0.1, r_w + 0.1
    assert_close(DPOPositive(50, 5.0)(better, e_l, r_w, r_l), DiffusionDPO(50)(better, e_l, r_w, r_l))
    assert (DPOPositive(50, 5.0)(worse, r_l + 0.2, r_w, r_l) > DiffusionDPO(50)(worse, r_l + 0.2, r_w, r_l)).all()
    assert (DPOPositive(50, 5.0)(worse, r_l + 0.2, r_w, r_l) > math.log(2)).all()  # although the margin is positive
