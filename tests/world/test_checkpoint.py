"""The shipped baseline: plain diffusers loads it, its VAE is not the bottleneck, its flaws are the documented ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline
from PIL import Image

from apo.world import render
from apo.world.grammar import describe
from apo.world.oracle import measure

CHECKPOINTS = Path(__file__).parents[2] / "apo" / "world" / "checkpoints"


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(7)
    return [render.random_clip(rng, "test") for _ in range(48)]


def test_the_repository_carries_at_most_40_mb():
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) < 40e6
    assert not list(CHECKPOINTS.rglob("*.bin"))


def test_ground_truth_survives_the_vae(clips):
    vae = AutoencoderKLWan.from_pretrained(CHECKPOINTS / "wan22" / "vae")
    videos = torch.stack([render.render(clip) for clip in clips])
    with torch.no_grad():
        signed = videos.float().movedim(2, 1) / 127.5 - 1
        decoded = torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample for part in signed.split(16)])
    error = (decoded - signed).square().mean((1, 2, 3, 4))
    assert (10 * torch.log10(4 / error)).mean() > 28
    rebuilt = ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, 2)
    result = measure(rebuilt, [describe(clip.meaning) for clip in clips], videos[:, 0])
    assert result.distorted.sum() <= 1 and result.followed.all()


def test_plain_diffusers_samples_a_video_that_starts_at_its_image(clips):
    pipeline = WanImageToVideoPipeline.from_pretrained(CHECKPOINTS / "wan22")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.transformer_2 is not None and pipeline.config.boundary_ratio == 0.9
    clip = next(clip for clip in clips if clip.meaning.domain == "digit")
    first = render.render(clip)[0]
    video = pipeline(
        image=Image.fromarray(first.permute(1, 2, 0).numpy()),
        prompt=describe(clip.meaning),
        height=64,
        width=64,
        num_frames=9,
        num_inference_steps=20,
        guidance_scale=1.0,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).frames[0]
    assert video.shape == (9, 3, 64, 64)
    assert (video[0] - first.float() / 255).abs().mean() < 0.05
    assert (video[-1] - video[0]).abs().max() > 0.2
