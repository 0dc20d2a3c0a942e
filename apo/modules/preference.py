"""Diffusion-APO (Section 3.2): preference optimisation over a window of trajectory-aligned timesteps."""

import torch
from torch import Tensor

from apo.flow import noised, velocity
from apo.guidance.cfg import joined
from apo.interfaces import Pair, PairSource, PreferenceObjective, T, TimestepSampler
from apo.modules.base import PolicyModule


class PreferenceModule(PolicyModule):
    """One optimizer step per window: ∇L_total = Σ_{t∈W} ∇L_APO(t), a sum over its rows.

    split: the share of T where the meters' high regime begins.
    """

    def __init__(
        self, pairs: PairSource, sampler: TimestepSampler, objective: PreferenceObjective, batch_size: int, split: float, **kwargs
    ):
        super().__init__(**kwargs)
        self.pairs, self.sampler, self.objective = pairs, sampler, objective
        self.batch_size, self.split = batch_size, split

    def training_step(self, batch, _):
        pair = self.pairs(batch, self.policy, self.global_step)
        with self.timed("optimize"):
            for row, t in enumerate(self.sampler.sample(self.global_step, self.batch_size)):
                self.manual_backward(self.loss(pair, t, row))
        self.optim_step()

    def loss(self, pair: Pair, t: Tensor, row: int) -> Tensor:
        """Eqs. 1-2 at timesteps t (B,); chosen and rejected share noise and timestep (Wallace et al., 2024)."""
        noise = self.noise(pair.chosen, row)
        x_0, noise, t2 = torch.cat([pair.chosen, pair.rejected]), torch.cat([noise, noise]), torch.cat([t, t])
        x_t, target, cond = noised(x_0, noise, t2.to(x_0.device)), velocity(x_0, noise), joined(pair.cond, pair.cond)
        # the reference comes first: switching adapters between forward and backward breaks gradient checkpointing
        with torch.no_grad(), self.policy.reference():
            ref_chosen, ref_rejected = self.policy.error(x_t, t2, cond, target).chunk(2)
        chosen, rejected = self.policy.error(x_t, t2, cond, target).chunk(2)
        loss = self.objective(chosen, rejected, ref_chosen, ref_rejected).mean()
        self._meter(loss, ref_chosen - chosen, ref_rejected - rejected, t)
        return loss

    @torch.no_grad()
    def _meter(self, loss: Tensor, chosen_gain: Tensor, rejected_gain: Tensor, t: Tensor) -> None:
        """chosen_gain = e_w^ref − e_w and rejected_gain likewise (B,), apart: a margin that grows only because the
        rejected sample gets worse is DPO's classic failure."""
        margin = chosen_gain - rejected_gain
        values = {
            "loss": loss.detach(), "margin": margin.mean(), "implicit_accuracy": (margin > 0).float().mean(),
            "chosen_gain": chosen_gain.mean(), "rejected_gain": rejected_gain.mean(), "t_mean": t.mean().to(loss),
        }
        values["loss_high" if t.mean() >= self.split * T else "loss_low"] = loss.detach()
        for key, value in values.items():
            self.meters[f"train/{key}"].append(value)
