"""`make ranker-world`: the world's rankers from scratch. Every step is resumable and skipped once done.

A tiny Qwen3-VL learns to see and to rank in both domains (`apo/world/build/sight.py`), then a LoRA adapter for each
domain over it with `stage=ranker`; digits stand for the paper's human-centric videos, scenes for the others (Appendix
C). The controls are adapters without the slow-motion negatives of Appendix C.1. Runs lie in outputs/ranker_world, the
base and the two adapters in apo/world/checkpoints/ranker.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch
from hydra.utils import instantiate

from apo.config.overrides import composed
from apo.places import program
from apo.rankers.folders import VIDEOS
from apo.world.build.sight import build as build_sight
from apo.world.build.vlm import build_vlm
from apo.world.render import FRAMES, SIZE

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints" / "ranker"
RUNS = Path("outputs/ranker_world")
COUNTS = {
    "digit": 12000,
    "scene": 6000,
}  # pairs to draw from, half of them of the baseline's videos; an adapter sees 3,200
TARGETS = "vlm.lora.targets=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj,qkv,proj,linear_fc1,linear_fc2]"
ADAPTER = [
    "stage=ranker",
    f"vlm.path={RUNS}/base",
    TARGETS,
    "vlm.autocast=bfloat16",
    "optimizer.lr=1e-3",
    "warmup_steps=50",
]
ADAPTER += ["max_steps=400", "checkpoint_every_n_steps=50", "validate_every_n_steps=200"]
ADAPTERS = {
    "digit": [],
    "scene": [],
    "digit_control": ["data.slow_motion=false"],
    "scene_control": ["data.slow_motion=false"],
}
KEPT = ("*.safetensors", "*.json", "*.jinja")


def settings(step: str) -> list[str]:
    """Of an adapter's training run, in outputs/ranker_world/<step>."""
    domain = step.removesuffix("_control")
    place = [
        "run=ranker_world",
        f"hydra.run.dir={RUNS}/{step}",
        f"data.domain={domain}",
        f"data.count={COUNTS[domain]}",
    ]
    return [*place, *ADAPTER, *ADAPTERS[step]]


def build_videos() -> tuple:
    """The source of the adapters' pairs, and how many conditions of each domain the baseline has made videos of."""
    conditions = {}
    for step in COUNTS:
        cfg = composed("train", settings(step))
        source = instantiate(cfg.data)
        split = source.prepare(None)
        conditions[step] = 1 + max(row["index"] for place, row in split.train.rows if place.source == "generated")
    return source, conditions, cfg.vlm.frames


def build_base(threads: int) -> None:
    """The ranking model that the adapters start from."""
    if (RUNS / "base" / "processor_config.json").exists():
        return
    torch.set_num_threads(threads)
    if not (RUNS / "init" / "processor_config.json").exists():
        build_vlm(RUNS / "init")
    build_sight(RUNS, RUNS / "init", *build_videos())


def side_by_side(steps: list[str], threads: int) -> None:
    """Adapters, which don't depend on each other, a process each."""
    jobs = [
        subprocess.Popen([sys.executable, *program("train"), f"trainer.threads={threads}", *settings(step)])
        for step in steps
    ]
    if any([job.wait() for job in jobs]):
        raise SystemExit("a step of the build stopped; run the same command again to continue")


def install() -> None:
    """Copies the base and the adapters to where ranker=by_domain looks for them."""
    for step, folder in {"base": RUNS / "base", **{step: RUNS / step / "adapter" for step in COUNTS}}.items():
        target = CHECKPOINTS / step
        target.mkdir(parents=True, exist_ok=True)
        for file in (file for pattern in KEPT for file in folder.glob(pattern)):
            shutil.copyfile(file, target / file.name)
    videos = {"of": "the world (model=tiny)", "frames": FRAMES, "height": SIZE, "width": SIZE}
    (CHECKPOINTS / "base" / VIDEOS).write_text(
        json.dumps(videos) + "\n"
    )  # the rankers are too small to judge any others
    for step in COUNTS:
        path = CHECKPOINTS / step / "adapter_config.json"
        config = json.loads(path.read_text()) | {"base_model_name_or_path": "apo/world/checkpoints/ranker/base"}
        path.write_text(json.dumps(config, indent=1))
    print(f"rankers: {CHECKPOINTS}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=["all", "videos", "base", *ADAPTERS, "install"], default="all")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.step == "videos":
        build_videos()
    if args.step in ADAPTERS:
        side_by_side([args.step], args.threads)
    if args.step in ("all", "base"):
        build_base(args.threads)
    if args.step == "all":
        side_by_side(["digit", "scene"], args.threads)
        side_by_side(["digit_control", "scene_control"], args.threads)
    if args.step in ("all", "install"):
        install()
