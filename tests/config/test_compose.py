"""The configs of both commands compose anywhere, and evaluate.py has groups of its own."""

import pytest

from apo.config.compose import compose
from apo.config.overrides import composed
from apo.errors import UserError


@pytest.mark.parametrize("name", ["offline", "ablation_*", "outputs/main/offline", "online_ahead", 3, None])
def test_the_stage_of_an_evaluation_is_any_name_of_a_folder(name):
    assert compose("evaluate", [f"stage={'null' if name is None else name}"]).stage == name


@pytest.mark.parametrize("command, overrides", [("train", ["curriculum=quick/3_offline"]), ("evaluate", [])])
def test_configs_compose_from_any_folder(command, overrides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose(command, [*overrides, "model=wan22_i2v_a14b"]).batch_size == 1  # conf/common/scale's


@pytest.mark.parametrize("group", ["sampler=apo", "data=pairs", "ranker=oracle", "distill=guidance", "arm=offline"])
def test_an_evaluation_has_no_settings_of_training(group):
    with pytest.raises(UserError, match=f"{group.partition('=')[0]}: there is no such setting"):
        composed("evaluate", [group])
