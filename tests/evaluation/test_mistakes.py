"""Mistakes are found before anything is loaded."""

import os
from pathlib import Path

import pytest
import torch

from apo.evaluation import evaluate
from apo.io.lock import holding
from apo.policies import sampling
from apo.runs import EvaluationError

ROOT = Path(__file__).parents[2]


def test_a_run_that_is_being_trained_says_so(cfg, tmp_path):
    (tmp_path / "outputs/r/offline/adapter/lineage.json").unlink()
    with pytest.raises(EvaluationError, match="offline has no finished adapter: run its train.py command again"):
        evaluate(cfg)
    said = (
        f"offline has no finished adapter yet, and is in use by process {os.getpid()} on .*: evaluate it after its end"
    )
    with holding(tmp_path / "outputs/r/offline", ""), pytest.raises(EvaluationError, match=said):
        evaluate(cfg)


def test_what_is_missing_is_named_with_what_is_there(cfg):
    cfg.stage = "online"
    with pytest.raises(EvaluationError, match="has finished: offline"):
        evaluate(cfg)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["conditions.count=null"], "give a whole number"),
        (["conditions.count=0"], "conditions.count=0: give a whole number of at least 1"),
        (["videos=-3"], "videos=-3"),
        (["trainer.accelerator=gpu"], "torch sees 0 GPU"),
        (["trainer.accelerator=tpu"], "trainer.accelerator=tpu: give one of cpu"),
        (["model.path=/nope"], "model.path=/nope: no model_index.json there"),
        (["conditions.split=foo"], "split=foo: give one of"),
        (
            ["model.spec.height=128"],
            "conditions=world needs videos of the world.* use model=tiny, or conditions=prompts",
        ),
        (["guidance=cfg_stg", "guidance.blocks=[9]"], "there is no block 9"),
        (
            [f"model.path={ROOT}/apo/world/checkpoints/wan21", "model.boundary=null"],
            "was trained over .*wan22 .* and this run's .*wan21",
        ),
        (["conditions=prompts", "conditions.path=/nope.jsonl"], "/nope.jsonl: no such manifest"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(composed, monkeypatch, wrong, said):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sampling, "sampling_policy", lambda *_: pytest.fail("loaded"))
    with pytest.raises(EvaluationError, match=said):
        evaluate(composed(*wrong))


def test_a_damaged_adapter_or_another_base_is_refused(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "sampling_policy", lambda *_: pytest.fail("loaded"))
    file = tmp_path / "outputs/r/offline/adapter/low_noise.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(EvaluationError, match="low_noise.safetensors is not the file that lineage.json names"):
        evaluate(cfg)
