"""Agreement of a ranker's labels with the annotators', over domains and ranks."""

import math
import os

import pytest
import torch
import torch.distributed as dist

from apo.evaluators.ranking import RankingMetrics
from apo.rankers.answer import LABELS

GIVEN, WANTED = [1, 2, 3, 4, 1, 3, 2], [1, 2, 3, 4, 3, 1, 1]
DOMAINS = ["digit", "digit", "digit", "digit", "scene", "scene", "scene"]


def judged(places: list[int]) -> RankingMetrics:
    metrics = RankingMetrics(DOMAINS)
    for i in places:
        metrics.update(torch.tensor([GIVEN[i]]), torch.tensor([WANTED[i]]), [DOMAINS[i]])
    return metrics


def test_accuracy_winner_and_recall_by_domain():
    values = judged(range(7)).values()
    assert values["digit/accuracy"] == values["digit/winner"] == values["digit/recall_4"] == 1
    assert values["scene/accuracy"] == 0 and values["scene/winner"] == pytest.approx(
        2 / 3
    )  # 1 for 3 has the right winner
    assert values["accuracy"] == pytest.approx(4 / 7) and values["winner"] == pytest.approx(6 / 7)
    assert values["recall_1"] == pytest.approx(1 / 3) and values["recall_3"] == pytest.approx(1 / 2)
    assert math.isnan(values["scene/recall_2"])  # no scene has that label
    assert {key.split("/")[-1] for key in values} == {"accuracy", "winner", *(f"recall_{label}" for label in LABELS)}


def judge_rank(rank: int, ranks: int, store: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    part = judged(range(rank, 7, ranks))
    torch.save(part.values(), f"{out}{rank}")
    dist.destroy_process_group()


def test_two_ranks_with_disjoint_rankings_report_what_one_process_does(tmp_path):
    torch.multiprocessing.spawn(judge_rank, (2, os.fspath(tmp_path / "store"), os.fspath(tmp_path / "rank")), nprocs=2)
    whole = judged(range(7)).values()
    for rank in range(2):
        assert torch.load(tmp_path / f"rank{rank}") == pytest.approx(whole, nan_ok=True)
