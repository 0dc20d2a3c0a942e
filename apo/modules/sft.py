"""Supervised fine-tuning with the flow-matching loss: the baseline that preference alignment starts from."""

from apo.config.numbers import Share, Size
from apo.flow import noised, velocity
from apo.interfaces import Pair, PairSource, T, TimestepSampler
from apo.modules.base import PolicyModule


class SFTModule(PolicyModule):
    """Minimises ‖v_θ(x_t, t, c) − (ε − x_0)‖² on the chosen videos (L_DM of Section 3.1, for velocities)."""

    def __init__(self, pairs: PairSource, sampler: TimestepSampler, batch_size: Size, split: Share, **kwargs):
        super().__init__(**kwargs)
        self.pairs, self.sampler, self.batch_size, self.split = pairs, sampler, batch_size, split

    def training_step(self, batch: Pair, _):
        pair = self.pairs(batch, self.policy, self.global_step)
        self.watch_pair(pair)
        with self.timed("optimize"):
            for row, t, last in self.rows():
                x_0, noise = pair.chosen, self.noise(pair.chosen, row)
                x_t = noised(x_0, noise, t.to(x_0.device))
                loss = self.policy.error(x_t, t, pair.cond, velocity(x_0, noise)).mean()
                self.backward_at(loss, t, last)
                self.meters["train/loss"].append(loss.detach())
                self.meters["train/t_mean"].append(t.mean().to(loss))
                regime = "loss_high" if t.mean() >= self.split * T else "loss_low"
                self.meters[f"train/{regime}"].append(loss.detach())
        self.optim_step()
