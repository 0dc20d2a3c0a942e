"""Contact sheets of a study's arms, row by row, as `sheets` of its YAML says (Figs. 5-10, Appendix F):

    python -m apo.studies.sheets curriculum --seed 0

What evaluate.py has done already is read, the rest is made.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch

from apo.errors import one_line
from apo.evaluation import Evaluation
from apo.evaluators.before_after import pick
from apo.io.pictures import contact_sheet
from apo.runs import Arm as Folder
from apo.runs import find
from apo.studies.definition import Study, load, require_known
from apo.studies.work import Work


@dataclass(frozen=True)
class Shown:
    """An arm in a sheet: its run folder and its evaluation."""

    evaluation: Evaluation
    folder: Folder


def prepare(study: Study, names: Sequence[str], seed: int, overrides: Sequence[str]) -> list[Shown]:
    """Arms under the evaluations that they show. UserError if one has no finished adapter."""
    require_known("arm", "sheets", names, study.arms)
    work, found = Work(study, for_evaluation=overrides), []
    for name in names:
        cfg = work.evaluation_config(study.arms[name], study.arms[name].seed_beside(seed), study.arms[name].shown)
        found.append(Shown(Evaluation(cfg), find(cfg, cfg.stage)))
    return found


def draw(path: Path, arms: Sequence[Shown], differ: str, count: int) -> Path:
    """Saves a sheet of the first conditions on which the arms' measurement `differ` differs; captions are red where
    distorted."""
    results = [arm.evaluation.score(arm.folder) for arm in arms]
    places = pick(results, differ, count)
    shown = [arm.evaluation.generation.videos(arm.folder, places) for arm in arms]
    videos, captions, colours = [], [], []
    for index, place in enumerate(places):
        for arm, result, of_arm in zip(arms, results, shown):
            row = result["rows"][place]
            videos.append(of_arm[index])
            verdict = row["cause"] or ("clean" if row["followed"] else "clean, not as the prompt says")
            captions.append(f"{arm.folder.name}: {row['prompt']} ({verdict})")
            colours.append("firebrick" if row["distorted"] else "black")
    contact_sheet(path, videos, captions, colours)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="sheets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", help="its name in experiments/study, or the path of a YAML file")
    parser.add_argument(
        "overrides", nargs="*", help="of conf/evaluation/evaluate.yaml, such as conditions.count=64 trainer.threads=1"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the study's")
    parser.add_argument("--count", type=int, default=6, help="conditions of a sheet")
    args = parser.parse_intermixed_args()
    study = load(args.study)
    sheets = {name: prepare(study, given["arms"], args.seed, args.overrides) for name, given in study.sheets.items()}
    for name, arms in sheets.items():
        if threads := arms[0].evaluation.cfg.trainer.threads:
            torch.set_num_threads(threads)
        print(draw(arms[-1].folder.folder.parent / name, arms, study.sheets[name]["differ"], args.count))


if __name__ == "__main__":
    with one_line("sheets"):
        main()
