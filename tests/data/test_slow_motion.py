import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from apo.data.manifest import ManifestError, load
from apo.data.slow_motion import VideoRow, column_of, gray_levels, make, measured, whole_number
from apo.io.video import open_stream, read_video, timed_frames, write_video
from tests.data.clips import Spec, write_jsonl

FRAMES, FPS = 24, 12


def moving_square(path: Path, pixels: int, frames: int = FRAMES) -> Path:
    """A softly textured square that moves so many pixels a frame over a gradient, 64 x 96."""
    video = torch.linspace(40, 90, 96).expand(frames, 3, 64, 96).clone()
    texture = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    square = 120 + 130 * nnf.interpolate(texture, (16, 16), mode="bilinear")[0]
    for i, frame in enumerate(video):
        frame[:, 24:40, 8 + pixels * i : 24 + pixels * i] = square
    write_video(path, video.byte(), FPS, enlarge=False)
    return path


def shape(path: Path) -> tuple:
    with open_stream(path) as (container, stream):
        times = [since for since, _, _ in timed_frames(container, stream)]
        return len(times), stream.height, stream.width, float(stream.average_rate), round(times[-1], 3)


@pytest.fixture
def videos(tmp_path) -> Path:
    moving_square(tmp_path / "quick.mp4", 3)
    moving_square(tmp_path / "slow.mp4", 1)
    moving_square(tmp_path / "still.mp4", 0)
    rows = [{"prompt": f"a {name} square", "video": f"{name}.mp4"} for name in ("quick", "slow", "still")]
    return write_jsonl(tmp_path / "videos.jsonl", [rows[0] | {"domain": "scene"}, *rows[1:]])


def sides(row: dict, folder: Path) -> tuple[Path, Path]:
    """The standard and the slow video of a ranking."""
    order = ("first", "second") if row["label"] == 3 else ("second", "first")
    return tuple(folder / row[side] for side in order)


def test_slow_versions_move_less_and_keep_everything_else(videos, tmp_path):
    rows = [json.loads(line) for line in make(videos, tmp_path / "out", [2, 4]).read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a quick square"] * 2 + [
        "a slow square"
    ] * 2  # a still one makes no pair
    assert [row.get("domain") for row in rows] == ["scene", "scene", None, None]
    for row, factor in zip(rows, (2, 4, 2, 4)):
        standard, slow = sides(row, tmp_path / "out")
        assert shape(standard) == shape(slow) == (FRAMES, 64, 96, FPS, round((FRAMES - 1) / FPS, 3))
        assert slow.stem == f"{standard.stem}_x{factor}"
        assert (
            measured(slow)[1] < measured(standard)[1] * {2: 0.7, 4: 0.4}[factor]
        )  # hard edges keep it above 1 / factor
    paths = tmp_path / "quick.mp4", *sides(rows[0], tmp_path / "out")
    source, standard, slow = (read_video(path, 64, 96, FRAMES, FPS).float() for path in paths)
    assert (standard - source).abs().mean() < 1
    shown = [int(torch.stack([(frame - other).abs().mean() for other in source]).argmin()) for frame in slow[::2]]
    assert shown == list(
        range(FRAMES // 2)
    )  # frame 2 i of the slow version is frame i of the source: the rest is dropped


def test_both_orders_are_drawn_and_the_seed_decides(tmp_path):
    for i in range(8):
        moving_square(tmp_path / f"{i}.mp4", 2, frames=12 + i)
    manifest = write_jsonl(tmp_path / "videos.jsonl", [{"prompt": "a square", "video": f"{i}.mp4"} for i in range(8)])

    def labels(seed: int) -> list[int]:
        return [
            json.loads(line)["label"] for line in make(manifest, tmp_path / "out", [2], seed).read_text().splitlines()
        ]

    assert set(labels(0)) == {3, 4} and labels(0) == labels(0) != labels(1)


def test_the_same_command_again_makes_only_what_is_missing(videos, tmp_path):
    manifest = make(videos, tmp_path / "out", [2])
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "out").rglob("*.*4")}
    text = manifest.read_text()
    make(videos, tmp_path / "out", [2])
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in before} == before
    _, slow = sides(json.loads(text.splitlines()[0]), tmp_path / "out")
    content = slow.read_bytes()
    slow.unlink()
    (tmp_path / "out" / "pairs" / f"{slow.stem}.json").unlink()  # killed before the pair was complete
    (slow.parent / f".{slow.name}.abc").write_bytes(b"half")
    make(videos, tmp_path / "out", [2])
    assert slow.read_bytes() == content and manifest.read_text() == text
    assert before.keys() - {slow} <= {
        p for p, seen in before.items() if (p.stat().st_mtime_ns, p.stat().st_ino) == seen
    }


