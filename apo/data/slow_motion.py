"""Slow-motion negatives from the user's own videos (Appendix C.1), for training a ranker to see motion:

    python -m apo.data.slow_motion --manifest videos.jsonl --out outputs/slow_motion --factor 2 4
    python train.py stage=ranker_8b data=rankings data.path=outputs/slow_motion/rankings.jsonl trainer=gpu

videos.jsonl (or CSV, Parquet) has a row per video: {"prompt": "...", "video": "a.mp4"}, optionally domain and
segment: [start_s, end_s]. Of each, the beginning is shown `factor` times slower: the rest of the frames is dropped, and
motion-compensated interpolation fills the time. Both versions are encoded alike, so that they differ in motion alone.
The same command again makes what is missing.
"""

import argparse
import hashlib
import json
import math
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import imageio_ffmpeg
import numpy as np
import torch

from apo.data.cells import VideoFile
from apo.data.manifest import ManifestError, Problem, Row, read
from apo.errors import one_line
from apo.io.checksums import file_digest
from apo.io.files import replacing, sweep, write_text
from apo.io.video import COPY_AGAIN, VideoError, open_stream, probe, rate, require_within, timed_frames
from apo.random import generator
from apo.terminal import progress

INTERPOLATE = "minterpolate=fps={fps}:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1"
ENCODE = ["-an", "-c:v", "libx264", "-crf", "12", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
EVEN = "crop=trunc(iw/2)*2:trunc(ih/2)*2"  # H.264 needs it
LOOKAHEAD = 2  # frames beyond the last one that minterpolate wants to see


@dataclass(frozen=True, kw_only=True)
class VideoRow(Row):
    """A video of the user's."""

    video: VideoFile


@dataclass(frozen=True)
class Source:
    """A row's video, cut to its segment: `frames` frames of `fps` from `start` seconds on."""

    row: VideoRow
    digest: str  # of the file and the segment: what its versions are named by
    start: float
    frames: int
    fps: Fraction

    @property
    def name(self) -> str:
        return f"{self.row.video.stem}-{self.digest[:12]}"


def sources(path: Path, factors: list[int], columns: Mapping[str, str] | None = None) -> list[Source]:
    """Every row's video. ManifestError lists all bad rows: unreadable videos, and those too short to be slowed down."""
    manifest = read(path, VideoRow, columns)
    found, problems = [], list(manifest.problems)
    for row in progress(manifest.rows, desc=f"checking {path.name}", delay=2):
        try:
            found.append(source(row, max(factors)))
        except VideoError as error:
            problems.append(Problem(row.line, str(error)))
    if problems:
        raise ManifestError(path, problems)
    return found


def source(row: VideoRow, factor: int) -> Source:
    """VideoError if the row's video can't be used or has too few frames for this factor."""
    duration = probe(row.video)
    with open_stream(row.video) as (_, stream):
        fps = Fraction(rate(stream)).limit_denominator(60000)
    start, end = row.segment or (0.0, math.inf)
    frames = max(0, round((min(duration, end) - start) * fps))
    if frames < math.ceil(frames / factor) + LOOKAHEAD:
        raise VideoError(
            f"{row.video}: {frames} frames from {start:g} s on are too few to show {factor} times slower: "
            "lower --factor, widen the segment or drop the row"
        )
    require_within(row.video, duration, row.segment)
    digest = hashlib.sha256(f"{file_digest(row.video)} {row.segment}".encode()).hexdigest()
    return Source(row, digest, start, frames, fps)


def encode(source: Source, filters: str, path: Path) -> None:
    """Writes the source's frames, filtered, unless the file is there; complete or not there at all."""
    if path.is_file():
        return
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-v",
        "error",
        "-y",
        "-ss",
        str(source.start),
        "-i",
        str(source.row.video),
        "-map",
        "0:v:0",
        "-vf",
        f"{filters},{EVEN}",
        "-frames:v",
        str(source.frames),
        *ENCODE,
    ]
    with replacing(path) as partial:
        done = subprocess.run([*command, str(partial)], capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            raise VideoError(f"{source.row.video}: ffmpeg could not make {path.name} of it ({reason}): {COPY_AGAIN}")


def slow_filters(fps: Fraction, factor: int) -> str:
    """ffmpeg's filters that show a video `factor` times slower at the same rate."""
    return f"setpts={factor}*(PTS-STARTPTS),{INTERPOLATE.format(fps=fps)}"


def measured(path: Path) -> tuple[int, float]:
    """Number of frames, and mean absolute difference of successive ones in gray levels of 255."""
    with open_stream(path) as (container, stream):
        gray = [frame.to_ndarray(format="gray").astype(np.int16) for _, _, frame in timed_frames(container, stream)]
    return len(gray), float(np.mean([np.abs(after - before).mean() for before, after in pairwise(gray)]))


def make_pair(source: Source, factor: int, folder: Path) -> dict:
    """Both versions and how much they move, as a record that stays beside them; it is written last.

    VideoError if ffmpeg can't.
    """
    record = folder / "pairs" / f"{source.name}_x{factor}.json"
    if record.is_file():
        return json.loads(record.read_text())
    standard, slow = (folder / "videos" / f"{source.name}{suffix}.mp4" for suffix in ("", f"_x{factor}"))
    encode(source, f"fps={source.fps}", standard)
    encode(source, slow_filters(source.fps, factor), slow)
    (frames, moves), (slow_frames, slow_moves) = measured(standard), measured(slow)
    if slow_frames != frames:
        raise VideoError(
            f"{source.row.video}: {frames} frames, {slow_frames} when slower: its frames' times are "
            "uneven, drop the row"
        )
    pair = {
        "standard": f"videos/{standard.name}",
        "slow": f"videos/{slow.name}",
        "factor": factor,
        "motion": [moves, slow_moves],
    }
    write_text(record, json.dumps(pair))
    return pair


def ranking(source: Source, pair: dict, seed: int) -> dict:
    """The manifest row of a pair: similar distortion, and label 3 or 4 says whether the first or the
    second moves more.
    """
    draw = generator(seed, int(source.digest[:16], 16), pair["factor"])
    standard_first = bool(torch.randint(2, (), generator=draw))
    first, second = ("standard", "slow") if standard_first else ("slow", "standard")
    row = {
        "prompt": source.row.prompt,
        "first": pair[first],
        "second": pair[second],
        "label": 3 if standard_first else 4,
    }
    return row if source.row.domain is None else row | {"domain": source.row.domain}


def make_pairs(source: Source, factors: list[int], folder: Path) -> list[dict] | Problem:
    """A pair of each factor, or what is wrong with the video."""
    try:
        return [make_pair(source, factor, folder) for factor in factors]
    except VideoError as error:
        return Problem(source.row.line, str(error))


def make(
    manifest: Path,
    folder: Path,
    factors: list[int],
    seed: int = 0,
    min_motion: float = 0.1,
    workers: int = 1,
    columns: Mapping[str, str] | None = None,
) -> Path:
    """rankings.jsonl of every video and factor; goes on where an interrupted run stopped.

    columns: see `apo.data.columns.Columns`.
    min_motion: videos that move less than this, in gray levels of 255 per frame, are still: they make no pair.
    """
    videos = sources(manifest, factors, columns)
    for place in (folder, folder / "videos", folder / "pairs"):
        sweep(place)
    with ThreadPoolExecutor(workers) as pool:  # ffmpeg works in processes of its own
        made = pool.map(lambda source: make_pairs(source, factors, folder), videos)
        made = list(progress(made, total=len(videos), desc="slowing down"))
    if problems := [pairs for pairs in made if isinstance(pairs, Problem)]:
        raise ManifestError(manifest, problems)
    pairs = [(source, pair) for source, pairs in zip(videos, made) for pair in pairs]
    rows = [
        ranking(source, pair, seed) for source, pair in pairs if max(min_motion, pair["motion"][1]) < pair["motion"][0]
    ]
    path = folder / "rankings.jsonl"
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} pairs in {path}; {len(pairs) - len(rows)} of videos that hardly move left out")
    return path


