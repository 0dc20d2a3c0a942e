"""What cheaper candidates cost in quality, at the forwards of the online stage: `make cheaper`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import numpy as np
from hydra import compose, initialize_config_dir

from apo.config.recorded import curve, settings
from apo.errors import one_line
from apo.evaluators import results
from apo.plan.costs import Step, step_of
from apo.policies.model import ROOT
from apo.reports.arms import bootstrap, forwards, points, spread
from apo.reports.curriculum import GUIDED, PLAIN

ONLINE = "online/ranker.error_rate_0.0-seed_{}"  # in outputs/, {} is the seed
HALF = "module.pairs.rollout.num_inference_steps=20"  # of Wan2.2's 40
REMEDY = "`make cheaper` trains and evaluates it"
METRICS = {"distorted": 100, "speed": 1, "followed": 100}  # of a video, and what a report shows of it


@dataclass(frozen=True)
class Arm:
    """folder: in outputs/, of each seed. results: how its videos are generated. scale: train.py's overrides of such a step of Wan2.2."""

    title: str
    folder: str
    results: str = PLAIN
    scale: Sequence[str] = ()


FEWER, WINDOWS, BOTH = ["cheaper=fewer_steps", HALF], ["cheaper=two_windows"], ["cheaper=both", HALF]
TABLES = {  # the first trained arm is what the others are compared with
    "For the forwards of the online stage in the world": [
        Arm("baseline", "cheaper/baseline"),
        Arm("online, as in the paper", ONLINE, scale=["stage=online"]),
        Arm("First Block Cache, threshold 0.2", "cheaper/cheaper_cache-seed_{}", scale=["cheaper=cache"]),
        Arm("half the solver's steps", "cheaper/cheaper_fewer_steps-seed_{}", scale=FEWER),
        Arm("two windows a pair", "cheaper/cheaper_two_windows-seed_{}", scale=WINDOWS),
        Arm("both", "cheaper/cheaper_both-seed_{}", scale=BOTH),
        Arm("ranked a step ahead", "cheaper/cheaper_ahead-seed_{}", scale=["cheaper=ahead"]),
    ],
    "For as many steps as the online stage's forwards would buy with Wan2.2": [
        Arm("online, as in the paper", ONLINE, scale=["stage=online"]),
        Arm("half the solver's steps", "cheaper_at_scale/cheaper_fewer_steps-seed_{}", scale=FEWER),
        Arm("two windows a pair", "cheaper_at_scale/cheaper_two_windows-seed_{}", scale=WINDOWS),
        Arm("both", "cheaper_at_scale/cheaper_both-seed_{}", scale=BOTH),
        Arm(
            "half the solver's steps, ranked a step ahead",
            "cheaper_at_scale/cheaper_at_scale-seed_{}",
            scale=["cheaper=at_scale"],
        ),
    ],
    "Measured under guidance or, once it is distilled, in one forward": [
        Arm("baseline", "cheaper/baseline", GUIDED),
        Arm(
            "candidates under the guidance",
            "cheaper/cheaper_guided-seed_{}",
            GUIDED,
            ["cheaper=guided", "guidance=cfg"],
        ),
        Arm("candidates in one forward", ONLINE, GUIDED, ["stage=online", "guidance=none"]),
        Arm("distilled baseline", "cheaper/distilled-seed_{}"),
        Arm(
            "then candidates of that student",
            "cheaper/cheaper_student-seed_{}",
            scale=["cheaper=student", "adapter=student"],
        ),
    ],
}
NOTES = """
400 held-out conditions, the same noise for all; mean ± standard deviation over training seeds. Difference: in points of distorted
videos on equal seeds, conditions and noise, to the table's first trained arm, [95 % bootstrap interval over seeds and conditions].
A forward is one of the two videos of each pair of a step: a window row is four (reference 1, policy 1, its backward 2), a row
of distillation six. Wan2.2: 40 solver steps under CFG, unless the arm has no guidance, where the world has 10 in one forward each;
its generation is four fifths of a step's forwards, the world's a third. The cache leaves out as many blocks as in the world. Seconds
are of a shared machine.
"""


