"""What reports read of a run folder that somebody handed over."""

import pytest
import yaml
from omegaconf import OmegaConf

from apo.config import recorded
from apo.errors import UserError
from apo.studies import curves
from tests.test_configs import composed


@pytest.fixture(scope="module")
def config():
    cfg = composed("stage=distill", "guidance=cfg_stg", "model=wan22_i2v_a14b")
    return OmegaConf.to_container(cfg, resolve=True)


def handed_over(folder, config: dict):
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.csv").write_text("step,train/loss\n0,0.5\n1,0.25\n")
    return folder


def test_a_runs_own_settings_are_read(tmp_path, config):
    run = curves.load(handed_over(tmp_path, config))
    assert run.rows_per_step == 5 and list(run.metrics["train/loss"]) == [0.5, 0.25]


def test_the_numbers_of_a_resumed_run_stay_what_they_were(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,a,b\n0,0.1,\n1,1e-05,nan\n")
    table = recorded.curve(tmp_path / "metrics.csv")
    assert table["a"].tolist() == [0.1, 1e-05] and table["b"].isna().all()
    (tmp_path / "metrics.csv").write_text("")
    assert recorded.curve(tmp_path / "metrics.csv").empty


def payloads(mark: str) -> dict[str, object]:
    touch = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [mark]}}
    return {
        "sampler": touch,
        "guidance": touch,
        "stage.sample_guidance": touch,
        "module.loss.distill": touch,
        "module.loss.distill.guidance": touch,
        "sampler.seed": touch,
        "sampler.shifts": [touch],
        "sampler._args_": [touch],
        "sampler._target_": "os.system",
        "guidance.blocks": {"_target_": "apo.timesteps.uniform.UniformSampler"},
        "sampler.split": "${oc.env:SECRET}",
        "run": "${oc.env:SECRET}",
    }


@pytest.mark.parametrize("key", payloads(""))
def test_nothing_that_a_config_names_is_called_or_resolved(tmp_path, config, key, monkeypatch):
    monkeypatch.setenv("SECRET", "0.8")
    mark, cfg = tmp_path / "mark", OmegaConf.create(config)
    changed = OmegaConf.to_container(cfg)
    place, _, name = key.rpartition(".")
    (recorded.node(changed, place) if place else changed)[name] = payloads(str(mark))[key]
    with pytest.raises(
        UserError, match="config.yaml.* is not built|config.yaml has .* which would be resolved"
    ) as caught:
        curves.load(handed_over(tmp_path, changed))
    assert not mark.exists() and "\n" not in str(caught.value)
