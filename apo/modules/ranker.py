"""Training a ranking model (Appendix C): cross entropy on the answer token, every pair in both orders."""

import lightning as L
import torch
import torch.nn.functional as nnf
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from apo.data.rankings import Ranking, RankingDataset
from apo.distributed import rank, world_size
from apo.evaluators.ranking import RankingMetrics
from apo.modules.base import PolicyModule
from apo.rankers.answer import order_averaged, swapped, verdict


class RankerModule(PolicyModule):
    """`policy` is an apo.rankers.vlm.TrainableVLM."""

    def training_step(self, batch: Ranking, _):
        with self.timed("optimize"):
            self.manual_backward(self.loss(batch.first, batch.second, batch.label, batch.domain) / 2)
            self.manual_backward(self.loss(batch.second, batch.first, swapped(batch.label), batch.domain) / 2)
        self.optim_step()

    def loss(self, first: Tensor, second: Tensor, label: Tensor, domains: list[str]) -> Tensor:
        """The mean cross entropy of the answer token over the whole vocabulary."""
        answers = torch.tensor(self.policy.answers, device=label.device)
        logits = self.policy(first, second, domains)
        loss = nnf.cross_entropy(logits, answers[label - 1])
        self.meters["train/loss"].append(loss.detach())
        self.meters["train/accuracy"].append((logits[:, answers].argmax(1) + 1 == label).float().mean())
        return loss


class HeldOutRankings(Callback):
    """val/ metrics of order-averaged verdicts on rankings that are not trained on, every N steps; each rank judges a share."""

    def __init__(self, data: RankingDataset, every_n_steps: int, batch_size: int):
        self.data, self.every_n_steps, self.batch_size = data, every_n_steps, batch_size

    def on_train_batch_end(self, trainer: L.Trainer, module: RankerModule, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every_n_steps and trainer.global_step != trainer.max_steps:
            return
        metrics = RankingMetrics(self.data.domains).to(module.device)
        places = range(rank(), len(self.data), world_size())
        for start in range(0, len(places), self.batch_size):
            ranking = self.data.collate([self.data[i] for i in places[start : start + self.batch_size]])
            ranking = module.transfer_batch_to_device(ranking, module.device, 0)
            metrics.update(judged(module.policy, ranking), ranking.label, ranking.domain)
        module.record({f"val/{key}": torch.tensor(value) for key, value in metrics.values().items()})


@torch.no_grad()
def judged(vlm, ranking: Ranking) -> Tensor:
    """(B,) labels in 1..4 by both orders' average."""
    given = vlm.probabilities(ranking.first, ranking.second, ranking.domain)
    return verdict(order_averaged(given, vlm.probabilities(ranking.second, ranking.first, ranking.domain))).label
