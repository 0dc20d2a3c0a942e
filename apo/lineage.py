"""lineage.json beside each adapter: what it was made from; and whether a stage may start there."""

import hashlib
import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch.utils.data import Dataset

from apo.data.checksums import file_digest
from apo.files import write_json

FILE = "lineage.json"
START = "start.json"  # of a run folder: the files of the adapter that it began with


def read(adapter: Path) -> dict:
    """The lineage of an adapter folder; ValueError if it has none, or a damaged one."""
    if not (adapter / FILE).is_file():
        raise ValueError(f"adapter={adapter}: no {FILE} there; give the adapter/ folder of a finished run")
    try:
        found = json.loads((adapter / FILE).read_text())
    except ValueError:
        found = {}
    if not isinstance(found, dict) or not {"base", "stage", "files", "config"} <= found.keys():
        raise ValueError(f"adapter={adapter}: {FILE} is damaged; copy the folder again, or train it again")
    return found


def require_whole(adapter: Path) -> None:
    """ValueError unless the files are those that were written with the lineage."""
    for name, recorded in read(adapter)["files"].items():
        if not (adapter / name).is_file() or file_digest(adapter / name) != recorded:
            raise ValueError(f"adapter={adapter}: {name} is not the file that {FILE} names; delete its run folder and train it again")


def stages(lineage: dict) -> list[str]:
    """Names of the stages that made an adapter, the first one first."""
    return lineage.get("stages", [lineage["stage"]])


def require_start(cfg: DictConfig, base_hash: str | None) -> None:
    """ValueError unless the stage may start from cfg.adapter: says what was found, and the remedy.

    base_hash: of the model under the adapter; None if it is not on this disk yet.
    """
    name, after, not_after = cfg.stage.name, cfg.stage.get("after", []), cfg.stage.get("not_after", [])
    if cfg.adapter is None:
        if after:
            raise ValueError(
                f"stage={name} starts from an adapter of stage={after[0]}, and adapter is not set: "
                f"give adapter=outputs/<run>/{after[0]}/adapter"
            )
        return
    require_whole(Path(cfg.adapter))
    found = read(Path(cfg.adapter))
    require_base(Path(cfg.adapter), model_path(cfg), base_hash)
    went = " -> ".join(stages(found))
    if differ := other_shape(cfg, found):
        raise ValueError(f"adapter={cfg.adapter} does not have this run's shape: give {differ}, as it was trained with")
    if after and not set(after) & set(stages(found)):
        raise ValueError(
            f"stage={name} starts from an adapter that went through stage={after[0]}, and adapter={cfg.adapter} went through {went}: "
            f"train stage={after[0]} adapter={cfg.adapter} first, and give its adapter/ folder"
        )
    if barred := [stage for stage in stages(found) if stage in not_after]:
        raise ValueError(
            f"stage={name} does not follow stage={barred[0]}, and adapter={cfg.adapter} went through {went}: "
            f"give the adapter of a stage before {barred[0]}"
        )


def require_base(adapter: Path, path: str, base_hash: str | None) -> None:
    """ValueError unless the adapter was trained over the model at `path`, whose hash may not be known yet (None)."""
    base = read(adapter)["base"]
    if base_hash is not None and base["hash"] != base_hash:
        raise ValueError(
            f"adapter={adapter} was trained over {base['path']} ({base['hash']}), and this run's {path} is "
            f"{base_hash}: give the model that it was trained over, or an adapter of this one"
        )


def other_shape(cfg: DictConfig, found: dict) -> str:
    """The settings in which an adapter differs from the policy's, as overrides; '' for none."""
    ours, theirs = (OmegaConf.select(OmegaConf.create(config), "policy.lora") or {} for config in (cfg, found["config"]))
    return " ".join(f"policy.lora.{key}={theirs[key]}" for key in ours if key in theirs and ours[key] != theirs[key])


def require_same_start(cfg: DictConfig, folder: Path) -> None:
    """ValueError if the run in `folder` began with another adapter than cfg.adapter holds today."""
    begun = folder / START
    if begun.is_file() and (before := json.loads(begun.read_text())) != (now := files(cfg)):
        raise ValueError(
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


def of(cfg: DictConfig, adapter: Path, base_hash: str, dataset: Dataset) -> dict:
    """The lineage of an adapter that has just been saved. dataset: has `identity`, a hash of what it holds."""
    config = OmegaConf.to_container(cfg, resolve=True)
    before = [] if cfg.adapter is None else stages(read(Path(cfg.adapter)))
    return {
        "base": {"path": model_path(cfg), "hash": base_hash}, "preceding": files(cfg),
        "stage": cfg.stage.name, "stages": [*before, cfg.stage.name], "data": dataset.identity,
        "files": {path.name: file_digest(path) for path in sorted(adapter.glob("*.safetensors"))},
        "config_hash": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(), "config": config,
    }  # fmt: skip


def write(adapter: Path, lineage: dict) -> None:
    """adapter/lineage.json. Written last: it marks a finished run."""
    write_json(adapter / FILE, lineage)


def model_path(cfg: DictConfig) -> str:
    """Of the model that the stage trains."""
    return (cfg.get("vlm") or cfg.model).path
