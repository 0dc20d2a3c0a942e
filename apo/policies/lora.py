"""LoRA on each expert: the trained adapter `policy`, its frozen predecessor `reference`, files in diffusers' format."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer

from apo.distributed import rank
from apo.errors import UserError
from apo.io.files import read_tensors, write_tensors
from apo.policies.adapter import AGAIN, FILES
from apo.policies.sharding import seemingly_on_cpu, whole

POLICY, REFERENCE, AVERAGE = "policy", "reference", "average"


def add_lora(expert: WanTransformer3DModel, config: LoraConfig, name: str, seed: int) -> None:
    """Adds a float32 adapter; its initial value depends on `seed` alone, and B = 0, so the output is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with seemingly_on_cpu(expert):
            expert.add_adapter(config, adapter_name=name)
    for key, parameter in expert.named_parameters():
        if f".{name}." in key:
            parameter.data = parameter.data.float()


def tuner_layers(experts: Iterable[WanTransformer3DModel]) -> list[BaseTunerLayer]:
    return [module for expert in experts for module in expert.modules() if isinstance(module, BaseTunerLayer)]


def switch(layers: list[BaseTunerLayer], name: str | None) -> None:
    """From now on these layers use adapter `name`, or none.

    Sets the attributes themselves, since peft's set_adapter and disable_adapters also change requires_grad.
    """
    for layer in layers:
        layer._disable_adapters = name is None
        if name is not None:
            layer._active_adapter = [name]


@torch.no_grad()
def approach(layers: list[BaseTunerLayer], source: str, target: str, share: float) -> None:
    """Moves the weights of adapter `target` by a share of the way to those of adapter `source`."""
    for layer in layers:
        for part in (layer.lora_A, layer.lora_B):
            part[target].weight.lerp_(part[source].weight, share)


@contextmanager
def using(layers: list[BaseTunerLayer], name: str | None) -> Iterator[None]:
    """Inside, the layers use adapter `name`, or none; afterwards what they used before."""
    before = layers[0].active_adapters[0] if layers and not layers[0].disable_adapters else None
    switch(layers, name)
    try:
        yield
    finally:
        switch(layers, before)


def save_lora(experts: dict[str, WanTransformer3DModel], folder: Path, name: str = POLICY) -> None:
    """One file per expert that `pipeline.load_lora_weights(folder, weight_name=...)` reads; equal weights, equal bytes.

    Every rank must ask, since sharded weights need all of them; the first one writes.
    """
    for key, expert in experts.items():
        state = get_peft_model_state_dict(expert, adapter_name=name)
        state = {k: whole(v).detach().cpu().contiguous() for k, v in state.items()}
        if rank() > 0:
            continue
        config = {k: sorted(v) if isinstance(v, set) else v for k, v in expert.peft_config[name].to_dict().items()}
        packed = json.dumps({f"transformer.{k}": v for k, v in config.items()}, sort_keys=True, indent=1)
        # one entry alone: safetensors writes several in an order that changes from process to process
        metadata = {"lora_adapter_metadata": packed}
        WanImageToVideoPipeline.save_lora_weights(
            folder,
            transformer_lora_layers=state,
            weight_name=FILES[key],
            save_function=lambda weights, path, metadata=metadata: write_tensors(Path(path), weights, metadata),
        )


def load_lora(experts: dict[str, WanTransformer3DModel], folder: Path, name: str) -> None:
    """Reads what `save_lora` wrote into the adapter `name`; UserError says what is damaged or does not fit."""
    for key, expert in experts.items():
        path = folder / FILES[key]
        if not path.is_file():
            raise UserError(f"{path}: no adapter for {key}; {folder} must hold {[FILES[k] for k in experts]}")
        state = {key.removeprefix("transformer."): tensor for key, tensor in read_tensors(path, AGAIN).items()}
        ours = get_peft_model_state_dict(expert, adapter_name=name)
        if wrong := [
            k for k in ours.keys() | state.keys() if k not in ours or k not in state or ours[k].shape != state[k].shape
        ]:
            raise UserError(
                f"{path} does not fit the adapter that policy.lora describes ({len(wrong)} of {len(ours)} "
                "tensors differ, "
                f"{sorted(wrong)[0]} first): use the rank and targets it was trained with"
            )
        set_peft_model_state_dict(expert, state, adapter_name=name)
