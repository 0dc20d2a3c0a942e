"""Where ranking models and adapters lie, and whether they are whole. Loads no model, runs no code that lies there."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from apo.adapter import lineage
from apo.errors import UserError
from apo.places import ROOT
from apo.policies.model import fingerprint

CONFIG = "config.json"
# of a model that judges one kind of videos only: {"of": its name, "frames": 9, "height": 64, "width": 64}
VIDEOS = "videos.json"
SETTINGS = "adapter_config.json"  # of a LoRA adapter in peft's format
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of peft's own files, so that peft and vLLM read ours
FILES = ["*.json", "*.txt", "*.jinja", "*.safetensors"]  # of a model on the hub: what is read, and nothing that is run
FLOATS = {"F64", "F32", "F16", "BF16"}
NEUTRAL = {  # settings of peft that change nothing when an adapter is used, or are looked at one by one
    "r",
    "lora_alpha",
    "target_modules",
    "peft_type",
    "task_type",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "auto_mapping",
    "inference_mode",
    "init_lora_weights",
    "lora_dropout",
    "megatron_core",
    "qalora_group_size",
}
HUB_S = 10  # seconds to wait for the hub's first word


def local_folder(path: str, file: str) -> Path | None:
    """The folder of that path, relative to the working directory or the repository, if it holds `file`."""
    return next((p for p in (Path(path), ROOT / path) if (p / file).is_file()), None)


def model_folder(path: str) -> Path:
    """The model's folder, downloaded from the hub if it is not on this disk. UserError if it can't be."""
    from huggingface_hub import snapshot_download

    if (folder := present(path)) is not None:
        return folder
    try:
        return Path(snapshot_download(path, allow_patterns=FILES, etag_timeout=HUB_S))
    except Exception as error:  # whatever the hub and the network may say
        raise unreachable("path", path, error) from None


def present(path: str) -> Path | None:
    """The model's folder if it is on this disk, also in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if (folder := local_folder(path, CONFIG)) is not None:
        return folder
    try:
        folder = Path(snapshot_download(path, allow_patterns=FILES, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if (folder / CONFIG).is_file() and list(folder.glob("*.safetensors")) else None


def check_paths(key: str, path: str, adapter: str | None) -> None:
    """UserError names the field of `key` whose folder is not there, damaged or of another model, and the remedy; loads
    nothing.
    """
    check_model(f"{key}.path", path)
    if adapter is not None:
        check_adapter(f"{key}.adapter", adapter, path)


def check_device(key: str, device: str) -> None:
    """UserError unless torch has that device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter of a build without CUDA
        raise UserError(
            f"{key}={device}: torch has no such device here ({str(error).splitlines()[0][:80]}); give cpu or cuda"
        ) from None


def check_model(key: str, path: str) -> None:
    """UserError unless there is a whole ranking model at `path`, here or on the hub, and what prepares its videos."""
    if find_spec("torchvision") is None:
        raise UserError(f"{key}={path}: Qwen3-VL needs torchvision: install its release that goes with your torch")
    looks_local = path.startswith((".", "/", "apo/", "outputs/")) or path.count("/") != 1
    if local_folder(path, CONFIG) is None and looks_local:
        raise UserError(
            f"{key}={path}: no {CONFIG} there; give a model folder, a hub id such as Qwen/Qwen3-VL-8B-Instruct, or "
            "the small "
            "one that ships with this repository (conf/ranker/qwen3_vl.yaml names it)"
        )
    if (folder := present(path)) is None:
        require_on_hub(key, path)
        return
    for file in sorted(folder.glob("*.json")):
        read_object(key, file)
    if (kind := read_object(key, folder / CONFIG).get("model_type")) != "qwen3_vl":
        raise UserError(
            f"{key}={path}: {CONFIG} says model_type={kind!r}, and rankers are Qwen3-VL models: give one of those"
        )
    shapes(key, folder)


def require_on_hub(key: str, path: str) -> None:
    """UserError unless the hub has the model and says so within seconds."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(path, timeout=HUB_S)
    except Exception as error:  # offline, no network, no such model, no permission
        raise unreachable(key, path, error) from None


def unreachable(key: str, path: str, error: Exception) -> UserError:
    said = " ".join(str(error).split())[:200]
    return UserError(
        f"{key}={path}: it is not on this disk, and the hub does not give it ({said}); run `hf download {path}` where "
        "there is a "
        "network, or give a model folder (conf/ranker/qwen3_vl.yaml names the small one that ships with this "
        "repository)"
    )


def read_object(key: str, file: Path) -> dict:
    """What a JSON file holds."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{key}: {file} is damaged ({error}); copy the folder again") from None
    if not isinstance(found, dict):
        raise UserError(f"{key}: {file} is damaged, it holds no JSON object; copy the folder again")
    return found


def shapes(key: str, folder: Path) -> dict[str, list[int]]:
    """Tensor name -> its shape, of a model folder; UserError unless the files are whole and the weights
    floating-point.
    """
    index = folder / "model.safetensors.index.json"
    files = (
        {folder / name for name in read_object(key, index).get("weight_map", {}).values()} if index.is_file() else set()
    )
    files = files or set(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{key}={folder}: no .safetensors there; weights in other formats can run code and are not "
            "read: convert them"
        )
    found = {}
    for file in sorted(files):
        found |= shapes_of(key, file)
    return found


def shapes_of(key: str, file: Path) -> dict[str, list[int]]:
    try:
        with safe_open(file, "pt") as opened:
            found = {name: opened.get_slice(name) for name in opened.keys()}
            wrong = next((name for name, part in found.items() if part.get_dtype() not in FLOATS), None)
            found = {name: part.get_shape() for name, part in found.items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{key}: {file} is missing, truncated or damaged ({error}); copy the folder again") from None
    if wrong is not None:
        raise UserError(
            f"{key}: {file}: {wrong} holds no floating-point numbers; give the weights in bfloat16 or float32"
        )
    return found


def check_adapter(key: str, adapter: str, path: str) -> None:
    """UserError unless a whole LoRA adapter lies there that fits the model at `path`, as far as that is
    on this disk.
    """
    if (folder := local_folder(adapter, SETTINGS)) is None:
        raise UserError(
            f"{key}={adapter}: no {SETTINGS} there; give the adapter/ folder of a finished `stage=ranker` run, one "
            "that ships with "
            "this repository (conf/ranker/by_domain.yaml names them), or null"
        )
    rank = lora_settings(key, folder)["r"]
    found = shapes_of(key, folder / WEIGHTS)
    require_finite(key, folder / WEIGHTS)
    if not found or any(
        len(shape) < 2 or shape[name.endswith("lora_B.weight")] != rank for name, shape in found.items()
    ):
        raise UserError(
            f"{key}: {folder / WEIGHTS} does not hold LoRA weights of the rank r={rank} that {SETTINGS} names; "
            "copy it again"
        )
    if (base := present(path)) is not None:
        require_fit(key, folder, found, base, path)


def base_hash(folder: Path) -> str:
    """Of a model folder, for the lineage of adapters over it."""
    return fingerprint(folder, (".",), besides=VIDEOS)


def require_videos(key: str, path: str, spec) -> None:
    """UserError if the model's folder says that it judges other videos than those of `spec` (frames, height, width)."""
    if (folder := local_folder(path, VIDEOS)) is None:
        return
    known = read_object(key, folder / VIDEOS)
    try:
        of, frames, height, width = (known[name] for name in ("of", "frames", "height", "width"))
    except KeyError as error:
        raise UserError(f"{key}: {folder / VIDEOS} does not say {error}; copy the folder again") from None
    if (spec.frames, spec.height, spec.width) != (frames, height, width):
        raise UserError(
            f"{key}={path} needs videos of {of}, {frames} frames of {height} x {width}, and model.spec has "
            f"{spec.frames} of "
            f"{spec.height} x {spec.width}: use a model of your own (ranker=qwen3_vl_8b, by_domain_8b or served)"
        )


def require_fit(key: str, folder: Path, found: dict[str, list[int]], base: Path, path: str) -> None:
    """UserError unless an adapter's tensors have the shapes that those of the model in `base` ask for."""
    theirs, known = shapes(key, base), 0
    for name, shape in found.items():
        module, _, side = name.removeprefix(PREFIX).rpartition(".lora_")
        wanted = theirs.get(f"{module}.weight")
        known += wanted is not None
        if wanted is not None and (shape[1:] != wanted[1:] if side.startswith("A") else shape[0] != wanted[0]):
            raise other_base(key, folder, path, f"{name} has shape {shape}, and its {module} {wanted}")
    if not known:
        raise other_base(key, folder, path, f"that has no {module}")
    if (folder / lineage.FILE).is_file():
        try:
            lineage.require_base(folder, path, base_hash(base))
        except ValueError as error:
            raise UserError(f"{key}: {error}") from None


def other_base(key: str, folder: Path, path: str, why: str) -> UserError:
    return UserError(
        f"{key}={folder} was trained over another model than {path} ({why}): give the model that it was trained over"
    )


def require_finite(key: str, file: Path) -> None:
    with safe_open(file, "pt") as opened:
        for name in opened.keys():
            if not opened.get_tensor(name).isfinite().all():
                raise UserError(
                    f"{key}: {file}: {name} holds NaN or infinity; train the adapter again, or give an earlier one"
                )


def lora_settings(key: str, folder: Path) -> dict:
    """r, lora_alpha and target_modules of an adapter folder: all that is taken from its settings, which may be a
    stranger's.

    UserError for settings that would change what the adapter does: only plain LoRA is read. Names of other models are
    ignored.
    """
    settings = read_object(key, folder / SETTINGS)
    other = {
        name: value
        for name, value in settings.items()
        if name not in NEUTRAL and value and (name, value) != ("bias", "none")
    }
    if settings.get("peft_type") != "LORA" or other:
        what = ", ".join(f"{name}={value}" for name, value in other.items()) or f"peft_type={settings.get('peft_type')}"
        raise UserError(f"{key}={folder}: {SETTINGS} has {what[:200]}, and only plain LoRA is read: train it without")
    r, alpha, targets = (settings.get(name) for name in ("r", "lora_alpha", "target_modules"))
    if type(r) is not int or r < 1 or type(alpha) not in (int, float) or not 0 < alpha < math.inf:
        raise UserError(
            f"{key}={folder}: {SETTINGS} has r={r} lora_alpha={alpha}: both are numbers above 0; copy the folder again"
        )
    if (
        not isinstance(targets, list)
        or not targets
        or not all(isinstance(target, str) and target for target in targets)
    ):
        raise UserError(
            f"{key}={folder}: {SETTINGS} has target_modules={str(targets)[:80]}: write a list of the modules' names"
        )
    return {"r": r, "lora_alpha": alpha, "target_modules": targets}
