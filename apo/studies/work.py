"""A study's arms and seeds as the commands that train and evaluate them."""

import shlex
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path

from omegaconf import DictConfig

from apo import resume
from apo.config.outputs import OUTPUTS
from apo.config.overrides import composed as checked
from apo.errors import UserError
from apo.evaluation import Evaluation
from apo.evaluators import results
from apo.runs import BASELINE, find
from apo.studies.definition import Study, StudyArm, filled
from apo.studies.jobs import Job

STUDIES = OUTPUTS / "studies"
TRAINING = "training"  # beside the names of evaluations


class Work:
    """The jobs of a study.

    for_training, for_evaluation: overrides of the command line. exact: whether what is there must be of these very
    settings; else it is taken as it is, as a report of older runs needs.
    """

    def __init__(
        self, study: Study, for_training: Sequence[str] = (), for_evaluation: Sequence[str] = (), exact: bool = True
    ):
        self.study, self.exact, self.logs = study, exact, STUDIES / study.name / "logs"
        self.for_training, self.for_evaluation = list(for_training), list(for_evaluation)
        self.found: dict[tuple[str, int | None, str], Job] = {}  # of an arm, a seed, and TRAINING or an evaluation
        self.added: set[tuple[str, int | None]] = set()

    def jobs(self, arms: Iterable[StudyArm], seeds: Sequence[int]) -> list[Job]:
        """Trainings and evaluations of arms, seed by seed, each after what it needs: the arms that an arm is trained
        after and compared with come first. Those that were asked for before are the same jobs."""
        wanted = [(arm, seed) for arm in arms for seed in arm.seeds(seeds)]
        for arm, seed in sorted(wanted, key=lambda each: -1 if each[1] is None else seeds.index(each[1])):
            self.add(arm, seed)
        return [*self.found.values(), *self.afterwards(seeds)]

    def add(self, arm: StudyArm, seed: int | None) -> None:
        if (arm.name, seed) in self.added:
            return
        self.added.add((arm.name, seed))
        for name in [*arm.after, *([arm.against] if arm.against else [])]:
            self.add(self.study.arms[name], self.study.arms[name].seed_beside(seed))
        if arm.train is not None:
            self.found[arm.name, seed, TRAINING] = self.training(arm, seed)
        for name in filter(partial(self.study.has, arm), self.study.evaluations):
            self.found[arm.name, seed, name] = self.evaluation(arm, seed, name)

    def training(self, arm: StudyArm, seed: int | None) -> Job:
        folder, words = arm.run_folder(seed), last_of_each(split(arm.train, arm, seed) + self.for_training)
        composed("train", tuple(words))  # refuses wrong overrides: all of a study's before anything runs
        more = [] if seed is None else [f"seed={seed}"]
        return Job(
            f"{label(arm, seed)}: training",
            "training",
            ["train.py", *words, *more, f"hydra.run.dir={folder}"],
            self.logs / f"{folder_name(folder)}.train.log",
            [self.found[name, seed, TRAINING] for name in arm.after],
            partial(is_trained, folder, tuple(words), seed) if self.exact else partial(resume.is_finished, folder),
            partial(share_of_steps, folder, tuple(words)),
        )

    def evaluation(self, arm: StudyArm, seed: int | None, name: str) -> Job:
        folder = arm.run_folder(seed)
        words = [*self.place(arm, seed), *self.settings(arm, seed, name)]
        self.evaluation_config(arm, seed, name)  # refuses wrong overrides, too
        other = self.study.arms[arm.against].seed_beside(seed) if arm.against else None
        needs = [self.found.get((arm.name, seed, TRAINING)), self.found.get((arm.against, other, name))]
        title = self.study.evaluations[name].title or name
        done = (folder / name / "rows.json").is_file
        return Job(
            f"{label(arm, seed)}: evaluation{'' if name == 'eval' else f' ({title})'}",
            f"evaluation {name}",
            ["evaluate.py", *words],
            self.logs / f"{folder_name(folder)}.{name}.log",
            [job for job in needs if job is not None],
            partial(is_evaluated, self, arm, seed, name) if self.exact else done,
        )

    def place(self, arm: StudyArm, seed: int | None) -> tuple[str, str]:
        """evaluate.py's run= and stage=."""
        folder = arm.run_folder(seed)
        return f"run={folder.relative_to(OUTPUTS).parent}", f"stage={'null' if arm.train is None else folder.name}"

    def settings(self, arm: StudyArm, seed: int | None, name: str) -> tuple[str, ...]:
        """evaluate.py's other overrides."""
        words = [f"against={self.against(arm, seed)}", *shlex.split(self.study.evaluate)]
        words += [*shlex.split(self.study.evaluations[name].overrides), f"results={name}", *self.for_evaluation]
        return tuple(last_of_each(words))

    def evaluation_config(self, arm: StudyArm, seed: int | None, name: str) -> DictConfig:
        cfg, folder = composed("evaluate", self.settings(arm, seed, name)).copy(), arm.run_folder(seed)
        cfg.run, cfg.stage = str(folder.relative_to(OUTPUTS).parent), None if arm.train is None else folder.name
        return cfg

    def against(self, arm: StudyArm, seed: int | None) -> str:
        """What evaluate.py compares an arm with: another trained one, or the baseline of the same run; else only tables
        compare."""
        if arm.against is None:
            return "null"
        other = self.study.arms[arm.against]
        folder = other.run_folder(other.seed_beside(seed))
        if other.train is not None:
            return str(folder)
        return BASELINE if folder == arm.run_folder(seed).parent / BASELINE else "null"

    def afterwards(self, seeds: Sequence[int]) -> list[Job]:
        """What the study makes of the first seed once all of it is evaluated."""
        made = []
        for name, what in self.study.afterwards.items():
            words = shlex.split(filled(what["command"], "", seeds[0])) + self.for_evaluation
            makes, of = (OUTPUTS / filled(what[key], "", seeds[0]) for key in ("makes", "of"))
            done = partial(is_newer, makes, of) if self.exact else makes.is_file
            made.append(Job(name, name, words, self.logs / f"{name}.log", list(self.found.values()), done))
        return made


