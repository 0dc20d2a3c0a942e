"""An adapter for other programs: ComfyUI and the original Wan code, or fused into the base's own weights.

    python -m apo.export outputs/main/offline/adapter --out exported                      # a LoRA file per expert
    python -m apo.export outputs/main/offline/adapter --out exported --expert high
    python -m apo.export outputs/main/offline/adapter --out fused --fuse                  # a diffusers pipeline
    python -m apo.export outputs/main/offline/adapter --out fused --fuse original         # ComfyUI's and the original code's full weights

The mapping that matters: `high_noise` is diffusers' `transformer` (t >= boundary), `low_noise` its `transformer_2`.
"""

import argparse
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from apo.adapter import lineage, original
from apo.adapter.delivery import ORIGIN, Delivery
from apo.errors import DISK, UserError, one_line
from apo.io.files import read_tensors, replacing_folder, sweep, write_tensors, write_text
from apo.policies.adapter import AGAIN, FILES, adapter_settings
from apo.policies.model import WanModel, fingerprint

NAMES = {"high": "transformer", "low": "transformer_2"}
DIFFUSERS, ORIGINAL = "diffusers", "original"  # layouts of fused weights
MADE = "export.json"  # in a pipeline folder: what it was made of
LORA = re.compile(r"(.+)\.(lora_[AB]\.weight)")


class ExportError(UserError):
    """What keeps an adapter from being exported, found before anything is written."""


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


@dataclass(frozen=True)
class Adapter:
    """A finished run's adapter folder; ExportError if it isn't one, or its files are not those of its lineage."""

    folder: Path

    def __post_init__(self):
        if not (self.folder / lineage.FILE).is_file():
            raise ExportError(f"{self.folder}: no lineage.json there; give the adapter/ folder of a finished run")
        if not self.experts:
            raise ExportError(
                f"{self.folder}: none of {', '.join(FILES.values())} there; a ranker's adapter has no such layout"
            )
        try:
            lineage.require_whole(self.folder)
        except ValueError as error:
            raise ExportError(str(error)) from None

    @cached_property
    def lineage(self) -> dict:
        return lineage.read(self.folder)

    @cached_property
    def experts(self) -> list[str]:
        """The transformers that it adapts: transformer, transformer_2."""
        return [key for key, name in FILES.items() if (self.folder / name).is_file()]

    def file_name(self, expert: str) -> str:
        """<run>_<stage>, and the expert if there are two."""
        stem = f"{self.lineage['config'].get('run', 'adapter')}_{self.lineage['stage']}"
        stem = re.sub(r"[/\\\x00-\x1f]", "_", stem).lstrip(".")
        return f"{stem}.safetensors" if len(self.experts) == 1 else f"{stem}_{FILES[expert]}"

    def state(self, expert: str) -> dict[str, Tensor]:
        """lora_A and lora_B of an expert's linear layers, by diffusers' names."""
        path = self.folder / FILES[expert]
        found = {key.removeprefix("transformer."): value for key, value in read_tensors(path, AGAIN).items()}
        if strange := [key for key in found if LORA.fullmatch(key) is None]:
            raise ExportError(f"{path}: {strange[0]} is no weight of a LoRA: {AGAIN}")
        return found

    def deltas(self, expert: str) -> dict[str, Callable[[], Tensor]]:
        """What makes each weight's gain, alpha / rank · B·A in float32: all of an expert's at once are larger than the expert."""
        state, settings = self.state(expert), adapter_settings(self.folder)
        modules = {key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight")}
        scale = settings["alpha"] / settings["rank"]

        def delta(module: str) -> Tensor:
            return scale * (state[f"{module}.lora_B.weight"].float() @ state[f"{module}.lora_A.weight"].float())

        return {f"{module}.weight": partial(delta, module) for module in sorted(modules)}

    def base(self, path: str | None) -> Path:
        """The pipeline folder that it was trained on (or `path`); ExportError if its weights are others."""
        settings, known = self.lineage["config"].get("model"), {each.name for each in fields(WanModel)}
        try:  # not instantiated: whoever wrote lineage.json would choose what is called
            model = WanModel(
                **{key: value for key, value in settings.items() if key in known} | ({"path": path} if path else {})
            )
            model.check()
        except (TypeError, AttributeError) as error:
            raise ExportError(f"{self.folder}: {lineage.FILE} is damaged (its model: {error}); {AGAIN}") from None
        except ValueError as error:
            raise ExportError(f"{error}; --base names the pipeline that the adapter was trained on") from None
        folder = model.folder()
        if (found := fingerprint(folder, ("transformer", "transformer_2"))) != self.lineage["base"]["hash"]:
            raise ExportError(
                f"{folder} has the weights {found} and the adapter was trained on {self.lineage['base']['hash']} "
                f"({self.lineage['base']['path']}): give that pipeline as --base"
            )
        return folder


def origin(adapter: Adapter, experts: list[str], layout: str) -> str:
    """What an export is made of: equal text, equal export."""
    lineage = adapter.lineage
    return json.dumps(
        {"layout": layout, "experts": experts, "adapter": lineage["files"], "base": lineage["base"]["hash"]}, indent=1
    )


def write_comfy(adapter: Adapter, out: Path, experts: list[str]) -> list[Path]:
    """One file per expert for ComfyUI's `LoraLoaderModelOnly`; <run>_<stage>.safetensors if the model has one expert."""
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


@dataclass
class Fusion:
    """Base and adapter as one; `loss` is known once all `weights` were made."""

    adapter: Adapter
    base: Path
    lost: float = field(default=0.0, init=False)
    gained: float = field(default=0.0, init=False)

    def weights(self, expert: str) -> Iterator[tuple[Path, dict[str, Tensor]]]:
        """An expert's weight files, one in memory at a time: W + ΔW, rounded to the dtype of W."""
        deltas = self.adapter.deltas(expert)
        for file in sorted((self.base / expert).glob("*.safetensors")):
            weights = dict(tensors(file))
            for name in deltas.keys() & weights.keys():
                delta, weight = deltas[name](), weights[name]
                exact = weight.float() + delta
                weights[name] = exact.to(weight.dtype)
                self.lost += float((weights[name].float() - exact).square().sum())
                self.gained += float(delta.square().sum())
            yield file, weights

    def check(self, experts: list[str]) -> set[str]:
        """The names of all weights of these experts; ExportError unless each delta has one of them."""
        found = set()
        for expert in experts:
            there = {key for file in (self.base / expert).glob("*.safetensors") for key in names(file)}
            if lacking := sorted(self.adapter.deltas(expert).keys() - there):
                raise ExportError(
                    f"{self.base / expert} has no {lacking[0]}: the adapter was made for another architecture"
                )
            found |= there
        return found

    @property
    def loss(self) -> float:
        """‖rounded − exact‖ / ‖ΔW‖: what the base's dtype loses of the adapter."""
        return (self.lost / max(self.gained, 1e-30)) ** 0.5


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


def tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, "pt") as stream:
        for key in stream.keys():
            yield key, stream.get_tensor(key)


def names(file: Path) -> list[str]:
    with safe_open(file, "pt") as stream:
        return list(stream.keys())


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
