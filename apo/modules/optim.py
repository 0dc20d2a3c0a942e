"""The optimizer step: the only place that knows how gradients and parameters are spread over ranks."""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from apo.errors import UserError


class NonFiniteGradient(UserError):
    """Stops a run before a broken gradient reaches the weights."""


class MismatchedExperts(RuntimeError):
    """Ranks that hold weights together would run different experts: each would gather parts of the other, silently."""


def require_same_experts(experts: Sequence[nn.Module], every: Sequence[nn.Module], window: Tensor) -> None:
    """MismatchedExperts, on all ranks, unless each row of a window runs the same sharded expert on all of them.

    experts: of this rank's rows. every: all there are. window: (K, B) this rank's timesteps.
    """
    if not isinstance(experts[0], FSDPModule):
        return
    run = torch.tensor(
        [[expert is other for other in every] for expert in experts], device=next(every[0].parameters()).device
    )
    run = run.int()
    dist.all_reduce(run, dist.ReduceOp.MAX)
    if differ := (run.sum(1) > 1).nonzero().flatten().tolist():
        raise MismatchedExperts(
            f"window row {differ[0]}: ranks run different experts, which sharded weights cannot do; here its "
            "timesteps are "
            f"{window[differ[0]].tolist()}. Draw the side of the boundary from a seed that all ranks share, as "
            "apo/timesteps does"
        )


def average_gradients(expert: nn.Module, now: bool) -> None:
    """Whether the next backward through a sharded expert averages its gradients over ranks, with those that earlier
    ones left.

    Other experts' gradients are never left: DDP averages in every backward.
    """
    if isinstance(expert, FSDPModule):
        expert.set_requires_gradient_sync(now)


def clipped_norm(
    parameters: Iterable[nn.Parameter], max_norm: float, cause: Callable[[], str | None] = lambda: None
) -> Tensor:
    """Clips gradients to a global norm; returns the norm before clipping, the same on all ranks.

    NonFiniteGradient if it is inf or nan. cause: asked then, says what that comes from, and the remedy; None: from a
    step too large.
    """
    norm = nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if not torch.isfinite(norm):
        remedy = "give another run=NAME with a lower optimizer.lr or a higher warmup_steps"
        remedy = cause() or f"Weights, data and predictions are finite: {remedy}"
        raise NonFiniteGradient(
            f"gradient norm is {norm.item()}: no step was taken and the last checkpoint is whole, but the same "
            "command would "
            f"meet the same gradient again. {remedy}"
        )
    return norm
