"""The flow-matching loss, for supervised fine-tuning: the baseline that preference alignment starts from."""

from collections.abc import Iterator

from torch import Tensor

from apo.flow import noised, velocity
from apo.interfaces import Loss, Pair, Policy, Row, Term
from apo.losses.watched import of_pair


class FlowMatchingLoss(Loss):
    """‖v_θ(x_t, t, c) − (ε − x_0)‖² on the chosen videos (L_DM of Section 3.1, for velocities)."""

    def __call__(self, policy: Policy, pair: Pair, row: Row) -> Iterator[Term]:
        x_0, noise = pair.chosen, row.noise
        x_t = noised(x_0, noise, row.t.to(x_0.device))
        value = policy.error(x_t, row.t, pair.cond, velocity(x_0, noise)).mean()
        yield Term(value, meters={"train/loss": value.detach()})

    def watched(self, pair: Pair) -> dict[str, Tensor]:
        return of_pair(pair)
