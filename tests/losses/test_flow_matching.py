"""The loss of supervised fine-tuning."""

import torch
from torch.testing import assert_close

from apo.flow import noised
from apo.losses.flow_matching import FlowMatchingLoss
from tests.aligning import fine_tuning, fit, pair_of, window
from tests.policies.test_wan import make


def test_it_is_the_error_against_noise_minus_data_on_the_chosen_videos(request):
    policy = make(request, "wan22")
    pair = pair_of(policy)
    row = window(policy, pair)[0]
    (part,) = FlowMatchingLoss()(policy, pair, row)
    predicted = policy(noised(pair.chosen, row.noise, row.t), row.t, pair.cond)
    assert_close(part.value, (predicted - (row.noise - pair.chosen)).square().mean())
    pair.rejected.fill_(torch.nan)
    (same,) = FlowMatchingLoss()(policy, pair, row)
    assert torch.equal(same.value, part.value)


def test_sft_lowers_the_flow_matching_loss(request, tmp_path):
    model = fine_tuning(request, 2)
    losses = [float(row["train/loss"]) for row in fit(model, pair_of(model.policy), 30, tmp_path)]
    assert sum(losses[-8:]) < sum(losses[:8])
