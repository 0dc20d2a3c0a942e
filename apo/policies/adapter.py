"""The files of an adapter folder, one per expert in diffusers' LoRA format, as far as no model is needed to read them.

The mapping that matters: diffusers' `transformer` is the high-noise expert, `transformer_2` the low-noise one.
"""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from apo.errors import UserError

AGAIN = "copy the adapter/ folder again, or train it again"
FILES = {"transformer": "high_noise.safetensors", "transformer_2": "low_noise.safetensors"}


def adapter_hash(folder: Path) -> str:
    """Of a saved adapter's weights."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.glob("*.safetensors")))).hexdigest()[:16]


def adapter_settings(folder: Path) -> dict:
    """rank, alpha and targets of a saved adapter, as `policy.lora` takes them."""
    path = next(folder / name for name in FILES.values() if (folder / name).is_file())
    try:
        with safe_open(path, "pt") as file:
            config = json.loads(file.metadata()["lora_adapter_metadata"])
        config = {key.removeprefix("transformer."): value for key, value in config.items()}
        return {"rank": int(config["r"]), "alpha": config["lora_alpha"], "targets": sorted(config["target_modules"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise UserError(f"{path} is damaged (its settings: {error}): {AGAIN}") from None
