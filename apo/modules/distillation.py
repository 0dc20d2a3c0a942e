"""Guidance distillation (Section 3.1, Eq. 4) at the timesteps of a sampler."""

from collections.abc import Sequence

import torch
from torch import Tensor

from apo.config.numbers import Share, Size, Whole
from apo.flow import noised
from apo.guidance.cfg import joined
from apo.guidance.teacher import GuidanceDistillation
from apo.interfaces import Condition, Pair, PairSource, T, TimestepSampler
from apo.modules.base import PolicyModule


class DistillationModule(PolicyModule):
    """Minimises ‖v_η(x_t, t, c) − v_θ^guided(x_t, t, c)‖² over the window's rows, whose gradients are summed.

    The teacher's prediction needs a state and a condition, no label and no real video: x_0 are the videos of labelled pairs,
    which the preceding stages have cached already. On the world the base model generated them, so that x_t lie where
    generation passes. Chosen and rejected alike by default, since a student meets states of both kinds.

    rejected: whether the rejected videos are taken too. split: the share of T where the meters' high regime begins.
    blocks: transformer blocks whose part of the adapter is trained; None for all. Fewer make a poorer student.
    split_backward: chosen and rejected one after the other: the same gradients, half the activations.
    """

    def __init__(
        self,
        pairs: PairSource,
        distill: GuidanceDistillation,
        sampler: TimestepSampler,
        batch_size: Size,
        split: Share,
        rejected: bool,
        blocks: Sequence[Whole] | None,
        split_backward: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.pairs, self.distill, self.sampler = pairs, distill, sampler
        self.batch_size, self.split, self.rejected, self.split_backward = batch_size, split, rejected, split_backward
        for name, parameter in self.policy.named_parameters():
            if blocks is not None and not any(f".blocks.{index}." in name for index in blocks):
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in self.policy.parameters()):
            raise ValueError(
                f"module.blocks={list(blocks)} leaves nothing to train: name blocks that the experts have, or null"
            )

    def training_step(self, batch: Pair, _):
        pair = self.pairs(batch, self.policy, self.global_step)
        self.watch_pair(pair)
        for key, value in self.pairs.meters.items():
            self.meters[key].append(value)
        for row, t, last in self.rows():
            self.row(pair, t, row, last)
        self.optim_step()

    def row(self, pair: Pair, t: Tensor, row: int, last: bool) -> None:
        """Forward and backward of a window row: t (B,), one for each pair. last: see `backward_at`."""
        guidance, noise = self.distill.at(self.global_step, row), self.noise(pair.chosen, row)
        parts = self.batches(pair)
        loss = 0.0
        for place, (x_0, cond) in enumerate(parts, 1):
            # the teacher comes first: switching adapters between forward and backward breaks gradient checkpointing
            with self.timed("teacher"):
                taught = self.taught(x_0, cond, t, noise, guidance)
            remedy = "give another run=NAME with weaker guidance, or model.dtype=float32"
            self.watch(f"The teacher's guided prediction is not: {remedy}", taught[-1])
            with self.timed("optimize"):
                of_part = self.policy.error(*taught).mean() / len(parts)
                self.backward_at(of_part, t, last and place == len(parts))
            loss += of_part.detach()
        regime = "loss_high" if t.mean() >= self.split * T else "loss_low"
        values = {"loss": loss, regime: loss, "t_mean": t.mean()}
        for key, value in values.items():
            self.meters[f"train/{key}"].append(value.to(loss))

    def parts(self, pair: Pair) -> list[tuple[Tensor, Condition]]:
        """Latents x_0 (B, C, F, H, W) and conditions: the chosen videos and, if they are taken, the rejected ones."""
        return [(x_0, pair.cond) for x_0 in (pair.chosen, pair.rejected)[: 1 + self.rejected]]

    def batches(self, pair: Pair) -> list[tuple[Tensor, Condition]]:
        """What is computed at once: `parts` one after the other under split_backward, all together otherwise."""
        return self.parts(pair) if self.split_backward else [self.whole(pair)]

    def whole(self, pair: Pair) -> tuple[Tensor, Condition]:
        """`parts` in one batch."""
        videos, conditions = zip(*self.parts(pair))
        return torch.cat(videos), joined(*conditions)

    def taught(self, x_0: Tensor, cond: Condition, t: Tensor, noise: Tensor, guidance) -> tuple:
        """x_t, timesteps, conditions and the teacher's velocities; the videos of a pair share noise and timestep."""
        videos = len(x_0) // len(t)  # of a pair
        t, noise = torch.cat([t] * videos), torch.cat([noise] * videos)
        x_t = noised(x_0, noise, t.to(x_0.device))
        return x_t, t, cond, self.distill.target(self.policy, x_t, t, cond, guidance)

    def held_out(self, pair: Pair, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The student's error and, for its scale, that of the teacher without guidance, at the guidance's own strengths."""
        found = {"loss": [], "undistilled": []}
        for x_0, cond in self.batches(pair):
            taught = self.taught(x_0, cond, t, noise, self.distill.guidance)
            with self.policy.reference():
                found["undistilled"].append(self.policy.error(*taught).mean())
            found["loss"].append(self.policy.error(*taught).mean())
        return {key: torch.stack(values).mean() for key, values in found.items()}
