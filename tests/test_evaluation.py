"""evaluate.py on the shipped baseline and a barely trained adapter."""

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import av
import pandas as pd
import pytest
import torch
import torch.nn.functional as nnf
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from safetensors.torch import load_file, save

from apo import evaluation
from apo.adapter import lineage
from apo.errors import UserError
from apo.evaluation import evaluate
from apo.interfaces import Condition
from apo.io.files import partial_name
from apo.io.lock import InUse, holding
from apo.policies import wan
from apo.runs import EvaluationError
from tests.adapters import of_some_effect

ROOT = Path(__file__).parents[1]
KEYS = {
    "distortion_rate",
    "dynamic_degree",
    "instruction_following",
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder with a finished adapter."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        train = compose("train", ["policy.lora.rank=2", f"model.path={ROOT / 'apo/world/checkpoints/wan22'}"])
    policy, folder = of_some_effect(instantiate(train.policy)), tmp_path_factory.mktemp("trained")
    policy.save_adapter(folder / "adapter")
    made = lineage.of(train, folder / "adapter", policy.base_hash, SimpleNamespace(identity="data"), None)
    lineage.write(folder / "adapter", made)
    return folder


@pytest.fixture
def composed(tmp_path, monkeypatch, trained):
    """Makes the config of overrides; outputs/r/offline is finished."""
    shutil.copytree(trained, tmp_path / "outputs/r/offline")
    monkeypatch.chdir(tmp_path)

    def compose_with(*overrides: str):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("evaluate", ["run=r", f"model.path={ROOT / 'apo/world/checkpoints/wan22'}", *overrides])

    return compose_with


@pytest.fixture
def cfg(composed):
    return composed("conditions.count=4", "batch_size=4", "videos=1", "model.num_inference_steps=2")


class QuickPolicy:
    """In the place of WanPolicy: its videos are its latents, brighter for an adapter than for the base."""

    codec, base_hash = SimpleNamespace(latent_shape=(3, 9, 8, 8)), None

    def __init__(self, model, *_, **__):
        self.model, self.spec, self.offset = model, model.spec, 0.0

    def eval(self):
        return self

    def to(self, _):
        return self

    def load_adapter(self, _):
        self.offset = 20.0

    @contextmanager
    def base(self):
        kept, self.offset = self.offset, 0.0
        yield
        self.offset = kept

    def encode_condition(self, prompt, frame):
        return Condition(prompt, torch.zeros(len(prompt), 1, 1), frame, frame=frame)

    def decode(self, latents):
        return nnf.interpolate(latents.clamp(0, 255), (9, 64, 64)).transpose(1, 2).byte()


@pytest.fixture
def quick(monkeypatch):
    """Counts what is generated, without a model; monkeypatch undoes it."""
    calls = []

    def generate(policy, guidance, cond, noise):
        calls.append(len(noise))
        return 60 * noise + policy.offset + 100

    monkeypatch.setattr(wan, "WanPolicy", QuickPolicy)
    monkeypatch.setattr(evaluation, "generate", generate)
    return calls


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
    monkeypatch.setattr(evaluation, "generate", lambda *_: pytest.fail("finished work was done again"))
    cfg.videos = 0
    assert evaluate(cfg)[0]["metrics"] == report["metrics"]


def test_several_arms_end_with_one_table(cfg, tmp_path, quick, capsys):
    (report,) = evaluate(cfg)
    saved = (tmp_path / "outputs/r/offline/eval/report.json").read_text()
    shutil.copytree(tmp_path / "outputs/r/offline", tmp_path / "outputs/r/next")
    cfg.arm, cfg.against = "next", "offline"
    assert evaluate(cfg)[0]["against"]["run"] == "offline"
    assert (
        tmp_path / "outputs/r/offline/eval/report.json"
    ).read_text() == saved  # being compared with leaves its own comparison
    cfg.arm, cfg.against = "*", "baseline"
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
    cfg.against, cfg.arm = "outputs/s/offline", "off*"
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


def test_what_is_damaged_is_made_anew_and_said(cfg, tmp_path, quick, capsys):
    cfg.arm, cfg.against, cfg.videos, cfg.conditions.count = None, None, 0, 2
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
    cfg.arm, cfg.against = None, None
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
    monkeypatch.setattr(wan, "WanPolicy", lambda *_: pytest.fail("loaded"))
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
    cfg.arm, cfg.against = None, None
    monkeypatch.setattr(evaluation, "generate", lambda policy, guidance, cond, noise: noise * torch.nan)
    with pytest.raises(UserError, match="baseline: what it generates from conditions 0 to 3 is not finite"):
        evaluate(cfg)


def test_an_interrupted_evaluation_reuses_what_it_generated(cfg, quick, monkeypatch):
    real = evaluation.generate

    def stops_at_second(*arguments):
        if len(quick) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    cfg.against, cfg.batch_size = None, 2
    monkeypatch.setattr(evaluation, "generate", stops_at_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(cfg)
    monkeypatch.setattr(evaluation, "generate", real)
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
    cfg.arm = "online"
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
    monkeypatch.setattr(wan, "WanPolicy", lambda *_: pytest.fail("loaded"))
    with pytest.raises(EvaluationError, match=said):
        evaluate(composed(*wrong))


def test_a_damaged_adapter_or_another_base_is_refused(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(wan, "WanPolicy", lambda *_: pytest.fail("loaded"))
    file = tmp_path / "outputs/r/offline/adapter/low_noise.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(EvaluationError, match="low_noise.safetensors is not the file that lineage.json names"):
        evaluate(cfg)


STRANGE = ["a red thing", "猫が走る 🐈\u202e", "very " * 500, "one line\nand another\r\n\x07"]


def test_conditions_of_the_users_own_are_shown_unmeasured(composed, tmp_path, monkeypatch, wan22_folder):
    """Any prompts, first frames and sizes, as a user of Wan has them; what their images show is part of the result's key."""
    write_rows(tmp_path, "red")
    own = [
        "conditions=prompts",
        f"conditions.path={tmp_path}/prompts.jsonl",
        "evaluator=none",
        "model.num_inference_steps=2",
        f"model.path={wan22_folder}",
        "model.spec={height: 32, width: 48, frames: 9, fps: 8}",
        "arm=null",
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
    monkeypatch.setattr(evaluation, "generate", lambda *_: pytest.fail("finished work was done again"))
    assert evaluate(own)[0]["rows"] == report["rows"]
    write_rows(tmp_path, "blue")
    with pytest.raises(pytest.fail.Exception, match="done again"):
        evaluate(own)


def write_rows(folder: Path, colour: str) -> None:
    rows = [{"prompt": prompt, "image": "frame.png"} for prompt in STRANGE]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (97, 31), colour).save(folder / "frame.png")