def last_of_each(words: Sequence[str]) -> list[str]:
    """Of several overrides of one setting the last one counts; Hydra refuses two of a group."""
    return list({word.partition("=")[0]: word for word in words}.values())


def label(arm: StudyArm, seed: int | None) -> str:
    return arm.name if seed is None else f"{arm.name} seed {seed}"


def folder_name(folder: Path) -> str:
    return "_".join(folder.relative_to(OUTPUTS).parts)


def split(overrides: str, arm: StudyArm, seed: int | None) -> list[str]:
    return shlex.split(filled(overrides, arm.name, seed))


@cache
def composed(config: str, words: tuple[str, ...]) -> DictConfig:
    """Of train.py or evaluate.py; UserError for overrides that either would refuse."""
    return checked(config, words)


def is_trained(folder: Path, words: tuple[str, ...], seed: int | None) -> bool:
    """Whether a run folder is finished; UserError if it is of other settings."""
    if not resume.is_finished(folder):
        return False
    resume.require_same_run(with_seed(composed("train", words), seed), folder)
    return True


def with_seed(cfg: DictConfig, seed: int | None) -> DictConfig:
    cfg = cfg.copy()
    if seed is not None:
        cfg.seed = seed
    return cfg


def share_of_steps(folder: Path, words: tuple[str, ...]) -> float:
    path = folder / "metrics.csv"
    rows = path.read_bytes().count(b"\n") - 1 if path.is_file() else 0
    return max(rows, 0) / composed("train", words).max_steps


def is_evaluated(work: Work, arm: StudyArm, seed: int | None, name: str) -> bool:
    """Whether evaluate.py would find all that it writes there, and of this adapter and these settings."""
    cfg = work.evaluation_config(arm, seed, name)
    evaluation = Evaluation(cfg)
    try:
        found = find(cfg, cfg.stage)
    except UserError:
        return False
    report = results.read(evaluation.folder(found).path / "report.json")
    return report is not None and evaluation.saved(found) is not None


def is_newer(path: Path, other: Path) -> bool:
    """Whether a file was written after another one."""
    return path.is_file() and other.is_file() and other.stat().st_mtime <= path.stat().st_mtime
