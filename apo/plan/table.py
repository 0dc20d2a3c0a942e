"""Which GPU holds which model, as README.md shows it; needs no GPU and no weights.

python -m apo.plan.table           prints the table
python -m apo.plan.table --write   puts it into README.md
"""

import argparse
import re
from dataclasses import dataclass, replace
from functools import cache

import apo.quiet  # noqa: F401  isort: skip
from apo.errors import UserError, one_line
from apo.places import ROOT
from apo.plan.__main__ import composed
from apo.plan.report import DEGREES, HOUR, Layout, Plan, layouts, planned

STEPS = 100
GPUS = ("rtx4090", "l40s", "h100", "h200")  # of conf/plan
TRAINERS = {1: "trainer=gpu", 8: "trainer=fsdp"}  # by number of GPUs
NOT_YET = "not yet"
README = ROOT / "README.md"
PLACE = re.compile(r"(<!-- python -m apo\.plan\.table --write -->\n).*?(<!-- end -->)", re.S)


@dataclass(frozen=True)
class Videos:
    """A model and the size of the videos that it is trained on."""

    name: str
    model: str
    height: int
    width: int
    frames: int

    def overrides(self) -> list[str]:
        size = (f"model.spec.{key}={getattr(self, key)}" for key in ("height", "width", "frames"))
        return [f"model={self.model}", *size, "stage=offline"]


TRAINED = (
    Videos("Wan2.2 TI2V-5B", "wan22_ti2v_5b", 480, 832, 81),
    Videos("Wan2.2 TI2V-5B", "wan22_ti2v_5b", 704, 960, 121),
    Videos("Wan2.1 I2V-14B", "wan21_i2v_14b", 480, 832, 81),
    Videos("Wan2.2 I2V-A14B", "wan22_i2v_a14b", 480, 832, 81),
    Videos("Wan2.2 I2V-A14B", "wan22_i2v_a14b", 720, 960, 121),  # the paper's (Sec. 4.1)
)


def table() -> str:
    """Markdown: a row for each GPU and number of them, a column for each of TRAINED."""
    columns = [plans(videos) for videos in TRAINED]
    heads = [f"{v.name}, {v.height} x {v.width}, {v.frames} frames" for v in TRAINED]
    rows = [[gpus, *(cell(column[gpus]) for column in columns)] for gpus in columns[0]]
    return "\n".join(f"| {' | '.join(row)} |" for row in [["GPUs", *heads], ["---"] * (1 + len(heads)), *rows])


@cache
def plans(videos: Videos) -> dict[str, Plan]:
    """Of such videos on each number of GPUs, by its name. The model's passes are counted once, which takes seconds."""
    found, known = {}, None
    for gpu in GPUS:
        for count, trainer in TRAINERS.items():
            cfg = composed([*videos.overrides(), trainer, f"trainer.devices={count}", f"plan={gpu}"])
            known = planned(cfg, known)
            found[f"{count} x {known.cfg.plan.gpu.name}"] = known
    return found


def cell(plan: Plan) -> str:
    """Hours of STEPS steps in the first layout that fits: ranks share a video's tokens only where they have to."""
    mine = {layout.context_parallel: layout for layout in layouts(plan) if same_but_degree(layout, plan.layout)}
    layout = next((mine[degree] for degree in DEGREES if degree in mine and plan.fits(plan.memory(mine[degree]))), None)
    if layout is None:
        return NOT_YET
    hours, pairs = STEPS * plan.seconds(plan.flops(layout=layout)) / HOUR, plan.step.pairs * layout.replicas
    return f"{hours:.1f} h" + ("" if pairs == layout.ranks else f" ({pairs} pair{'s' * (pairs > 1)})")


def same_but_degree(layout: Layout, chosen: Layout) -> bool:
    return replace(layout, context_parallel=chosen.context_parallel) == chosen


def written(text: str, made: str) -> str:
    """A document with the table between its two marks; UserError without them."""
    if not PLACE.search(text):
        raise UserError(f"{README.name} has no place for the table: put back the comments that {PLACE.pattern} finds")
    return PLACE.sub(lambda found: f"{found[1]}{made}\n{found[2]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into README.md")
    asked = parser.parse_args()
    with one_line("plan"):
        print(made := table())
        if asked.write:
            README.write_text(written(README.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main()