def seeds_of(arm: Arm, outputs: Path) -> list[str]:
    """Of which `arm` is evaluated; [''] for an arm without seeds."""
    found = sorted(outputs.glob(f"{arm.folder.format('*')}/{arm.results}/rows.json"))
    if "{}" not in arm.folder:
        return [""] if found else []
    return [path.parents[1].name.split("seed_")[1] for path in found]


def measured(arm: Arm, seeds: Sequence[str], outputs: Path) -> dict[str, np.ndarray]:
    """Each metric as (seeds, conditions)."""
    videos = [results.videos(outputs / arm.folder.format(seed) / arm.results / "rows.json") for seed in seeds]
    if len({len(rows) for rows in videos}) > 1:
        raise ValueError(
            f"{outputs / arm.folder}: seeds {', '.join(seeds)} have unequal numbers of videos; evaluate them alike"
        )
    return {metric: np.array([[float(row[metric]) for row in rows] for rows in videos]) for metric in METRICS}


def cost(arm: Arm, seed: str, outputs: Path) -> list[str]:
    """Cells: optimizer steps, forwards of a step and of the run, the same of Wan2.2, seconds a step."""
    folder = outputs / arm.folder.format(seed)
    if not (folder / "metrics.csv").is_file():
        return [""] * 4
    metrics = curve(folder / "metrics.csv")
    blocks = metrics["generate/blocks"].mean() if "generate/blocks" in metrics else 1.0
    step, seconds = forwards(step_of(settings(folder)), blocks), metrics.filter(like="time/").sum(axis=1)
    costs = [step, forwards(at_scale(arm.scale), blocks) if arm.scale else None]
    cells = ["" if each is None else f"{each:.4g}, {each * len(metrics):,.0f}" for each in costs]
    return [str(len(metrics)), *cells, f"{seconds.mean():.2f}"]


def at_scale(overrides: Sequence[str]) -> Step:
    """What a step of Wan2.2 asks for under train.py's overrides."""
    guided = [] if any(o.startswith("guidance=") or o == "cheaper=student" for o in overrides) else ["guidance=cfg"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        found = f"hydra.searchpath=[file://{ROOT}/experiments]"
        return step_of(compose("train", [found, "model=wan22_i2v_a14b", *overrides, *guided]))


def table(arms: list[Arm], outputs: Path) -> list[str]:
    """As Markdown; an arm that is not evaluated says so."""
    head = [
        "",
        "distorted, %",
        "difference",
        "dynamic degree",
        "follow, %",
        "steps",
        "forwards of a step, of the run",
        "of Wan2.2",
        "s a step",
        "seeds",
    ]
    lines, first = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"], None
    for arm in arms:
        if not (seeds := seeds_of(arm, outputs)):
            lines.append(f"| {arm.title} | not evaluated: {REMEDY} |" + " |" * (len(head) - 2))
            continue
        found = measured(arm, seeds, outputs)
        distorted, speed, followed = (
            spread([scale * float(value) for value in found[key].mean(1)], "{:.1f}" if scale > 1 else "{:.3f}")
            for key, scale in METRICS.items()
        )
        difference = ""
        if first is not None and (shared := [seed for seed in seeds if seed in seeds_of(first, outputs)]):
            ours, theirs = (measured(which, shared, outputs)["distorted"] for which in (arm, first))
            between = bootstrap(ours - theirs)
            difference = f"{100 * between.value:+.1f} {points(between)}"
        first = first or (arm if seeds != [""] else None)
        lines.append(
            "| "
            + " | ".join(
                [
                    arm.title,
                    distorted,
                    difference,
                    speed,
                    followed,
                    *cost(arm, seeds[0], outputs),
                    str(len(seeds)) if seeds != [""] else "",
                ]
            )
            + " |"
        )
    return lines


def main() -> None:
    outputs = Path("outputs")
    parts = [[f"## {title}", "", *table(arms, outputs), ""] for title, arms in TABLES.items()]
    text = "\n".join([line for part in parts for line in part]) + NOTES
    (outputs / "cheaper").mkdir(parents=True, exist_ok=True)
    (outputs / "cheaper" / "cheaper.md").write_text(text)
    print(f"{text}\ntable: {outputs / 'cheaper' / 'cheaper.md'}")


if __name__ == "__main__":
    with one_line("cheaper"):
        main()
