"""An adapter for other programs: ComfyUI and the original Wan code, or fused into the base's own weights.

    python -m apo.export outputs/main/offline/adapter --out exported
    python -m apo.export outputs/main/offline/adapter --out exported --expert high
    python -m apo.export outputs/main/offline/adapter --out fused --fuse

The mapping that matters: `high_noise` is diffusers' `transformer` (t >= boundary), `low_noise` its `transformer_2`.
"""

import argparse
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from apo.policies.lora import FILES, adapter_settings
from apo.policies.model import fingerprint

NAMES = {"high": "transformer", "low": "transformer_2"}
BLOCK = re.compile(r"blocks\.(\d+)\.(attn1|attn2|ffn)\.(.+)")
PARTS = {"attn1": "self_attn.", "attn2": "cross_attn.", "ffn": "ffn."}
LAYERS = {
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "add_k_proj": "k_img", "add_v_proj": "v_img",
    "net.0.proj": "0", "net.2": "2",
}  # fmt: skip


class ExportError(ValueError):
    """What keeps an adapter from being exported, found before anything is written."""


def original_name(module: str) -> str:
    """A transformer's linear layer in the original Wan code's words; ExportError if the adapter can't go there."""
    match = BLOCK.fullmatch(module)
    if match is None or match[3] not in LAYERS:
        raise ExportError(f"{module}: only attention and feed-forward layers of the blocks are exported; train without this target")
    return f"blocks.{match[1]}.{PARTS[match[2]]}{LAYERS[match[3]]}"


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
    """A finished run's adapter folder; ExportError if it isn't one."""

    folder: Path

    def __post_init__(self):
        if not (self.folder / "lineage.json").is_file():
            raise ExportError(f"{self.folder}: no lineage.json there; give the adapter/ folder of a finished run")
        if not self.experts:
            raise ExportError(f"{self.folder}: none of {', '.join(FILES.values())} there; a ranker's adapter has no such layout")

    @property
    def lineage(self) -> dict:
        return json.loads((self.folder / "lineage.json").read_text())

    @property
    def experts(self) -> list[str]:
        """The transformers that it adapts: transformer, transformer_2."""
        return [key for key, name in FILES.items() if (self.folder / name).is_file()]

    def state(self, expert: str) -> dict[str, Tensor]:
        """lora_A and lora_B of an expert's linear layers, by diffusers' names."""
        with safe_open(self.folder / FILES[expert], "pt") as file:
            return {key.removeprefix("transformer."): file.get_tensor(key) for key in file.keys()}

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
        model = self.lineage["config"]["model"]
        folder = instantiate(model | ({"path": path} if path else {})).folder()
        if (found := fingerprint(folder, ("transformer", "transformer_2"))) != self.lineage["base"]["hash"]:
            raise ExportError(
                f"{folder} has the weights {found} and the adapter was trained on {self.lineage['base']['hash']} "
                f"({self.lineage['base']['path']}): give that pipeline as --base"
            )
        return folder


def write_comfy(adapter: Adapter, out: Path, experts: list[str]) -> list[Path]:
    """One file per expert for ComfyUI's `LoraLoaderModelOnly`; <run>_<stage>.safetensors if the model has one expert."""
    settings, config = adapter_settings(adapter.folder), adapter.lineage["config"]
    stem, written = f"{config['run']}_{adapter.lineage['stage']}", []
    states = {key: comfy_state(adapter.state(key), settings["rank"], settings["alpha"]) for key in experts}
    out.mkdir(parents=True, exist_ok=True)
    for key, state in states.items():
        path = out / (f"{stem}.safetensors" if len(adapter.experts) == 1 else f"{stem}_{FILES[key]}")
        save_file(state, path)
        written.append(path)
    return written


def write_fused(adapter: Adapter, out: Path, experts: list[str], base: Path) -> float:
    """A whole pipeline folder whose `experts` hold W + ΔW, rounded to the base's dtype; one weight file in memory at a time.

    Returns ‖rounded − exact‖ / ‖ΔW‖: what the base's dtype loses of the adapter. ExportError if `out` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise ExportError(f"--out {out} is not empty: give a new folder")
    unchanged = shutil.ignore_patterns(*(f"{key}/*.safetensors" for key in experts))
    shutil.copytree(base, out, ignore=unchanged, dirs_exist_ok=True)
    lost = gained = 0.0
    for key in experts:
        deltas = adapter.deltas(key)
        for file in sorted((base / key).glob("*.safetensors")):
            weights, metadata = dict(tensors(file)), {"format": "pt"}
            for name in deltas.keys() & weights.keys():
                delta, weight = deltas.pop(name)(), weights[name]
                exact = weight.float() + delta
                weights[name] = exact.to(weight.dtype)
                lost += float((weights[name].float() - exact).square().sum())
                gained += float(delta.square().sum())
            save_file(weights, out / key / file.name, metadata)
        if deltas:
            raise ExportError(f"{base / key} has no {sorted(deltas)[0]}: the adapter was made for another architecture")
    return (lost / max(gained, 1e-30)) ** 0.5


def tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, "pt") as stream:
        for key in stream.keys():
            yield key, stream.get_tensor(key)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="apo.export", description=__doc__.splitlines()[0])
    parser.add_argument("adapter", type=Path, help="the adapter/ folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--expert", choices=list(NAMES), help="one expert alone; both otherwise")
    parser.add_argument("--fuse", action="store_true", help="a pipeline folder with the adapter in its weights")
    parser.add_argument("--base", help="the pipeline to fuse into, if it has moved since the training")
    given = parser.parse_args(arguments)
    try:
        adapter = Adapter(given.adapter)
        experts = [NAMES[given.expert]] if given.expert else adapter.experts
        if not set(experts) <= set(adapter.experts):
            raise ExportError(f"--expert {given.expert}: {given.adapter} has only {', '.join(adapter.experts)}; leave it out")
        if given.fuse:
            lost = write_fused(adapter, given.out, experts, adapter.base(given.base))
            print(f"pipeline: {given.out} (rounding took {lost:.2%} of the adapter's norm; unfused it loses nothing)")
        else:
            for path in write_comfy(adapter, given.out, experts):
                print(path)
    except ValueError as error:
        raise SystemExit(f"export: {error}") from error


if __name__ == "__main__":
    main()
