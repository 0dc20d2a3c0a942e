import json
from itertools import pairwise

import torch

from apo.data.manifest import PairRow, load
from apo.data.real import FLAWS, FRAMES, Scene, ghost, make, repeat_frames, shuffle_segments
from apo.data.video import read_video
from apo.seeds import generator
from tests.data.clips import Spec, counted, numbers

SPEC = Spec(64, 64, 17, 8)


def video():
    return (torch.arange(FRAMES, dtype=torch.uint8) * 4)[:, None, None, None].expand(-1, 3, 8, 8)


def test_every_flaw_keeps_the_first_frame_and_changes_the_rest():
    for flaw in FLAWS.values():
        for seed in range(20):
            spoilt = flaw(video(), generator(seed))
            assert spoilt.shape == video().shape and spoilt.dtype == torch.uint8
            assert spoilt[0].equal(video()[0]) and not spoilt.equal(video())


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
    manifest = make(tmp_path / "real", clips, scenes)
    rows = load(manifest, PairRow, SPEC)
    assert len(rows) == 5 + 4 == len(manifest.read_text().splitlines())
    shown = numbers(read_video(rows[0].chosen, 64, 64, 17, 8))
    assert all(abs(index / 20 - (0.5 + i / 8)) <= 1.5 / 20 for i, index in enumerate(shown))
    assert json.loads(manifest.read_text().splitlines()[0])["prompt"] == "a gray wall"
    before = {path: path.read_bytes() for path in manifest.parent.rglob("*.*") if path.is_file()}
    rows[2].rejected.unlink()
    (manifest.parent / "videos" / ".half.mp4.123").write_bytes(b"half")
    make(tmp_path / "real", clips, scenes)
    assert all(path.read_bytes() == content for path, content in before.items())
