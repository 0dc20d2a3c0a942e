"""What the tools try commands on: a working tree to run in, and small manifests of each kind."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from apo.io.video import write_video
from apo.world import flaws, render
from apo.world.grammar import describe

ROOT = Path(__file__).parents[2]
KINDS = ("pairs", "prompts", "anchors", "rankings")


def working_tree(folder: Path) -> Path:
    """A folder in which every command of the repository runs, with outputs/ of its own: links to the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in ROOT.iterdir():
        if path.name not in ("outputs", ".git") and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    (folder / "outputs").mkdir(exist_ok=True)
    return folder


def write_manifests(folder: Path, count: int) -> dict[str, Path]:
    """kind -> a manifest of `count` conditions of the world: right videos against flawed ones, and
    their first frames.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), {kind: [] for kind in KINDS}
    for i in range(count):
        clip = render.random_clip(rng)
        right, flawed = render.render(clip), flaws.PLANTED[clip.meaning.domain][0](clip, rng)
        for name, video in (("good", right), ("bad", flawed)):
            write_video(folder / f"{name}_{i}.mp4", video, render.FPS)
        Image.fromarray(right[0].permute(1, 2, 0).numpy()).save(folder / f"first_{i}.png")
        prompt, good, bad = {"prompt": describe(clip.meaning)}, f"good_{i}.mp4", f"bad_{i}.mp4"
        rows["pairs"].append(prompt | {"chosen": good, "rejected": bad})
        rows["prompts"].append(prompt | {"image": f"first_{i}.png"})
        rows["anchors"] += [prompt | {"video": good, "label": "positive"}, prompt | {"video": bad, "label": "negative"}]
        rows["rankings"].append(prompt | {"first": good, "second": bad, "label": 1})
    return {kind: written(folder / f"{kind}.jsonl", rows[kind]) for kind in KINDS}


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_ranking_model(folder: Path) -> None:
    """The world's ranking model as one of the user's own: without the file that says which videos it judges."""
    source = ROOT / "apo/world/checkpoints/ranker/base"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("videos.json"))
