"""The loss of a ranking model (Appendix C): cross entropy on the answer token, every pair in both orders."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as nnf
from torch import Tensor

from apo.data.rankings import Ranking
from apo.interfaces import Loss, Row, Term
from apo.rankers.answer import order_averaged, swapped, verdict

if TYPE_CHECKING:
    from apo.rankers.vlm import RankingVLM


class RankingLoss(Loss):
    """The mean cross entropy of the answer token over the whole vocabulary; half of it from either order."""

    def __call__(self, policy: "RankingVLM", ranking: Ranking, row: Row) -> Iterator[Term]:
        first, second, label, domain = ranking.first, ranking.second, ranking.label, ranking.domain
        yield self.term(policy(first, second, domain), label, policy.answers, last=False)
        yield self.term(policy(second, first, domain), swapped(label), policy.answers, last=True)

    def term(self, logits: Tensor, label: Tensor, answers: list[int], last: bool) -> Term:
        """logits: (B, vocabulary). label: (B,) in 1..4. answers: the tokens of the labels."""
        answers = torch.tensor(answers, device=label.device)
        loss = nnf.cross_entropy(logits, answers[label - 1])
        accuracy = (logits[:, answers].argmax(1) + 1 == label).float().mean()
        return Term(loss / 2, last, {"train/loss": loss.detach(), "train/accuracy": accuracy})

    @torch.no_grad()
    def judged(self, policy: "RankingVLM", ranking: Ranking) -> Tensor:
        """(B,) labels in 1..4 by both orders' average."""
        given = policy.probabilities(ranking.first, ranking.second, ranking.domain)
        other = policy.probabilities(ranking.second, ranking.first, ranking.domain)
        return verdict(order_averaged(given, other)).label
