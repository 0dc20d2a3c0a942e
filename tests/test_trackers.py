"""What W&B and TensorBoard are given: one run per job of a sweep, each step once, and the evaluation in the run of its
training.
"""

import os
import subprocess
from pathlib import Path

import pytest

from apo.config.compose import compose
from apo.config.validation import check_values
from tests.clips import write_manifest
from tests.commands import ROOT, short, train
from tests.offline_wandb import offline_runs

STEPS = 3


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, wan22_folder):
    """launcher's overrides -> the folder of a sweep over two ablations and two seeds."""
    home = tmp_path_factory.mktemp("sweeps")
    manifest = write_manifest(home / "data", 4)

    def run(name: str, *launcher: str) -> Path:
        base = [
            word
            for word in short(home, wan22_folder, manifest, name)
            if not word.startswith(("hydra.run.dir", "max_steps"))
        ]
        command = train(
            "-m",
            *base,
            f"max_steps={STEPS}",
            f"hydra.sweep.dir={home}/{name}",
            "hydra.sweep.subdir=${hydra:job.num}",
            "ablation=apo,high_only",
            "seed=0,1",
            *launcher,
        )
        result = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"WANDB_MODE": "offline"}, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr[-3000:]
        assert "anonymous" not in result.stderr and "wandb" not in result.stderr.lower(), result.stderr
        return home / name

    return run


@pytest.mark.parametrize(
    "launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")], ids=["basic", "joblib"]
)
def test_each_job_of_a_sweep_has_a_run_of_its_own_with_each_step_once(sweep, launcher):
    folder = sweep("joblib" if launcher else "basic", *launcher)
    runs = offline_runs(folder)
    assert len(runs) == 4 == len({run.id for run in runs})
    assert all(run.steps == list(range(STEPS)) and run.exit_code == 0 for run in runs)
    assert {run.group for run in runs} == {folder.name} and {run.job_type for run in runs} == {"offline"}
    jobs = [(f"ablation={name}", f"seed={seed}") for name in ("apo", "high_only") for seed in (0, 1)]
    assert sorted(tuple(run.tags) for run in runs) == jobs
    assert all({"train/loss", "train/lr"} <= row.keys() for run in runs for row in run.rows)


def test_an_evaluation_joins_the_run_of_its_training(tmp_path, monkeypatch):
    from omegaconf import OmegaConf

    from apo.modules.trackers import log_report

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder, cfg = tmp_path / "main" / "offline", OmegaConf.load(ROOT / "conf/common/logger/wandb.yaml")
    report = {
        "metrics": {"distortion_rate": {"value": 0.25, "low": 0.1, "high": 0.5}},
        "against": {"run": "baseline", "win": 3},
    }
    for name in ("eval", "eval_guided"):
        log_report(OmegaConf.create({"run": "main", "logger": cfg}), folder, report, name)
    first, second = offline_runs(folder)
    assert first.id == second.id and first.job_type == "baseline" and first.steps == [0]
    assert first.rows[0]["eval/distortion_rate"] == 0.25 and first.rows[0]["eval/distortion_rate_high"] == 0.5
    assert second.rows[0]["eval_guided/win"] == 3


def test_tensorboard_gets_the_same_metrics(tmp_path):
    from omegaconf import OmegaConf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from apo.modules.trackers import trackers

    (tracker,) = trackers(
        OmegaConf.create({"logger": OmegaConf.load(ROOT / "conf/common/logger/tensorboard.yaml")}), tmp_path
    )
    tracker.log_metrics({"train/loss": 0.5}, step=7)
    tracker.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(7, 0.5)]
    assert trackers(OmegaConf.create({"logger": OmegaConf.load(ROOT / "conf/common/logger/none.yaml")}), tmp_path) == []


@pytest.mark.parametrize("logger", [path.stem for path in sorted((ROOT / "conf/common/logger").glob("*.yaml"))])
def test_every_logger_is_one_of_training_and_of_evaluation(logger):
    for name, schema in (("train", "Training"), ("evaluate", "Evaluating")):
        check_values(compose(name, [f"logger={logger}"]), schema)
