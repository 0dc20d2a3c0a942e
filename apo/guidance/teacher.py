"""Guidance distillation (Section 3.1, Eq. 4): the guided prediction of the teacher, for a student to make in one
forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from apo.config.numbers import Finite, Null, Seed
from apo.guidance.cfg import CFG
from apo.guidance.cfg_stg import CFGSTG
from apo.interfaces import Condition, Policy
from apo.parts import Part, Setting
from apo.random import generator

Strengths = Annotated[tuple[Finite, Finite] | None, Null("for the guidance's own")]
STRENGTHS = 0x57E6  # keeps the draws apart from others with the same seed and step


@dataclass
class GuidanceDistillation(Part):
    """The teacher is the policy's frozen reference under `guidance`, over the same copy of the base weights.

    omega, lambda_: [low, high] ranges that each window row draws its strengths from, uniformly, the same for both
    experts and on all ranks; None leaves the guidance's own. The student is not told what was drawn (Eq. 4), and Eq. 3
    is linear in both: it learns the prediction at the ranges' middle, and a range only adds noise to the gradients.
    """

    guidance: CFG | CFGSTG
    omega: Strengths
    lambda_: Strengths
    seed: Seed

    def __post_init__(self):
        for name, given in (("omega", self.omega), ("lambda_", self.lambda_)):
            if given is not None and (not isinstance(given, Sequence) or len(given) != 2 or given[0] > given[1]):
                said = list(given) if isinstance(given, Sequence) else given
                raise ValueError(f"distill.{name}={said}: give a range [low, high], or null for the guidance's own")
        if not isinstance(self.guidance, CFG):
            raise ValueError(
                f"{type(self.guidance).__name__} leaves nothing to distill: use guidance=cfg_stg or guidance=cfg"
            )
        if self.lambda_ is not None and not isinstance(self.guidance, CFGSTG):
            raise ValueError(f"distill.lambda_={list(self.lambda_)} needs guidance=cfg_stg, or null")

    def check(self, setting: Setting) -> None:
        self.guidance.check(setting)

    def at(self, step: int, row: int) -> CFG | CFGSTG:
        """The guidance of window row `row` of optimizer step `step`; stateless, so a resumed run draws the same."""
        draw = torch.rand(2, generator=generator(STRENGTHS, self.seed, step, row)).tolist()
        strengths = {}
        if self.omega is not None:
            strengths["omega_high"] = strengths["omega_low"] = between(self.omega, draw[0])
        if self.lambda_ is not None:
            strengths["lambda_"] = between(self.lambda_, draw[1])
        return replace(self.guidance, **strengths)

    @torch.no_grad()
    def target(self, policy: Policy, x_t: Tensor, t: Tensor, cond: Condition, guidance: CFG | CFGSTG) -> Tensor:
        """The teacher's guided velocity (B, C, F, H, W)."""
        with policy.reference():
            return guidance(policy, x_t, t, cond)


def between(limits: Sequence[float], share: float) -> float:
    return limits[0] + share * (limits[1] - limits[0])
