"""What a run folder's config.yaml and metrics.csv say, as plain values: others may hand them over, so nothing is
resolved or called.
"""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from apo.errors import UserError
from apo.places import CONFIG_ROOTS

if TYPE_CHECKING:
    import pandas as pd

MOVED = {
    "apo.distill.guidance_distillation.GuidanceDistillation": "apo.guidance.teacher.GuidanceDistillation"
}  # in files of older runs
GROUPS = (
    "sampler",
    "guidance",
    "stage.sample_guidance",
    "module.loss.distill",
)  # what reports build, to count what a step costs


def plain(path: Path, remedy: str) -> dict:
    """The values of a config.yaml, strings such as ${...} as they stand; UserError if it is damaged."""
    try:
        if any(
            isinstance(event, yaml.AliasEvent) for event in yaml.parse(path.read_text(encoding="utf-8"))
        ):  # they can grow without end
            raise ValueError("it has YAML aliases, which train.py does not write")
        found = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        if not isinstance(found, dict) or not found:
            raise ValueError("it lacks settings of a run")
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged ({reason}): {remedy}") from None
    return found


def settings(folder: Path) -> DictConfig:
    """A run folder's settings for reports, which build what GROUPS name: UserError unless those are classes of conf/
    with plain values.
    """
    path = folder / "config.yaml"
    found = plain(path, "copy the run folder again")
    if text := next(texts_with(found, "${"), None):
        raise UserError(
            f"{path} has {text!r}, which would be resolved, and train.py resolves all: write the value itself"
        )
    found = as_now(renamed(found))
    for name in GROUPS:
        require_own(
            node(found, name), name.removeprefix("stage.sample_").removeprefix("module.loss."), f"{path}: {name}"
        )
    return OmegaConf.create(found)


def metrics(path: Path) -> list[dict[str, str]]:
    """The whole rows of a metrics.csv, none without a file; a last one that was cut short is none. UserError if it is
    damaged.
    """
    if not path.exists():
        return []
    try:
        return rows_of(whole_lines(path))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged ({error}): copy the whole file there, or delete it: the run goes on, and its curve "
            "begins there"
        ) from None


def curve(path: Path) -> "pd.DataFrame":
    """The same as numbers, nan where a row has none."""
    import pandas as pd  # takes a second, and only reports ask

    return pd.read_csv(io.StringIO(whole_lines(path))) if metrics(path) else pd.DataFrame(columns=["step"])


def whole_lines(path: Path) -> str:
    text = path.read_bytes().decode()
    return text[: text.rfind("\n") + 1]


def rows_of(text: str) -> list[dict[str, str]]:
    """Rows of a metrics.csv; ValueError names the line that is none."""
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values() or not (row.get("step") or "").isdecimal():
            raise ValueError(f"line {line} is no row of numbers under its columns")
        if line > 2 and int(row["step"]) <= int(rows[line - 3]["step"]):
            raise ValueError(f"line {line}: step {row['step']} follows step {rows[line - 3]['step']}")
        for value in filter(None, row.values()):
            float(value)
    return rows


def node(found: dict, name: str):
    for key in name.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def texts_with(value, part: str):
    """The strings with `part` in nested values, keys too."""
    if isinstance(value, str) and part in value:
        yield value
    for each in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from texts_with(each, part)


def renamed(value):
    """Nested values, with the classes that have moved since under their new names."""
    if isinstance(value, dict):
        return {key: MOVED.get(each, each) if key == "_target_" else renamed(each) for key, each in value.items()}
    return [renamed(each) for each in value] if isinstance(value, list) else value


def as_now(found: dict) -> dict:
    """Settings of a run, also of one from before losses had a group of their own: its module held theirs."""
    module = found.get("module")
    if not isinstance(module, dict) or "loss" in module:
        return found
    loss = {key: module[key] for key in ("objective", "distill", "rejected", "split_backward") if key in module}
    return found | {"module": module | {"loss": loss}}


def require_own(value, group: str, place: str) -> None:
    """UserError if something in `value` names a class that no file of conf/<group> names, or is built in a way of its
    own.
    """
    if isinstance(value, list):
        for each in value:
            require_own(each, group, place)
    if not isinstance(value, dict):
        return
    if "_target_" in value and value["_target_"] not in (known := targets(group)):
        raise UserError(
            f"{place}._target_={value['_target_']} is not built: of files that others may write, only what "
            f"conf/{group} names "
            f"({', '.join(sorted(known))}) is; add the class there if it is yours"
        )
    for key, each in value.items():
        if str(key).startswith("_") and key != "_target_":
            raise UserError(f"{place}.{key} is not built: train.py writes no such key there")
        require_own(each, key if key == "guidance" else group, f"{place}.{key}")


def targets(group: str) -> set[str]:
    """The classes that the project's own files of a config group name."""
    return {OmegaConf.load(file).get("_target_") for folder in CONFIG_ROOTS for file in (folder / group).glob("*.yaml")}
