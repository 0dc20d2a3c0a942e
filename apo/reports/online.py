"""The online and half-online stages on the embedded world, from evaluated run folders (Section 4.3): `make online`."""

from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import matplotlib
import matplotlib.pyplot as plt

from apo.errors import one_line
from apo.intervals import wilson
from apo.reports.arms import Arm, collect, percent, spread

RUNS = {  # run folder -> its title, and what its arms are compared with
    "online": ("Online", "the baseline"),
    "online_vlm": ("Online, ranked by the world's trained Qwen3-VL rankers", "the baseline"),
    "half_online": ("Half-online, from the online result of the same seed", "that online result"),
    "online_no_window": ("Online, one row per optimizer step", "the baseline"),
}
PATTERN, REMEDY = r"(.*?)-?seed_(\d+)", "`make online` trains and evaluates them"
TITLES = {"baseline": "Pre-trained", "": "all seeds"}
PAPER = """The paper (Section 4.3): distorted 14.0 % before and 7.5 % after the online stage, 7.5 % after the half-online one, whose
instruction following won 86, tied 148 and lost 22 comparisons by people."""


def markdown(arms: dict[str, Arm], against: str) -> str:
    """Rates over seeds, outcomes against `against` summed over seeds, cost, and the shares of an optimizer step's time."""
    head = [
        "",
        "distorted, % [pooled]",
        "dynamic degree, px/frame",
        "instruction, % [pooled]",
        "clean: win/tie/loss",
        "following: win/tie/loss",
        "forward-equivalents",
        "s a step",
        "generate, %",
        "rank, %",
        "optimize, %",
        "seeds",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, arm in arms.items():
        total = sum(arm.time.values())
        cells = [
            TITLES.get(name, name.replace("ranker.error_rate_", "annotator's error rate ")),
            f"{spread([100 * v for v in arm.distortion_rate], '{:.1f}')} {percent(arm.pooled)}",
            spread(arm.dynamic_degree),
            f"{spread([100 * v for v in arm.instruction_following], '{:.1f}')} {percent(wilson(arm.followed, arm.videos))}",
            f"{arm.win}/{arm.tie}/{arm.loss}" if arm.seeds else "",
            "{win}/{tie}/{loss}".format(**arm.following) if arm.seeds else "",
            spread(arm.forward_equivalents, "{:.0f}").removesuffix(" ± 0") if arm.seeds else "",
            f"{total / sum(arm.steps):.2f}" if total else "",
            *(
                f"{100 * arm.time.get(kind, 0) / total:.0f}" if total else ""
                for kind in ("generate", "rank", "optimize")
            ),
            str(len(arm.seeds) or ""),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            f"Win/tie/loss on the same conditions and noise, against {against}, all seeds. "
            "Forward-equivalents: of a run, in forwards of its batch of pairs.",
        ]
    )


def draw(arms: dict[str, Arm], path: Path) -> None:
    """Distortion rate over the annotator's error rate: pooled with its 95 % interval, and each seed."""
    rates = {float(name.removeprefix("ranker.error_rate_")): arm for name, arm in arms.items() if "error_rate" in name}
    figure, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for rate, arm in rates.items():
        pooled = arm.pooled
        error = [[100 * (pooled.value - pooled.low)], [100 * (pooled.high - pooled.value)]]
        ax.errorbar(100 * rate, 100 * pooled.value, yerr=error, fmt="o", color="C0", capsize=4)
        ax.plot(
            [100 * rate] * len(arm.distortion_rate), [100 * value for value in arm.distortion_rate], "k.", markersize=4
        )
    if "baseline" in arms:
        ax.axhline(100 * arms["baseline"].pooled.value, color="C7", linestyle="--", label="pre-trained")
        ax.legend()
    ax.set(
        xlabel="annotator's error rate, %", ylabel="distorted videos, %", ylim=(0, None), title="online Diffusion-APO"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    matplotlib.use("Agg")
    parts = []
    for name, (title, against) in RUNS.items():
        run = Path("outputs") / name
        if not run.is_dir():
            parts.append(f"## {title}\n\noutputs/{name} is not there: {REMEDY}")
            continue
        try:
            arms, waiting = collect(run, PATTERN, REMEDY)
        except FileNotFoundError as error:
            parts.append(f"## {title}\n\n{error}")
            continue
        parts.append(f"## {title}\n\n{markdown(arms, against)}")
        if waiting:
            parts.append(f"Not evaluated yet: {', '.join(waiting)}.")
        if name == "online":
            draw(arms, run / "label_noise.png")
    text = "\n\n".join([*parts, PAPER])
    (Path("outputs") / "online.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    with one_line("online"):
        main()
