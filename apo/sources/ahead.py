"""Online pairs one step ahead: the ranker looks at a step's candidates while the policy trains on those of the step
before.
"""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from apo.config.numbers import Share
from apo.distributed import gather_to_rank_0, is_leader, replica, replicas
from apo.interfaces import Condition, Pair
from apo.sources.online import Drafts, OnlinePairs, all_verdicts
from apo.timing import timed

if TYPE_CHECKING:
    from apo.policies.wan import WanPolicy


class AheadPairs(OnlinePairs):
    """Online pairs of which the policy that generated them is one step behind; nobody waits for a ranker that is quick
    enough.

    The first pairs of a run are used for its first two steps. Not in the paper. ValueError for a min_confidence: a pair
    that is to be generated anew has no step left for it.
    """

    def __init__(self, min_confidence: Share, **settings):
        super().__init__(min_confidence=min_confidence, **settings)
        if min_confidence > 0:
            raise ValueError(
                f"module.pairs.min_confidence={min_confidence}: one step ahead no pair is generated anew; set it 0"
            )
        self.pool = ThreadPoolExecutor(1, "ranker")
        self.waiting: tuple[Drafts, Future] | None = None
        self.left: tuple[Tensor, Condition] | None = None  # by a checkpoint, not yet decoded

    def __call__(self, batch: Condition, policy: "WanPolicy", step: int) -> Pair:
        """Exactly B pairs, those of the step before. RankerFailed on every rank if the ranker raised on one."""
        self.meters = {}
        if self.left is not None:
            latents, cond = self.left
            latents, cond = latents.to(batch.image.device), cond.to(batch.image.device)
            self.submit(
                Drafts(
                    latents, self.rollout.decode(policy, latents.flatten(0, 1)).unflatten(0, latents.shape[:2]), cond
                )
            )
            self.left = None
            wait(
                [self.waiting[1]]
            )  # transformers changes torch's default dtype, of all threads, while a ranker is loaded
        before = self.waiting
        drafts = self.generate(batch, policy, step, 0, range(len(batch.prompt)))
        if before is None:
            self.submit(drafts)
            before = self.waiting
        used, answer = before
        with timed(self.meters, "time/rank"):  # of which the policy had to wait
            judged = self.decide(used.latents, all_verdicts(*answer.result(), batch.image.device))
        if used is not drafts:
            self.submit(drafts)
        self.meters |= judged.meters()
        return Pair(judged.chosen, judged.rejected, used.cond)

    def submit(self, drafts: Drafts) -> None:
        self.waiting = drafts, self.pool.submit(self.ask, drafts.videos, drafts.cond)

    @torch.no_grad()
    def ask(self, videos: Tensor, cond: Condition) -> tuple[list[tuple], Exception | None]:
        if videos.is_cuda:  # the current device is a thread's own, and "cuda" in a new one is the first
            torch.cuda.set_device(videos.device)
        return super().ask(videos, cond)

    def state(self) -> tuple[Tensor, Condition] | None:
        """Latents (N, B, C, F, H, W) and conditions of all replicas' candidates that wait; ranking them again is cheap.

        On rank 0, which writes the checkpoint; None on the others. Every rank must ask.
        """
        if self.waiting is None and self.left is None:
            return None
        latents, cond = self.left if self.waiting is None else (self.waiting[0].latents, self.waiting[0].cond)
        every = gather_to_rank_0((latents.cpu(), cond.to("cpu")) if is_leader() else None)
        if every is None:
            return None
        every = [share for share in every if share is not None]
        return torch.cat([latents for latents, _ in every], 1), Condition.cat(*(cond for _, cond in every))

    def load(self, state: tuple[Tensor, Condition] | None) -> None:
        """Takes this replica's share of what `state` gave, whatever the number of replicas was."""
        if state is None:
            return
        latents, cond = state
        size = latents.shape[1] // replicas()
        mine = list(range(replica() * size, (replica() + 1) * size))
        self.left = latents[:, mine], cond[mine]
