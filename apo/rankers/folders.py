"""Where ranking models and adapters lie. Loads none of them."""

from pathlib import Path

from huggingface_hub import snapshot_download

from apo.policies.model import ROOT

SETTINGS = "adapter_config.json"  # of a LoRA adapter in peft's format


def local_folder(path: str, file: str) -> Path | None:
    """The folder of that path, relative to the working directory or the repository, if it holds `file`."""
    return next((p for p in (Path(path), ROOT / path) if (p / file).is_file()), None)


def model_folder(path: str) -> Path:
    """The model's folder, downloaded from the hub if it is not on this disk."""
    return local_folder(path, "config.json") or Path(snapshot_download(path))


def check_paths(key: str, path: str, adapter: str | None) -> None:
    """ValueError names the field of `key` whose folder is not there, and the remedy; loads nothing."""
    looks_local = path.startswith((".", "/", "apo/", "outputs/")) or path.count("/") != 1
    if local_folder(path, "config.json") is None and looks_local:
        raise ValueError(
            f"{key}.path={path}: no config.json there; `make ranker-world` builds the world's rankers, or give a model "
            "folder or a hub id such as Qwen/Qwen3-VL-8B-Instruct"
        )
    if adapter is not None and local_folder(adapter, SETTINGS) is None:
        raise ValueError(
            f"{key}.adapter={adapter}: no {SETTINGS} there; give the adapter/ folder of a finished `stage=ranker` run, "
            "`make ranker-world` builds the world's, or null"
        )
