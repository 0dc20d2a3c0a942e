"""A small manifest of the world's own clips as video files, for tests that need a user's data."""

import json
from pathlib import Path

import numpy as np

from apo.io.video import write_video
from apo.world import flaws, render
from apo.world.grammar import describe


def write_manifest(folder: Path, count: int) -> Path:
    """`count` pairs: a right video against a flawed one."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(0), []
    for i in range(count):
        clip = render.random_clip(rng)
        flaw = flaws.PLANTED[clip.meaning.domain][0]
        for name, video in (("chosen", render.render(clip)), ("rejected", flaw(clip, rng))):
            write_video(folder / f"{i}_{name}.mp4", video, render.FPS)
        row = {"prompt": describe(clip.meaning), "chosen": f"{i}_chosen.mp4", "rejected": f"{i}_rejected.mp4"}
        lines.append(json.dumps(row))
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines))
    return path
