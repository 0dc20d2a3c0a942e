"""The preference loss on a real policy with random weights, without a trainer."""

import math

import pytest
import torch
from torch.testing import assert_close

from apo.losses.preference import PreferenceLoss
from apo.objectives.diffusion_dpo import DiffusionDPO
from apo.objectives.dpop import DPOPositive
from apo.objectives.ipo import IPO
from tests.aligning import backward, gradients, pair_of, window
from tests.policies.test_wan import make, perturbed


def test_the_loss_is_log_2_and_the_margin_0_while_the_policy_is_its_reference(request):
    policy = make(request, "wan22")
    pair = pair_of(policy)
    for row in window(policy, pair):
        (part,) = PreferenceLoss(DiffusionDPO(500))(policy, pair, row)
        assert_close(float(part.meters["train/loss"]), math.log(2), rtol=1e-6, atol=1e-6)
        assert part.meters["train/margin"] == part.meters["train/chosen_gain"] == 0 and part.last


def test_exchanging_the_videos_negates_the_margin(request):
    policy = perturbed(make(request, "wan22"))
    pair = pair_of(policy)
    row, loss = window(policy, pair)[0], PreferenceLoss(DiffusionDPO(500))
    exchanged = type(pair)(pair.rejected, pair.chosen, pair.cond)
    (ours,), (theirs,) = loss(policy, pair, row), loss(policy, exchanged, row)
    assert_close(ours.meters["train/margin"], -theirs.meters["train/margin"], rtol=1e-3, atol=1e-6)
    assert ours.meters["train/margin"].abs() > 1e-4


def test_gradients_are_summed_over_the_window(request):
    policy = perturbed(make(request, "wan22"))
    pair, loss = pair_of(policy), PreferenceLoss(DiffusionDPO(500))
    rows, total = window(policy, pair), {}
    for row in rows:
        policy.zero_grad()
        list(backward(loss, policy, pair, [row]))
        for name, gradient in gradients(policy).items():
            total[name] = total.get(name, 0) + gradient
    policy.zero_grad()
    list(backward(loss, policy, pair, rows))
    assert len(rows) == 5 and gradients(policy).keys() == total.keys()
    for name, gradient in gradients(policy).items():
        assert_close(gradient, total[name], rtol=1e-4, atol=1e-5)
    assert any(gradient.abs().sum() > 0 for gradient in total.values())


@pytest.mark.parametrize("objective", [DiffusionDPO(500), IPO(500), DPOPositive(500, 5.0)], ids=["dpo", "ipo", "dpop"])
def test_the_split_backward_is_the_joint_one(request, objective):
    policy = perturbed(make(request, "wan22"), 0.03)
    pair, found = pair_of(policy), []
    rows = window(policy, pair)
    for split in (False, True):
        policy.zero_grad()
        said = list(backward(PreferenceLoss(objective, split), policy, pair, rows))
        assert len(said) == (1 + split) * len(rows)
        found.append((gradients(policy), [meters for meters in said if meters]))
    (joint, meters), (split, same) = found
    assert joint.keys() == split.keys() and len(joint) > 20
    for name in joint:  # beta enlarges the errors' rounding
        assert (split[name] - joint[name]).norm() < 3e-4 * joint[name].norm(), name
    assert len(meters) == len(same) and min(abs(row["train/margin"]) for row in meters) > 1e-6
    for ours, theirs in zip(meters, same):
        assert_close(theirs, ours, rtol=1e-3, atol=1e-5)


def test_a_row_of_two_parts_says_which_is_its_last(request):
    policy = make(request, "wan22")
    pair = pair_of(policy)
    first, last = PreferenceLoss(DiffusionDPO(500), True)(policy, pair, window(policy, pair)[0])
    assert not first.last and last.last


def test_predictions_that_are_not_finite_are_said(request):
    policy = perturbed(make(request, "wan22"))
    pair, loss = pair_of(policy), PreferenceLoss(DiffusionDPO(500))
    row = window(policy, pair)[0]
    (part,) = loss(policy, pair, row)
    assert [said.split(" is not")[0] for said in part.watched] == [
        "The reference's prediction",
        "The policy's prediction",
    ]
    assert all(part.watched.values()) and all(loss.watched(pair).values())
    pair.chosen[0, 0, 0, 0, 0] = torch.nan
    (part,) = loss(policy, pair, row)
    assert not any(part.watched.values()) and list(loss.watched(pair).values()) == [False, True]
