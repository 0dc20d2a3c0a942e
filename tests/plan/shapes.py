"""The steps and layouts of the plan's tests, and the gradients that a window adds to."""

import torch

from apo.plan.costs import Layout, Step

PAIRS, ROWS = 2, 3
ONE = Layout(nodes=1, devices=1, shard=1, context_parallel=1, checkpointing=False, split_backward=False)
OFFLINE = Step(
    ROWS,
    PAIRS,
    videos=2,
    reference=True,
    adapted_reference=False,
    generated=0,
    at_once=0,
    solver_steps=4,
    guidance_rows=1,
    judged=0,
)
SMALL = "model=tiny"


def with_gradients(policy) -> None:
    """As in every window row but the first."""
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None


def gradients(policy) -> list[torch.Tensor]:
    return [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
