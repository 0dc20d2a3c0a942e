"""How well a ranker's labels agree with the annotators' (Appendix C.3)."""

from dataclasses import dataclass

from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from apo.intervals import Interval, wilson
from apo.rankers.answer import LABELS

ALL = "all"


@dataclass
class Scores:
    """Of one domain: shares of rankings with 95 % intervals."""

    accuracy: Interval  # the label is the annotators'
    winner: Interval  # the winner is: all that preference training uses
    recall: dict[str, Interval]  # of those with a label, the share that got it; NaN without any


class RankingMetrics(nn.Module):
    """Scores of each domain and of ALL. Counts are summed over ranks; every rank must call `compute`."""

    def __init__(self, domains: list[str]):
        super().__init__()
        self.domains = [ALL, *sorted(set(domains))]
        self.confusion = nn.ModuleList(MulticlassConfusionMatrix(num_classes=len(LABELS)) for _ in self.domains)

    def update(self, given: Tensor, wanted: Tensor, domains: list[str]) -> None:
        """given, wanted: (B,) labels in 1..4 by the ranker and by the annotators."""
        for name, matrix in zip(self.domains, self.confusion):
            places = [i for i, domain in enumerate(domains) if name in (ALL, domain)]
            if places:
                matrix.update(given[places].to(matrix.device) - 1, wanted[places].to(matrix.device) - 1)

    def compute(self) -> dict[str, Scores]:
        return {name: scores(matrix.compute()) for name, matrix in zip(self.domains, self.confusion)}

    def values(self) -> dict[str, float]:
        """The estimates alone: `accuracy`, `winner`, `recall_1` ... of all, and under `<domain>/` of each."""
        flat = {}
        for name, found in self.compute().items():
            prefix = "" if name == ALL else f"{name}/"
            flat |= {f"{prefix}accuracy": found.accuracy.value, f"{prefix}winner": found.winner.value}
            flat |= {f"{prefix}recall_{label}": interval.value for label, interval in found.recall.items()}
        return flat


def scores(confusion: Tensor) -> Scores:
    """Of counts (4, 4): rows the annotators' labels, columns the ranker's."""
    count, hits = int(confusion.sum()), int(confusion.diagonal().sum())
    same_winner = int(confusion[::2, ::2].sum() + confusion[1::2, 1::2].sum())
    recall = {label: wilson(int(row[i]), int(row.sum())) for i, (label, row) in enumerate(zip(LABELS, confusion))}
    return Scores(wilson(hits, count), wilson(same_winner, count), recall)
