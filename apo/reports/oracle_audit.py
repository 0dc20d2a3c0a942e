"""How often the oracle is wrong, by eye: generated videos shown without their verdicts, labelled by a person, then
compared.

python -m apo.reports.oracle_audit --draw     # sheets in an order that hides arms and verdicts
python -m apo.reports.oracle_audit            # docs/oracle_audit.csv against the oracle, also with other thresholds
python -m apo.reports.oracle_audit --picture docs/before_after.png
"""

import argparse
from dataclasses import replace
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import pandas as pd
import torch

from apo.config.overrides import composed
from apo.evaluation import Evaluation
from apo.intervals import shown, wilson
from apo.io.pictures import contact_sheet
from apo.places import ROOT
from apo.random import generator
from apo.runs import BASELINE, find
from apo.world.oracle import CAUSES, THRESHOLDS, Thresholds, excess, first_cause, tracks

LABELS = ROOT / "docs" / "oracle_audit.csv"
ORDER = 0xE7E  # keeps the order's random stream apart from others
ROWS = 10  # videos of a sheet
CLEAN = "clean"
SLIGHT = "slight"  # the eye's word for a change that one sees only on a second look: between clean and distorted
OTHERS = {  # thresholds that might be put in the place of today's
    "today's": THRESHOLDS,
    "spill 0.10": replace(THRESHOLDS, spill=0.10),
    "spill 0.05": replace(THRESHOLDS, spill=0.05),
    "similarity 0.88": replace(THRESHOLDS, similarity=0.88),
    "similarity 0.90": replace(THRESHOLDS, similarity=0.90),
    "similarity 0.92": replace(THRESHOLDS, similarity=0.92),
    "local 45": replace(THRESHOLDS, local=45.0),
}


def order(arms: list[str], count: int) -> list[tuple[str, int]]:
    """(arm, condition) in the order in which they are shown: the number of a caption is the place in this list."""
    videos = [(arm, place) for arm in arms for place in range(count)]
    return [videos[i] for i in torch.randperm(len(videos), generator=generator(ORDER, count)).tolist()]


def draw(evaluation: Evaluation, arms: list[str], count: int, folder: Path) -> None:
    """Sheets of ROWS videos each; captions are numbers."""
    shown = {}
    for name in arms:
        shown[name] = evaluation.generation.videos(find(evaluation.cfg, name), range(count))
    numbered = list(enumerate(order(arms, count)))
    for start in range(0, len(numbered), ROWS):
        part = numbered[start : start + ROWS]
        videos = [shown[arm][place] for _, (arm, place) in part]
        contact_sheet(folder / f"{start:03d}.png", videos, [str(number) for number, _ in part], height=128)


def verdicts(evaluation: Evaluation, arms: list[str], count: int, limits: Thresholds) -> dict[tuple[str, int], str]:
    """(arm, condition) -> the cause that the oracle would find with these thresholds, or CLEAN."""
    found = {}
    prompts, frames = evaluation.generation.conditions.batch(0, count)
    for name in arms:
        videos = evaluation.generation.videos(find(evaluation.cfg, name), range(count))
        for places, _, track in tracks(videos, prompts, frames):
            codes = first_cause(excess(track, limits)).tolist()
            found |= {(name, place): (CLEAN, *CAUSES)[code] for place, code in zip(places, codes)}
    return found


