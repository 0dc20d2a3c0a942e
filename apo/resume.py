"""What a run folder holds of a run that began, and whether the same command continues it."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from apo.adapter import lineage
from apo.config.recorded import metrics, plain
from apo.errors import UserError
from apo.io.files import remove, sweep, write_text
from apo.modules import checkpoints
from apo.modules.checkpoints import Checkpoint


def is_finished(folder: Path) -> bool:
    return (folder / "adapter" / lineage.FILE).exists()


def begun(folder: Path) -> bool:
    """Whether a run folder has something that other settings would not continue; a start that failed leaves nothing."""
    return checkpoints.exists(folder) or (folder / "adapter").exists() or bool(metrics(folder / "metrics.csv"))


def clean(folder: Path) -> None:
    """Takes away what earlier starts were writing when they were killed."""
    for each in (folder, folder / "checkpoints", *folder.glob("samples/*"), *folder.glob("eval*")):
        sweep(each)
    if (folder / "adapter").is_dir() and not is_finished(folder):
        remove(folder / "adapter")


def remember(cfg: DictConfig, folder: Path) -> str:
    """Writes config.yaml and returns it. Every process writes the same, since none knows its rank yet."""
    if not begun(folder):
        lineage.begin(cfg, folder)
    config = OmegaConf.to_yaml(cfg, resolve=True)
    write_text(folder / "config.yaml", config)
    return config


def require_same_run(cfg: DictConfig, folder: Path) -> Checkpoint | None:
    """The checkpoint that training continues from, None for none. UserError unless all that is there is whole and of
    this command's run.
    """
    if not begun(folder):
        return None
    lineage.require_same_start(cfg, folder)
    now, saved = OmegaConf.to_container(cfg, resolve=True), folder / "config.yaml"
    if saved.exists():
        remedy = f"delete that file if {folder} is this command's run: its checkpoint holds the settings too"
        require_same_settings(plain(saved, remedy), now, saved)
    if (found := checkpoints.newest(folder)) is None:
        return None
    if found.settings is not None:
        require_same_settings(found.settings, now, found.path)
    require_same_kind(found, now)
    require_curve(folder, found.step)
    return found


def require_same_settings(before: dict, now: dict, path: Path) -> None:
    """UserError if two plain configs differ in what would make it another run. path: of the file that says `before`.

    What may differ says `resume.may_change` of `now`.
    """
    free = now.get("resume", {}).get("may_change", ())
    # a group added since then had no part in the run: what it builds stands in `module`
    kept = [key for key in now if key in before or not isinstance(now[key], dict)]
    counted = "batch_size x trainer.devices x trainer.nodes / trainer.context_parallel"
    try:
        changed = differences(pairs_per_step(before), pairs_per_step(now), counted)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged (no pairs per step: {error}): restore it, or give another run=NAME"
        ) from None
    if changed := changed + [line for key in kept for line in differences(before.get(key), now[key], key, free)]:
        folder = path.parent if path.suffix == ".yaml" else path.parent.parent
        longer = now["max_steps"] > before["max_steps"]
        more = f"; to train on from its end, give adapter={folder / 'adapter'} and another run=NAME" if longer else ""
        raise UserError(
            f"{path} is of a run with other settings ({'; '.join(changed[:3])}): give another run=NAME, or delete the "
            f"folder{more}"
        )


def require_same_kind(found: Checkpoint, now: dict) -> None:
    """UserError if whole weights would continue as sharded ones, or the other way round."""
    shard = now["trainer"].get("shard")
    if found.is_sharded != (shard is not None):
        raise UserError(
            f"trainer.shard={shard}: {found.path} is of "
            + (
                "sharded weights: continue with trainer=fsdp"
                if found.is_sharded
                else "whole weights: continue without trainer=fsdp"
            )
            + ", on any number of processes"
        )


def require_curve(folder: Path, step: int) -> None:
    """UserError if metrics.csv lacks steps that the checkpoint has; one that is not there at all begins anew."""
    path = folder / "metrics.csv"
    steps = [int(row["step"]) for row in metrics(path)]
    kept = [each for each in steps if each < step]
    if path.exists() and step and not steps or steps and len(kept) != step - steps[0]:
        lacking = next(each for each in range(min(steps, default=0), step) if each not in set(kept))
        raise UserError(
            f"{path} is damaged (no row of step {lacking}, and the checkpoint is of step {step}): copy the whole file "
            "there, or "
            "delete it: the run goes on, and its curve begins there"
        )


def pairs_per_step(cfg: dict) -> int:
    """Of all processes together."""
    trainer = cfg["trainer"]
    return cfg["batch_size"] * trainer["devices"] * trainer["nodes"] // trainer.get("context_parallel", 1)


def differences(before, now, key: str, free: Sequence[str] = ()) -> list[str]:
    """The leaves in which two plain configs differ, each as 'key: before -> now', but for keys that match a pattern of
    `free`.
    """
    if any(fnmatchcase(key.removeprefix("module."), pattern) for pattern in free):
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        return [d for k in before | now for d in differences(before.get(k), now.get(k), f"{key}.{k}", free)]
    return [] if before == now else [f"{key}: {before} -> {now}"]
