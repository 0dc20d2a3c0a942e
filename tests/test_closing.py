"""From any directory, and to the end: what train.py says there."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from apo.closing import next_command
from apo.config.compose import compose
from apo.config.overrides import quoted
from apo.errors import UserError
from apo.resume import require_same_settings
from tests.commands import ROOT


def test_elsewhere_the_repositorys_experiments_are_found(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "ablation=high_only", "max_steps=-1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1 and result.stderr.startswith("config: max_steps=-1"), result.stderr


@pytest.mark.parametrize("value", ["seed_0", "a=b,c", 'says "so"', "with space", "outputs/x/y.z"])
def test_a_value_is_read_back_as_it_was(value):
    assert OverridesParser.create().parse_overrides([f"stage={quoted(value)}"])[0].value() == value


def test_the_next_command_evaluates_the_run():
    cfg = compose("train", ["run=mine"])
    said = next_command(cfg, Path("outputs/mine/ablation_apo-seed_0").absolute())
    assert said.endswith("evaluate.py run=mine stage=ablation_apo-seed_0")


def test_a_run_that_is_to_be_longer_is_told_where_to_go_on(tmp_path):
    before = {"max_steps": 100, "batch_size": 8, "trainer": {"devices": 1, "nodes": 1}}
    with pytest.raises(
        UserError, match=f"to train on from its end, give adapter={tmp_path}/adapter and another run=NAME"
    ):
        require_same_settings(before, before | {"max_steps": 200}, tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "data, conditions",
    [
        (["stage=online", "data=prompts", "data.path=mine.jsonl"], "mine.jsonl"),
        (["data=pairs", "data.path=pairs.jsonl"], "PROMPTS.jsonl"),
    ],
)
def test_data_of_the_users_own_say_what_they_are_evaluated_on(data, conditions):
    cfg = compose("train", ["run=mine", *data])
    said = next_command(cfg, Path("outputs/mine/offline").absolute())
    assert said.endswith(f"conditions=prompts conditions.path={conditions} evaluator=none")
