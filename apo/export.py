"""An adapter for other programs: ComfyUI and the original Wan code, or fused into the base's own weights.

    python -m apo.export outputs/main/offline/adapter --out exported                      # a LoRA file per expert
    python -m apo.export outputs/main/offline/adapter --out exported --expert high
    python -m apo.export outputs/main/offline/adapter --out fused --fuse                  # a diffusers pipeline
    python -m apo.export outputs/main/offline/adapter --out fused --fuse original         # ComfyUI's and the original code's full weights

The mapping that matters: `high_noise` is diffusers' `transformer` (t >= boundary), `low_noise` its `transformer_2`.
"""

import argparse
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from safetensors import SafetensorError, safe_open
from torch import Tensor

from apo import lineage
from apo.files import write_tensors
from apo.policies import original
from apo.policies.adapter import FILES, adapter_settings
from apo.policies.model import fingerprint

NAMES = {"high": "transformer", "low": "transformer_2"}
DIFFUSERS, ORIGINAL = "diffusers", "original"  # layouts of fused weights


class ExportError(ValueError):
    """What keeps an adapter from being exported, found before anything is written."""


def original_name(module: str) -> str:
    """A transformer's linear layer in the original Wan code's words; ExportError if the adapter can't go there."""
    name = original.module_name(module)
    if name is None or not module.startswith("blocks."):
        raise ExportError(f"{module}: only attention and feed-forward layers of the blocks are exported; train without this target")
    return name


def comfy_state(state: dict[str, Tensor], rank: int, alpha: float) -> dict[str, Tensor]:
    """lora_A and lora_B under the original names, bit for bit.

    Readers scale by alpha / rank where a layer has an `alpha`, and by 1 where it has none.
    """
    out = {}
    for key, tensor in state.items():
        module, kind = re.fullmatch(r"(.+)\.(lora_[AB]\.weight)", key).groups()
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
            raise ExportError(f"{self.folder}: none of {', '.join(FILES.values())} there; a ranker's adapter has no such layout")
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
        stem = f"{self.lineage['config']['run']}_{self.lineage['stage']}".replace("/", "_")
        return f"{stem}.safetensors" if len(self.experts) == 1 else f"{stem}_{FILES[expert]}"

    def state(self, expert: str) -> dict[str, Tensor]:
        """lora_A and lora_B of an expert's linear layers, by diffusers' names."""
        return {key.removeprefix("transformer."): value for key, value in tensors(self.folder / FILES[expert])}

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
        config = self.lineage["config"]["model"]
        model = instantiate(config | ({"path": path} if path else {}))
        try:
            model.check()
        except ValueError as error:
            raise ExportError(f"{error}; --base names the pipeline that the adapter was trained on") from None
        folder = model.folder()
        if (found := fingerprint(folder, ("transformer", "transformer_2"))) != self.lineage["base"]["hash"]:
            raise ExportError(
                f"{folder} has the weights {found} and the adapter was trained on {self.lineage['base']['hash']} "
                f"({self.lineage['base']['path']}): give that pipeline as --base"
            )
        return folder


def write_comfy(adapter: Adapter, out: Path, experts: list[str]) -> list[Path]:
    """One file per expert for ComfyUI's `LoraLoaderModelOnly`; <run>_<stage>.safetensors if the model has one expert."""
    settings = adapter_settings(adapter.folder)
    states = {new(out / adapter.file_name(key)): comfy_state(adapter.state(key), settings["rank"], settings["alpha"]) for key in experts}
    with all_or_none(list(states)):
        for path, state in states.items():
            write_tensors(path, state)
    return list(states)


@contextmanager
def all_or_none(paths: list[Path]) -> Iterator[None]:
    """If something is raised inside, what was written to `paths` is taken away again."""
    try:
        yield
    except BaseException:
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def new(path: Path) -> Path:
    """`path`; ExportError if something is there: another run of the same name and stage, perhaps."""
    if path.exists():
        raise ExportError(f"{path} is there already: delete it, or give another --out")
    return path


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
                raise ExportError(f"{self.base / expert} has no {lacking[0]}: the adapter was made for another architecture")
            found |= there
        return found

    @property
    def loss(self) -> float:
        """‖rounded − exact‖ / ‖ΔW‖: what the base's dtype loses of the adapter."""
        return (self.lost / max(self.gained, 1e-30)) ** 0.5


def write_pipeline(fusion: Fusion, out: Path, experts: list[str]) -> list[Path]:
    """A whole diffusers pipeline folder whose `experts` hold W + ΔW. ExportError if `out` is not empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out {out} is not empty: give a new folder")
    fusion.check(experts)

    def changed(folder: str, files: list[str]) -> list[str]:
        return [name for name in files if Path(folder).name in experts and name.endswith(".safetensors")]

    with all_or_none([out]):
        shutil.copytree(fusion.base, out, ignore=changed, dirs_exist_ok=True)
        for key in experts:
            for file, weights in fusion.weights(key):
                write_tensors(out / key / file.name, weights, {"format": "pt"})
    return [out]


def write_original(fusion: Fusion, out: Path, experts: list[str]) -> list[Path]:
    """One file of full weights per expert under the original code's names, as ComfyUI's `UNETLoader` reads them.

    An expert is in memory whole. ValueError for a weight that the original code lacks, before anything is written.
    """
    for name in fusion.check(experts):
        original.weight_name(name)
    paths = {key: new(out / f"fused_{fusion.adapter.file_name(key)}") for key in experts}
    with all_or_none(list(paths.values())):
        for key, path in paths.items():
            weights = {original.weight_name(name): value for _, part in fusion.weights(key) for name, value in part.items()}
            write_tensors(path, weights, {"format": "pt"})
    return list(paths.values())


def tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, "pt") as stream:
        for key in stream.keys():
            yield key, stream.get_tensor(key)


def names(file: Path) -> list[str]:
    with safe_open(file, "pt") as stream:
        return list(stream.keys())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="apo.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path, help="the adapter/ folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--expert", choices=list(NAMES), help="one expert alone; both otherwise")
    parser.add_argument("--fuse", nargs="?", const=DIFFUSERS, choices=[DIFFUSERS, ORIGINAL], help="full weights with the adapter in them")
    parser.add_argument("--base", help="the pipeline to fuse into, if it has moved since the training")
    given = parser.parse_args(arguments)
    try:
        adapter = Adapter(given.adapter)
        experts = [NAMES[given.expert]] if given.expert else adapter.experts
        if not set(experts) <= set(adapter.experts):
            raise ExportError(f"--expert {given.expert}: {given.adapter} has only {', '.join(adapter.experts)}; leave it out")
        if given.out.exists() and not given.out.is_dir():
            raise ExportError(f"--out {given.out} is a file: give a folder")
        if given.fuse is None:
            print(*write_comfy(adapter, given.out, experts), sep="\n")
            return
        fusion = Fusion(adapter, adapter.base(given.base))
        print(*(write_pipeline if given.fuse == DIFFUSERS else write_original)(fusion, given.out, experts), sep="\n")
        print(f"rounding took {fusion.loss:.2%} of the adapter's norm; unfused it loses nothing")
    except (ValueError, OSError, SafetensorError) as error:
        raise SystemExit(f"export: {error}") from error


if __name__ == "__main__":
    main()
