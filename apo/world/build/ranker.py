"""`make ranker-world`: the world's rankers from scratch. Every step is resumable and skipped once done.

A tiny Qwen3-VL is trained on the pairs of both domains, then a LoRA adapter for each domain over it; digits stand for the
paper's human-centric videos, scenes for the others (Appendix C). Runs lie in outputs/ranker_world, the results in
apo/world/checkpoints/ranker. `--step base_without_slow_motion` trains the control for Appendix C.1.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from apo.world.build.vlm import build_vlm

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints" / "ranker"
RUNS = Path("outputs/ranker_world")
CONTROL = "base_without_slow_motion"
BASE = ["vlm.lora=null", "vlm.autocast=bfloat16", "optimizer.lr=1e-3", "optimizer.weight_decay=0.05", "warmup_steps=200"]
BASE += ["max_steps=12000", "data.count=48000"]
ADAPTER = [f"vlm.path={RUNS}/base/adapter", "optimizer.lr=1e-3", "warmup_steps=50", "max_steps=2000", "data.count=16000"]
TARGETS = "vlm.lora.targets=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj,qkv,proj,linear_fc1,linear_fc2]"
SETTINGS = {
    "base": [f"vlm.path={RUNS}/init", *BASE],
    CONTROL: [f"vlm.path={RUNS}/init", *BASE, "data.slow_motion=false"],
    "digit": [*ADAPTER, TARGETS, "data.domain=digit"],
    "scene": [*ADAPTER, TARGETS, "data.domain=scene"],
}
KEPT = ("*.safetensors", "*.json", "*.jinja")


def command(step: str, threads: int) -> list[str]:
    """The training run of a step, in outputs/ranker_world/<step>."""
    common = ["run=ranker_world", f"hydra.run.dir={RUNS}/{step}", "stage=ranker"]
    common += ["checkpoint_every_n_steps=50", "validate_every_n_steps=500"]
    return [sys.executable, "train.py", *common, f"trainer.threads={threads}", *SETTINGS[step]]


def build_init() -> None:
    if not (RUNS / "init" / "processor_config.json").exists():
        build_vlm(RUNS / "init")


def side_by_side(steps: list[str], threads: int) -> None:
    """Steps that don't depend on each other, a process each."""
    build_init()
    jobs = [subprocess.Popen(command(step, threads)) for step in steps]
    if any([job.wait() for job in jobs]):
        raise SystemExit("a step of the build stopped; run the same command again to continue")


def install() -> None:
    """Copies the base and the adapters to where ranker=by_domain looks for them."""
    for step in ("base", "digit", "scene"):
        target = CHECKPOINTS / step
        target.mkdir(parents=True, exist_ok=True)
        for file in (file for pattern in KEPT for file in (RUNS / step / "adapter").glob(pattern)):
            shutil.copyfile(file, target / file.name)
    for step in ("digit", "scene"):
        path = CHECKPOINTS / step / "adapter_config.json"
        settings = json.loads(path.read_text()) | {"base_model_name_or_path": "apo/world/checkpoints/ranker/base"}
        path.write_text(json.dumps(settings, indent=1))
    print(f"rankers: {CHECKPOINTS}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=["all", *SETTINGS, "install"], default="all")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.step in SETTINGS:
        side_by_side([args.step], args.threads)
    if args.step == "all":
        side_by_side(["base"], args.threads)
        side_by_side(["digit", "scene"], args.threads)
    if args.step in ("all", "install"):
        install()