def test_a_segment_is_all_that_is_used(tmp_path):
    moving_square(tmp_path / "a.mp4", 2)
    row = {"prompt": "a square", "video": "a.mp4", "segment": [0.5, 1.5]}
    (made,) = make(write_jsonl(tmp_path / "videos.jsonl", [row]), tmp_path / "out", [2]).read_text().splitlines()
    standard, slow = sides(json.loads(made), tmp_path / "out")
    assert shape(standard)[0] == shape(slow)[0] == FPS
    source = read_video(tmp_path / "a.mp4", 64, 96, FPS, FPS, (0.5, 1.5)).float()
    assert all((read_video(p, 64, 96, FPS, FPS).float()[0] - source[0]).abs().mean() < 1 for p in (standard, slow))


def test_all_bad_rows_are_reported_at_once_and_nothing_is_made(videos, tmp_path):
    moving_square(tmp_path / "short.mp4", 2, frames=2)
    (tmp_path / "text.mp4").write_text("no video")
    rows = [json.loads(line) for line in videos.read_text().splitlines()]
    rows += [{"prompt": "p", "video": name} for name in ("short.mp4", "text.mp4", "gone.mp4")] + [{"prompt": "p"}]
    with pytest.raises(ManifestError) as caught:
        make(write_jsonl(videos, rows), tmp_path / "out", [4])
    said = {problem.line: problem.message for problem in caught.value.problems}
    assert "2 frames from 0 s on are too few to show 4 times slower" in said[4]
    assert "not a video" in said[5] and "no such file" in said[6] and "video is missing" in said[7]
    assert len(said) == 4 and not (tmp_path / "out").exists()


def test_columns_of_other_names_are_mapped(tmp_path):
    moving_square(tmp_path / "a.mp4", 2)
    (tmp_path / "metadata.csv").write_text("text,file_name,score\na square,a.mp4,1\n")
    columns = dict(map(column_of, ("prompt=text", "video=file_name")))
    assert len(make(tmp_path, tmp_path / "out", [2], columns=columns).read_text().splitlines()) == 1
    with pytest.raises(argparse.ArgumentTypeError, match="'prompt': write FIELD=COLUMN"):
        column_of("prompt")


def test_the_command_says_what_it_made_or_why_not(videos, tmp_path):
    command = [
        sys.executable,
        "-m",
        "apo.data.slow_motion",
        "--out",
        str(tmp_path / "out"),
        "--factor",
        "2",
        "--manifest",
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run([*command, str(videos)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and "2 pairs in" in done.stdout and "1 of videos that hardly move" in done.stdout
    failed = subprocess.run([*command, "nowhere.jsonl"], capture_output=True, text=True, cwd=root)
    assert failed.returncode == 1 and failed.stderr.startswith("slow_motion: nowhere.jsonl: no such manifest")
    for number, least in (("1", 2), ("0", 1), ("-1", 0), ("1.5", 0), ("nan", 0), ("9" * 30, 0)):
        with pytest.raises(argparse.ArgumentTypeError, match=f"whole numbers from {least}"):
            whole_number(number, least)
    for number in ("nan", "-1", "inf", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="a number from 0 to 255"):
            gray_levels(number)


def test_motion_is_measured_in_gray_levels(tmp_path):
    video = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    video[1::2] = 100
    write_video(tmp_path / "a.mp4", video, FPS, enlarge=False)
    assert measured(tmp_path / "a.mp4") == (4, pytest.approx(100, abs=2))


def test_rows_are_those_of_a_manifest(videos):
    rows = load(videos, VideoRow, Spec(64, 96, 9, 8))
    assert [row.video.name for row in rows] == ["quick.mp4", "slow.mp4", "still.mp4"] and np.all(
        [row.segment is None for row in rows]
    )
