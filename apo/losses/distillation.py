"""Guidance distillation (Section 3.1, Eq. 4): a student's error against a teacher's guided prediction."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from apo.flow import noised
from apo.guidance.cfg import CFG
from apo.guidance.cfg_stg import CFGSTG
from apo.guidance.teacher import GuidanceDistillation
from apo.interfaces import Condition, Loss, Pair, Policy, Row, Term
from apo.losses.watched import of_pair, prediction
from apo.parts import Setting
from apo.timing import timed


@dataclass
class DistillationLoss(Loss):
    """‖v_η(x_t, t, c) − v_θ^guided(x_t, t, c)‖², the mean over videos.

    The teacher's prediction needs a state and a condition, no label and no real video: x_0 are the videos of labelled
    pairs, which the preceding stages have cached already. On the world the base model generated them, so that x_t lie
    where generation passes. Chosen and rejected alike by default, since a student meets states of both kinds.

    rejected: whether the rejected videos are taken too. split_backward: chosen and rejected one after the other: the
    same gradients, half the activations.
    """

    distill: GuidanceDistillation
    rejected: bool
    split_backward: bool = False

    def check(self, setting: Setting) -> None:
        self.distill.check(setting)

    def __call__(self, policy: Policy, pair: Pair, row: Row) -> Iterator[Term]:
        guidance, batches, loss = self.distill.at(row.step, row.index), self.batches(pair), 0.0
        for place, (x_0, cond) in enumerate(batches, 1):
            meters = {}
            # the teacher comes first: switching adapters between forward and backward breaks gradient checkpointing
            with timed(meters, "time/teacher"):
                taught = self.taught(policy, x_0, cond, row.t, row.noise, guidance)
            value = policy.error(*taught).mean() / len(batches)
            loss += value.detach()
            if last := place == len(batches):
                meters["train/loss"] = loss
            yield Term(value, last, meters, prediction("The teacher's guided", "weaker guidance", taught[-1]))

    def batches(self, pair: Pair) -> list[tuple[Tensor, Condition]]:
        """Latents x_0 (B, C, F, H, W) and conditions of what is computed at once: all videos of the pairs, or each kind
        in turn.
        """
        videos = (pair.chosen, pair.rejected)[: 1 + self.rejected]
        if self.split_backward:
            return [(x_0, pair.cond) for x_0 in videos]
        return [(torch.cat(videos), Condition.cat(*[pair.cond] * len(videos)))]

    def taught(
        self, policy: Policy, x_0: Tensor, cond: Condition, t: Tensor, noise: Tensor, guidance: CFG | CFGSTG
    ) -> tuple[Tensor, Tensor, Condition, Tensor]:
        """x_t, timesteps, conditions and the teacher's velocities; the videos of a pair share noise and timestep."""
        videos = len(x_0) // len(t)  # of a pair
        t, noise = torch.cat([t] * videos), torch.cat([noise] * videos)
        x_t = noised(x_0, noise, t.to(x_0.device))
        return x_t, t, cond, self.distill.target(policy, x_t, t, cond, guidance)

    def held_out(self, policy: Policy, pair: Pair, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The student's error and, for its scale, that of the teacher without guidance, at the guidance's own
        strengths.
        """
        found = {"loss": [], "undistilled": []}
        for x_0, cond in self.batches(pair):
            taught = self.taught(policy, x_0, cond, t, noise, self.distill.guidance)
            with policy.reference():
                found["undistilled"].append(policy.error(*taught).mean())
            found["loss"].append(policy.error(*taught).mean())
        return {key: torch.stack(values).mean() for key, values in found.items()}

    def watched(self, pair: Pair) -> dict[str, Tensor]:
        return of_pair(pair)
