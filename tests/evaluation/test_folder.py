"""What lies in an arm's results folder: interrupted, damaged, the user's own."""

import os
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save

from apo import generation
from apo.errors import UserError
from apo.evaluation import evaluate
from apo.io.files import partial_name
from apo.policies import sampling
from apo.runs import EvaluationError


def test_what_is_damaged_is_made_anew_and_said(cfg, tmp_path, quick, capsys):
    cfg.stage, cfg.against, cfg.videos, cfg.conditions.count = None, None, 0, 2
    (report,) = evaluate(cfg)
    folder = tmp_path / "outputs/r/baseline/eval"
    (part,) = folder.glob("latents-*/000000.safetensors")
    rows, whole, latents = (folder / "rows.json").read_bytes(), part.read_bytes(), load_file(part)["latents"].clone()
    other, nan = rows.replace(b'"n": 2', b'"n": 3'), rows.replace(b'"low": 0', b'"low": NaN', 1)
    for damaged in (rows[: len(rows) // 2], b"", b"\xff\xfe", other, nan):
        (folder / "rows.json").write_bytes(damaged)
        (folder / "report.json").write_bytes(damaged[:-9])
        capsys.readouterr()
        assert evaluate(cfg) == [report] and (folder / "rows.json").read_bytes() == rows and len(quick) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if "made anew" in line]
        assert [line.split(": ")[1] for line in said] == [
            "outputs/r/baseline/eval/rows.json",
            "outputs/r/baseline/eval/report.json",
        ]
    nan = save({"latents": torch.full_like(latents, torch.nan)})
    for damaged in (
        whole[:-100],
        b"",
        nan,
        save({"others": latents}),
        save({"latents": latents[:1]}),
        save({"latents": latents + 1}),
    ):
        part.write_bytes(damaged)
        (folder / "rows.json").unlink()
        assert (
            evaluate(cfg) == [report] and f"damaged, made anew: {part.relative_to(tmp_path)}" in capsys.readouterr().err
        )
        assert load_file(part)["latents"].equal(latents)


def test_files_of_the_user_stay(cfg, tmp_path, quick):
    cfg.stage, cfg.against = None, None
    folder = tmp_path / "outputs/r/baseline/eval"
    mine = {
        folder / "videos" / "002.mp4",
        folder / "videos" / "talk.mp4",
        folder / "contact_sheet.png",
        folder / "report.md",
    }
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for videos in (3, 1):
        cfg.videos = videos
        evaluate(cfg)
    assert all(path.read_text() == "mine" for path in mine)
    assert {path.name for path in (folder / "videos").iterdir()} == {"000.mp4", "002.mp4", "talk.mp4"}
    (folder / "rows.json").write_text('{"mine": 1}')
    with pytest.raises(EvaluationError, match="rows.json is not one of evaluate.py's: move it away"):
        evaluate(cfg)


def test_results_stay_in_the_arms_own_folder(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "sampling_policy", lambda *_: pytest.fail("loaded"))
    (tmp_path / "outputs/r/offline/eval_out").symlink_to(tmp_path)
    (tmp_path / "outputs/r/offline/eval_file").write_text("mine")
    (tmp_path / "outputs/r/offline/eval_videos").mkdir()
    (tmp_path / "outputs/r/offline/eval_videos/videos").symlink_to(tmp_path)
    (tmp_path / "outputs/r/offline/eval_latents").mkdir()
    (tmp_path / "outputs/r/offline/eval_latents/latents-0").symlink_to(tmp_path)
    for results in ("../..", "/tmp/x", "adapter", "", "eval_out", "eval_file", "eval_videos", "eval_latents"):
        cfg.results = results
        with pytest.raises(EvaluationError, match=f"results={results}: "):
            evaluate(cfg)


def test_a_policy_that_generates_nan_is_named(cfg, quick, monkeypatch):
    cfg.stage, cfg.against = None, None
    monkeypatch.setattr(generation, "generate", lambda policy, guidance, cond, noise: noise * torch.nan)
    with pytest.raises(UserError, match="baseline: what it generates from conditions 0 to 3 is not finite"):
        evaluate(cfg)


def test_an_interrupted_evaluation_reuses_what_it_generated(cfg, quick, monkeypatch):
    real = generation.generate

    def stops_at_second(*arguments):
        if len(quick) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    cfg.against, cfg.batch_size = None, 2
    monkeypatch.setattr(generation, "generate", stops_at_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(cfg)
    monkeypatch.setattr(generation, "generate", real)
    evaluate(cfg)
    assert quick == [2, 2]


@pytest.mark.parametrize("name", [".written.json", "latents-*/000000.safetensors"])
def test_a_folder_in_place_of_a_file_is_found_before_anything_is_generated(cfg, tmp_path, quick, name):
    cfg.against = None
    evaluate(cfg)
    (path,) = (tmp_path / "outputs/r/offline/eval").glob(name)
    path.unlink()
    path.mkdir()
    with pytest.raises(EvaluationError, match=f"{path.name} is a folder, and a file belongs there: move it away"):
        evaluate(cfg)
    assert quick == [4]


def test_stray_files_of_killed_evaluations_are_swept(cfg, tmp_path, quick):
    evaluate(cfg)
    folder, gone = tmp_path / "outputs/r/offline/eval", subprocess.Popen(["true"])
    gone.wait()
    (latents,) = folder.glob("latents-*")
    strays = [partial_name(place / "a.json") for place in (folder, folder / "videos", latents)]
    strays = [path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{gone.pid}-")) for path in strays]
    strays.append(tmp_path / "outputs/r/baseline/eval/.lock")  # killed between the baseline's scores and the end
    for path in strays:
        path.touch()
    evaluate(cfg)
    assert (
        not any(path.exists() for path in strays)
        and not list(tmp_path.rglob("*.tmp"))
        and not list(tmp_path.rglob(".lock"))
    )
