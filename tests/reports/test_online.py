"""The report of the online stages: seeds pooled, time in shares, what is missing named."""

import pytest
from omegaconf import OmegaConf

from apo.plan.costs import step_of
from apo.reports import arms, online
from apo.reports.arms import collect
from tests.reports import runs


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "outputs" / "online"
    runs.evaluation(run / "baseline", 40)
    for seed, distorted in enumerate((10, 20)):
        runs.evaluation(runs.training(run / f"ranker.error_rate_0.0-seed_{seed}", 40), distorted, against=(30, 60, 10))
    runs.evaluation(runs.training(run / "ranker.error_rate_0.3-seed_0", 40), 35, against=(6, 93, 1))
    runs.training(run / "ranker.error_rate_0.3-seed_1", 40)
    return run


def test_arms_are_error_rates_over_seeds(folder):
    arms, waiting = collect(folder, online.PATTERN, online.REMEDY)
    assert arms["ranker.error_rate_0.0"].seeds == [0, 1] and arms["ranker.error_rate_0.0"].pooled.value == 0.15
    assert waiting == ["ranker.error_rate_0.3-seed_1"]


def test_the_command_writes_table_and_figure(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parents[1])
    online.main()
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if "error rate 0.0" in line)
    assert "15.0 ± 7.1" in row and "60/120/20" in row and "| 2.50 | 0 | 0 | 100 | 2 |" in row
    assert row.count("| 800 |") == 1  # 40 steps of 5 rows, 4 forwards each
    assert "outputs/half_online is not there" in text and "ranker.error_rate_0.3-seed_1" in text
    assert (folder / "label_noise.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "changes, forwards",
    [
        ({}, 10),
        ({"rollout": {"num_inference_steps": 5}}, 5),
        ({"rollout": {"num_inference_steps": None}}, 10),
        ({"candidates": 4}, 20),
    ],
)
def test_generation_counts_in_forwards_of_the_pairs(tmp_path, changes, forwards):
    online = {
        "stage": {"name": "online", "data": "prompts", "needs_reference": True},
        "module": {"pairs": {"candidates": 2} | changes},
    }
    folder = runs.training(tmp_path / "run", 40, **online)
    cfg = OmegaConf.load(folder / "config.yaml")
    assert arms.forwards(step_of(cfg)) == 5 * 4 + forwards
    assert arms.forwards(step_of(cfg), blocks=0.5) == 5 * 4 + forwards / 2
    cfg.module.windows_per_pair = 2
    assert arms.forwards(step_of(cfg), blocks=0.5) == 5 * 4 + forwards / 4
