"""A study as its YAML file describes it: arms x seeds, how they are evaluated, tables, a figure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from apo.config.outputs import OUTPUTS
from apo.config.overrides import overrides_checked
from apo.errors import UserError
from apo.places import EXPERIMENTS

FOLDER = EXPERIMENTS / "study"


@dataclass(frozen=True)
class StudyArm:
    """A way of training, or none, that a study measures over seeds. In templates {arm} and {seed} stand for both names.

    folder: of a seed's run, below outputs/; one without {seed} is the same for all seeds. train: overrides of train.py;
    None for the model without an adapter. after: arms whose adapters of the same seed it needs. against: the arm that
    it is compared with, on the same conditions and seeds. shown: the evaluation that tables show unless they name
    another. only_seeds: of the study's; None for all. paper: measurement -> the paper's number, or its mean and
    standard deviation. x: where a figure draws it.
    """

    name: str
    title: str
    folder: str
    train: str | None = None
    after: Sequence[str] = ()
    against: str | None = None
    shown: str = "eval"
    only_seeds: Sequence[int] | None = None
    paper: dict = field(default_factory=dict)
    x: float | None = None

    def run_folder(self, seed: int | None) -> Path:
        return OUTPUTS / filled(self.folder, self.name, seed)

    def seeds(self, of_study: Sequence[int]) -> list[int | None]:
        """Those that it has runs of; [None] for an arm without seeds."""
        if "{seed}" not in self.folder:
            return [None]
        return [seed for seed in of_study if self.only_seeds is None or seed in self.only_seeds]

    def seed_beside(self, seed: int | None) -> int | None:
        """Which of its runs stands beside another arm's of that seed."""
        return seed if "{seed}" in self.folder else None


@dataclass(frozen=True)
class Evaluation:
    """Its name is the folder of its results in a run folder. title: in tables. overrides: of evaluate.py, that make it
    this one. arms: which have it; None for all."""

    title: str = ""
    overrides: str = ""
    arms: Sequence[str] | None = None


@dataclass
class Study:
    """title: of the whole. measures: name -> pandas expression over what rows.json has of a video. The rest: see the
    YAML files."""

    name: str
    title: str
    seeds: list[int]
    arms: dict[str, StudyArm]
    evaluations: dict[str, Evaluation]
    evaluate: str = ""
    measures: dict[str, str] = field(default_factory=dict)
    tables: dict[str, dict] = field(default_factory=dict)
    paragraph: dict | None = None
    figure: dict | None = None
    sheets: dict[str, dict] = field(default_factory=dict)
    afterwards: dict[str, dict] = field(default_factory=dict)
    search: dict | None = None

    def check(self) -> None:
        """UserError for a name that stands for nothing."""
        for arm in self.arms.values():
            named = [*arm.after, *([arm.against] if arm.against else [])]
            require_known("arm", f"arms.{arm.name}", named, self.arms)
            require_known("evaluation", f"arms.{arm.name}.shown", [arm.shown], self.evaluations)

    def has(self, arm: StudyArm, evaluation: str) -> bool:
        arms = self.evaluations[evaluation].arms
        return arms is None or arm.name in arms

    def arm(self, name: str) -> StudyArm:
        require_known("arm", "--only", [name], self.arms)
        return self.arms[name]


def filled(template: str, arm: str, seed: int | None = None) -> str:
    """With the names in their places; `${...}` is Hydra's and stays, and so does {seed} without a seed."""
    values = {"arm": arm} | ({} if seed is None else {"seed": seed})
    return re.sub(r"(?<!\$)\{(arm|seed)\}", lambda found: str(values.get(found[1], found[0])), template)


def require_known(kind: str, place: str, names: Sequence[str], known: dict) -> None:
    if wrong := [name for name in names if name not in known]:
        raise UserError(f"{place}: {wrong[0]} is no {kind} of the study; there are {', '.join(known)}")


def load(name: str) -> Study:
    """The study of experiments/study/<name>.yaml, or of a YAML file elsewhere; UserError if there is none."""
    path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"{name}: there is no such study; give one of {known}, or the path of a YAML file")
    with overrides_checked("train", []), initialize_config_dir(str(path.resolve().parent), version_base="1.3"):
        found = OmegaConf.to_container(compose(path.stem), resolve=True)
    try:
        study = built(path.stem, found)
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{path}: {' '.join(str(error).split())}: correct the file; {FOLDER}/table1.yaml is an example"
        ) from None
    study.check()
    return study


def built(name: str, found: dict) -> Study:
    found.pop("variables", None)  # of the file's own, which its templates use
    usual = found.pop("every_arm", {})
    arms = {each: StudyArm(each, **usual | (given or {})) for each, given in found.pop("arms").items()}
    evaluations = {each: Evaluation(**given or {}) for each, given in found.pop("evaluations", {"eval": {}}).items()}
    return Study(name, arms=arms, evaluations=evaluations, **found)
