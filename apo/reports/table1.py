"""Table 1 on the embedded world, from evaluated run folders: `python -m apo.reports.table1 --run table1`."""

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import matplotlib
import matplotlib.pyplot as plt

from apo.errors import one_line
from apo.intervals import wilson
from apo.reports.arms import PASSES, Arm, percent, spread
from apo.reports.arms import collect as arms_of

ARMS = {  # folder's arm -> title, in the table's order; others follow by name
    "baseline": "Pre-trained",
    "diffusion_dpo": "Diffusion-DPO",
    "apo": "Diffusion-APO",
    "wo_rs_ro": "APO w/o RS & RO",
    "wo_rs": "APO w/o RS",
    "wo_ro": "APO w/o RO",
    "high_only": "high only",
    "low_only": "low only",
    "no_window": "no window",
    "uniform_window": "uniform window (control)",
    "logit_normal": "logit-normal window",
    "decay": "APO, rate falls to zero",
    "diffusion_dpo_decay": "DPO, rate falls to zero",
}
PAPER = {  # Table 1: distortion rate, mean and std over seeds; 400 human-judged videos of another model
    "baseline": (0.21, 0.02),
    "diffusion_dpo": (0.15, 0.015),
    "apo": (0.08, 0.01),
    "wo_rs_ro": (0.09, 0.01),
}
NOTES = f"""
Mean ± standard deviation over training seeds, and [95 % Wilson interval] of the videos of all seeds pooled. The seeds
share their conditions and noise, so pooled videos are not independent and the interval is narrower than it should be.
Win/tie/loss: clean against distorted on the same condition and noise, against the pre-trained model, all seeds.
Wall time: the sum of the time/* columns of metrics.csv, mean over seeds: without loading, checkpoints and samples.
Forward-equivalents: optimizer steps x window rows x {PASSES} (reference forward 1, policy forward 1, backward 2), a unit
being one forward of a batch of pairs, chosen and rejected; arms with other batch sizes compare by forwards x pairs.
Paper: Table 1 of arXiv 2605.07503, Wan2.1 at 14 B judged by people on 400 prompts: its order compares, its level doesn't.
"""


def collect(run: Path) -> tuple[list[Arm], list[str]]:
    """The arms of outputs/<run> that are evaluated, in the table's order, and the run folders that are not."""
    arms, waiting = arms_of(
        run, r"ablation_(\w+)-(?:.*-)?seed_(\d+)(?:-.*)?", "`make table1` trains and evaluates them"
    )
    order = [name for name in ARMS if name in arms] + sorted(name for name in arms if name not in ARMS)
    return [arms[name] for name in order], waiting


def markdown(arms: list[Arm], waiting: list[str]) -> str:
    head = [
        "",
        "distorted, % [pooled]",
        "paper, %",
        "dynamic degree, px/frame",
        "instruction, % [pooled]",
        "win/tie/loss",
        "wall time, s",
        "forward-equivalents",
        "pairs",
        "seeds",
        "videos",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for arm in arms:
        paper = PAPER.get(arm.name)
        trained = bool(arm.forward_equivalents)
        cells = [
            ARMS.get(arm.name, arm.name),
            f"{spread([100 * v for v in arm.distortion_rate], '{:.1f}')} {percent(arm.pooled)}",
            f"{100 * paper[0]:.1f} ± {100 * paper[1]:.1f}" if paper else "",
            spread(arm.dynamic_degree),
            f"{spread([100 * v for v in arm.instruction_following], '{:.1f}')} {percent(wilson(arm.followed, arm.videos))}",
            f"{arm.win}/{arm.tie}/{arm.loss}" if arm.win + arm.tie + arm.loss else "",
            f"{statistics.mean(arm.seconds):.0f}" if trained else "",
            f"{statistics.mean(arm.forward_equivalents):.0f}" if trained else "",
            str(arm.batch_size or ""),
            str(len(arm.seeds) or ""),
            str(arm.videos),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    missing = [f"\nNot evaluated yet: {', '.join(waiting)}.\n"] if waiting else []
    return "\n".join([*lines, NOTES, *missing])


def draw(arms: list[Arm], path: Path) -> None:
    """Distortion rates with their pooled intervals, each seed as a dot, the paper's mean ± std as a diamond."""
    figure, ax = plt.subplots(figsize=(1.1 * len(arms) + 2, 4.2), layout="constrained")
    for x, arm in enumerate(arms):
        rate = arm.pooled
        error = [[100 * (rate.value - rate.low)], [100 * (rate.high - rate.value)]]
        ax.bar(x, 100 * rate.value, yerr=error, capsize=4, color="C0" if arm.name in PAPER else "C7", alpha=0.75)
        if arm.seeds:
            ax.plot([x] * len(arm.seeds), [100 * value for value in arm.distortion_rate], "k.", markersize=5)
        if arm.name in PAPER:
            mean, std = PAPER[arm.name]
            ax.errorbar(
                x + 0.25, 100 * mean, yerr=100 * std, fmt="D", color="C3", markerfacecolor="white", markersize=5
            )
    ax.plot([], [], "k.", label="one seed")
    ax.errorbar([], [], yerr=[], fmt="D", color="C3", markerfacecolor="white", label="the paper (other model, people)")
    ax.set_xticks(range(len(arms)), [ARMS.get(arm.name, arm.name) for arm in arms], rotation=30, ha="right")
    ax.set(ylabel="distorted videos, %", ylim=(0, None), title="held-out videos; bars: pooled, 95 % interval")
    ax.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="table1", help="the folder of outputs/ that holds the arms")
    run = Path("outputs") / parser.parse_args().run
    if not run.is_dir():
        raise SystemExit(f"{run} is not there: `make table1` makes it")
    matplotlib.use("Agg")
    arms, waiting = collect(run)
    text = markdown(arms, waiting)
    (run / "table1.md").write_text(text)
    plain = [asdict(arm) | {"pooled": asdict(arm.pooled), "paper": PAPER.get(arm.name)} for arm in arms]
    (run / "table1.json").write_text(json.dumps({"arms": plain, "not_evaluated": waiting}, indent=1))
    draw(arms, run / "table1.png")
    print(f"{text}\ntable:  {run / 'table1.md'}\nfigure: {run / 'table1.png'}")


if __name__ == "__main__":
    with one_line("table1"):
        main()