def table(eye: dict[tuple[str, int], str], judged: dict[str, dict[tuple[str, int], str]]) -> str:
    """A row per set of thresholds: of each kind that the eye sees the share that the oracle calls clean, what it calls
    distorted of the slight and the clean ones, and each arm's rate.

    eye, and each of judged: (arm, condition) -> CLEAN, SLIGHT (eye alone) or a kind of distortion.
    """
    arms, kinds = sorted({arm for arm, _ in eye}), [*sorted(set(eye.values()) - {CLEAN, SLIGHT}), SLIGHT, CLEAN]
    head = [
        "",
        *(f"missed: {kind}" for kind in kinds[:-2]),
        "flagged: slight",
        "flagged: clean",
        *(f"{arm}, distorted" for arm in arms),
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    seen = {key: kind if kind != SLIGHT else CLEAN for key, kind in eye.items()}
    for name, oracle in ({"the eye": seen, "the eye, slight ones too": eye} | judged).items():
        cells = []
        for kind in kinds:
            of_kind = [oracle[key] == CLEAN for key, found in eye.items() if found == kind]
            cells.append(f"{sum(of_kind) if kind in kinds[:-2] else len(of_kind) - sum(of_kind)} of {len(of_kind)}")
        rates = [[oracle[key] != CLEAN for key in eye if key[0] == arm] for arm in arms]
        lines.append(f"| {name} | " + " | ".join([*cells, *(share(sum(rate), len(rate)) for rate in rates)]) + " |")
    return "\n".join(lines)


def telling(eye: dict[tuple[str, int], str], oracle: dict[tuple[str, int], str], before: str, after: str) -> list[int]:
    """Conditions whose video is distorted in arm `before` and clean in `after`, by the eye and by the oracle: what a
    picture may claim.
    """
    better = [place for arm, place in eye if arm == after and eye[after, place] == oracle[after, place] == CLEAN]
    return sorted(place for place in better if {eye[before, place], oracle[before, place]}.isdisjoint({CLEAN, SLIGHT}))


def draw_telling(
    evaluation: Evaluation, arms: list[str], places: list[int], oracle: dict[tuple[str, int], str], path: Path
) -> None:
    """Two rows a condition, before and after, with the oracle's word."""
    prompts, _ = evaluation.generation.conditions.batch(0, max(places) + 1)
    shown = {name: evaluation.generation.videos(find(evaluation.cfg, name), places) for name in arms}
    rows = [(name, index, place) for index, place in enumerate(places) for name in arms]
    captions = [f"{name}: {prompts[place]} ({oracle[name, place]})" for name, _, place in rows]
    colours = ["black" if oracle[name, place] == CLEAN else "firebrick" for name, _, place in rows]
    contact_sheet(path, [shown[name][index] for name, index, _ in rows], captions, colours)


def share(count: int, of: int) -> str:
    return shown(wilson(count, of), 0, 100, " %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of conf/evaluation/evaluate.yaml, such as trainer.threads=1")
    parser.add_argument("--run", default="main", help="folder in outputs/, evaluated already")
    parser.add_argument("--stage", default="offline", help="the arm beside the baseline")
    parser.add_argument("--count", type=int, default=100, help="conditions of each arm, from the first on")
    parser.add_argument("--picture", type=Path, help="draw the first six conditions that eye and oracle call mended")
    parser.add_argument("--draw", action="store_true", help="draw the sheets instead of comparing")
    given = parser.parse_args()
    cfg = composed("evaluate", [f"run={given.run}", f"stage={given.stage}", "videos=0", *given.overrides])
    evaluation = Evaluation(cfg)
    arms = [BASELINE, given.stage]
    if not 1 <= given.count <= len(evaluation.generation.conditions):
        raise SystemExit(
            f"oracle_audit: --count {given.count}: give 1 to {len(evaluation.generation.conditions)}, as many as "
            "conditions.count"
        )
    if given.draw:
        draw(evaluation, arms, given.count, Path("outputs") / given.run / "oracle_audit")
        return
    labels = pd.read_csv(LABELS)
    eye = {(row.arm, row.condition): row.eye for row in labels.itertuples()}
    if given.picture:
        oracle = verdicts(evaluation, arms, given.count, THRESHOLDS)
        draw_telling(evaluation, arms, telling(eye, oracle, *arms)[:6], oracle, given.picture)
        return
    judged = {name: verdicts(evaluation, arms, given.count, limits) for name, limits in OTHERS.items()}
    print(table(eye, judged))


if __name__ == "__main__":
    main()
