"""What `python -m apo.tools.kills` kills: commands that leave results in outputs/ of a working tree."""

from dataclasses import dataclass
from pathlib import Path

from apo.tools.stages import STAGES, adapter, command

INTERVAL, STEPS = 2, 6  # of checkpoints; of a run
LONGER = [f"max_steps={STEPS}", f"checkpoint_every_n_steps={INTERVAL}", "batch_size=2"]
WORLD = [
    "train.py",
    "run=world",
    "hydra.run.dir=outputs/world/run",
    "model.num_inference_steps=4",
    "policy.lora.rank=2",
    "batch_size=2",
    "sample_every_n_steps=0",
    "logger=csv",
    "trainer.threads=1",
    *LONGER,
]
EVALUATE = [
    "evaluate.py",
    "run=offline",
    "stage=run",
    "conditions=prompts",
    "evaluator=none",
    "videos=2",
    "batch_size=1",
    "trainer.threads=1",
    "model.spec={height: 32, width: 48, frames: 9, fps: 8}",
    "model.num_inference_steps=4",
]
PAIRS = ["stage=offline", "data=world_pairs", "data.count=6", "data.batch_size=2"]
TWO = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.backend=gloo"]


@dataclass(frozen=True)
class Target:
    """command: what is killed. before: commands whose results it starts from."""

    command: list[str]
    before: tuple[list[str], ...] = ()


def targets(model: Path, manifests: dict[str, Path]) -> dict[str, Target]:
    """name -> target, for a tiny pipeline and manifests of the four kinds."""
    train = {stage: command(stage, needs.kind, stage, model, manifests) for stage, needs in STAGES.items()}
    plain = {
        stage: [word for word in words if not word.startswith(("adapter=", "ranker.adapter="))]
        for stage, words in train.items()
    }
    distilled = [*plain["distill"]]
    data = [f"data.path={manifests['pairs']}", f"model.path={model}"]
    found = {stage: Target([*words, *LONGER]) for stage, words in plain.items()}
    found["distill_dpo"] = Target([*train["distill_dpo"], *LONGER], (distilled,))
    found["ddp"] = Target([*plain["offline"], "trainer=ddp", *TWO, *LONGER, "batch_size=1"])
    found["fsdp"] = Target([*plain["offline"], "trainer=fsdp", *TWO, *LONGER, "batch_size=1"])
    found["world_pairs"] = Target([*WORLD, *PAIRS])
    own = [f"conditions.path={manifests['prompts']}", f"model.path={model}"]
    found["evaluate"] = Target([*EVALUATE, *own], (plain["offline"],))
    found["export"] = Target(["-m", "apo.export", adapter("offline"), "--out", "outputs/exported"], (plain["offline"],))
    fused = ["-m", "apo.export", adapter("offline"), "--out", "outputs/fused", "--fuse"]
    found["export_fused"] = Target(fused, (plain["offline"],))
    found["cache"] = Target(["-m", "apo.data.cache", "--workers", "2", "data=pairs", *plain["offline"][4:6], *data])
    return found
