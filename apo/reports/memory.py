"""Peak memory of a window row with chosen and rejected together and in turn, and of decoding a video whole and in
tiles: `python -m apo.reports.memory batch_size=8`.

Takes train.py's overrides. What operations of this process have made and still hold is counted exactly, weights and
gradients left out; on a GPU its allocator's own peak stands beside it.
"""

import sys
from collections.abc import Callable
from dataclasses import replace

import apo.quiet  # noqa: F401  isort: skip
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from apo.config.overrides import composed
from apo.interfaces import Pair, Row
from apo.modules.align import AlignModule
from apo.plan.counting import Live
from apo.policies.codec import WanCodec

BAR = 0.6  # of the joint backward's peak
LARGE = 512  # pixels: the least side of the video that is decoded


def peaks(held: list[torch.Tensor], step: Callable[[], object]) -> dict[str, float]:
    """MiB above what is there before `step`, by name of the count. held: the tensors that are there."""
    before = 0
    if held[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with Live(held) as live:
        step()
    found = {"tensors alive": live.peak / 2**20}
    if held[0].is_cuda:
        found["allocated on the GPU"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return found


def of_a_row(module: AlignModule, pair: Pair, row: Row, split: bool) -> dict[str, float]:
    held = [*module.parameters(), *module.buffers(), *(p.grad for p in module.parameters() if p.grad is not None)]
    held += [pair.chosen, pair.rejected, row.noise]
    held += [value for value in vars(pair.cond).values() if isinstance(value, torch.Tensor)]

    def backward() -> None:
        for part in replace(module.loss, split_backward=split)(module.policy, pair, row):
            part.value.backward()

    return peaks(held, backward)


def of_decoding(codec: WanCodec, latents: torch.Tensor, side: int | None) -> dict[str, float]:
    """side: of the tiles, or None."""
    codec.model = replace(codec.model, decode_tile=side)
    return peaks([latents, *codec.parameters(), *codec.buffers()], lambda: codec.decode(latents))


def module_and_pair(cfg: DictConfig, draw: torch.Generator) -> tuple[AlignModule, Pair]:
    """A stage's module in the middle of its first window, and a batch of noise for pairs."""
    module = instantiate(cfg.module)
    module.to("cuda" if cfg.trainer.accelerator == "gpu" else "cpu").train()
    policy = module.policy
    frames = torch.randint(
        0, 256, (cfg.batch_size, 3, policy.spec.height, policy.spec.width), dtype=torch.uint8, generator=draw
    )
    cond = policy.encode_condition([""] * cfg.batch_size, frames)
    latents = [torch.randn(cfg.batch_size, *policy.codec.latent_shape, generator=draw).to(cond.image) for _ in range(2)]
    for parameter in policy.parameters():  # as in every row but the first
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    return module, Pair(*latents, cond)


def joint_and_split(module: AlignModule, pair: Pair) -> tuple[dict[str, float], dict[str, float]]:
    """The peaks of a window row with chosen and rejected together, and in turn."""
    row = next(module.window.rows(module.policy, pair, step=0))
    return of_a_row(module, pair, row, False), of_a_row(module, pair, row, True)


def main(overrides: list[str]) -> None:
    if {"-h", "--help"} & set(overrides):
        print(__doc__)
        return
    cfg = composed("train", ["stage=offline", *overrides])
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    draw = torch.Generator().manual_seed(0)
    module, pair = module_and_pair(cfg, draw)
    policy, cond = module.policy, pair.cond
    joint, split = joint_and_split(module, pair)
    print(f"{cfg.model.path}, {cfg.batch_size} pairs, gradient_checkpointing={cfg.trainer.gradient_checkpointing}")
    for name in joint:
        ratio = split[name] / joint[name]
        verdict = "met" if ratio <= BAR else "MISSED"
        print(
            f"{name}, MiB: {joint[name]:.1f} together, {split[name]:.1f} in turn: {ratio:.3f} of it, bar {BAR} "
            f"{verdict}"
        )
    channels, frames, *sides = policy.codec.latent_shape
    scale, side = policy.codec.pipeline.vae.config.scale_factor_spatial, policy.model.decode_tile or LARGE // 4
    latents = torch.randn(1, channels, frames, *(max(size, LARGE // scale) for size in sides), generator=draw).to(
        cond.image
    )
    whole, tiled = (of_decoding(policy.codec, latents, tile) for tile in (None, side))
    height, width = (scale * size for size in latents.shape[-2:])
    print(f"decoding {policy.spec.frames} frames of {height} x {width}")
    for name in whole:
        ratio = tiled[name] / whole[name]
        print(f"{name}, MiB: {whole[name]:.1f} whole, {tiled[name]:.1f} in tiles of {side} pixels: {ratio:.3f} of it")


if __name__ == "__main__":
    main(sys.argv[1:])
