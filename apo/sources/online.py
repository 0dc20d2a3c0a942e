"""Online pairs (Section 3.3.1): the active policy generates, a ranker compares, the latents are trained
on as they are.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from apo.config.numbers import Range, Seed, Share
from apo.distributed import all_reduce_max, broadcast, is_leader, replica
from apo.errors import UserError
from apo.interfaces import Condition, Pair, Ranker, Source
from apo.parts import Setting
from apo.rankers.answer import require_verdict, swapped
from apo.sources.rollout import Rollout
from apo.timing import timed

if TYPE_CHECKING:
    from apo.policies.wan import WanPolicy

MIN_WEIGHT = 1e-6  # weight of a win without any confidence: the winner of two still wins


class RankerFailed(UserError):
    """A ranker gave no verdict; raised on all ranks at once, before anything of the step was changed. What was done is
    saved.
    """


@dataclass
class Drafts:
    """N candidates of each of B conditions."""

    latents: Tensor  # (N, B, C, F, H, W)
    videos: Tensor  # (N, B, frames, 3, height, width) uint8
    cond: Condition


@dataclass
class Judged:
    """The best and the worst candidate of each of B conditions."""

    chosen: Tensor  # (B, C, F, H, W)
    rejected: Tensor
    label: Tensor  # (B,) in 1..4, of best (first) against worst (second)
    confidence: Tensor  # (B,) in [0, 1], that the best is better than the worst

    def put(self, places: Sequence[int], other: "Judged") -> None:
        """Replaces the pairs at `places` by those of `other` that are more confident; `other` may have
        more at its end.
        """
        for j, i in enumerate(places):
            if other.confidence[j] > self.confidence[i]:
                for name, mine in vars(self).items():
                    mine[i] = getattr(other, name)[j]

    def meters(self) -> dict[str, Tensor]:
        """rank/distortion: the share of the pairs that distortion decided."""
        return {"rank/confidence": self.confidence.float().mean(), "rank/distortion": (self.label <= 2).float().mean()}


class OnlinePairs(Source):
    """One pair per condition from `candidates` generations: best and worst by the ranker's confidence-weighted wins.

    Seeds depend on (seed, step, place in the global batch, candidate, attempt) alone: a resumed run, and any number of
    ranks, generates the same. Pairs of less confidence than min_confidence are generated anew from other noise, in at
    most max_attempts rounds in all; each keeps its most confident attempt. rollout: how the candidates are generated.
    """

    def __init__(
        self,
        ranker: Ranker,
        rollout: Rollout,
        candidates: Annotated[int, Range(2, 1000)],
        min_confidence: Share,
        max_attempts: Annotated[int, Range(1, 1000)],
        seed: Seed,
    ):
        self.ranker, self.rollout, self.candidates = ranker, rollout, candidates
        self.min_confidence, self.max_attempts, self.seed = min_confidence, max_attempts, seed
        self.meters: dict[str, Tensor] = {}
        if candidates < 2:
            raise ValueError(f"module.pairs.candidates={candidates}: a pair needs at least 2")
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"module.pairs.min_confidence={min_confidence}: give a probability in [0, 1]")
        if max_attempts < 1:
            raise ValueError(f"module.pairs.max_attempts={max_attempts}: at least 1 round is needed")

    def check(self, setting: Setting) -> None:
        self.rollout.check(setting)
        self.ranker.check(setting)

    @property
    def generated(self) -> int:
        return self.candidates

    def judged(self) -> int:
        return comb(self.candidates, 2) if self.ranker.is_model else 0

    def __call__(self, batch: Condition, policy: "WanPolicy", step: int) -> Pair:
        """Exactly B pairs. RankerFailed on every rank if the ranker raises on one."""
        self.meters = {}
        places = range(len(batch.prompt))
        best = self.attempt(batch, policy, step, 0, places)
        attempts = 1
        while attempts < self.max_attempts:
            weak = [i for i in places if best.confidence[i] < self.min_confidence]
            # with sharded weights, every rank generates as many videos as the rank that needs most: the rest is dropped
            count = all_reduce_max(len(weak), batch.image.device)
            if count == 0:
                break
            best.put(weak, self.attempt(batch, policy, step, attempts, (weak + [0] * count)[:count]))
            attempts += 1
        self.meters |= best.meters() | {"rank/attempts": torch.tensor(float(attempts))}
        return Pair(best.chosen, best.rejected, batch)

    def attempt(self, batch: Condition, policy: "WanPolicy", step: int, attempt: int, places: Sequence[int]) -> Judged:
        """New candidates for the conditions at `places` of this rank's batch, compared."""
        drafts = self.generate(batch, policy, step, attempt, places)
        with timed(self.meters, "time/rank"):
            return self.judge(drafts.latents, drafts.videos, drafts.cond)

    def generate(self, batch: Condition, policy: "WanPolicy", step: int, attempt: int, places: Sequence[int]) -> Drafts:
        """New candidates for the conditions at `places` of this rank's batch."""
        first, count = replica() * len(batch.prompt), len(places)
        keys = [
            (self.seed, step, first + i, candidate, attempt) for candidate in range(self.candidates) for i in places
        ]
        with timed(self.meters, "time/generate"):
            cond = batch[places]
            latents = self.rollout(policy, cond[list(range(count)) * self.candidates], keys)
            videos = self.rollout.decode(policy, latents)
        self.meters |= self.rollout.meters
        shape = (self.candidates, count)
        return Drafts(latents.unflatten(0, shape), videos.unflatten(0, shape), cond)

    def judge(self, latents: Tensor, videos: Tensor, cond: Condition) -> Judged:
        """latents (N, B, C, F, H, W) and videos (N, B, frames, 3, height, width) of N candidates: every two are
        compared.
        """
        return self.decide(latents, all_verdicts(*self.ask(videos, cond), cond.image.device))

    def decide(self, latents: Tensor, verdicts: list[tuple]) -> Judged:
        """Best and worst of N candidates (N, B, C, F, H, W) by the verdicts on every two."""
        count, size = latents.shape[:2]
        better = torch.zeros(count, count, size)  # probability that candidate i is better than j
        label = torch.zeros(count, count, size, dtype=torch.long)
        wins = torch.zeros(count, size)
        for i, j, verdict in verdicts:
            first_wins, confidence = verdict.first_wins, verdict.confidence.float()
            better[i, j] = torch.where(first_wins, confidence, 1 - confidence)
            better[j, i] = 1 - better[i, j]
            label[i, j], label[j, i] = verdict.label, swapped(verdict.label)
            wins[i] += first_wins * confidence.clamp(min=MIN_WEIGHT)
            wins[j] += ~first_wins * confidence.clamp(min=MIN_WEIGHT)
        best = wins.argmax(0)
        worst = wins.scatter(0, best[None], torch.inf).argmin(0)  # never the best, even if all have won as much
        each = torch.arange(size)
        return Judged(latents[best, each], latents[worst, each], label[best, worst, each], better[best, worst, each])

    def ask(self, videos: Tensor, cond: Condition) -> tuple[list[tuple], Exception | None]:
        """(i, j, verdict of candidate i against j) for every two, and what the ranker raised. One process of a replica
        asks.
        """
        found = []
        if not is_leader():
            return found, None
        try:
            for i, j in combinations(range(len(videos)), 2):
                found.append((i, j, require_verdict(self.ranker(videos[i], videos[j], cond), len(videos[i]))))
        except Exception as error:  # whatever a server, a model or a file may raise
            if not isinstance(error, UserError):  # nothing that one line can explain
                traceback.print_exception(error)
            return found, error
        return found, None


def all_verdicts(found: list[tuple], failure: Exception | None, device: torch.device) -> list[tuple]:
    """What was found, also by a replica's other processes; if the ranker failed on any rank, RankerFailed on all: none
    goes on alone.
    """
    if all_reduce_max(int(failure is not None), device):
        kind = "" if isinstance(failure, UserError) else f"{type(failure).__name__}: "
        what = " ".join(f"{kind}{failure}".split()) if failure else "on another rank, see its log"
        raise RankerFailed(
            f"the ranker gave no verdict ({what}); no step was taken: the same command continues"
        ) from failure
    return broadcast(found)
