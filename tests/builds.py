"""Random tiny pipelines and the inputs that suit them, for tests of every part that touches a Wan model."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

PROMPT = "the red digit five moves up quickly"


@dataclass(frozen=True)
class Spec:
    """The smallest video with more than one token per axis, and height unequal to width."""

    height: int
    width: int
    frames: int = 9


SPECS = {"wan21": Spec(32, 48), "wan22": Spec(32, 48), "ti2v": Spec(64, 96)}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first_frame(spec: Spec, seed: int = 0) -> Image.Image:
    """An RGB image of noise. PIL, because the pipeline's CLIP processor divides a float tensor by 255 once more."""
    pixels = torch.randint(0, 256, (spec.height, spec.width, 3), dtype=torch.uint8, generator=seeded(seed))
    return Image.fromarray(pixels.numpy())


def load(folder: Path) -> WanImageToVideoPipeline:
    pipeline = WanImageToVideoPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: WanImageToVideoPipeline, spec: Spec, **changes) -> torch.Tensor:
    """Latents (1, C, F, H, W) of plain diffusers after four steps at guidance scale 3, of a fixed seed."""
    arguments = dict(
        image=first_frame(spec),
        prompt=PROMPT,
        height=spec.height,
        width=spec.width,
        num_frames=spec.frames,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=seeded(1),
        output_type="latent",
    )
    return pipeline(**(arguments | changes)).frames
