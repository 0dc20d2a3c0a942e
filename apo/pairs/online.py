"""Online pairs (Section 3.3.1): the active policy generates, a ranker compares, the latents are trained on as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from apo.interfaces import Condition, Pair, Ranker
from apo.pairs.rollout import Rollout, largest, rows, timed
from apo.policies.wan import WanPolicy
from apo.rankers.answer import swapped
from apo.seeds import rank

LEAST = 1e-6  # weight of a win without any confidence: the winner of two still wins


class RankerFailed(RuntimeError):
    """A ranker gave no verdict; raised on all ranks at once, before anything of the step was changed."""


@dataclass
class Judged:
    """The best and the worst candidate of each of B conditions."""

    chosen: Tensor  # (B, C, F, H, W)
    rejected: Tensor
    label: Tensor  # (B,) in 1..4, of best (first) against worst (second)
    confidence: Tensor  # (B,) in [0, 1], that the best is better than the worst

    def put(self, places: Sequence[int], other: "Judged") -> None:
        """Replaces the pairs at `places` by those of `other` that are more confident; `other` may have more at its end."""
        for j, i in enumerate(places):
            if other.confidence[j] > self.confidence[i]:
                for name, mine in vars(self).items():
                    mine[i] = getattr(other, name)[j]


class OnlinePairs:
    """One pair per condition from `candidates` generations: best and worst by the ranker's confidence-weighted wins.

    Seeds depend on (seed, step, place in the global batch, candidate, attempt) alone: a resumed run, and any number of
    ranks, generates the same. Pairs of less confidence than min_confidence are generated anew from other noise, in at most
    max_attempts rounds in all; each keeps its most confident attempt. rollout: how the candidates are generated.
    """

    def __init__(
        self, ranker: Ranker, rollout: Rollout, candidates: int, min_confidence: float, max_attempts: int, seed: int,
    ):  # fmt: skip
        self.ranker, self.rollout, self.candidates = ranker, rollout, candidates
        self.min_confidence, self.max_attempts, self.seed = min_confidence, max_attempts, seed
        self.meters: dict[str, Tensor] = {}
        if candidates < 2:
            raise ValueError(f"module.pairs.candidates={candidates}: a pair needs at least 2")
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"module.pairs.min_confidence={min_confidence}: give a probability in [0, 1]")
        if max_attempts < 1:
            raise ValueError(f"module.pairs.max_attempts={max_attempts}: at least 1 round is needed")

    def __call__(self, batch: Condition, policy: WanPolicy, step: int) -> Pair:
        """Exactly B pairs. RankerFailed on every rank if the ranker raises on one."""
        self.meters = {}
        places = range(len(batch.prompt))
        best = self.attempt(batch, policy, step, 0, places)
        attempts = 1
        while attempts < self.max_attempts:
            weak = [i for i in places if best.confidence[i] < self.min_confidence]
            # with sharded weights, every rank generates as many videos as the rank that needs most: the rest is dropped
            count = largest(len(weak), batch.image.device)
            if count == 0:
                break
            best.put(weak, self.attempt(batch, policy, step, attempts, (weak + [0] * count)[:count]))
            attempts += 1
        self.meters |= {
            "rank/confidence": best.confidence.float().mean(),
            "rank/distortion": (best.label <= 2).float().mean(),  # share of the pairs that distortion decided
            "rank/attempts": torch.tensor(float(attempts)),
        }
        return Pair(best.chosen, best.rejected, batch)

    def attempt(self, batch: Condition, policy: WanPolicy, step: int, attempt: int, places: Sequence[int]) -> Judged:
        """New candidates for the conditions at `places` of this rank's batch, compared."""
        first, count = rank() * len(batch.prompt), len(places)
        keys = [(self.seed, step, first + i, candidate, attempt) for candidate in range(self.candidates) for i in places]
        with timed(self.meters, "time/generate"):
            cond = rows(batch, list(places))
            latents = self.rollout(policy, rows(cond, list(range(count)) * self.candidates), keys)
            videos = self.rollout.decode(policy, latents).unflatten(0, (self.candidates, count))
        with timed(self.meters, "time/rank"):
            return self.judge(latents.unflatten(0, (self.candidates, count)), videos, cond)

    def judge(self, latents: Tensor, videos: Tensor, cond: Condition) -> Judged:
        """latents (N, B, C, F, H, W) and videos (N, B, frames, 3, height, width) of N candidates: every two are compared."""
        count, size = latents.shape[:2]
        better = torch.zeros(count, count, size)  # probability that candidate i is better than j
        label = torch.zeros(count, count, size, dtype=torch.long)
        wins = torch.zeros(count, size)
        for i, j, verdict in self.verdicts(videos, cond):
            first_wins, confidence = verdict.first_wins.cpu(), verdict.confidence.cpu().float()
            better[i, j] = torch.where(first_wins, confidence, 1 - confidence)
            better[j, i] = 1 - better[i, j]
            label[i, j], label[j, i] = verdict.label.cpu(), swapped(verdict.label).cpu()
            wins[i] += first_wins * confidence.clamp(min=LEAST)
            wins[j] += ~first_wins * confidence.clamp(min=LEAST)
        best = wins.argmax(0)
        worst = wins.scatter(0, best[None], torch.inf).argmin(0)  # never the best, even if all have won as much
        each = torch.arange(size)
        return Judged(latents[best, each], latents[worst, each], label[best, worst, each], better[best, worst, each])

    def verdicts(self, videos: Tensor, cond: Condition) -> list[tuple]:
        """(i, j, verdict of candidate i against j) for every two. No rank goes on alone if the ranker fails on another."""
        found, failure = [], None
        try:
            for i, j in combinations(range(len(videos)), 2):
                found.append((i, j, self.ranker(videos[i], videos[j], cond)))
        except Exception as error:  # whatever a server, a model or a file may raise
            failure = error
        if largest(int(failure is not None), cond.image.device):
            what = f"{type(failure).__name__}: {failure}" if failure else "on another rank, see its log"
            raise RankerFailed(f"the ranker gave no verdict ({what}); no step was taken: the same command continues") from failure
        return found
