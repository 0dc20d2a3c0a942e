"""The arms of outputs/<run>: run folders with a finished adapter, and the baseline, which has none."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from apo.config.outputs import OUTPUTS, plain_name, require_inside, run_folder
from apo.errors import UserError
from apo.io.lock import holder_of

BASELINE = "baseline"


class EvaluationError(UserError):
    """A mistake in what is to be evaluated, found before anything is generated."""


@dataclass
class Arm:
    """A run folder to evaluate: its adapter, or none for the baseline."""

    name: str
    folder: Path
    adapter: Path | None


def find(cfg: DictConfig, name: str | None, key: str = "stage") -> Arm:
    """The arm `name` of outputs/<run>, or a path of a finished run folder anywhere; EvaluationError if there is no
    finished adapter.

    key: the setting that `name` is of, for the message.
    """
    run = run_folder(cfg.run)
    if name in (None, BASELINE):
        require_inside(run / BASELINE, OUTPUTS, f"{key}={BASELINE}")
        return Arm(BASELINE, run / BASELINE, None)
    folder = next((f for f in (inside(run, name, key), Path(str(name))) if name != "" and is_folder(f)), None)
    if folder is None:
        raise EvaluationError(f"{key}={name}: {run}/{name} is not there; {finished(run)}")
    if not is_finished(folder) and (holder := holder_of(folder)) is not None:
        raise EvaluationError(
            f"{folder} has no finished adapter yet, and is in use by {holder}: evaluate it after its end"
        )
    if not is_finished(folder):
        raise EvaluationError(f"{folder} has no finished adapter: run its train.py command again, it continues")
    return Arm(folder.name, folder, folder / "adapter")


def find_all(cfg: DictConfig) -> list[Arm]:
    """The arms that cfg.stage names: one, or all finished ones that match a pattern like 'ablation_*-seed_0'."""
    if cfg.stage is None or not set(str(cfg.stage)) & set("*?["):
        return [find(cfg, cfg.stage)]
    run = run_folder(cfg.run)
    names = sorted(path.name for path in run.glob(plain_name("stage", cfg.stage)) if is_finished(path))
    if not names:
        raise EvaluationError(f"stage={cfg.stage} matches no finished adapter: {finished(run)}: give one of these")
    return [find(cfg, name) for name in names]


def finished(run: Path) -> str:
    """What a run has, in a message."""
    names = sorted(path.name for path in run.glob("*") if is_finished(path))
    return f"{run} has finished: {', '.join(names) or 'nothing'}"


def inside(run: Path, name, key: str) -> Path | None:
    """The folder of that name in outputs/<run>; None if it is no name. EvaluationError if it is a link that leads out
    of outputs/.
    """
    try:
        folder = run / plain_name(key, name, deep=True)
    except UserError:
        return None
    require_inside(folder, OUTPUTS, f"{key}={name}")
    return folder


def is_folder(path: Path | None) -> bool:
    """Also for a name that no file could have."""
    try:
        return path is not None and path.is_dir()
    except (OSError, ValueError):
        return False


def is_finished(folder: Path) -> bool:
    return (folder / "adapter" / "lineage.json").is_file()
