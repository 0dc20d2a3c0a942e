"""The report on a student that has learned nothing: the same weights as its teacher."""

import json
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from apo.config.compose import compose
from apo.errors import UserError
from apo.policies.wan import WanPolicy
from apo.studies import definition, sheets, student
from tests.adapters import of_some_effect

ROOT = Path(__file__).parents[2]
FEW = ["conditions.count=3", "batch_size=2", "model.num_inference_steps=4", "trainer.threads=1"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """outputs/r/seed_0 with the adapters online to distill_dpo, all the same and all of some effect."""
    cfg = compose("train", ["policy.lora.rank=2", "stage=distill"])
    monkeypatch.chdir(tmp_path)
    policy = of_some_effect(instantiate(cfg.policy))
    config = {
        "guidance": OmegaConf.to_container(cfg.guidance, resolve=True),
        "adapter": "outputs/r/seed_0/offline/adapter",
    }
    for stage in ("online", "half_online", "offline", "distill", "distill_dpo"):
        folder = tmp_path / "outputs" / "r" / "seed_0" / stage / "adapter"
        policy.save_adapter(folder)
        base = {"path": cfg.model.path, "hash": policy.base_hash}
        made = {"stage": stage, "base": base, "files": {}, "preceding": {}, "config": config}
        (folder / "lineage.json").write_text(json.dumps(made))
    return tmp_path / "outputs" / "r"


@pytest.fixture
def study(tmp_path) -> Path:
    """The curriculum, with its runs in outputs/r."""
    text = (ROOT / "experiments" / "study" / "curriculum.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("run: curriculum", "run: r"))
    return tmp_path / "mine.yaml"


def test_report_and_sheets(home, study, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["student", "--run", "r/seed_0", "--count", "2", "--repeats", "2", *FEW])
    asked = []  # videos that are denoised in each forward, in place of seconds
    monkeypatch.setattr(student, "clock", lambda: float(sum(asked)))
    forward = WanPolicy.forward
    monkeypatch.setattr(
        WanPolicy, "forward", lambda policy, x_t, *rest: asked.append(len(x_t)) or forward(policy, x_t, *rest)
    )
    student.main()
    found = json.loads((home / "seed_0/distill/eval/distillation.json").read_text())
    assert found["teacher"] == "outputs/r/seed_0/offline" and found["guidance"]["blocks"] == [1] and found["n"] == 3
    assert [row["t"] for row in found["mse"]] == list(student.LEVELS)
    assert all(row["student"] == pytest.approx(row["unguided"]) and abs(row["absorbed"]) < 1e-4 for row in found["mse"])
    assert all(row["unguided"] > 0 for row in found["mse"])
    assert (
        found["likeness"]["student"] == found["likeness"]["unguided"]
        and 5 < found["likeness"]["student"]["psnr"]["value"] < 60
    )
    assert found["metrics"]["student"] == found["metrics"]["unguided"] and len(found["metrics"]["teacher"]) == 6
    assert found["speed"]["ratio"]["value"] == 3  # conditional, unconditional and weak predictions against one
    text = (home / "seed_0/distill/eval/distillation.md").read_text()
    assert text in capsys.readouterr().out and "| 980 |" in text and "ratio" in text
    monkeypatch.setattr(sys, "argv", ["sheets", str(study), "--count", "2", *FEW])
    sheets.main()
    sizes = {name: Image.open(home / "seed_0" / name).size for name in definition.load("curriculum").sheets}
    pair, trio = sizes["fig7_half_online.png"], sizes["fig8_10_teacher_student_aware.png"]
    assert trio[0] == pair[0] and trio[1] * 2 == pair[1] * 3
    assert (home / "baseline" / "eval_guided" / "rows.json").is_file()


def test_another_stage_is_no_student(home, monkeypatch):
    with pytest.raises(ValueError, match="is of stage=offline: give the folder of a stage=distill run"):
        student.prepare("r/seed_0", "offline", FEW)


def test_a_teacher_trained_again_since_is_no_teacher(home, monkeypatch):
    path = home / "seed_0" / "offline" / "adapter" / "lineage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": {"transformer.safetensors": "0123456789"}}))
    monkeypatch.setattr(sys, "argv", ["student", "--run", "r/seed_0", *FEW])
    with pytest.raises(
        SystemExit, match="student: .*offline/adapter now holds transformer.safetensors 01234567: distill the student"
    ):
        student.main()


def test_sheets_name_a_stage_that_is_missing(home, study, monkeypatch):
    (home / "seed_0" / "half_online" / "adapter" / "lineage.json").unlink()
    monkeypatch.setattr(sys, "argv", ["sheets", str(study), *FEW])
    with pytest.raises(UserError, match="half_online has no finished adapter"):
        sheets.main()


def test_likeness_of_a_video_with_itself_is_perfect_and_its_first_frame_does_not_count():
    video = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    other = video.clone()
    other[:, 0] = 0
    psnr, ssim = student.likeness(video, other)
    assert torch.isinf(psnr).all() and torch.allclose(ssim, torch.ones(2))
    noisy = (video.float() + 10).clamp(max=255).to(torch.uint8)
    psnr, ssim = student.likeness(noisy, video)
    assert psnr.shape == ssim.shape == (2,) and (psnr < 35).all() and (ssim < 1).all()
