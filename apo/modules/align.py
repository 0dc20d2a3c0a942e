"""The training loop, the only one: a source gives samples, a window gives rows, a loss gives scalars to
backpropagate.
"""

from collections.abc import Sequence
from typing import Annotated

import torch

from apo.config.numbers import Count, Null, Share, Size, Whole
from apo.interfaces import Loss, Row, Source, T, Term, TimestepSampler
from apo.modules.base import PolicyModule
from apo.modules.optim import average_gradients
from apo.modules.window import Window
from apo.policies.lora import REFERENCE


class AlignModule(PolicyModule):
    """Every stage: offline, online, half-online, distillation, fine-tuning, and the training of a ranker.

    pairs: the source. sampler: of the window's timesteps; None for a loss that has none.
    split: the share of T where the meters' high regime begins.
    windows_per_pair: optimizer steps that a sample is used for, each with a window and noise of its own; the paper's is
    1. reference_update_every_n_steps: how often the reference becomes the current policy (OnlineVPO, Zhang et al.,
    2024); None keeps the preceding stage as it is (Section 3.3). blocks: transformer blocks whose part of the adapter
    is trained; None for all.
    """

    def __init__(
        self,
        pairs: Source,
        sampler: TimestepSampler | None,
        loss: Loss,
        batch_size: Size,
        split: Share,
        windows_per_pair: Count = 1,
        reference_update_every_n_steps: Annotated[Count | None, Null("to keep the reference")] = None,
        blocks: Sequence[Whole] | None = None,
        **settings,
    ):
        super().__init__(**settings)
        self.source, self.window, self.loss = pairs, Window(sampler, batch_size, self.seed), loss
        self.split, self.windows_per_pair = split, windows_per_pair
        self.reference_update_every_n_steps = reference_update_every_n_steps
        if reference_update_every_n_steps is not None:
            self.follow_with(REFERENCE)
        if blocks is not None:
            self.policy.train_blocks(blocks)

    def training_step(self, batch, _):
        """One optimizer step per window: ∇L_total = Σ_{t∈W} ∇L_APO(t), a sum over its rows (Section 3.2)."""
        sample = self.source(batch, self.policy, self.global_step)
        self.log_meters(self.source.meters)
        self.watched += self.loss.watched(sample).items()
        for _ in range(self.windows_per_pair):
            self.move_reference()
            with self.timed("optimize"):
                for row in self.window.rows(self.policy, sample, self.global_step):
                    for term in self.loss(self.policy, sample, row):
                        self.backward_of(term, row)
                        self.note(term, row)
            self.optim_step()

    def move_reference(self) -> None:
        """Makes the reference the policy if it is time to; before the step, so that a run resumed here does it too."""
        every = self.reference_update_every_n_steps
        if every is not None and self.global_step and self.global_step % every == 0:
            self.policy.move(REFERENCE)

    def backward_of(self, term: Term, row: Row) -> None:
        """Adds the gradient of a term of a row.

        Processes that share a sequence each have their tokens' part of it, and it is the average of all processes that
        is taken.
        """
        average_gradients(self.policy.expert(row.t), row.last and term.last)
        self.manual_backward(term.value * self.policy.context_parallel)

    @torch.no_grad()
    def note(self, term: Term, row: Row) -> None:
        """Logs what a loss says of a row, and its loss once more for the regime of the row's noise level."""
        self.log_meters(term.meters)
        self.watched += term.watched.items()
        loss = term.meters.get("train/loss")
        if loss is not None and row.t is not None:
            regime = "high" if row.t.mean() >= self.split * T else "low"
            self.log_meters({"train/t_mean": row.t.mean().to(loss), f"train/loss_{regime}": loss})

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["pairs"] = self.source.state()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.source.load(checkpoint["pairs"])
