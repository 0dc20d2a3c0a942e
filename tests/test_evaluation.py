"""evaluate.py on the shipped baseline and a barely trained adapter."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from apo import evaluation, lineage
from apo.evaluation import EvaluationError, evaluate
from tests.adapters import of_some_effect

ROOT = Path(__file__).parents[1]
KEYS = {
    "distortion_rate", "dynamic_degree", "instruction_following", "subject_consistency", "background_consistency",
    "motion_smoothness",
}  # fmt: skip


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        train = compose("train", ["policy.lora.rank=2"])
        cfg = compose("evaluate", ["run=r", "conditions.count=6", "batch_size=4", "videos=2", "model.num_inference_steps=4"])
    cfg.model.path = str(ROOT / cfg.model.path)
    train.model.path = cfg.model.path
    monkeypatch.chdir(tmp_path)
    policy = of_some_effect(instantiate(train.policy))
    adapter = tmp_path / "outputs/r/offline/adapter"
    policy.save_adapter(adapter)
    made = lineage.of(train, adapter, policy.base_hash, SimpleNamespace(files=[]))
    lineage.write(adapter, made)
    return cfg


def test_report_pictures_and_comparison(cfg, tmp_path, monkeypatch):
    (report,) = evaluate(cfg)
    folder = tmp_path / "outputs/r/offline/eval"
    saved = json.loads((folder / "report.json").read_text())
    assert set(saved["metrics"]) == KEYS and saved["n"] == 6 and saved["stage"] == "offline"
    assert all(m["low"] <= m["value"] <= m["high"] for m in saved["metrics"].values())
    against = saved["against"]
    assert against["run"] == "baseline" and against["win"] + against["tie"] + against["loss"] == 6
    assert (folder / "contact_sheet.png").stat().st_size > 1000 and len(list((folder / "videos").glob("*.mp4"))) == 2
    assert "distortion_rate" in (folder / "report.md").read_text()
    assert "On 6 held-out conditions" in (folder.parent / "adapter" / "README.md").read_text()
    monkeypatch.setattr(evaluation, "generate", lambda *_: pytest.fail("finished work was done again"))
    assert evaluate(cfg)[0]["metrics"] == report["metrics"]
    shutil.copytree(folder.parent, tmp_path / "outputs/r/next")
    cfg.arm, cfg.against = "next", "offline"
    assert evaluate(cfg)[0]["against"]["run"] == "offline"
    assert json.loads((folder / "report.json").read_text()) == saved  # being compared with leaves its own comparison


def test_an_interrupted_evaluation_reuses_what_it_generated(cfg, monkeypatch):
    calls, real = [], evaluation.generate

    def stops_at_second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    cfg.against = None
    monkeypatch.setattr(evaluation, "generate", stops_at_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(cfg)
    monkeypatch.setattr(evaluation, "generate", lambda *a: calls.append(1) or real(*a))
    evaluate(cfg)
    assert len(calls) == 3  # two batches, one of them tried twice


def test_what_is_missing_is_named_with_what_is_there(cfg):
    cfg.arm = "online"
    with pytest.raises(EvaluationError, match="has finished: offline"):
        evaluate(cfg)


@pytest.mark.parametrize("wrong, said", [
    (["conditions.count=null"], "give a number"),
    (["conditions.count=0"], "conditions.count=0: give a whole number of at least 1"), (["videos=-3"], "videos=-3"),
    (["model.path=/nope"], "model.path=/nope: no model_index.json there"), (["conditions.split=foo"], "split='foo': the world has"),
    (["model.spec.height=128"], "conditions=world needs videos of the world.* use model=tiny, or conditions=prompts"),
    (["guidance=cfg_stg", "guidance.blocks=[9]"], "there is no block 9"),
    (["model.path=apo/world/checkpoints/wan21", "model.boundary=null"], "was trained over .*wan22 .* and this run's .*wan21"),
    (["conditions=prompts", "conditions.path=/nope.jsonl"], "/nope.jsonl: no such manifest"),
])  # fmt: skip
def test_mistakes_are_found_before_anything_is_loaded(cfg, monkeypatch, wrong, said):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        mistaken = compose("evaluate", ["run=r", *wrong])
    monkeypatch.setattr(evaluation, "WanPolicy", lambda *_: pytest.fail("loaded"))
    with pytest.raises(EvaluationError, match=said):
        evaluate(mistaken)


def test_a_damaged_adapter_or_another_base_is_refused(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "WanPolicy", lambda *_: pytest.fail("loaded"))
    file = tmp_path / "outputs/r/offline/adapter/low_noise.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(EvaluationError, match="low_noise.safetensors is not the file that lineage.json names"):
        evaluate(cfg)


def test_conditions_of_the_users_own_are_shown_unmeasured(cfg, tmp_path, monkeypatch):
    """Any prompts and first frames, as a user of Wan has them; what their images show is part of the result's key."""
    write_rows(tmp_path, "red")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        own = ["conditions=prompts", f"conditions.path={tmp_path}/prompts.jsonl", "evaluator=none", "model.num_inference_steps=2"]
        own = compose("evaluate", ["run=r", "videos=2", "batch_size=2", *own])
    own.model.path = cfg.model.path
    (report,) = evaluate(own)
    folder = tmp_path / "outputs/r/offline/eval_prompts"
    assert report["metrics"] == {} and [row["prompt"] for row in report["rows"]] == ["a red thing 0", "a red thing 1", "a red thing 2"]
    assert len(list((folder / "videos").glob("*.mp4"))) == 2 and (folder / "contact_sheet.png").is_file()
    assert "no verdicts to compare" in (folder / "report.md").read_text()
    (folder / "videos" / "009.mp4").touch()  # of a longer manifest
    monkeypatch.setattr(evaluation, "generate", lambda *_: pytest.fail("finished work was done again"))
    assert evaluate(own)[0]["rows"] == report["rows"] and len(list((folder / "videos").glob("*.mp4"))) == 2
    write_rows(tmp_path, "blue")
    with pytest.raises(pytest.fail.Exception, match="done again"):
        evaluate(own)


def write_rows(folder: Path, colour: str) -> None:
    rows = [{"prompt": f"a {colour} thing {i}", "image": "frame.png"} for i in range(3)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (64, 64), colour).save(folder / "frame.png")
