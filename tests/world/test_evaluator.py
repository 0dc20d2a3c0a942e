"""The evaluator as configured: keys, one measurement for all, and sums over ranks."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hydra.utils import instantiate
from omegaconf import OmegaConf

from apo.interfaces import Condition
from apo.world import flaws, render
from apo.world.evaluator import WorldEvaluator
from apo.world.grammar import describe

CONF = Path(__file__).parents[2] / "conf" / "evaluation" / "evaluator" / "world.yaml"


def evaluator() -> WorldEvaluator:
    return instantiate(OmegaConf.load(CONF))


def batch(seed: int, count: int = 5) -> tuple[torch.Tensor, Condition]:
    """Every second video is a frozen one or has a flaw."""
    rng = np.random.default_rng(seed)
    clips = [render.random_clip(rng, scenes=0.0) for _ in range(count)]
    right = torch.stack([render.render(clip) for clip in clips])
    makers = [flaws.freeze, flaws.vanish, flaws.misdirect]
    wrong = [makers[i % 3](clip, rng) if i % 2 else right[i] for i, clip in enumerate(clips)]
    prompts = [describe(clip.meaning) for clip in clips]
    return torch.stack(wrong), Condition(prompts, torch.empty(0), torch.empty(0), frame=right[:, 0])


def test_the_keys_are_those_of_the_report():
    assert list(evaluator().metrics) == [
        "distortion_rate",
        "dynamic_degree",
        "instruction_following",
        "subject_consistency",
        "background_consistency",
        "motion_smoothness",
    ]


def test_rows_agree_with_the_metrics_and_reset_forgets_both():
    whole = evaluator()
    for seed in range(2):
        whole.update(*batch(seed))
    metrics, rows = whole.compute(), whole.rows
    assert [row["prompt"] for row in rows] == batch(0)[1].prompt + batch(1)[1].prompt
    assert metrics["distortion_rate"].value == pytest.approx(np.mean([row["distorted"] for row in rows]))
    assert metrics["instruction_following"].value == pytest.approx(np.mean([row["followed"] for row in rows]))
    assert metrics["dynamic_degree"].value == pytest.approx(np.mean([row["speed"] for row in rows]))
    assert {row["cause"] for row in rows} == {"", "vanished"}
    whole.reset()
    whole.update(*batch(2))
    fresh = evaluator()
    fresh.update(*batch(2))
    assert (whole.rows, whole.compute()) == (fresh.rows, fresh.compute())


def test_a_metric_of_a_column_that_is_not_measured_is_refused():
    config = OmegaConf.load(CONF)
    config.metrics.dynamic_degree.of = "sped"
    with pytest.raises(ValueError, match="evaluator.metrics.dynamic_degree.of=sped: give one of distorted, cause"):
        WorldEvaluator(config.metrics)


def test_a_condition_without_a_first_frame_is_an_error_that_says_so():
    videos, cond = batch(0)
    cond.frame = None
    with pytest.raises(ValueError, match="no first frame in pixels: set Condition.frame"):
        evaluator().update(videos, cond)


def evaluate_rank(rank: int, ranks: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    part = evaluator()
    for seed in range(rank, 3, ranks):  # unequal shares
        part.update(*batch(seed))
    torch.save((part.compute(), len(part.rows)), f"{out}{rank}")
    dist.destroy_process_group()


def test_two_ranks_together_report_what_one_process_does(tmp_path):
    whole = evaluator()
    for seed in range(3):
        whole.update(*batch(seed))
    arguments = (2, os.fspath(tmp_path / "store"), os.fspath(tmp_path / "rank"))
    torch.multiprocessing.spawn(evaluate_rank, arguments, nprocs=2)
    for rank, videos in enumerate((10, 5)):
        metrics, rows = torch.load(tmp_path / f"rank{rank}", weights_only=False)
        assert rows == videos
        for key, interval in whole.compute().items():
            assert vars(metrics[key]) == pytest.approx(vars(interval)), key
