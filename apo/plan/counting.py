"""Counts of a transformer's passes: FLOPs and bytes alive, from its own code run on tensors without data."""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, NamedTuple
from weakref import finalize

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from apo.policies.architecture import Architecture

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

CPU_ATTENTION = {  # torch's own table has the GPU's kernels only, and a CPU's attention would count as nothing
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, out_shape=None, **__: (
        sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, out_shape=None, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


@dataclass(frozen=True)
class Passes:
    """One expert and one video. A multiply-add is two FLOPs; elementwise arithmetic counts nothing. Sizes in bytes."""

    base_forward: float  # FLOPs without adapter
    forward: float  # with it
    backward: float  # without recomputation
    recomputation: float  # what checkpointing adds to the backward
    self_attention: (
        float  # what context parallelism adds to it: diffusers' native attention (0.42) then repeats its forward there
    )
    live_forward: float  # at the peak of a forward without gradients, beyond weights
    live_train: float  # at the peak of a forward and backward, beyond weights and the gradients of the trained
    live_checkpointed: float  # the same with checkpointing
    weights: float  # of the frozen base
    block: float  # of one of its blocks
    trained: float  # number of trained parameters
    block_base_forward: float  # FLOPs of one block of a forward without adapter
    block_forward: float  # with it
    around: float  # weights that are in no block

    def extrapolated(self, other: "Passes", layers: int) -> "Passes":
        """From two blocks and three (`other`) to `layers`. The first and the last are special; all
        between are alike.
        """
        return Passes(*(a + (layers - 2) * (b - a) for a, b in zip(astuple(self), astuple(other))))

    def __post_init__(self):
        assert all(getattr(self, field.name) >= 0 for field in fields(self))


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations inside have made and that are still alive; `peak` is the most there were."""

    def __init__(self, ignored: list[Tensor]):
        super().__init__()
        self.ignored = [tensor.untyped_storage() for tensor in ignored]  # held, so that their addresses stay theirs
        self.sizes = {storage._cdata: 0 for storage in self.ignored}
        self.now = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            finalize(storage, self.drop, storage._cdata)

    def drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


class Count(NamedTuple):
    flops: float
    live: float  # bytes at the peak


def counted(run: Callable[[], object], ignored: list[Tensor]) -> Count:
    """Of two calls; `ignored`: tensors that are there already. Not of one: a FLOP counter keeps what checkpointing
    would drop.
    """
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as flops:
        run()
    with Live(ignored) as live:
        run()
    return Count(flops.get_total_flops(), live.peak)


def passes(
    architecture: Architecture, latent: tuple, text_tokens: int, lora: dict | None, dtype: torch.dtype
) -> Passes:
    """Of an expert on videos of latent shape (C, F, H, W)."""
    two, three = (measured(architecture, layers, latent, text_tokens, lora, dtype) for layers in (2, 3))
    return two.extrapolated(three, architecture.transformer["num_layers"])


def measured(
    architecture: Architecture, layers: int, latent: tuple, text_tokens: int, lora: dict | None, dtype: torch.dtype
) -> Passes:
    """Of an expert with few layers."""
    from apo.policies.lora import POLICY, switch, tuner_layers

    mode = FakeTensorMode()
    model = expert(architecture, layers, lora, dtype, mode)
    with mode:
        tokens = math.prod(size // patch for size, patch in zip(latent[1:], architecture.transformer["patch_size"]))
        inputs = runner_inputs(architecture, latent, text_tokens, dtype)
        run, tuned = runner(model, architecture, latent, inputs, dtype), tuner_layers([model])
        there = [*model.parameters(), *model.buffers(), *inputs.values()]
        forward, block_forward = counted(torch.no_grad()(run), there), of_a_block(model, run)
        switch(tuned, None)
        base, block_base_forward = counted(torch.no_grad()(run), there), of_a_block(model, run)
        switch(tuned, POLICY)
        train = trained(model, run, there)
        model.enable_gradient_checkpointing()
        checkpointed = trained(model, run, there)
        frozen = [p for p in model.parameters() if lora is None or not p.requires_grad]
        block = [p for p in model.blocks[0].parameters() if lora is None or not p.requires_grad]
        return Passes(
            base.flops,
            forward.flops,
            train.flops - forward.flops,
            checkpointed.flops - train.flops,
            4 * layers * architecture.width * tokens**2,
            forward.live,
            train.live,
            checkpointed.live,
            size(frozen),
            size(block),
            sum(p.numel() for p in model.parameters() if p.requires_grad),
            block_base_forward,
            block_forward,
            size(frozen) - layers * size(block),
        )


@torch.no_grad()
def of_a_block(model: "WanTransformer3DModel", run: Callable[[], Tensor]) -> float:
    """FLOPs of one block of a forward: what a model that skips it saves."""
    found, blocks = [], model.blocks
    for model.blocks in (blocks[:-1], blocks):
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as flops:
            run()
        found.append(flops.get_total_flops())
    return found[1] - found[0]


def trained(model: nn.Module, run: Callable[[], Tensor], there: list[Tensor]) -> Count:
    """Of a forward and backward over gradients that are there already, as in every window row but the first."""
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return counted(lambda: run().float().square().mean().backward(), there + gradients)


def expert(architecture: Architecture, layers: int, lora: dict | None, dtype: torch.dtype, mode: FakeTensorMode):
    """As `WanPolicy` has it: frozen base in `dtype` but for what diffusers keeps in float32, LoRA in float32."""
    from diffusers import WanTransformer3DModel  # takes seconds, and settings are refused before
    from peft import LoraConfig

    from apo.policies.lora import POLICY

    with torch.device("meta"):  # peft can't move fake tensors: they are put in afterwards
        model = WanTransformer3DModel(**architecture.transformer | {"num_layers": layers})
        if lora is not None:
            config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=list(lora["targets"]))
            model.add_adapter(config, adapter_name=POLICY)
    with mode:
        for path, module in model.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    ours, parts = "lora_" in path, {*path.split("."), name}
                    kept = ours or not parts.isdisjoint(model._keep_in_fp32_modules)
                    tensor = torch.empty(parameter.shape, dtype=torch.float32 if kept else dtype)
                    module._parameters[name] = nn.Parameter(tensor, requires_grad=ours or lora is None)
            for name, buffer in module._buffers.items():
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return model


def runner_inputs(architecture: Architecture, latent: tuple, text_tokens: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the batch holds of one video's condition, as the transformer's arguments."""
    config, (_, frames, height, width) = architecture.transformer, latent
    patch = config["patch_size"]
    tokens = (frames // patch[0]) * (height // patch[1]) * (width // patch[2])
    given = {
        "timestep": torch.empty(1, tokens) if architecture.expand_timesteps else torch.empty(1),
        "encoder_hidden_states": torch.empty(1, text_tokens, config["text_dim"], dtype=dtype),
    }
    if architecture.image_tokens:
        given["encoder_hidden_states_image"] = torch.empty(
            1, architecture.image_tokens, config["image_dim"], dtype=dtype
        )
    return given


def runner(
    model: nn.Module, architecture: Architecture, latent: tuple, inputs: dict, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """A pass over one video, whose x_t and condition image are joined in float32 as `WanPolicy.forward` has them."""

    def run() -> Tensor:
        hidden = torch.empty(1, architecture.transformer["in_channels"], *latent[1:])
        return model(hidden_states=hidden.to(dtype), **inputs, return_dict=False)[0]

    return run


def size(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
