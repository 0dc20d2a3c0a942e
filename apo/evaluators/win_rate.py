"""Videos against videos of the same conditions."""

import torch
from torch import Tensor
from torchmetrics import Metric

from apo.intervals import Interval, wilson


class WinRate(Metric):
    """How often run A beats run B on the same conditions: the higher score wins, equal scores tie.

    Takes scores, so that any judge fits: 1 for a good video and 0 for a bad one by a `Criterion`, or
    `verdict.first_wins.float()` against its complement for a ranker.
    """

    full_state_update = False

    def __init__(self):
        super().__init__()
        for name in ("win", "tie", "loss"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, ours: Tensor, theirs: Tensor) -> None:
        """ours, theirs: (B,) scores of the two runs' videos of B conditions."""
        self.win += (ours > theirs).sum().to(self.win.device)
        self.tie += (ours == theirs).sum().to(self.tie.device)
        self.loss += (ours < theirs).sum().to(self.loss.device)

    def compute(self) -> dict[str, int | Interval]:
        """Counts `win`, `tie`, `loss`, and `win_rate`: wins among the conditions that do not tie."""
        win, tie, loss = int(self.win), int(self.tie), int(self.loss)
        return {"win": win, "tie": tie, "loss": loss, "win_rate": wilson(win, win + loss)}
