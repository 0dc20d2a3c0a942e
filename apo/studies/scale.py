"""What a step of an arm would ask for with Wan2.2."""

from collections.abc import Sequence

from apo.plan.costs import Step, step_of
from apo.studies.work import composed


def at_scale(overrides: Sequence[str]) -> Step:
    """Under train.py's overrides; with CFG unless they give a guidance or say that a student needs none."""
    guided = [] if any(o.startswith("guidance=") or o == "cheaper=student" for o in overrides) else ["guidance=cfg"]
    return step_of(composed("train", ("model=wan22_i2v_a14b", *overrides, *guided)))
