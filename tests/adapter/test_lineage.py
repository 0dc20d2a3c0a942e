"""Which adapters a stage may start from, and what it says of the others."""

import json
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from apo.adapter import lineage
from apo.checks import ConfigError, check
from apo.guidance.none import NoGuidance
from apo.policies.model import WanModel
from tests.test_configs import composed


class Data:
    identity = "0123" * 16


def cfg(adapter: Path | None = None, **stage):
    return OmegaConf.create(
        {
            "adapter": None if adapter is None else str(adapter),
            "model": {"path": "somewhere"},
            "seed": 0,
            "policy": {"lora": {"rank": 4, "alpha": 4, "targets": ["to_q", "to_k"]}},
            "stage": {"name": "offline", "data": "pairs", "trains": "model"} | stage,
        }
    )


def finished(folder: Path, content: bytes = b"weights", config=None, base: str = "b1") -> Path:
    """A run folder's adapter."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "high_noise.safetensors").write_bytes(content)
    config = config or cfg()
    lineage.write(folder / "adapter", lineage.of(config, folder / "adapter", base, Data(), lineage.preceding(config)))
    return folder / "adapter"


def test_it_names_base_predecessor_config_and_data(tmp_path):
    first = finished(tmp_path / "a")
    second = lineage.read(finished(tmp_path / "b", b"more", cfg(first, name="distill")))
    assert second["base"] == {"path": "somewhere", "hash": "b1"}
    assert second["preceding"] == lineage.read(first)["files"] != second["files"]
    assert second["stages"] == ["offline", "distill"] and second["stage"] == "distill"
    assert second["config"]["stage"]["name"] == "distill" and len(second["config_hash"]) == len(second["data"]) == 64
    assert second["config_hash"] != lineage.read(first)["config_hash"] and second["data"] == lineage.read(first)["data"]


def test_lineages_written_before_stages_were_named_still_count(tmp_path):
    adapter = finished(tmp_path / "a")
    old = {key: value for key, value in lineage.read(adapter).items() if key != "stages"}
    (adapter / "lineage.json").write_text(json.dumps(old))
    assert lineage.stages(lineage.read(adapter)) == ["offline"]
    lineage.require_start(cfg(adapter), "b1")


def test_a_stage_starts_from_what_fits(tmp_path):
    lineage.require_start(cfg(), "b1")
    student = finished(tmp_path / "b", config=cfg(finished(tmp_path / "a"), name="distill"))
    lineage.require_start(cfg(student, name="distill_dpo", after=["distill"]), "b1")
    lineage.require_start(cfg(student, name="distill_dpo", after=["distill"]), None)
    again = finished(tmp_path / "c", config=cfg(student, name="distill_dpo"))
    lineage.require_start(cfg(again, name="distill_dpo", after=["distill"]), "b1")


def test_a_student_may_generate_its_own_candidates(tmp_path):
    with pytest.raises(
        ConfigError, match="stage=online starts from an adapter of stage=distill, and adapter is not set"
    ):
        check(composed("cheaper=student"), tmp_path)
    base = WanModel.base_hash(instantiate(composed().model).local())
    student = finished(tmp_path / "b", config=composed("stage=distill"), base=base)
    undistilled = finished(tmp_path / "a", config=composed("stage=offline"), base=base)
    for overrides in (["cheaper=student"], ["stage=online", "guidance=none"]):
        online = composed(*overrides, f"adapter={student}")
        check(online, tmp_path / "c")
        assert type(instantiate(online.module.pairs.rollout.guidance)) is NoGuidance
    with pytest.raises(ConfigError, match="went through offline: train stage=distill"):
        check(composed("cheaper=student", f"adapter={undistilled}"), tmp_path / "c")


@pytest.mark.parametrize(
    "stage, base, said",
    [
        (
            {},
            "b2",
            r"was trained over somewhere \(b1\), and this run's somewhere is b2: give the model that it "
            r"was trained over",
        ),
        (
            {"name": "distill_dpo", "after": ["distill"]},
            "b1",
            "went through offline: train stage=distill adapter=.* first",
        ),
        ({"name": "distill", "not_after": ["offline"]}, "b1", "stage=distill does not follow stage=offline"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_found(tmp_path, stage, base, said):
    with pytest.raises(ValueError, match=said):
        lineage.require_start(cfg(finished(tmp_path / "a"), **stage), base)


def test_a_policy_of_another_shape_or_scale_is_refused(tmp_path):
    other = cfg(finished(tmp_path / "a"))
    other.policy.lora.alpha = 8  # the weights would fit, and mean something else
    with pytest.raises(
        ValueError, match="does not have this run's shape: give policy.lora.alpha=4, as it was trained with"
    ):
        lineage.require_start(other, "b1")
    other.policy.lora = None
    lineage.require_start(other, "b1")


def test_files_that_are_not_the_recorded_ones_are_refused(tmp_path):
    adapter = finished(tmp_path / "a")
    (adapter / "high_noise.safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match="high_noise.safetensors is not the file that lineage.json names"):
        lineage.require_start(cfg(adapter), "b1")
    with pytest.raises(ValueError, match="no lineage.json there; give the adapter/ folder of a finished run"):
        lineage.require_start(cfg(tmp_path), "b1")


def test_a_run_goes_on_only_from_the_adapter_that_it_began_with(tmp_path):
    adapter = finished(tmp_path / "a")
    lineage.begin(cfg(adapter), tmp_path)
    lineage.require_same_start(cfg(adapter), tmp_path)
    lineage.require_same_start(cfg(adapter), tmp_path / "elsewhere")
    other = finished(tmp_path / "b", b"trained again")
    with pytest.raises(ValueError, match="began with high_noise.safetensors .*, and adapter=.* now holds high_noise"):
        lineage.require_same_start(cfg(other), tmp_path)
    with pytest.raises(ValueError, match="now holds no adapter"):
        lineage.require_same_start(cfg(), tmp_path)
