"""Fixed-seed contact sheets of a curriculum's stages, row by row (Figs. 5-10, Appendix F):

python -m apo.reports.sheets --run curriculum/seed_0
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch

from apo.evaluation import Judge
from apo.io.pictures import contact_sheet
from apo.reports.before_after import colour, pick
from apo.reports.distill import Two, prepare
from apo.runs import BASELINE, Arm, find


@dataclass(frozen=True)
class Sheet:
    file: str
    arms: Sequence[str]  # folders, one row each for every condition
    guided: Sequence[bool]  # how each is sampled
    differ: str  # the measurement that conditions are picked by


SHEETS = [
    Sheet("fig5_6_baseline_aligned.png", (BASELINE, "offline"), (True, True), "distorted"),
    Sheet("fig7_half_online.png", ("online", "half_online"), (True, True), "followed"),
    Sheet(
        "fig8_10_teacher_student_aware.png", ("offline", "distill", "distill_dpo"), (True, False, False), "distorted"
    ),
]


def draw(sheet: Sheet, judges: Sequence[Judge], arms: Sequence[Arm], count: int, folder: Path) -> Path:
    """Saves a sheet; captions are red where the oracle finds a distortion."""
    results = [judge.score(arm) for judge, arm in zip(judges, arms)]
    places = pick(results, sheet.differ, count)
    shown = [judge.kept(arm, result["key"], places) for judge, arm, result in zip(judges, arms, results)]
    videos, captions, colours = [], [], []
    for index, place in enumerate(places):
        for arm, result, of_arm in zip(arms, results, shown):
            row = result["rows"][place]
            videos.append(of_arm[index])
            verdict = row["cause"] or ("clean" if row["followed"] else "clean, not as the prompt says")
            captions.append(f"{arm.name}: {row['prompt']} ({verdict})")
            colours.append(colour(row))
    contact_sheet(folder / sheet.file, videos, captions, colours)
    return folder / sheet.file


def arm_of(two: Two, run: str, name: str) -> Arm:
    """The baseline is one for all seeds: it stands beside their folders."""
    return (
        Arm(BASELINE, (Path("outputs") / run).parent / BASELINE, None)
        if name == BASELINE
        else find(two.plain.cfg, name)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides", nargs="*", help="of conf/evaluate.yaml, such as conditions.count=64 trainer.threads=1"
    )
    parser.add_argument("--run", default="curriculum/seed_0", help="folder in outputs/")
    parser.add_argument("--count", type=int, default=6, help="conditions of a sheet")
    args = parser.parse_args()
    try:
        two = prepare(args.run, "distill", args.overrides)
        rows = [[arm_of(two, args.run, name) for name in sheet.arms] for sheet in SHEETS]
    except ValueError as error:
        raise SystemExit(f"sheets: {error}") from error
    if two.plain.cfg.trainer.threads:
        torch.set_num_threads(two.plain.cfg.trainer.threads)
    for sheet, arms in zip(SHEETS, rows):
        print(
            draw(
                sheet,
                [two.guided if guided else two.plain for guided in sheet.guided],
                arms,
                args.count,
                arms[-1].folder.parent,
            )
        )


if __name__ == "__main__":
    main()