def whole_number(text: str, least: int = 2) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: write whole numbers from {least} on")
    return int(text)


def column_of(text: str) -> tuple[str, str]:
    field, there, column = text.partition("=")
    if not (there and column):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: write FIELD=COLUMN")
    return field, column


def gray_levels(text: str) -> float:
    try:
        if 0 <= float(text) <= 255:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text[:40]!r}: write a number from 0 to 255")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="videos.jsonl, .csv or .parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of the videos and rankings.jsonl")
    parser.add_argument(
        "--factor", type=whole_number, nargs="+", default=[2, 4], help="how many times slower; one pair each"
    )
    parser.add_argument("--seed", type=partial(whole_number, least=0), default=0, help="of the order in each pair")
    parser.add_argument(
        "--min-motion", type=gray_levels, default=0.1, help="gray levels per frame below which a video is still"
    )
    more = "where columns have other names than their fields; others are then ignored"
    parser.add_argument("--columns", type=column_of, nargs="*", metavar="FIELD=COLUMN", help=more)
    parser.add_argument("--workers", type=partial(whole_number, least=1), default=1, help="videos at once")
    a = parser.parse_args()
    with one_line("slow_motion"):
        make(
            a.manifest, a.out, a.factor, a.seed, a.min_motion, a.workers, None if a.columns is None else dict(a.columns)
        )


if __name__ == "__main__":
    main()
