"""What the parts around the transformer take on the device: weights, and what the VAE holds while it decodes."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch

from apo.plan.counting import Live, size
from apo.policies.architecture import Architecture
from apo.policies.model import WanModel

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan


@dataclass(frozen=True)
class Frozen:
    """Bytes. One video's decoding, beyond weights; the VAE is float32 whatever the rest is."""

    weights: float  # of VAE, text encoder and image encoder
    vae: float  # of the VAE alone
    decoding: float  # at the peak of what the VAE does for a video
    video: float  # that comes out
    sliced: bool  # videos are decoded one after the other

    def at_the_peak(self, videos: int) -> float:
        """Of decoding so many videos and turning them into pixels, which takes three times their size."""
        if videos == 0:
            return 0.0
        decoding = (videos - 1) * self.video + self.decoding if self.sliced else videos * self.decoding
        return max(decoding, 3 * videos * self.video)


def frozen(architecture: Architecture, model: WanModel) -> Frozen:
    """Of a model's videos, from the parts' own code run on tensors without data."""
    from diffusers import AutoencoderKLWan  # takes seconds, and settings are refused before
    from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        vae = AutoencoderKLWan(**architecture.vae)
        text = UMT5EncoderModel(UMT5Config(**architecture.text)).to(getattr(torch, model.dtype))
        image = None if architecture.image is None else CLIPVisionModel(CLIPVisionConfig(**architecture.image))
    parts = [size(list(part.parameters())) for part in (vae, text, image) if part is not None]
    side, spec = model.decode_tile, model.spec
    model.check_tiles(architecture.spatial)
    latent = architecture.latent_shape(spec)
    video = 3 * 4 * spec.frames * spec.height * spec.width
    if side is None or max(spec.height, spec.width) <= side:
        three, four = (alive(vae, (latent[0], frames, *latent[2:])) for frames in (3, 4))
        decoding = three + (latent[1] - 3) * (four - three)
    else:
        tile = [min(side, length) for length in (spec.height, spec.width)]
        tiles = 3 * 4 * spec.frames * prod(covered(length, side) for length in (spec.height, spec.width))
        work = alive(vae, (latent[0], 3, *(length // architecture.spatial for length in tile)))
        decoding = tiles + max(work, 3 * video)  # blended rows, the video, the clamped video
    return Frozen(sum(parts), parts[0], decoding, video, side is not None)


@torch.no_grad()
def alive(vae: "AutoencoderKLWan", latent: tuple[int, ...]) -> float:
    """Bytes at the peak of decoding latents (C, F, H, W)."""
    latents = torch.empty(1, *latent, device="meta")
    with Live([*vae.parameters(), *vae.buffers(), latents]) as live:
        vae.decode(latents)
    return live.peak


def covered(length: int, side: int) -> int:
    """Pixels along an axis of all tiles together, overlaps counted in each."""
    return sum(min(side, length - start) for start in range(0, length, side * 3 // 4))
