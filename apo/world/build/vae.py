"""Step 1 of `make world`: an AutoencoderKLWan for the world's videos (4x in time, 8x in space, 16 channels)."""

from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from apo.world import flaws, render
from apo.world.build.loop import train

STEPS = 3200
CONFIG = dict(
    base_dim=16,
    z_dim=16,
    dim_mult=[1, 2, 2],
    num_res_blocks=1,
    temperal_downsample=[True, True],
    is_residual=True,
    patch_size=2,
    in_channels=12,
    out_channels=12,
    scale_factor_temporal=4,
    scale_factor_spatial=8,
)
FLAWS = {
    "digit": (*flaws.PLANTED["digit"], flaws.recolour, flaws.repaint, flaws.flicker),
    "scene": (*flaws.PLANTED["scene"], flaws.flicker),
}


def clip_video(rng: np.random.Generator, flawed: float = 0.3) -> tuple[Tensor, Tensor]:
    """A random video (3, F, 64, 64) in [-1, 1] and its weight (F, 64, 64): errors on the digit count 4x."""
    clip = render.random_clip(rng)
    domain = clip.meaning.domain
    video = render.render(clip)
    if rng.random() < flawed:
        video = FLAWS[domain][rng.integers(len(FLAWS[domain]))](clip, rng)
    weight = torch.ones(render.FRAMES, render.SIZE, render.SIZE)
    if domain == "digit":
        weight += 3 * ((video.float() - render.gradient(clip.background)).abs().amax(1) > 20)
    return video.float().movedim(1, 0) / 127.5 - 1, weight


def batch_at(step: int, size: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng([11, step])
    videos, weights = zip(*(clip_video(rng) for _ in range(size)))
    return torch.stack(videos), torch.stack(weights)[:, None]


def build(folder: Path, steps: int = STEPS) -> AutoencoderKLWan:
    """Trains (or resumes, or loads) the VAE and sets its latents' mean and standard deviation."""
    torch.manual_seed(11)
    vae = AutoencoderKLWan(**CONFIG)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=1e-4)

    def loss_at(step: int) -> Tensor:
        video, weight = batch_at(step, 8)
        with torch.autocast("cpu", torch.bfloat16, enabled=step < 0.9 * STEPS):
            mean = vae.encode(video).latent_dist.mean
            noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(step))
            recon = vae.decode(mean + 0.03 * noise).sample
        error = (weight * (recon.float() - video).square()).sum() / (3 * weight.sum())
        return error + 1e-5 * mean.float().square().mean()

    train("vae", folder, vae, [optimizer], steps, loss_at)
    vae.eval()
    with torch.no_grad():
        videos = torch.cat([batch_at(10**6 + i, 16)[0] for i in range(16)])
        latents = torch.cat([vae.encode(v).latent_dist.mean for v in videos.split(16)])
    vae.register_to_config(
        latents_mean=latents.mean((0, 2, 3, 4)).tolist(), latents_std=latents.std((0, 2, 3, 4)).tolist()
    )
    vae.save_pretrained(folder / "vae")
    return vae


if __name__ == "__main__":
    build(Path("outputs/world"))
