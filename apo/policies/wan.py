"""The policy: a Wan image-to-video transformer (one expert or two) with LoRA, and its frozen reference beside it.

One class for Wan2.1 I2V (image encoder, one expert), Wan2.2 I2V-A14B (two experts, routed by noise level) and
Wan2.2 TI2V-5B (the first latent frame is the condition, with t = 0 per token).
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from unittest.mock import patch

import torch
from diffusers import FirstBlockCacheConfig, WanImageToVideoPipeline, WanTransformer3DModel
from peft import LoraConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from apo.config.numbers import Seed, Whole
from apo.flow import denoising_error, to_sigma
from apo.interfaces import Condition, T
from apo.policies import context, sharding
from apo.policies import lora as adapters
from apo.policies.adapter import FILES
from apo.policies.blocks import counting, skipping
from apo.policies.codec import WanCodec
from apo.policies.loading import pipeline_of
from apo.policies.model import LoRA, VideoSpec, WanModel, check_blocks, codec_fingerprint


class WanPolicy(nn.Module):
    """Velocity of x_t under the trained adapter; one copy of the frozen base serves policy and reference.

    lora: rank, alpha, targets of the adapter; None trains all transformer weights (and has no reference).
    adapter: folder of the preceding stage's adapter, from which `policy` starts and which `reference` keeps.
    shard: conf/common/trainer's; None reads all weights now, anything else waits for `shard`.
    context_parallel: processes that share the tokens of a forward, once `shard` was called. offload: see `WanCodec`.
    """

    def __init__(
        self,
        model: WanModel,
        lora: LoRA | None,
        adapter: str | None,
        seed: Seed,
        gradient_checkpointing: bool,
        shard: int | str | None = None,
        context_parallel: Whole = 1,
        offload: bool = False,
    ):
        super().__init__()
        folder = model.folder()
        dtype = {"default": getattr(torch, model.dtype), "vae": torch.float32, "image_encoder": torch.float32}
        later = {} if shard is None else dict.fromkeys(FILES)
        pipeline = pipeline_of(folder, dtype=dtype, **later)
        pipeline.set_progress_bar_config(disable=True)
        self.model, self.scheduler, self.context_parallel = model, pipeline.scheduler, context_parallel
        self.codec = WanCodec(pipeline, model, offload)
        self.experts = nn.ModuleDict()
        for part in FILES:
            if part in later and (folder / part).is_dir():
                self.experts[part] = sharding.without_data(folder / part, dtype["default"])
            elif getattr(pipeline, part) is not None:
                self.experts[part] = getattr(pipeline, part)
        self._check(pipeline)
        self.fingerprint = codec_fingerprint(folder, model)
        self.base_hash = model.base_hash(folder)
        self.kept: set[str] = set()  # names of the adapter's copies
        self.is_shared, self.layers = False, []
        self.requires_grad_(False)
        if lora is None:
            self.experts.requires_grad_(True)
        else:
            self._add_adapters(lora, adapter, seed)
        if gradient_checkpointing:
            for expert in self.experts.values():
                expert.enable_gradient_checkpointing()

    def _check(self, pipeline: WanImageToVideoPipeline) -> None:
        config, vae = self.experts["transformer"].config, pipeline.vae.config
        self.model.spec.check(vae.scale_factor_temporal, vae.scale_factor_spatial * config.patch_size[1])
        self.model.check_boundary(len(self.experts))
        tokens = math.prod(size // patch for size, patch in zip(self.codec.latent_shape[1:], config.patch_size))
        context.require_divisible(self.context_parallel, config.num_attention_heads, tokens)

    def _add_adapters(self, lora: dict, adapter: str | None, seed: int) -> None:
        config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=list(lora["targets"]))
        for index, expert in enumerate(self.experts.values()):
            adapters.add_lora(expert, config, adapters.POLICY, seed * 2 + index)
        self._train(p for key, p in self.experts.named_parameters() if f".{adapters.POLICY}." in key)
        if adapter is not None:
            self.load_adapter(adapter)
            self.keep(adapters.REFERENCE)

    def shard(self, mesh: DeviceMesh) -> None:
        """Reads the weights, spread over the processes of `mesh` (see `apo.policies.sharding.shard`)."""
        if self.context_parallel > 1:
            context.share_tokens(self.experts.values(), self.context_parallel, mesh.device_type)
        for part, expert in self.experts.items():
            sharding.shard(expert, mesh, self.model.folder() / part)
        self.is_shared = True

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, this process can run the policy by itself, also before `shard`. For models that fit it."""
        waiting = {part: expert for part, expert in self.experts.items() if expert.device.type == "meta"}
        for part, expert in waiting.items():
            sharding.fill(expert, self.model.folder() / part, "cpu")
        yield
        for expert in waiting.values():
            sharding.empty(expert)

    def keep(self, name: str) -> None:
        """Adds a frozen copy of the adapter as it is now, which `using` runs and `move` changes; one that is kept
        already stays.

        ValueError without an adapter.
        """
        if not self.layers:
            raise ValueError(
                f"policy.lora=null has no adapter, of which {name} could be a copy: give policy.lora a rank"
            )
        if name in self.kept:
            return
        trained = [parameter for parameter in self.experts.parameters() if parameter.requires_grad]
        for expert in self.experts.values():
            adapters.add_lora(expert, expert.peft_config[adapters.POLICY], name, 0)
        self.kept.add(name)
        self._train(trained)
        self.move(name)

    def move(self, name: str, toward: str = adapters.POLICY, share: float = 1.0) -> None:
        """name ← (1 − share) · name + share · toward, of the adapters' weights."""
        adapters.approach(self.layers, toward, name, share)

    def train_blocks(self, blocks: Sequence[int]) -> None:
        """Trains these transformer blocks' part of the adapter alone. ValueError if that is nothing."""
        trained = [(name, p) for name, p in self.experts.named_parameters() if p.requires_grad]
        kept = [p for name, p in trained if any(f".blocks.{index}." in name for index in blocks)]
        if not kept:
            raise ValueError(
                f"module.blocks={list(blocks)} leaves nothing to train: name blocks that the experts have, or null"
            )
        self._train(kept)

    def _train(self, parameters: Iterable[nn.Parameter]) -> None:
        """Trains these parameters alone; the policy is the adapter of that name."""
        self.experts.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.layers = adapters.tuner_layers(self.experts.values())
        adapters.switch(self.layers, adapters.POLICY)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the policy is in evaluation mode."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def train(self, mode: bool = True) -> "WanPolicy":
        """Training mode for the experts alone: the text encoder has dropout, too, and stays as it is in use."""
        super().train(mode)
        self.codec.eval()
        return self

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Velocity (B, C, F, H, W), float32, at t (B,) in [0, T]; ValueError if t straddles the boundary."""
        expert = self.expert(t)
        t = t.to(x_t.device)
        if self.codec.expand_timesteps:
            known = cond.image[:, :1]
            hidden = known * cond.image[:, 4:] + (1 - known) * x_t
            _, height, width = expert.config.patch_size
            t = ((1 - known)[:, 0, :, ::height, ::width] * t[:, None, None, None]).flatten(1)
        else:
            hidden = torch.cat([x_t, cond.image.to(x_t)], 1)
        velocity = expert(
            hidden_states=hidden.to(expert.dtype),
            timestep=t,
            encoder_hidden_states=cond.text.to(expert.dtype),
            encoder_hidden_states_image=None if cond.image_embeds is None else cond.image_embeds.to(expert.dtype),
            return_dict=False,
        )[0]
        return velocity.float()

    def expert(self, t: Tensor) -> WanTransformer3DModel:
        """The expert for timesteps t (B,): `transformer` at t >= boundary * T, `transformer_2` below."""
        if self.model.boundary is None:
            return self.experts["transformer"]
        high = to_sigma(t) >= self.model.boundary
        if high.any() != high.all():
            raise ValueError(
                f"timesteps {[round(v, 1) for v in t.tolist()]} straddle the expert boundary "
                f"{self.model.boundary * T:g}: "
                "draw each window row from one side"
            )
        return self.experts["transformer" if high.all() else "transformer_2"]

    def error(self, x_t: Tensor, t: Tensor, cond: Condition, target: Tensor) -> Tensor:
        """(B,) denoising error against the velocity `target`, over the latent frames that are generated."""
        first = int(self.codec.expand_timesteps)
        return denoising_error(self(x_t, t, cond)[:, :, first:], target[:, :, first:])

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the policy is the frozen preceding stage: its adapter, or the base model if there was none."""
        with self.using(adapters.REFERENCE if adapters.REFERENCE in self.kept else None):
            yield

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Inside, the policy is a copy that is kept; with None the base model without any adapter."""
        with adapters.using(self.layers, name):
            yield

    @contextmanager
    def skip(self, blocks: Sequence[int], start: int = 0) -> Iterator[None]:
        """Inside, these blocks of every expert are the identity for batch rows from `start` on: STG's weak model.

        For passes without gradients: gradient checkpointing would run the blocks again outside. ValueError for a block
        that is not there, or that context parallelism needs.
        """
        context.require_first_block(blocks, self.context_parallel)
        with ExitStack() as stack:
            for expert in self.experts.values():
                check_blocks(blocks, len(expert.blocks))
                for index in blocks:
                    block = expert.blocks[index]
                    stack.enter_context(patch.object(block, "forward", partial(skipping, block.forward, start)))
            yield

    @contextmanager
    def cached(self, threshold: float | None) -> Iterator[Counter]:
        """Inside, a forward leaves out all blocks but the first if that one's residual differs by less than the share
        `threshold` from the last whole forward's: diffusers' First Block Cache, fresh each time. None: no cache.

        For passes without gradients that follow one trajectory, each in one forward of the same shape. The decision is
        the batch's; ranks that share a model's weights compute a forward whole if one of them would. Gives the numbers
        of blocks "computed" and "due", or one of each without a cache.
        """
        if threshold is None:
            yield Counter(computed=1, due=1)
            return
        blocks = Counter()
        with ExitStack() as stack:
            if self.is_shared:
                stack.enter_context(sharding.one_decision())
            for expert in self.experts.values():
                for block in expert.blocks:
                    computed = partial(counting, block.forward, blocks, "computed")
                    stack.enter_context(patch.object(block, "forward", computed))
                expert.enable_cache(FirstBlockCacheConfig(threshold))
                stack.callback(expert.disable_cache)
                stack.enter_context(expert.cache_context("rollout"))
                for block in expert.blocks:
                    stack.enter_context(patch.object(block, "forward", partial(counting, block.forward, blocks, "due")))
            yield blocks

    @cached_property
    def null_text(self) -> Tensor:
        """(1, L, D) of the negative prompt; made at the first call, on the codec's device."""
        return self.codec.text([self.model.negative_prompt])

    def unconditional(self, cond: Condition) -> Condition:
        """The same condition with the negative prompt's text."""
        text = self.null_text.to(cond.text).expand(len(cond.prompt), -1, -1)
        return replace(cond, prompt=[self.model.negative_prompt] * len(cond.prompt), text=text)

    def encode(self, video: Tensor) -> Tensor:
        return self.codec.encode(video)

    def decode(self, latents: Tensor) -> Tensor:
        return self.codec.decode(latents)

    def encode_condition(self, prompt: list[str], frame: Tensor) -> Condition:
        return self.codec.condition(prompt, frame)

    def save_adapter(self, folder) -> None:
        """Writes the policy's LoRA, or its average if one is kept: a diffusers file per expert. Collective."""
        name = adapters.AVERAGE if adapters.AVERAGE in self.kept else adapters.POLICY
        adapters.save_lora(dict(self.experts), Path(folder), name)

    def load_adapter(self, folder) -> None:
        """Reads what `save_adapter` wrote; UserError says what is damaged or does not fit."""
        adapters.load_lora(dict(self.experts), Path(folder), adapters.POLICY)

    @property
    def spec(self) -> VideoSpec:
        return self.model.spec

    @property
    def max_sequence_length(self) -> int:
        return self.model.max_sequence_length
