"""What every trained stage shares: a policy, one optimizer, manual optimisation, checkpoints of the
trained part only.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from statistics import fmean
from typing import Annotated

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from apo.config.numbers import Count, Decay, Null, Positive, Seed, Whole
from apo.distributed import all_gather, share_pairs
from apo.io.files import is_finite
from apo.modules.checkpoints import require_same_tensors
from apo.modules.optim import clipped_norm
from apo.policies.lora import AVERAGE
from apo.policies.wan import WanPolicy
from apo.timing import timed


class PolicyModule(L.LightningModule):
    """Trains `policy`; a subclass says what a step is.

    optimizer: parameters -> Optimizer. max_grad_norm: global clipping norm. decay_steps: the learning rate falls to
    zero over so many steps, on a cosine; None keeps it. ema_decay: of the adapter's moving average, which is then what
    the run leaves; None for none.
    """

    strict_loading = False  # checkpoints hold the trained parameters only

    def __init__(
        self,
        policy: WanPolicy,
        optimizer: Callable[[Iterable], Optimizer],
        warmup_steps: Whole,
        max_grad_norm: Positive,
        seed: Seed,
        decay_steps: Annotated[Count | None, Null("for a rate that stays")] = None,
        ema_decay: Annotated[Decay | None, Null("for the adapter itself")] = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.policy, self.make_optimizer = policy, optimizer
        self.warmup_steps, self.decay_steps = warmup_steps, decay_steps
        self.max_grad_norm, self.seed, self.ema_decay = max_grad_norm, seed, ema_decay
        self.moving: set[str] = set()  # the policy's copies that follow it
        if ema_decay is not None:
            self.follow_with(AVERAGE)
        self.meters: dict[str, list[Tensor]] = defaultdict(list)
        self.last_loss: Tensor | None = None  # of this rank's last optimizer step
        self.watched: list[tuple[str, Tensor]] = []  # of this step: see `Loss.watched`

    def follow_with(self, name: str) -> None:
        """Keeps a copy of the policy that moves with it: checkpoints hold it."""
        self.policy.keep(name)
        self.moving.add(name)

    def configure_model(self) -> None:
        share_pairs(1 if self.device_mesh is None else self.policy.context_parallel)
        if self.device_mesh is not None:
            self.policy.shard(self.trainer.strategy.mesh)

    def configure_optimizers(self):
        optimizer = self.make_optimizer([p for p in self.policy.parameters() if p.requires_grad])
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)]

    def rate(self, step: int) -> float:
        """The learning rate's factor in [0, 1] at an optimizer step."""
        warm = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        if self.decay_steps is None:
            return warm
        return warm * 0.5 * (1 + math.cos(math.pi * min(step / self.decay_steps, 1.0)))

    def state_dict(self, *args, **kwargs):
        kept = {key for key, parameter in self.named_parameters() if self.is_kept(key, parameter)}
        return {key: value for key, value in super().state_dict(*args, **kwargs).items() if key in kept}

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True, assign: bool = False):
        """UserError unless a checkpoint has exactly the tensors that this run's have."""
        require_same_tensors(
            *({key: value.shape for key, value in state.items()} for state in (self.state_dict(), state_dict))
        )
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def is_kept(self, key: str, parameter: nn.Parameter) -> bool:
        """Whether checkpoints hold a parameter: what is trained, and the copies that move."""
        return parameter.requires_grad or any(f".{name}." in key for name in self.moving)

    def optim_step(self) -> None:
        """Clips, steps, clears, and logs the step's meters."""
        with self.timed("optimize"):
            optimizer = self.optimizers()
            rate = optimizer.param_groups[0]["lr"]
            norm = clipped_norm(self.policy.parameters(), self.max_grad_norm, self.cause)
            optimizer.step()
            optimizer.zero_grad()
            if self.ema_decay is not None:
                self.policy.move(AVERAGE, share=1 - self.ema_decay)
            self.lr_schedulers().step()
        self.log_meters({"train/grad_norm": norm.detach(), "train/lr": norm.new_tensor(rate)})
        metrics = totals(self.meters)
        self.record(metrics)
        self.last_loss = metrics["train/loss"]
        self.meters.clear()
        self.watched.clear()

    def cause(self) -> str | None:
        """What is not finite on some rank, the first of what follows from it; None if a step too large is all that can
        be.
        """
        weights = (
            f"The weight {name} is not: give another run=NAME, with a whole model"
            for name, p in self.policy.named_parameters()
            if not is_finite(p.to_local() if isinstance(p, DTensor) else p)
        )
        watched = (said for said, finite in self.watched if not finite)
        settings = (
            f"optimizer.{key} is {value}: give a number"
            for group in self.optimizers().param_groups
            for key, value in group.items()
            if isinstance(value, float) and not math.isfinite(value)
        )
        losses = (
            f"{key} is not: give another run=NAME with model.dtype=float32, or another objective"
            for key, values in self.meters.items()
            if not torch.stack(values).isfinite().all()
        )
        found = all_gather(next(chain(weights, watched, settings, losses), None))
        return next((said for said in found if said), None)

    def record(self, metrics: dict[str, Tensor]) -> None:
        """Writes scalars, averaged over the ranks that have them, to every logger under the optimizer step just taken.

        Not by self.log, which writes a value again at each later step that has none of its own.
        """
        values = torch.stack([value.detach().float().to(self.device) for value in metrics.values()]).tolist()
        # keys may differ: a row may be of the high regime on one rank, of the low one on another
        every = all_gather(dict(zip(metrics, values)))
        keys = dict.fromkeys(key for values in every for key in values)
        averaged = {key: fmean(values[key] for values in every if key in values) for key in keys}
        for logger in self.loggers:
            logger.log_metrics(averaged, step=self.global_step - 1)

    def log_meters(self, values: Mapping[str, Tensor]) -> None:
        """Keeps scalars for the log of this step, see `totals`."""
        for key, value in values.items():
            self.meters[key].append(value)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds spent inside to time/<name> of this step, less those that are logged under another name
        meanwhile.
        """
        before, spent = self.seconds(), {}
        with timed(spent, name):
            yield
        self.meters[f"time/{name}"].append(spent[name] - (self.seconds() - before))

    def seconds(self) -> Tensor:
        """All that are logged of this step so far."""
        return sum((sum(values) for key, values in self.meters.items() if key.startswith("time/")), torch.zeros(()))


def totals(meters: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    """Of a step: the means of what is logged row by row, and the sums of seconds (time/...)."""
    seconds = {key: torch.stack(values).sum() for key, values in meters.items() if key.startswith("time/")}
    return {key: torch.stack(values).mean() for key, values in meters.items() if key not in seconds} | seconds
