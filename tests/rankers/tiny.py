"""A random Qwen3-VL of a hundred thousand parameters, rankers over it, and pairs to rank."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apo.data.domains import DomainRule
from apo.interfaces import Condition
from apo.policies.model import VideoSpec
from apo.rankers.qwen3_vl import Qwen3VLRanker
from apo.rankers.vlm import TrainableVLM
from apo.world.build.vlm import build_vlm
from apo.world.candidates import FLAWS, clip_of
from apo.world.grammar import describe
from apo.world.render import FPS, render

VISION = dict(
    depth=2, hidden_size=32, num_heads=2, intermediate_size=64, deepstack_visual_indexes=[0], initializer_range=0.2
)
TEXT = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=16,
    initializer_range=0.2,
    rope_parameters={
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    },
)
WORLD = VideoSpec(64, 64, 9, 8)
RULE = DomainRule({"^the camera": "scene"}, "digit", None)
LORA = {"rank": 2, "alpha": 2, "targets": ["q_proj", "v_proj", "qkv"]}


def tiny_base(folder: Path) -> Path:
    build_vlm(folder, VISION, TEXT)
    return folder


def tiny_adapter(base: Path, folder: Path, seed: int, **changes) -> Path:
    """A LoRA adapter that changes the answers."""
    vlm = TrainableVLM(str(base), "float32", 4, FPS, LORA | changes, None, seed, gradient_checkpointing=False)
    for name, weight in vlm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1.0, generator=torch.Generator().manual_seed(seed))
    vlm.save_adapter(folder)
    return folder


def ranker(base: Path, adapter: Path | None = None, **changes) -> Qwen3VLRanker:
    settings = dict(
        path=str(base),
        adapter=None if adapter is None else str(adapter),
        domains=RULE,
        frames=4,
        fps=FPS,
        dtype="float32",
        device="cpu",
        batch_size=4,
        swap_averaging=True,
    )
    return Qwen3VLRanker(**settings | changes)


def world_pairs(count: int, domains: tuple[str, ...] = ("digit", "scene")) -> tuple[Tensor, Tensor, Condition]:
    """Clean against flawed videos of the domains in turn; the conditions do not say their domain."""
    rng = np.random.default_rng(0)
    clips = [clip_of("train", domains[i % len(domains)], 0, i) for i in range(count)]
    first = torch.stack([render(clip) for clip in clips])
    second = torch.stack([FLAWS[clip.meaning.domain][i % 2](clip, rng) for i, clip in enumerate(clips)])
    cond = Condition(
        [describe(clip.meaning) for clip in clips], torch.zeros(count, 1, 1), torch.zeros(count, 1), frame=first[:, 0]
    )
    return first, second, cond
