"""What the split backward saves, on the shipped model."""

import torch

from apo.reports.memory import BAR, joint_and_split, module_and_pair
from tests.test_configs import composed


def test_a_split_backward_holds_at_most_its_bar():
    joint, split = joint_and_split(
        *module_and_pair(composed("batch_size=4", "trainer.threads=1"), torch.Generator().manual_seed(0))
    )
    assert joint["tensors alive"] > 10
    assert split["tensors alive"] < BAR * joint["tensors alive"]
