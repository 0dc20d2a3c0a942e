"""lineage.json beside each adapter: what it was made from; and whether a stage may start there."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from apo.errors import UserError
from apo.io.checksums import file_digest
from apo.io.files import read_json, write_json

if TYPE_CHECKING:
    from torch.utils.data import Dataset

FILE = "lineage.json"
START = "start.json"  # of a run folder: the files of the adapter that it began with


def read(adapter: Path) -> dict:
    """The lineage of an adapter folder; UserError if it has none, or a damaged one."""
    if not (adapter / FILE).is_file():
        raise UserError(f"adapter={adapter}: no {FILE} there; give the adapter/ folder of a finished run")
    remedy = "copy the folder again, or train it again"
    found = read_json(adapter / FILE, remedy)
    if wrong := problem(found):
        raise UserError(f"adapter={adapter}: {FILE} is damaged ({wrong}): {remedy}")
    return found


def problem(found) -> str | None:
    """What is wrong with the content of a lineage.json; None if nothing is. Its readers rely on no more than this."""
    if not isinstance(found, dict):
        return "it holds no lineage"
    kinds = {"base": dict, "stage": str, "files": dict, "config": dict}
    if wrong := [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]:
        return f"no {wrong[0]}"
    base, names, went = found["base"], found["files"], found.get("stages", [])
    if not isinstance(base.get("path"), str) or not isinstance(base.get("hash"), str):
        return "base has no path and hash"
    if not all(isinstance(value, str) and Path(name).name == name for name, value in names.items()):
        return "files are names in that folder, each with its sha256"
    if not isinstance(went, list) or not all(isinstance(stage, str) for stage in went):
        return "stages is a list of names"
    return None


def require_whole(adapter: Path) -> None:
    """UserError unless the files are those that were written with the lineage."""
    for name, recorded in read(adapter)["files"].items():
        if not (adapter / name).is_file() or file_digest(adapter / name) != recorded:
            raise UserError(
                f"adapter={adapter}: {name} is not the file that {FILE} names; delete its run folder and train it again"
            )


def stages(lineage: dict) -> list[str]:
    """Names of the stages that made an adapter, the first one first."""
    return lineage.get("stages", [lineage["stage"]])


def require_start(cfg: DictConfig, base_hash: str | None) -> None:
    """UserError unless the stage may start from cfg.adapter: says what was found, and the remedy.

    base_hash: of the model under the adapter; None if it is not on this disk yet.
    """
    name, after, not_after = cfg.stage.name, cfg.stage.get("after", []), cfg.stage.get("not_after", [])
    if cfg.adapter is None:
        if after:
            raise UserError(
                f"stage={name} starts from an adapter of stage={after[0]}, and adapter is not set: "
                f"give adapter=outputs/<run>/{after[0]}/adapter"
            )
        return
    require_whole(Path(cfg.adapter))
    found = read(Path(cfg.adapter))
    require_base(Path(cfg.adapter), model_path(cfg), base_hash)
    went = " -> ".join(stages(found))
    if differ := other_shape(cfg, found):
        raise UserError(f"adapter={cfg.adapter} does not have this run's shape: give {differ}, as it was trained with")
    if after and not set(after) & set(stages(found)):
        raise UserError(
            f"stage={name} starts from an adapter that went through stage={after[0]}, and adapter={cfg.adapter} went "
            f"through {went}: "
            f"train stage={after[0]} adapter={cfg.adapter} first, and give its adapter/ folder"
        )
    if barred := [stage for stage in stages(found) if stage in not_after]:
        raise UserError(
            f"stage={name} does not follow stage={barred[0]}, and adapter={cfg.adapter} went through {went}: "
            f"give the adapter of a stage before {barred[0]}"
        )


def require_base(adapter: Path, path: str, base_hash: str | None) -> None:
    """UserError unless the adapter was trained over the model at `path`, whose hash may not be known yet (None)."""
    base = read(adapter)["base"]
    if base_hash is not None and base["hash"] != base_hash:
        raise UserError(
            f"adapter={adapter} was trained over {base['path']} ({base['hash']}), and this run's {path} is "
            f"{base_hash}: give the model that it was trained over, or an adapter of this one"
        )


def other_shape(cfg: DictConfig, found: dict) -> str:
    """The settings in which an adapter differs from the policy's, as overrides; '' for none."""
    policy = found["config"].get("policy")
    ours, theirs = cfg.policy.lora or {}, (policy.get("lora") if isinstance(policy, dict) else None) or {}
    return " ".join(f"policy.lora.{key}={theirs[key]}" for key in ours if key in theirs and ours[key] != theirs[key])


def require_same_start(cfg: DictConfig, folder: Path) -> None:
    """UserError if the run in `folder` began with another adapter than cfg.adapter holds today."""
    if not (folder / START).exists():
        return
    before, now = read_json(folder / START, remedy := f"delete {folder} to train it again"), files(cfg)
    if before is not None and not (
        isinstance(before, dict) and all(isinstance(value, str) for value in before.values())
    ):
        raise UserError(f"{folder / START} is damaged (it holds no names and hashes of files): {remedy}")
    if before != now:
        raise UserError(
            f"{folder} began with {short(before)}, and adapter={cfg.adapter} now holds {short(now)}: "
            "delete the folder to train it again, or give another run=NAME"
        )


def begin(cfg: DictConfig, folder: Path) -> None:
    """Notes in a run folder which adapter it begins with."""
    write_json(folder / START, files(cfg))


def files(cfg: DictConfig) -> dict[str, str] | None:
    """File name -> hash of the adapter that the run starts from; None for none."""
    return None if cfg.adapter is None else read(Path(cfg.adapter))["files"]


def short(found: dict[str, str] | None) -> str:
    return "no adapter" if found is None else ", ".join(f"{name} {value[:8]}" for name, value in found.items())


def preceding(cfg: DictConfig) -> dict | None:
    """The lineage of the adapter that a run starts from, None for none: read before training, since its folder may not
    be there after.
    """
    return None if cfg.adapter is None else read(Path(cfg.adapter))


def of(cfg: DictConfig, adapter: Path, base_hash: str, dataset: "Dataset", before: dict | None) -> dict:
    """The lineage of an adapter that has just been saved. dataset: has `identity`, a hash of what it holds. before: the
    lineage of its predecessor, None for none."""
    config = OmegaConf.to_container(cfg, resolve=True)
    return {
        "base": {"path": model_path(cfg), "hash": base_hash},
        "preceding": before and before["files"],
        "stage": cfg.stage.name,
        "stages": [*(before and stages(before) or []), cfg.stage.name],
        "data": dataset.identity,
        "files": {path.name: file_digest(path) for path in sorted(adapter.glob("*.safetensors"))},
        "config_hash": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "config": config,
    }


def write(adapter: Path, lineage: dict) -> None:
    """adapter/lineage.json. It marks a finished run."""
    write_json(adapter / FILE, lineage)


def model_path(cfg: DictConfig) -> str:
    """Of the model that the stage trains."""
    return cfg[cfg.stage.trains].path
