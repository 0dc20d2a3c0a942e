"""The five-stage curriculum in the form of Section 4.3 and Table 2, from evaluated run folders:

python -m apo.reports.curriculum --run curriculum
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import pandas as pd

from apo.errors import one_line
from apo.evaluators.results import videos
from apo.intervals import wilson
from apo.reports.arms import percent, spread

GUIDED, PLAIN = "eval_guided", "eval"  # folders of results under the teacher's guidance, and under none


@dataclass(frozen=True)
class Stage:
    folder: str
    title: str
    results: str  # how it is used: guided before distillation, in one forward after it
    paper: float  # distortion rate, Sec. 4.3


STAGES = [
    Stage("baseline", "Baseline", GUIDED, 0.140),
    Stage("online", "+ online", GUIDED, 0.075),
    Stage("half_online", "+ half-online", GUIDED, 0.075),
    Stage("offline", "+ offline", GUIDED, 0.050),
    Stage("distill", "+ distillation", PLAIN, 0.070),
    Stage("distill_dpo", "+ distillation-aware", PLAIN, 0.045),
]
SUBJECT = (
    "vanished",
    "split",
    "colour",
    "deformed",
)  # causes of the oracle; they come first in its order, so none is hidden
TABLE2 = {  # the paper's columns -> what stands for them: a number in [0, 1] per video, shown on the paper's scale of 0 to 2
    "Visual Plausibility": "share of videos that are not distorted",
    "Human Plausibility": "share whose digit or scene is not missing, doubled, recoloured or deformed, whatever else is wrong",
    "Subject Consistency": "subject_consistency",
    "Motion Aesthetics": "motion_smoothness (also 1 for what stands still: look at the dynamic degree)",
    "Instruction Following": "instruction_following",
}
PAPER2 = {  # Table 2: mean opinion scores of 656 samples, and the overall score as printed
    "baseline": (1.74, 1.35, 1.22, 1.79, 1.54, 7.64),
    "offline": (1.91, 1.41, 1.30, 1.85, 1.77, 8.12),
    "distill": (1.84, 1.37, 1.28, 1.81, 1.76, 8.06),
    "distill_dpo": (1.92, 1.39, 1.32, 1.85, 1.78, 8.26),
}
NOTES = """
Before distillation, stages are sampled under the guidance that is then distilled (three forwards), after it in one forward;
"unguided" is one forward for all. Mean ± standard deviation over training seeds, and [95 % Wilson interval] of the videos of
all seeds pooled: seeds share their conditions and noise, so it is narrower than it should be. Win/tie/loss: against the row
above, same condition and noise, all seeds: clean against distorted, and following the prompt against not.
The paper: 14 B parameters, judged by people; its order compares, its level doesn't. Its half-online stage won 86, tied 148
and lost 22 of 256 against the one before in instruction following. Its scores of "Ours (APO)" add up to 8.24, not 8.12.
"""
METRICS = {"distortion_rate": "distorted", "dynamic_degree": "speed", "instruction_following": "followed"} | {
    name: name for name in ("subject_consistency", "background_consistency", "motion_smoothness")
}


def rows(run: Path, folder: str, results: str) -> pd.DataFrame | None:
    """Measurements of a stage, a row per seed and condition; None if no seed has been evaluated so."""
    seeds = [run / folder] if folder == "baseline" else sorted(path / folder for path in run.glob("seed_*"))
    frames = []
    for path in seeds:
        if (path / results / "rows.json").is_file():
            frame = pd.DataFrame(videos(path / results / "rows.json"))
            frames.append(frame.assign(seed=path.parent.name, place=range(len(frame)), of_all=folder == "baseline"))
    return pd.concat(frames, ignore_index=True) if frames else None


def scores(frame: pd.DataFrame) -> list[float]:
    """Table 2's columns and their sum, each column from 0 to 2."""
    whole = ~frame.cause.isin(SUBJECT)
    columns = [~frame.distorted.astype(bool), whole, frame.subject_consistency, frame.motion_smoothness, frame.followed]
    values = [2 * float(column.mean()) for column in columns]
    return [*values, sum(values)]


def against(ours: pd.DataFrame, theirs: pd.DataFrame, column: str, better: bool) -> str:
    """'win/tie/loss' of equal conditions and seeds; the one baseline stands against each seed."""
    on = ["place"] if theirs.of_all.all() else ["seed", "place"]
    both = ours.merge(theirs, on=on, suffixes=("", "_theirs"))
    mine, other = (both[name].astype(bool) == better for name in (column, f"{column}_theirs"))
    return f"{int((mine & ~other).sum())}/{int((mine == other).sum())}/{int((~mine & other).sum())}"


