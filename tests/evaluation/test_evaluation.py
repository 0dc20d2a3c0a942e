"""evaluate.py on the shipped baseline and a barely trained adapter."""

import json
import shutil
from pathlib import Path

import av
import pandas as pd
import pytest
from PIL import Image

from apo import generation
from apo.evaluation import evaluate
from apo.io.lock import InUse, holding

KEYS = {
    "distortion_rate",
    "dynamic_degree",
    "instruction_following",
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
}


def test_report_pictures_and_comparison(cfg, tmp_path, monkeypatch):
    (report,) = evaluate(cfg)
    folder = tmp_path / "outputs/r/offline/eval"
    saved = json.loads((folder / "report.json").read_text())
    assert set(saved["metrics"]) == KEYS and saved["n"] == 4 and saved["stage"] == "offline"
    assert all(m["low"] <= m["value"] <= m["high"] for m in saved["metrics"].values())
    against = saved["against"]
    assert against["run"] == "baseline" and against["win"] + against["tie"] + against["loss"] == 4
    assert (folder / "contact_sheet.png").stat().st_size > 1000 and len(list((folder / "videos").glob("*.mp4"))) == 1
    assert "distortion_rate" in (folder / "report.md").read_text()
    assert "On 4 held-out conditions" in (folder.parent / "adapter" / "README.md").read_text()
    monkeypatch.setattr(generation, "generate", lambda *_: pytest.fail("finished work was done again"))
    cfg.videos = 0
    assert evaluate(cfg)[0]["metrics"] == report["metrics"]


def test_several_arms_end_with_one_table(cfg, tmp_path, quick, capsys):
    (report,) = evaluate(cfg)
    saved = (tmp_path / "outputs/r/offline/eval/report.json").read_text()
    shutil.copytree(tmp_path / "outputs/r/offline", tmp_path / "outputs/r/next")
    cfg.stage, cfg.against = "next", "offline"
    assert evaluate(cfg)[0]["against"]["run"] == "offline"
    assert (
        tmp_path / "outputs/r/offline/eval/report.json"
    ).read_text() == saved  # being compared with leaves its own comparison
    cfg.stage, cfg.against = "*", "baseline"
    capsys.readouterr()
    evaluate(cfg)
    markdown = (tmp_path / "outputs/r/eval_table.md").read_text()
    assert markdown in capsys.readouterr().out and len(quick) == 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows] == ["arm", "---", "baseline", "next", "offline"] and KEYS <= set(rows[0])
    won, place = "{win}/{tie}/{loss}".format(**report["against"]), rows[0].index("clean: win/tie/loss")
    assert [row[place] for row in rows[2:]] == ["", won, won]
    table = pd.read_csv(tmp_path / "outputs/r/eval_table.csv").set_index("arm")
    assert table.loc["offline", "dynamic_degree"] == report["metrics"]["dynamic_degree"]["value"]
    assert table.loc["next", ["clean_win", "clean_tie", "clean_loss"]].sum() == 4


def test_an_arm_is_not_compared_with_itself_and_two_of_one_name_are_told_apart(cfg, tmp_path, quick, capsys):
    shutil.copytree(tmp_path / "outputs/r/offline", tmp_path / "outputs/s/offline")
    cfg.against = "offline"
    assert "against" not in evaluate(cfg)[0]
    cfg.against, cfg.stage = "outputs/s/offline", "off*"
    assert evaluate(cfg)[0]["against"] | {"win_rate": 0} == {
        "run": "offline",
        "win": 0,
        "tie": 4,
        "loss": 0,
        "win_rate": 0,
        "instruction_following": {
            "win": 0,
            "tie": 4,
            "loss": 0,
            "win_rate": {"value": None, "low": None, "high": None},
        },
    }
    json.loads((tmp_path / "outputs/r/offline/eval/report.json").read_text(), parse_constant=pytest.fail)
    cfg.seed, cfg.against = 1, None
    evaluate(cfg)
    assert "older latents: 0.0 MiB of other settings" in capsys.readouterr().out


def test_one_process_at_a_time_writes_an_arms_results(cfg, tmp_path, quick):
    for folder in ("offline", "baseline"):  # the latter only as long as it is generated
        with (
            holding(tmp_path / "outputs/r" / folder / "eval", ""),
            pytest.raises(InUse, match=f"{folder}/eval is in use by process"),
        ):
            evaluate(cfg)
    evaluate(cfg)
    with holding(tmp_path / "outputs/r/baseline/eval", ""):
        evaluate(cfg)


STRANGE = ["a red thing", "猫が走る 🐈\u202e", "very " * 500, "one line\nand another\r\n\x07"]


def test_conditions_of_the_users_own_are_shown_unmeasured(composed, tmp_path, monkeypatch, wan22_folder):
    """Any prompts, first frames and sizes, as a user of Wan has them; what their images show is part of the result's
    key.
    """
    write_rows(tmp_path, "red")
    own = [
        "conditions=prompts",
        f"conditions.path={tmp_path}/prompts.jsonl",
        "evaluator=none",
        "model.num_inference_steps=2",
        f"model.path={wan22_folder}",
        "model.spec={height: 32, width: 48, frames: 9, fps: 8}",
        "stage=null",
    ]
    own = composed("videos=3", "batch_size=2", *own)
    (report,) = evaluate(own)
    folder = tmp_path / "outputs/r/baseline/eval_prompts"
    assert report["metrics"] == {} and [row["prompt"] for row in report["rows"]] == STRANGE
    assert (folder / "contact_sheet.png").is_file() and "against" not in report
    for path in (folder / "videos").glob("*.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.width >= 256 and stream.height >= 256 and stream.duration * stream.time_base >= 3
    assert len(list((folder / "videos").iterdir())) == 3
    monkeypatch.setattr(generation, "generate", lambda *_: pytest.fail("finished work was done again"))
    assert evaluate(own)[0]["rows"] == report["rows"]
    write_rows(tmp_path, "blue")
    with pytest.raises(pytest.fail.Exception, match="done again"):
        evaluate(own)


def write_rows(folder: Path, colour: str) -> None:
    rows = [{"prompt": prompt, "image": "frame.png"} for prompt in STRANGE]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (97, 31), colour).save(folder / "frame.png")
