"""What a training run takes, before anyone pays for it; needs no GPU and no weights.

    python -m apo.plan model=wan22_i2v_a14b trainer.nodes=24 trainer.devices=8 stage=online
    python -m apo.plan model=wan22_ti2v_5b trainer.nodes=1 trainer.devices=8 plan=h100 batch_size=2

Takes train.py's overrides and those of conf/plan.
"""

import sys

import apo.quiet  # noqa: F401  isort: skip
from omegaconf import DictConfig

from apo.config.overrides import composed as checked
from apo.errors import one_line, refused
from apo.plan.report import Plan, planned, report

USUAL = {
    "trainer": "fsdp",
    "ranker": "served",
    "plan": "h200",
    "batch_size": "1",
}  # at scale, where the command says nothing
CURRICULUM = (  # name, stage, optimizer steps: Sec. 4.3's but for the fourth's, which it does not state
    ("1 online", "online", 300),
    ("2 half-online", "half_online", 300),
    ("3 offline", "offline", 300),
    ("4 guidance distillation", "distill", 300),
    ("5 distillation-aware", "distill_dpo", 200),
)


def composed(overrides: list[str]) -> DictConfig:
    """train.py's config with the group `plan`."""
    given = {override.split("=")[0] for override in overrides}
    overrides = [f"{key}={value}" for key, value in USUAL.items() if key not in given] + overrides
    overrides = [f"+{override}" if override.startswith("plan=") else override for override in overrides]
    return checked("train", overrides)


def curriculum(overrides: list[str], known: Plan) -> list[tuple[str, Plan, int]]:
    """The paper's stages, each with its number of steps, on the same cluster.

    What is said of `module`, also by cheaper=, is the asked stage's alone: others have other pairs.
    """
    kept = [
        o
        for o in overrides
        if o.split("=")[0] not in ("stage", "max_steps", "adapter", "data") and not o.startswith("data.")
    ]
    found, preceding = [], []
    for name, stage, steps in CURRICULUM:
        given = (
            kept if stage == known.cfg.stage.name else [o for o in kept if not o.startswith(("module.", "cheaper="))]
        )
        given = [o for o in given if stage != "distill" or o != "guidance=none"]  # which leaves nothing to distill
        found.append((name, planned(composed([*given, f"stage={stage}", *preceding]), known), steps))
        preceding = ["adapter=preceding"]
    return found


def main(overrides: list[str] | None = None) -> None:
    overrides = sys.argv[1:] if overrides is None else overrides
    if {"-h", "--help"} & set(overrides):
        print(__doc__)
        return
    with one_line("plan"):
        with refused("the plan"):
            plan = planned(composed(overrides))
            stages = curriculum(overrides, plan)
        print(report(plan, stages))


if __name__ == "__main__":
    main()