def share(frame: pd.DataFrame, column: str) -> str:
    """'mean ± std over seeds [pooled]', in percent."""
    each = [100 * value for value in frame.groupby("seed")[column].mean()]
    return f"{spread(each, '{:.1f}')} {percent(wilson(int(frame[column].sum()), len(frame)))}"


def progress(run: Path) -> list[str]:
    """Section 4.3 as a Markdown table."""
    head = [
        "",
        "distorted, % [pooled]",
        "paper, %",
        "clean: win/tie/loss",
        "unguided, %",
        "instruction, % [pooled]",
        "followed: win/tie/loss",
        "dynamic degree, px/frame",
        "seeds",
        "videos",
    ]
    lines, before = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"], None
    for stage in STAGES:
        frame, plain = rows(run, stage.folder, stage.results), rows(run, stage.folder, PLAIN)
        if frame is None:
            lines.append(f"| {stage.title} | not evaluated | {100 * stage.paper:.1f} |" + " |" * (len(head) - 3))
            continue
        cells = [
            stage.title,
            share(frame, "distorted"),
            f"{100 * stage.paper:.1f}",
            "" if before is None else against(frame, before, "distorted", False),
            "" if plain is None else share(plain, "distorted"),
            share(frame, "followed"),
            "" if before is None else against(frame, before, "followed", True),
            spread(list(frame.groupby("seed").speed.mean())),
            str(frame.seed.nunique()),
            str(len(frame)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
        before = frame
    return lines


def opinions(run: Path) -> list[str]:
    """Table 2 as a Markdown table: ours, and the paper's in parentheses."""
    lines = ["| of 2, and of 10 | " + " | ".join(TABLE2) + " | Overall |", "|---" * (len(TABLE2) + 2) + "|"]
    for stage in STAGES:
        frame = rows(run, stage.folder, stage.results)
        if stage.folder in PAPER2 and frame is not None:
            each = [scores(part) for _, part in frame.groupby("seed")]
            cells = [
                f"{spread(list(ours), '{:.2f}')} ({paper:.2f})" for ours, paper in zip(zip(*each), PAPER2[stage.folder])
            ]
            lines.append(f"| {stage.title} | " + " | ".join(cells) + " |")
    return [*lines, "", *(f"- {column}: {meaning}" for column, meaning in TABLE2.items())]


def everything(run: Path) -> list[str]:
    """Every world metric of every stage, guided and not, as a Markdown table."""
    lines = ["| | | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 2) + "|"]
    for stage in STAGES:
        for results, how in ((GUIDED, "guided"), (PLAIN, "one forward")):
            if (frame := rows(run, stage.folder, results)) is not None:
                cells = [spread(list(frame.groupby("seed")[column].mean())) for column in METRICS.values()]
                lines.append(f"| {stage.title} | {how} | " + " | ".join(cells) + " |")
    return lines


def numbers(run: Path) -> dict:
    """The same as plain numbers, for each stage that is evaluated."""
    found = {}
    for stage in STAGES:
        if (frame := rows(run, stage.folder, stage.results)) is not None:
            each = {
                seed: {key: float(part[column].mean()) for key, column in METRICS.items()}
                for seed, part in frame.groupby("seed")
            }
            pooled = asdict(wilson(int(frame.distorted.sum()), len(frame)))
            found[stage.folder] = {
                "paper": stage.paper,
                "seeds": each,
                "distortion_rate": pooled,
                "table2": scores(frame),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="curriculum", help="folder in outputs/ that holds baseline and seed_0 ...")
    run = Path("outputs") / parser.parse_args().run
    if not (found := numbers(run)):
        raise SystemExit(f"{run} has no evaluated stage: `make curriculum` trains and evaluates them")
    text = "\n".join(
        [
            "# The curriculum, stage by stage",
            "",
            *progress(run),
            NOTES,
            "# In the form of Table 2",
            "",
            *opinions(run),
            "",
            "# Every metric, mean ± standard deviation over seeds",
            "",
            *everything(run),
            "",
        ]
    )
    (run / "curriculum.md").write_text(text)
    (run / "curriculum.json").write_text(json.dumps(found, indent=1))
    print(f"{text}\ntable: {run / 'curriculum.md'}")


if __name__ == "__main__":
    with one_line("curriculum"):
        main()
