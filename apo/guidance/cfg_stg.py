"""Classifier-free and spatiotemporal guidance in one prediction (Eq. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apo.config.numbers import Finite, Whole
from apo.guidance.cfg import CFG
from apo.interfaces import Condition, Policy
from apo.parts import Setting
from apo.policies.context import require_first_block
from apo.policies.model import check_blocks


def guided(v_c: Tensor, v_null: Tensor, v_skip: Tensor, omega: float, lambda_: float) -> Tensor:
    """(1+ω)·v_c − ω·v_∅ + λ·(v_c − v_skip), Eq. 3 with ε_stg = v_c − v_skip (Hyung et al., 2025). Any shape."""
    return (1 + omega) * v_c - omega * v_null + lambda_ * (v_c - v_skip)


@dataclass
class CFGSTG(CFG):
    """Three predictions: conditional, unconditional, and conditional by the weak model that lacks some whole blocks.

    A prediction whose strength is 0 is not made: λ = 0 is CFG, and ω = 0 as well is no guidance.
    """

    lambda_: Finite  # STG strength λ
    blocks: Sequence[Whole]  # transformer blocks that the weak model skips, in both experts
    batched: bool  # one forward of three times the batch; False: three in sequence, a third of the activations

    def __post_init__(self):
        if self.lambda_ != 0 and not self.blocks:
            raise ValueError(
                f"guidance.lambda_={self.lambda_} and guidance.blocks=[]: name blocks to skip, or set lambda_=0"
            )

    @property
    def skips_blocks(self) -> bool:
        return self.lambda_ != 0

    def check(self, setting: Setting) -> None:
        """ValueError if the model, as far as it is known before it is downloaded, lacks one of the blocks, or can't
        skip it.
        """
        if setting.architecture is not None:
            check_blocks(self.blocks, setting.architecture.transformer["num_layers"])
        require_first_block(self.blocks, setting.context_parallel)

    def __call__(self, policy: Policy, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        omega = self.omega(t)
        whole = [cond] if omega == 0 else [cond, policy.unconditional(cond)]
        weak = [] if self.lambda_ == 0 else [cond]
        velocities = (self.at_once if self.batched else self.in_turn)(policy, x_t, t, whole, weak)
        v_c = velocities[0]
        v_null = v_c if omega == 0 else velocities[1]
        v_skip = v_c if self.lambda_ == 0 else velocities[-1]
        return guided(v_c, v_null, v_skip, omega, self.lambda_)

    def at_once(
        self, policy: Policy, x_t: Tensor, t: Tensor, whole: list[Condition], weak: list[Condition]
    ) -> Sequence[Tensor]:
        """Velocities under each condition; the skipped blocks let the weak model's rows of the batch pass."""
        count = len(whole) + len(weak)
        with policy.skip(self.blocks if weak else [], start=len(whole) * len(x_t)):
            return policy(torch.cat([x_t] * count), torch.cat([t] * count), Condition.cat(*whole, *weak)).chunk(count)

    def in_turn(
        self, policy: Policy, x_t: Tensor, t: Tensor, whole: list[Condition], weak: list[Condition]
    ) -> Sequence[Tensor]:
        velocities = [policy(x_t, t, cond) for cond in whole]
        with policy.skip(self.blocks):
            return velocities + [policy(x_t, t, cond) for cond in weak]
