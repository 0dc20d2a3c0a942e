import json
import sys
from pathlib import Path

import pytest

from apo.errors import UserError
from apo.intervals import wilson
from apo.reports import table1
from tests.reports import runs


@pytest.fixture
def folder(tmp_path) -> Path:
    """A baseline, APO and DPO with three seeds each at equal compute, an arm of ours, and one that is not evaluated."""
    run = tmp_path / "outputs" / "table1"
    runs.evaluation(run / "baseline", 20)
    for seed, (apo, dpo) in enumerate([(6, 12), (8, 15), (10, 18)]):
        runs.evaluation(runs.training(run / f"ablation_apo-seed_{seed}", 100, 5), apo, against=(14, 84, 2))
        runs.evaluation(runs.training(run / f"ablation_diffusion_dpo-seed_{seed}", 500, 1), dpo, against=(9, 87, 4))
    runs.evaluation(runs.training(run / "ablation_zigzag-seed_0"), 5, against=(15, 85, 0))
    runs.training(run / "ablation_wo_rs-seed_0")
    (run / "notes").mkdir()
    return run


def arms(folder) -> dict[str, table1.Arm]:
    return {arm.name: arm for arm in table1.collect(folder)[0]}


def test_arms_stand_in_the_papers_order_and_new_ones_follow(folder):
    assert list(arms(folder)) == ["baseline", "diffusion_dpo", "apo", "zigzag"]
    assert table1.collect(folder)[1] == ["ablation_wo_rs-seed_0"]


def test_seeds_are_averaged_and_their_videos_pooled(folder):
    apo = arms(folder)["apo"]
    assert (apo.seeds, apo.videos, apo.distorted) == ([0, 1, 2], 300, 24)
    assert apo.pooled == wilson(24, 300)
    assert table1.spread([100 * v for v in apo.distortion_rate], "{:.1f}") == "8.0 ± 2.0"
    assert (apo.win, apo.tie, apo.loss) == (42, 252, 6)
    assert apo.followed == 150


def test_equal_compute_is_equal_forward_equivalents(folder):
    found = arms(folder)
    assert found["apo"].forward_equivalents == found["diffusion_dpo"].forward_equivalents == [100 * 5 * 4] * 3
    assert found["apo"].seconds == pytest.approx([250.0] * 3)
    assert found["baseline"].forward_equivalents == []


def test_the_command_writes_the_table_the_numbers_and_the_figure(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parents[1])
    monkeypatch.setattr(sys, "argv", ["table1", "--run", "table1"])
    table1.main()
    text = (folder / "table1.md").read_text()
    row = next(line for line in text.splitlines() if "Diffusion-APO" in line)
    assert (
        "| 8.0 ± 2.0 [5.4, 11.6] | 8.0 ± 1.0 | 1.500 ± 0.000 | 50.0 ± 0.0 [44.4, 55.6] | 42/252/6 | 250 | 2000 |" in row
    )
    assert "Not evaluated yet: ablation_wo_rs-seed_0" in text and text in capsys.readouterr().out
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    numbers = json.loads((folder / "table1.json").read_text())["arms"]
    assert [arm["paper"] for arm in numbers] == [[0.21, 0.02], [0.15, 0.015], [0.08, 0.01], None]
    assert (folder / "table1.png").read_bytes().startswith(b"\x89PNG")


def test_folders_with_more_overrides_are_the_same_arm_and_never_counted_twice(folder):
    runs.evaluation(runs.training(folder / "ablation_apo-optimizer.lr_0.001-seed_3"), 9)
    assert arms(folder)["apo"].seeds == [0, 1, 2, 3]
    runs.evaluation(runs.training(folder / "ablation_apo-optimizer.lr_0.003-seed_3"), 9)
    with pytest.raises(ValueError, match="both arm apo, seed 3"):
        table1.collect(folder)


def test_nothing_evaluated_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="make table1"):
        table1.collect(tmp_path)


@pytest.mark.parametrize("name", ["rows.json", "report.json"])
def test_a_damaged_evaluation_is_named_with_the_remedy(folder, name):
    path = folder / "ablation_apo-seed_1" / "eval" / name
    for damaged in (path.read_text()[:-20], "[]", ""):
        path.write_text(damaged)
        with pytest.raises(UserError, match=f"{name} is damaged: run its evaluate.py command again"):
            table1.collect(folder)
