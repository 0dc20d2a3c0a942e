"""Whether policies trained with random shift and offset lose less under distillation (Section 4.2):

python -m apo.reports.rs_ro
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import numpy as np

from apo.evaluators.results import videos
from apo.intervals import Interval
from apo.reports.arms import bootstrap, points, spread
from apo.reports.curriculum import GUIDED, PLAIN

ARMS = {"apo": "with RS & RO", "wo_rs_ro": "without"}
NOTES = """
Before: the teacher under the guidance that is distilled. After: the student in one forward. Lost: after − before, in points,
same conditions and noise. Mean ± standard deviation over training seeds; [95 % bootstrap interval] over seeds and conditions at
once, both arms on the same draws: seeds are few, so it is still somewhat narrow. The paper gives no numbers for this claim.
"""


def distorted(folder: Path) -> np.ndarray:
    """(conditions,) 0 or 1. FileNotFoundError says what is missing."""
    path = folder / "rows.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: `make rsro` trains and evaluates both arms")
    return np.array([float(row["distorted"]) for row in videos(path)])


def collect(before: Path, after: Path) -> dict[str, dict[str, np.ndarray]]:
    """Arm -> `before`, `unguided`, `after`, each (seeds, conditions); of the seeds that every arm has a student of.

    FileNotFoundError says what is missing, ValueError which evaluations have unequal numbers of conditions.
    """
    seeds = set.intersection(
        *({path.name.split("seed_")[1] for path in after.glob(f"arm_{arm}-seed_*")} for arm in ARMS)
    )
    if not seeds:
        raise FileNotFoundError(f"{after} has no seed of both arms: `make rsro` trains and evaluates them")
    found = {}
    for arm in ARMS:
        teachers = [before / f"ablation_{arm}-seed_{seed}" for seed in sorted(seeds)]
        students = [after / f"arm_{arm}-seed_{seed}" for seed in sorted(seeds)]
        found[arm] = {
            "before": {folder / GUIDED: distorted(folder / GUIDED) for folder in teachers},
            "unguided": {folder / PLAIN: distorted(folder / PLAIN) for folder in teachers},
            "after": {folder / PLAIN: distorted(folder / PLAIN) for folder in students},
        }
    require_equally_many([each for rates in found.values() for each in rates.values()])
    return {arm: {key: np.stack(list(each.values())) for key, each in rates.items()} for arm, rates in found.items()}


def require_equally_many(found: Sequence[dict[Path, np.ndarray]]) -> None:
    """ValueError unless all evaluations have as many conditions."""
    counts = {folder: len(values) for each in found for folder, values in each.items()}
    fewest, most = min(counts, key=counts.get), max(counts, key=counts.get)
    if counts[fewest] != counts[most]:
        raise ValueError(
            f"{fewest} has {counts[fewest]} conditions and {most} {counts[most]}: evaluate both with the same conditions.count"
        )


def percent(values: np.ndarray) -> str:
    return spread([100 * float(value) for value in values.mean(1)], "{:.1f}")


def markdown(found: dict[str, dict[str, np.ndarray]]) -> str:
    seeds, places = next(iter(found.values()))["after"].shape
    lines = [f"# RS & RO under distillation: {seeds} seeds, {places} conditions", ""]
    lines += ["| distorted, % | before, guided | before, one forward | after | lost, points |", "|---" * 5 + "|"]
    for arm, rates in found.items():
        lost = rates["after"] - rates["before"]
        cells = [percent(rates[key]) for key in ("before", "unguided", "after")]
        lines.append(f"| {ARMS[arm]} | " + " | ".join(cells) + f" | {percent(lost)} {points(bootstrap(lost))} |")
    less = spared(found)
    verdict = (
        "the interval holds 0: no difference is shown" if less.low <= 0 <= less.high else "the interval excludes 0"
    )
    lines += ["", f"With RS & RO {100 * less.value:.1f} points less are lost {points(less)}: {verdict}."]
    return "\n".join([*lines, NOTES])


def spared(found: dict[str, dict[str, np.ndarray]]) -> Interval:
    """How much less is lost with RS & RO, on equal conditions and seeds."""
    lost = {arm: rates["after"] - rates["before"] for arm, rates in found.items()}
    return bootstrap(lost["wo_rs_ro"] - lost["apo"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="table1", help="folder in outputs/ with the teachers")
    parser.add_argument("--after", default="rs_ro_distilled", help="folder in outputs/ with the students")
    args = parser.parse_args()
    folder = Path("outputs") / args.after
    try:
        text = markdown(collect(Path("outputs") / args.before, folder))
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"rs_ro: {error}") from error
    (folder / "rs_ro.md").write_text(text)
    print(f"{text}\ntable: {folder / 'rs_ro.md'}")


if __name__ == "__main__":
    main()
