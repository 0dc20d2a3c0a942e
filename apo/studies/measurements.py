"""What is known of a study's arms: their videos' measurements over seeds, and what their trainings took."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from apo.config.recorded import curve, settings
from apo.errors import UserError
from apo.evaluators.results import videos
from apo.plan.costs import Step, step_from
from apo.studies.definition import Study, StudyArm
from apo.studies.statistics import Outcomes, outcomes

PASSES = 4  # of a window row over 2B latents: reference forward 1, policy forward 1, backward 2


def forwards(step: Step, blocks: float = 1.0) -> float:
    """What an optimizer step costs, in forwards of the 2B latents of its pairs; pairs generated anew are not counted,
    and blocks that STG leaves out are counted as if computed.

    blocks: share of them that generation computes.
    """
    generated = step.generated * step.solver_steps * step.guidance_rows * blocks / step.windows
    passes = step.reference * step.reference_forwards + PASSES - 1
    return step.rows * passes * step.videos / 2 + generated / (2 * step.pairs)


@dataclass(frozen=True)
class RecordedSource:
    """What a run folder says of its source of pairs. It is not built: the file may be of an older version, or
    another's.
    """

    generated: int  # videos for each condition
    rollout: DictConfig

    def judged(self) -> int:
        return 0  # a ranker's forwards are not counted


def recorded_step(cfg: DictConfig) -> Step:
    """An optimizer step of a run folder's settings."""
    candidates = OmegaConf.select(cfg, "module.pairs.candidates") or 0
    rollout = OmegaConf.create({"batch_size": None, "num_inference_steps": None})
    rollout = OmegaConf.merge(rollout, OmegaConf.select(cfg, "module.pairs.rollout") or {})
    return step_from(cfg, RecordedSource({"prompts": candidates, "anchors": 1}.get(cfg.stage.data, 0), rollout))


@dataclass(frozen=True)
class Training:
    """What a run folder says of its training. time: seconds by kind (generate, rank, optimize). blocks: see
    `forwards`."""

    steps: int
    time: dict[str, float]
    forwards_a_step: float
    blocks: float
    batch_size: int

    @property
    def seconds(self) -> float:
        """Without loading, checkpoints and samples."""
        return sum(self.time.values())

    @property
    def forwards(self) -> float:
        return self.steps * self.forwards_a_step


def training(folder: Path) -> Training | None:
    """None without a metrics.csv."""
    if not (folder / "metrics.csv").is_file():
        return None
    metrics, cfg = curve(folder / "metrics.csv"), settings(folder)
    blocks = float(metrics["generate/blocks"].mean()) if "generate/blocks" in metrics else 1.0
    time = {key[5:]: float(value) for key, value in metrics.filter(like="time/").sum().items()}
    return Training(len(metrics), time, forwards(recorded_step(cfg), blocks), blocks, cfg.batch_size)


