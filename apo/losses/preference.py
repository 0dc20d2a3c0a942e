"""Diffusion-APO's loss of a window row: what policy and reference predict of a pair, and an objective of their errors
(Eqs. 1-2).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from apo.flow import noised, velocity
from apo.interfaces import Condition, Loss, Pair, Policy, PreferenceObjective, Row, Term
from apo.losses.watched import of_pair, prediction
from apo.objectives.diffusion_dpo import preference_margin


class Forwards(NamedTuple):
    """Denoising errors (B,) of a row's predictions, in the order of the objective's arguments."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor


@dataclass
class PreferenceLoss(Loss):
    """The objective's mean over pairs. Chosen and rejected share noise and timestep (Wallace et al., 2024).

    split_backward: chosen and rejected one after the other: the same gradients for one more forward and half the
    activations.
    """

    objective: PreferenceObjective
    split_backward: bool = False

    def __call__(self, policy: Policy, pair: Pair, row: Row) -> Iterator[Term]:
        if self.split_backward:
            return self.in_turn(policy, pair, row)
        return self.together(policy, pair, row)

    def together(self, policy: Policy, pair: Pair, row: Row) -> Iterator[Term]:
        yield self.term(forwards(policy, pair, row.t, row.noise))

    def in_turn(self, policy: Policy, pair: Pair, row: Row) -> Iterator[Term]:
        """The same gradient as ∂L/∂e_w ∇e_w + ∂L/∂e_l ∇e_l. The rejected error, which both factors need, is known
        ahead.
        """
        with torch.no_grad():
            with policy.reference():
                ref_chosen = error(policy, pair.chosen, pair.cond, row.t, row.noise)
                ref_rejected = error(policy, pair.rejected, pair.cond, row.t, row.noise)
            rejected = error(policy, pair.rejected, pair.cond, row.t, row.noise)
        chosen = error(policy, pair.chosen, pair.cond, row.t, row.noise)
        yield self.term(Forwards(chosen, rejected, ref_chosen, ref_rejected), last=False)
        rejected = error(policy, pair.rejected, pair.cond, row.t, row.noise)
        yield Term(self.objective(chosen.detach(), rejected, ref_chosen, ref_rejected).mean())

    def term(self, found: Forwards, last: bool = True) -> Term:
        value = self.objective(*found).mean()
        watched = prediction("The reference's", "another adapter", found.ref_chosen, found.ref_rejected)
        watched |= prediction("The policy's", "a lower optimizer.lr", found.chosen, found.rejected)
        logged = {"loss": value.detach()} | meters(found)
        return Term(value, last, {f"train/{key}": meter for key, meter in logged.items()}, watched)

    def held_out(self, policy: Policy, pair: Pair, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return meters(forwards(policy, pair, t, noise))

    def watched(self, pair: Pair) -> dict[str, Tensor]:
        return of_pair(pair)


def forwards(policy: Policy, pair: Pair, t: Tensor, noise: Tensor) -> Forwards:
    """Of policy and reference at timesteps t (B,), chosen and rejected in one batch; noise: (B, C, F, H, W)."""
    x_0, noise, t = torch.cat([pair.chosen, pair.rejected]), torch.cat([noise, noise]), torch.cat([t, t])
    x_t, target, cond = noised(x_0, noise, t.to(x_0.device)), velocity(x_0, noise), Condition.cat(pair.cond, pair.cond)
    # the reference comes first: switching adapters between forward and backward breaks gradient checkpointing
    with torch.no_grad(), policy.reference():
        ref_chosen, ref_rejected = policy.error(x_t, t, cond, target).chunk(2)
    chosen, rejected = policy.error(x_t, t, cond, target).chunk(2)
    return Forwards(chosen, rejected, ref_chosen, ref_rejected)


def error(policy: Policy, x_0: Tensor, cond: Condition, t: Tensor, noise: Tensor) -> Tensor:
    """(B,) of videos x_0 alone."""
    return policy.error(noised(x_0, noise, t.to(x_0.device)), t, cond, velocity(x_0, noise))


@torch.no_grad()
def meters(found: Forwards) -> dict[str, Tensor]:
    """chosen_gain = e_w^ref − e_w and rejected_gain likewise, apart: a margin that grows only because the rejected
    sample gets worse is DPO's classic failure."""
    chosen_gain, rejected_gain = found.ref_chosen - found.chosen, found.ref_rejected - found.rejected
    margin = preference_margin(*found)
    return {
        "margin": margin.mean(),
        "implicit_accuracy": (margin > 0).float().mean(),
        "chosen_gain": chosen_gain.mean(),
        "rejected_gain": rejected_gain.mean(),
    }
