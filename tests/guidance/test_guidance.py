import pytest
import torch
from torch.testing import assert_close

from apo.guidance.cfg import CFG
from apo.guidance.none import NoGuidance
from apo.interfaces import Condition


class Linear:
    """A policy whose velocity is the mean of the text."""

    def __call__(self, x_t, t, cond):
        return x_t + cond.text.mean((1, 2)).view(-1, 1, 1, 1, 1)

    def unconditional(self, cond):
        return Condition([""] * len(cond.prompt), torch.zeros_like(cond.text), cond.image)


X, COND = (
    torch.randn(2, 1, 1, 2, 2),
    Condition(["a", "b"], torch.tensor([[[2.0]], [[4.0]]]), torch.zeros(2, 5, 1, 2, 2)),
)


@pytest.mark.parametrize("t", [500.0, 950.0])
def test_cfg_is_the_papers_formula_with_a_strength_per_expert(t):
    omega = 3.0 if t >= 900 else 0.5
    guided = CFG(3.0, 0.5, 0.9)(Linear(), X, torch.full((2,), t), COND)
    v_c, v_null = Linear()(X, None, COND), X
    assert_close(guided, (1 + omega) * v_c - omega * v_null)


def test_omega_zero_is_no_guidance():
    t = torch.full((2,), 500.0)
    assert torch.equal(CFG(0, 0, None)(Linear(), X, t, COND), NoGuidance()(Linear(), X, t, COND))
