"""What is known of the arms of outputs/<run>, over their seeds: what reports put into tables."""

import re
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from apo.config.recorded import curve, settings
from apo.errors import UserError
from apo.evaluators import results
from apo.intervals import Interval, wilson
from apo.plan.costs import Step, step_of

PASSES = 4  # of a window row over 2B latents: reference forward 1, policy forward 1, backward 2


@dataclass
class Arm:
    """An arm over its seeds. Rates and shares in [0, 1]; what was not found is None or empty."""

    name: str
    seeds: list[int] = field(default_factory=list)
    videos: int = 0
    distorted: int = 0
    distortion_rate: list[float] = field(default_factory=list)  # one value per seed, here and below
    dynamic_degree: list[float] = field(default_factory=list)
    instruction_following: list[float] = field(default_factory=list)
    followed: int = 0
    win: int = 0
    tie: int = 0
    loss: int = 0
    following: dict[str, int] = field(default_factory=dict)  # win, tie, loss of instruction following
    batch_size: int | None = None
    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    time: dict[str, float] = field(default_factory=dict)  # seconds by kind (generate, rank, optimize), of all seeds
    forward_equivalents: list[int] = field(default_factory=list)

    @property
    def pooled(self) -> Interval:
        return wilson(self.distorted, self.videos)

    def add(self, folder: Path, seed: int | None) -> None:
        """Adds one run folder with its evaluation."""
        report, rows = results.read(folder / "eval" / "report.json"), results.videos(folder / "eval" / "rows.json")
        if report is None:
            raise UserError(
                f"{folder}/eval/report.json is damaged: run its evaluate.py command again, which makes it anew"
            )
        if seed is not None:
            self.seeds.append(seed)
        self.videos += len(rows)
        self.distorted += sum(row["distorted"] for row in rows)
        self.followed += sum(row["followed"] for row in rows)
        for metric in ("distortion_rate", "dynamic_degree", "instruction_following"):
            getattr(self, metric).append(report["metrics"][metric]["value"])
        for outcome in ("win", "tie", "loss"):
            against = report.get("against", {})
            setattr(self, outcome, getattr(self, outcome) + against.get(outcome, 0))
            followed = against.get("instruction_following", {}).get(outcome, 0)
            self.following[outcome] = self.following.get(outcome, 0) + followed
        if (folder / "metrics.csv").is_file():
            metrics = curve(folder / "metrics.csv")
            self.steps.append(len(metrics))
            seconds = metrics.filter(like="time/").sum()
            self.seconds.append(float(seconds.sum()))
            self.time = {key: self.time.get(key, 0.0) + value for key, value in seconds.rename(lambda k: k[5:]).items()}
            cfg = settings(folder)
            blocks = metrics["generate/blocks"].mean() if "generate/blocks" in metrics else 1.0
            self.forward_equivalents.append(round(len(metrics) * forwards(step_of(cfg), blocks)))
            self.batch_size = cfg.batch_size


def forwards(step: Step, blocks: float = 1.0) -> float:
    """What an optimizer step costs, in forwards of the 2B latents of its pairs; pairs generated anew are not counted, and blocks
    that STG leaves out are counted as if computed.

    blocks: share of them that generation computes.
    """
    generated = step.generated * step.solver_steps * step.guidance_rows * blocks / step.windows
    passes = step.reference * step.reference_forwards + PASSES - 1
    return step.rows * passes * step.videos / 2 + generated / (2 * step.pairs)


def collect(run: Path, pattern: str, remedy: str) -> tuple[dict[str, Arm], list[str]]:
    """The evaluated arms of outputs/<run> by name, and the run folders that are not evaluated.

    pattern: of a run folder's name; its groups are the arm's name and the seed. `baseline` is an arm without seeds.
    FileNotFoundError with the remedy if none is evaluated; ValueError if two folders are one arm and seed.
    """
    found, waiting = defaultdict(dict), []
    for folder in sorted(path for path in run.iterdir() if path.is_dir()):
        match = re.fullmatch(pattern, folder.name)
        if match is None and folder.name != "baseline":
            continue
        if not (folder / "eval" / "report.json").is_file():
            waiting.append(folder.name)
            continue
        name, seed = (match[1], int(match[2])) if match else ("baseline", None)
        if seed in found[name]:
            raise ValueError(
                f"{folder} and {found[name][seed]} are both arm {name}, seed {seed}: move one out of {run}"
            )
        found[name][seed] = folder
    if not found:
        raise FileNotFoundError(f"{run} has no evaluated arm: {remedy}")
    return {name: build(name, folders) for name, folders in found.items()}, waiting


def build(name: str, folders: dict[int | None, Path]) -> Arm:
    arm = Arm(name)
    for seed, folder in sorted(folders.items()):
        arm.add(folder, seed)
    return arm


def spread(values: list[float], form: str = "{:.3f}") -> str:
    """'mean ± std' over seeds; the mean alone for one seed."""
    if not values:
        return "–"
    mean = form.format(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {form.format(statistics.stdev(values))}"


def percent(interval: Interval) -> str:
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def bootstrap(values: np.ndarray, draws: int = 4000) -> Interval:
    """The mean of values (seeds, conditions) with the interval of resampling both."""
    rng, (seeds, places) = np.random.default_rng(0), values.shape
    means = [values[rng.integers(seeds, size=seeds)][:, rng.integers(places, size=places)].mean() for _ in range(draws)]
    return Interval(float(values.mean()), *(float(q) for q in np.quantile(means, [0.025, 0.975])))


def points(interval: Interval) -> str:
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
