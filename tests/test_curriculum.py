"""The five stages, one after another, on the shipped world with few solver steps."""

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import DictConfig

from apo.checks import ConfigError, check
from apo.config.compose import compose
from apo.run import train

ROOT = Path(__file__).parents[1]
STAGES = {
    "1_online": [],
    "2_half_online": ["data.count=5", "data.batch_size=8"],
    "3_offline": ["data.count=2", "data.batch_size=8"],
    "4_distill": ["data.count=2", "data.batch_size=8"],
    "5_distill_dpo": ["data.count=2", "data.batch_size=8"],
}


def config(name: str, *more: str) -> DictConfig:
    return compose(
        "train",
        [
            f"curriculum=quick/{name}",
            "model.num_inference_steps=6",
            "max_steps=1",
            "batch_size=2",
            "policy.lora.rank=2",
            "trainer.threads=1",
            "logger=csv",
            *STAGES[name],
            *more,
        ],
    )


def folder_of(cfg: DictConfig) -> Path:
    return Path("outputs") / cfg.run / cfg.stage.name


def test_every_stage_follows_the_one_before_and_is_done_once(tmp_path, monkeypatch, capsys):
    stages = {name: config(name) for name in STAGES}  # hydra looks for experiments/ where it is called
    again = config("1_online", "seed=1", "run=curriculum_quick/seed_0")
    monkeypatch.chdir(tmp_path)
    half_online = stages["2_half_online"]
    with pytest.raises(ConfigError, match="no lineage.json there; give the adapter/ folder of a finished run"):
        check(half_online, folder_of(half_online))
    for cfg in stages.values():
        train(cfg, folder_of(cfg))
    made = {name: json.loads((folder_of(cfg) / "adapter" / "lineage.json").read_text()) for name, cfg in stages.items()}
    student, last = made["4_distill"], made["5_distill_dpo"]
    assert last["stages"] == [name[2:] for name in STAGES]
    assert last["preceding"] == student["files"] != last["files"] and last["data"] != student["data"]
    assert student["data"] == made["3_offline"]["data"]  # the teacher's guidance doesn't ask for videos of its own
    capsys.readouterr()
    for cfg in stages.values():
        train(cfg, folder_of(cfg))
    assert capsys.readouterr().out.count("finished already") == 5
    # a stage that is trained again is not what the next one started from
    shutil.rmtree(folder_of(again))
    train(again, folder_of(again))
    with pytest.raises(
        ConfigError, match="half_online began with high_noise.safetensors .*: delete the folder to train it again"
    ):
        check(half_online, folder_of(half_online))
