"""A Wan transformer that no process ever holds whole: built without data, sharded with FSDP2, read slice by slice."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.hooks.first_block_cache import FBCHeadBlockHook
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from apo.errors import UserError
from apo.io.files import is_finite
from apo.policies.folder import REMEDY

INDEX, WEIGHTS = "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors"


def without_data(folder: Path, dtype: torch.dtype) -> WanTransformer3DModel:
    """The transformer of a folder on the meta device, its parameters in the types that from_pretrained(dtype=dtype)
    gives them.
    """
    with torch.device("meta"):
        expert = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder)).eval()
    for name, parameter in expert.named_parameters():
        exempt = set(expert._keep_in_fp32_modules) & set(name.split("."))
        parameter.data = parameter.data.to(torch.float32 if exempt else dtype)
    config = expert.config
    expert.rope = type(expert.rope)(
        config.attention_head_dim, config.patch_size, config.rope_max_seq_len
    )  # its buffers are in no file
    return expert


@contextmanager
def seemingly_on_cpu(expert: nn.Module) -> Iterator[None]:
    """Inside, parameters on the meta device are single numbers expanded to their shapes: peft puts adapters where their
    layers are.
    """
    waiting = next(expert.parameters()).is_meta
    if waiting:
        expert._apply(
            lambda tensor: torch.empty((), dtype=tensor.dtype).expand(tensor.shape) if tensor.is_meta else tensor
        )
    yield
    if waiting:
        empty(expert)


@contextmanager
def one_decision() -> Iterator[None]:
    """Inside, First Block Cache computes a forward's later blocks on all ranks if it would on one: they
    stay in step.
    """
    decide = FBCHeadBlockHook._should_compute_remaining_blocks

    def decide_together(hook: FBCHeadBlockHook, residual: Tensor) -> bool:
        asked = torch.tensor(int(decide(hook, residual)), device=residual.device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked)

    with patch.object(FBCHeadBlockHook, "_should_compute_remaining_blocks", decide_together):
        yield


def shard(expert: WanTransformer3DModel, mesh: DeviceMesh, folder: Path) -> None:
    """Spreads an expert over the last axis of `mesh`, replicated over the first if there are two, and reads its
    weights.

    Each block is gathered when it is used and freed after it, and so is what stands around the blocks.
    """
    for module in (*expert.blocks, expert):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    block = type(
        expert.blocks[0]
    )  # FSDP2 makes it a subclass of its own, which diffusers' First Block Cache has to know
    TransformerBlockRegistry.register(block, replace(TransformerBlockRegistry.get(WanTransformerBlock)))
    fill(expert, folder, torch.device(mesh.device_type))


@torch.no_grad()
def fill(expert: WanTransformer3DModel, folder: Path, device: torch.device | str) -> None:
    """Gives what is on the meta device its values from the folder's files: of sharded parameters this rank's slice
    alone.
    """
    missing = [name for name, parameter in expert.named_parameters() if parameter.is_meta]
    expert._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    parameters, files = dict(expert.named_parameters()), files_of(folder)
    for path in sorted({files[key_of(name)] for name in missing}):
        with safe_open(path, "pt") as file:
            for name in missing:
                if files[key_of(name)] == path:
                    read(parameters[name], file.get_slice(key_of(name)))


def empty(expert: WanTransformer3DModel) -> None:
    """Undoes `fill`: frees all but the adapters."""
    for path, module in expert.named_modules():
        for name, parameter in [] if ".lora_" in path else list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(parameter.to("meta"), parameter.requires_grad))


def read(parameter: Tensor, stored) -> None:
    """Copies the rows that this rank holds. stored: a slice of an open safetensors file."""
    if list(parameter.shape) != stored.get_shape():
        raise ValueError(
            f"a stored tensor has shape {stored.get_shape()}, and config.json makes it {list(parameter.shape)}"
        )
    if not isinstance(parameter, DTensor):
        parameter.copy_(finite(stored[:]))
    elif len(rows := rows_of(parameter)):
        parameter.to_local().copy_(finite(stored[rows.start : rows.stop]))


def finite(tensor: Tensor) -> Tensor:
    """`tensor`; UserError unless all of it is."""
    if not is_finite(tensor):
        raise UserError(
            f"model.path: a stored tensor of shape {list(tensor.shape)} has values that are not finite: {REMEDY}"
        )
    return tensor


def rows_of(parameter: DTensor) -> range:
    """Of dim 0, those that this rank holds: FSDP2 deals out equal chunks, the last ones perhaps short or empty."""
    mesh, axis, count = parameter.device_mesh, parameter.device_mesh.ndim - 1, parameter.shape[0]
    chunk = math.ceil(count / mesh.size(axis))
    start = min(chunk * mesh.get_local_rank(axis), count)
    return range(start, min(start + chunk, count))


def key_of(name: str) -> str:
    """In the files, of a parameter that may have an adapter over it."""
    return name.replace(".base_layer.", ".")


def files_of(folder: Path) -> dict[str, Path]:
    """The file of each stored tensor."""
    if (folder / INDEX).is_file():
        return {key: folder / name for key, name in json.loads((folder / INDEX).read_text())["weight_map"].items()}
    with safe_open(folder / WEIGHTS, "pt") as file:
        return {key: folder / WEIGHTS for key in file.keys()}


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its values; of a sharded one, every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
