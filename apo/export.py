"""An adapter for other programs: ComfyUI and the original Wan code, or fused into the base's own weights.

    python -m apo.export outputs/main/offline/adapter --out exported                      # a LoRA file per expert
    python -m apo.export outputs/main/offline/adapter --out exported --expert high
    python -m apo.export outputs/main/offline/adapter --out fused --fuse                  # a diffusers pipeline
    python -m apo.export outputs/main/offline/adapter --out fused --fuse original  # full weights for these

The mapping that matters: `high_noise` is diffusers' `transformer` (t >= boundary), `low_noise` its `transformer_2`.
"""

import argparse
import json
import shutil
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch
from safetensors import SafetensorError
from torch import Tensor

from apo.adapter import original
from apo.adapter.delivery import ORIGIN, Delivery
from apo.adapter.finished import LORA, Adapter, ExportError
from apo.adapter.fusion import Fusion
from apo.errors import DISK, UserError, one_line
from apo.io.files import replacing_folder, sweep, write_tensors, write_text
from apo.policies.adapter import adapter_settings

NAMES = {"high": "transformer", "low": "transformer_2"}
DIFFUSERS, ORIGINAL = "diffusers", "original"  # layouts of fused weights
MADE = "export.json"  # in a pipeline folder: what it was made of


def original_name(module: str) -> str:
    """A transformer's linear layer in the original Wan code's words; ExportError if the adapter can't go there."""
    name = original.module_name(module)
    if name is None or not module.startswith("blocks."):
        raise ExportError(
            f"{module}: only attention and feed-forward layers of the blocks are exported; train without this target"
        )
    return name


def comfy_state(state: dict[str, Tensor], rank: int, alpha: float) -> dict[str, Tensor]:
    """lora_A and lora_B under the original names, bit for bit.

    Readers scale by alpha / rank where a layer has an `alpha`, and by 1 where it has none.
    """
    out = {}
    for key, tensor in state.items():
        module, kind = LORA.fullmatch(key).groups()
        name = f"diffusion_model.{original_name(module)}"
        out[f"{name}.{kind}"] = tensor
        if alpha != rank:
            out[f"{name}.alpha"] = torch.tensor(float(alpha))
    return out


def origin(adapter: Adapter, experts: list[str], layout: str) -> str:
    """What an export is made of: equal text, equal export."""
    lineage = adapter.lineage
    return json.dumps(
        {"layout": layout, "experts": experts, "adapter": lineage["files"], "base": lineage["base"]["hash"]}, indent=1
    )


def write_comfy(adapter: Adapter, out: Path, experts: list[str]) -> list[Path]:
    """One file per expert for ComfyUI's `LoraLoaderModelOnly`; <run>_<stage>.safetensors if the model
    has one expert.
    """
    settings = adapter_settings(adapter.folder)
    states = {
        adapter.file_name(key): comfy_state(adapter.state(key), settings["rank"], settings["alpha"]) for key in experts
    }
    delivery = Delivery(out, list(states), origin(adapter, experts, "comfy"))
    if delivery.is_complete():
        print("complete already:")
        return delivery.paths()
    with delivery.folder() as folder:
        for name, state in states.items():
            write_tensors(folder / name, state, {ORIGIN: delivery.origin})
    return delivery.paths()


def write_pipeline(fusion: Fusion, out: Path, experts: list[str]) -> list[Path]:
    """A whole diffusers pipeline folder whose `experts` hold W + ΔW, and export.json, which says of what it was made.

    ExportError if `out` is not empty.
    """
    made = origin(fusion.adapter, experts, DIFFUSERS)
    if (out / MADE).is_file() and Delivery(out, [MADE], made).is_complete():
        print("complete already:")
        return [out]
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out {out} is not empty: give a new folder")
    fusion.check(experts)

    def changed(folder: str, files: list[str]) -> list[str]:
        return [name for name in files if Path(folder).name in experts and name.endswith(".safetensors")]

    with replacing_folder(out.resolve()) as partial:
        shutil.copytree(fusion.base, partial, ignore=changed, dirs_exist_ok=True)
        for key in experts:
            for file, weights in fusion.weights(key):
                write_tensors(partial / key / file.name, weights, {"format": "pt"})
        write_text(partial / MADE, made)
    return [out]


def write_original(fusion: Fusion, out: Path, experts: list[str]) -> list[Path]:
    """One file of full weights per expert under the original code's names, as ComfyUI's `UNETLoader` reads them.

    An expert is in memory whole. ValueError for a weight that the original code lacks, before anything is written.
    """
    for name in fusion.check(experts):
        original.weight_name(name)
    files = {key: f"fused_{fusion.adapter.file_name(key)}" for key in experts}
    delivery = Delivery(out, list(files.values()), origin(fusion.adapter, experts, ORIGINAL))
    if delivery.is_complete():
        print("complete already:")
        return delivery.paths()
    with delivery.folder() as folder:
        for key, file in files.items():
            weights = {
                original.weight_name(name): value for _, part in fusion.weights(key) for name, value in part.items()
            }
            write_tensors(folder / file, weights, {ORIGIN: delivery.origin})
    return delivery.paths()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="apo.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", type=Path, help="the adapter/ folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--expert", choices=list(NAMES), help="one expert alone; both otherwise")
    parser.add_argument(
        "--fuse",
        nargs="?",
        const=DIFFUSERS,
        choices=[DIFFUSERS, ORIGINAL],
        help="full weights with the adapter in them",
    )
    parser.add_argument("--base", help="the pipeline to fuse into, if it has moved since the training")
    given = parser.parse_args(arguments)
    with one_line("export"):
        try:
            export(given)
        except (ValueError, OSError, SafetensorError) as error:
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            raise UserError(str(error)) from error


def export(given: argparse.Namespace) -> None:
    """Writes what the command line asks for, and says where."""
    adapter = Adapter(given.adapter)
    experts = [NAMES[given.expert]] if given.expert else adapter.experts
    if not set(experts) <= set(adapter.experts):
        raise ExportError(
            f"--expert {given.expert}: {given.adapter} has only {', '.join(adapter.experts)}; leave it out"
        )
    if given.out.exists() and not given.out.is_dir():
        raise ExportError(f"--out {given.out} is a file: give a folder")
    for folder in (given.out, given.out.resolve().parent):  # of exports that were killed
        sweep(folder)
    if given.fuse is None:
        print(*write_comfy(adapter, given.out, experts), sep="\n")
        return
    fusion = Fusion(adapter, adapter.base(given.base))
    print(*(write_pipeline if given.fuse == DIFFUSERS else write_original)(fusion, given.out, experts), sep="\n")
    if fusion.gained:
        print(f"rounding took {fusion.loss:.2%} of the adapter's norm; unfused it loses nothing")


if __name__ == "__main__":
    main()
