"""Diffusion-APO (Section 3.2): preference optimisation over a window of trajectory-aligned timesteps."""

from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from apo.config.numbers import Count, Null, Share, Size
from apo.flow import noised, velocity
from apo.guidance.cfg import joined
from apo.interfaces import Pair, PairSource, PreferenceObjective, T, TimestepSampler
from apo.modules.base import PolicyModule
from apo.objectives.diffusion_dpo import preference_margin
from apo.policies.lora import REFERENCE


class Errors(NamedTuple):
    """Denoising errors (B,), in the order of the objective's arguments."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor


def meters(errors: Errors) -> dict[str, Tensor]:
    """chosen_gain = e_w^ref − e_w and rejected_gain likewise, apart: a margin that grows only because the rejected
    sample gets worse is DPO's classic failure."""
    chosen_gain, rejected_gain = errors.ref_chosen - errors.chosen, errors.ref_rejected - errors.rejected
    margin = preference_margin(*errors)
    return {
        "margin": margin.mean(),
        "implicit_accuracy": (margin > 0).float().mean(),
        "chosen_gain": chosen_gain.mean(),
        "rejected_gain": rejected_gain.mean(),
    }


class PreferenceModule(PolicyModule):
    """One optimizer step per window: ∇L_total = Σ_{t∈W} ∇L_APO(t), a sum over its rows.

    split: the share of T where the meters' high regime begins.
    reference_update_every_n_steps: how often the reference becomes the current policy (OnlineVPO, Zhang et al., 2024); None
    keeps the preceding stage as it is (Section 3.3).
    windows_per_pair: optimizer steps that a pair is used for, each with a window and noise of its own; the paper's is 1.
    split_backward: chosen and rejected one after the other: the same gradients for one more forward and half the activations.
    """

    def __init__(
        self,
        pairs: PairSource,
        sampler: TimestepSampler,
        objective: PreferenceObjective,
        batch_size: Size,
        split: Share,
        reference_update_every_n_steps: Annotated[Count | None, Null("to keep the reference")],
        windows_per_pair: Count = 1,
        split_backward: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.pairs, self.sampler, self.objective, self.split_backward = pairs, sampler, objective, split_backward
        self.batch_size, self.split, self.reference_update_every_n_steps = (
            batch_size,
            split,
            reference_update_every_n_steps,
        )
        self.windows_per_pair = windows_per_pair
        if windows_per_pair < 1:
            raise ValueError(f"module.windows_per_pair={windows_per_pair}: give at least 1")
        if reference_update_every_n_steps is not None:
            if reference_update_every_n_steps < 1:
                raise ValueError(
                    f"module.reference_update_every_n_steps={reference_update_every_n_steps}: give at least 1, or null"
                )
            self.policy.keep_reference()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        if hasattr(self.pairs, "state"):
            checkpoint["pairs"] = self.pairs.state()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        if hasattr(self.pairs, "load"):
            self.pairs.load(checkpoint["pairs"])

    def is_kept(self, key: str, parameter: nn.Parameter) -> bool:
        """What is trained, and a reference that moves."""
        moves = self.reference_update_every_n_steps is not None and f".{REFERENCE}." in key
        return moves or super().is_kept(key, parameter)

    def training_step(self, batch, _):
        """Optimizer steps on the pairs that `pairs` makes of a batch, one of each window: ∇L_total = Σ_{t∈W} ∇L_APO(t) (Sec. 3.2)."""
        pair = self.pairs(batch, self.policy, self.global_step)
        self.watch_pair(pair)
        for key, value in self.pairs.meters.items():
            self.meters[key].append(value)
        for _ in range(self.windows_per_pair):
            self.follow()
            with self.timed("optimize"):
                for row, t, last in self.rows():
                    if self.split_backward:
                        self.backward_in_turn(pair, t, row, last)
                    else:
                        self.backward_at(self.loss(pair, t, row), t, last)
            self.optim_step()

    def follow(self) -> None:
        """Moves the reference if it is time to; before the step, so that a run resumed here does it too."""
        every = self.reference_update_every_n_steps
        if every is not None and self.global_step and self.global_step % every == 0:
            self.policy.update_reference()

    def loss(self, pair: Pair, t: Tensor, row: int) -> Tensor:
        """Eqs. 1-2 at timesteps t (B,), the mean over pairs."""
        errors = self.errors(pair, t, self.noise(pair.chosen, row))
        loss = self.objective(*errors).mean()
        self._meter(loss, errors, t)
        return loss

    def backward_in_turn(self, pair: Pair, t: Tensor, row: int, last: bool) -> None:
        """The gradient of `loss` as ∂L/∂e_w ∇e_w + ∂L/∂e_l ∇e_l. The rejected error, which both factors need, is known ahead.

        last: see `backward_at`.
        """
        noise = self.noise(pair.chosen, row)

        def error(x_0: Tensor) -> Tensor:
            return self.policy.error(noised(x_0, noise, t.to(x_0.device)), t, pair.cond, velocity(x_0, noise))

        with torch.no_grad():
            with self.policy.reference():
                ref_chosen, ref_rejected = error(pair.chosen), error(pair.rejected)
            rejected = error(pair.rejected)
        errors = Errors(error(pair.chosen), rejected, ref_chosen, ref_rejected)
        loss = self.objective(*errors).mean()
        self.backward_at(loss, t, last=False)
        self._meter(loss, errors, t)
        errors = errors._replace(chosen=errors.chosen.detach(), rejected=error(pair.rejected))
        self.backward_at(self.objective(*errors).mean(), t, last)

    def errors(self, pair: Pair, t: Tensor, noise: Tensor) -> Errors:
        """Denoising errors of policy and reference; chosen and rejected share noise and timestep (Wallace et al., 2024)."""
        x_0, noise, t2 = torch.cat([pair.chosen, pair.rejected]), torch.cat([noise, noise]), torch.cat([t, t])
        x_t, target, cond = noised(x_0, noise, t2.to(x_0.device)), velocity(x_0, noise), joined(pair.cond, pair.cond)
        # the reference comes first: switching adapters between forward and backward breaks gradient checkpointing
        with torch.no_grad(), self.policy.reference():
            ref_chosen, ref_rejected = self.policy.error(x_t, t2, cond, target).chunk(2)
        chosen, rejected = self.policy.error(x_t, t2, cond, target).chunk(2)
        return Errors(chosen, rejected, ref_chosen, ref_rejected)

    def held_out(self, pair: Pair, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return meters(self.errors(pair, t, noise))

    @torch.no_grad()
    def _meter(self, loss: Tensor, errors: Errors, t: Tensor) -> None:
        said = "{} prediction is not: give another run=NAME with {}, or model.dtype=float32"
        self.watch(
            said.format("The reference's", "another adapter"), torch.stack([errors.ref_chosen, errors.ref_rejected])
        )
        self.watch(said.format("The policy's", "a lower optimizer.lr"), torch.stack([errors.chosen, errors.rejected]))
        values = {"loss": loss.detach(), "t_mean": t.mean().to(loss)} | meters(errors)
        values["loss_high" if t.mean() >= self.split * T else "loss_low"] = loss.detach()
        for key, value in values.items():
            self.meters[f"train/{key}"].append(value)