class Measured:
    """An arm under one evaluation. videos: a row per seed and condition, in order, with `seed`, `place` and the
    measurements."""

    def __init__(self, arm: StudyArm, videos: pd.DataFrame, folders: dict[int | None, Path]):
        self.arm, self.videos, self.folders = arm, videos, folders

    @property
    def seeds(self) -> list[int]:
        """Empty for an arm that has none."""
        return [seed for seed in self.folders if seed is not None]

    def matrix(self, of: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """(seeds, conditions) of a measurement; an arm without seeds is the same for each of them."""
        if of not in self.videos:
            there = ", ".join(map(str, self.videos.columns.drop(["seed", "place"])))
            raise UserError(f"{self.arm.name} has no measurement {of}; there are {there}")
        values = self.videos[of].to_numpy(np.float64).reshape(len(self.folders), -1)
        rows = list(range(len(self.folders))) if seeds is None else [self.row_of(seed) for seed in seeds]
        return values[rows]

    def row_of(self, seed: int) -> int:
        return list(self.folders).index(seed) if self.seeds else 0

    def each(self, of: str) -> list[float]:
        """The mean of each seed."""
        return [float(value) for value in self.matrix(of).mean(1)]

    @cached_property
    def trainings(self) -> list[Training]:
        found = [training(folder) for folder in self.folders.values()]
        return [each for each in found if each is not None]


@dataclass(frozen=True)
class Paired:
    """Two arms on the seeds that both have, of equal conditions and noise."""

    ours: Measured
    theirs: Measured

    @property
    def seeds(self) -> list[int]:
        return [seed for seed in self.ours.seeds if not self.theirs.seeds or seed in self.theirs.seeds]

    def difference(self, of: str) -> np.ndarray:
        """(seeds, conditions), ours less theirs."""
        return self.ours.matrix(of, self.seeds) - self.theirs.matrix(of, self.seeds)

    def outcomes(self, of: str) -> Outcomes:
        """Of a measurement of which more is better."""
        return outcomes(self.ours.matrix(of, self.seeds), self.theirs.matrix(of, self.seeds))


class Results:
    """The evaluations of a study that are there, read once."""

    def __init__(self, study: Study, seeds: Sequence[int]):
        self.study, self.of_study = study, seeds
        self.read: dict[tuple[str, str], Measured | None] = {}

    def of(self, arm: str, evaluation: str | None = None) -> Measured | None:
        """Of the seeds that are evaluated; None if there are none. evaluation: None for the one that the arm shows."""
        name = evaluation or self.study.arms[arm].shown
        if (arm, name) not in self.read:
            self.read[arm, name] = self.measured(self.study.arms[arm], name)
        return self.read[arm, name]

    def pair(self, ours: Measured, theirs: Measured | None) -> Paired | None:
        """None if the two have no seed in common."""
        if theirs is None or theirs is ours:
            return None
        pair = Paired(ours, theirs)
        counts = {each.arm.name: len(each.videos) // len(each.folders) for each in (ours, theirs)}
        if pair.seeds and len(set(counts.values())) > 1:
            said = " and ".join(f"{arm} has {count} conditions" for arm, count in counts.items())
            raise UserError(f"{said}: evaluate both with the same conditions.count")
        return pair if pair.seeds else None

    def measured(self, arm: StudyArm, evaluation: str) -> Measured | None:
        found = {seed: self.rows_of(arm, seed, evaluation) for seed in arm.seeds(self.of_study)}
        found = {seed: path for seed, path in found.items() if path.is_file()}
        if not found:
            return None
        frames = {seed: self.frame(path) for seed, path in found.items()}
        counts = {seed: len(frame) for seed, frame in frames.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{path} has {counts[seed]}" for seed, path in found.items())
            raise UserError(f"unequal numbers of videos ({said}): evaluate all seeds with the same conditions.count")
        videos = pd.concat([frame.assign(seed=seed) for seed, frame in frames.items()], ignore_index=True)
        return Measured(arm, videos, {seed: arm.run_folder(seed) for seed in found})

    def rows_of(self, arm: StudyArm, seed: int | None, evaluation: str) -> Path:
        return arm.run_folder(seed) / evaluation / "rows.json"

    def frame(self, path: Path) -> pd.DataFrame:
        """A row per condition: numbers, verdicts as 0 and 1, and what the study derives from them."""
        frame = pd.DataFrame(videos(path))
        verdicts = frame.select_dtypes("bool").columns
        frame[verdicts] = frame[verdicts].astype(np.float64)
        for name, expression in self.study.measures.items():
            try:
                frame[name] = frame.eval(expression, engine="python").astype(np.float64)
            except (NameError, KeyError, SyntaxError, TypeError, ValueError) as error:
                raise UserError(f"measures.{name}: {expression!r} of {path}: {error}") from None
        return frame.assign(place=range(len(frame)))

    def missing(self) -> list[str]:
        """What the study asks for and is not evaluated yet."""
        found = []
        for arm in self.study.arms.values():
            names = [name for name in self.study.evaluations if self.study.has(arm, name)]
            for seed in arm.seeds(self.of_study):
                if not all(self.rows_of(arm, seed, name).is_file() for name in names):
                    found.append(arm.name if seed is None else f"{arm.name} seed {seed}")
        return found
