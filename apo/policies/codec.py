"""Between the user's world and the transformer's: videos to latents and back, prompts and first frames
to conditions.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline
from torch import Tensor, nn

from apo.interfaces import Condition
from apo.policies.model import WanModel

PARTS = ("vae", "text_encoder", "image_encoder")  # names in the pipeline


class WanCodec(nn.Module):
    """The frozen parts of a Wan pipeline around the transformer: VAE, text encoder, CLIP image encoder (Wan2.1).

    offload: the parts stay in CPU memory wherever this module goes, and are on its device only while they work.
    Diffusers' and accelerate's own offloading needs to know that device from the start, and Lightning tells it later.
    """

    def __init__(self, pipeline: WanImageToVideoPipeline, model: WanModel, offload: bool = False):
        super().__init__()
        self.pipeline, self.model, self.spec, self.max_sequence_length = (
            pipeline,
            model,
            model.spec,
            model.max_sequence_length,
        )
        self.offload = offload
        parts = {name: part for name in PARTS if (part := getattr(pipeline, name)) is not None}
        for part in parts.values():
            part.requires_grad_(False).eval()
        self.parts = nn.ModuleDict({} if offload else parts)
        self.expand_timesteps = pipeline.config.expand_timesteps  # TI2V: the first latent frame is the condition itself
        config = pipeline.vae.config
        model.check_tiles(config.scale_factor_spatial)
        self.register_buffer("mean", torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.latents_std).view(1, -1, 1, 1, 1), persistent=False)
        self.eval()

    @contextmanager
    def on_device(self, name: str) -> Iterator[nn.Module]:
        """Inside, a part is on this module's device; afterwards, and if something is raised, where it stays."""
        part = getattr(self.pipeline, name)
        try:
            yield part.to(self.mean.device) if self.offload else part
        finally:
            if self.offload:
                part.to("cpu")

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, F, H, W) of one video's latents."""
        config, spec = self.pipeline.vae.config, self.spec
        frames = (spec.frames - 1) // config.scale_factor_temporal + 1
        return (
            config.z_dim,
            frames,
            spec.height // config.scale_factor_spatial,
            spec.width // config.scale_factor_spatial,
        )

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Normalised latents (B, C, F, H, W) of videos (B, frames, 3, height, width) uint8."""
        return self._latents(_signed(video.to(self.mean.device)).movedim(2, 1))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Videos (B, frames, 3, height, width) uint8 of normalised latents (B, C, F, H, W)."""
        with self.on_device("vae") as vae:
            tile(vae, self.model.decode_tile)
            video = vae.decode((latents.to(self.mean) * self.std + self.mean).to(vae.dtype)).sample
        return ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, 2)

    @torch.no_grad()
    def condition(self, prompt: list[str], frame: Tensor) -> Condition:
        """The condition of prompts and first frames (B, 3, height, width) uint8, as
        WanImageToVideoPipeline builds it.
        """
        frame = frame.to(self.mean.device)
        image = _signed(frame)[:, :, None]
        frames = 1 if self.expand_timesteps else self.spec.frames
        image = torch.cat([image, image.new_zeros(*image.shape[:2], frames - 1, *image.shape[3:])], 2)
        encoded = self._latents(image)
        shape = (len(prompt), 4 + encoded.shape[1], *self.latent_shape[1:])
        cond = encoded.new_zeros(shape)
        cond[:, :4, 0] = 1  # the mask of known frames comes first, four channels for the four frames of a latent step
        cond[:, 4:, : encoded.shape[2]] = encoded
        embeds = None
        if self.pipeline.image_encoder is not None:
            with self.on_device("image_encoder"):
                embeds = self.pipeline.encode_image([f for f in frame.cpu()], self.mean.device)
        return Condition(prompt, self.text(prompt), cond, embeds, frame)

    @torch.no_grad()
    def text(self, prompt: list[str]) -> Tensor:
        """(B, L, D) text embeddings, zero beyond each prompt's tokens."""
        length = self.max_sequence_length
        with self.on_device("text_encoder"):
            return self.pipeline._get_t5_prompt_embeds(prompt, max_sequence_length=length, device=self.mean.device)

    def _latents(self, video: Tensor) -> Tensor:
        with self.on_device("vae") as vae:
            tile(vae, self.model.encode_tile)
            mean = vae.encode(video.to(vae.dtype)).latent_dist.mode()
        return (mean.float() - self.mean) / self.std


def tile(vae: AutoencoderKLWan, side: int | None) -> None:
    """From now on the VAE works on one video at a time, in tiles of side x side pixels that overlap by a quarter and
    are blended there; None: on all at once.

    Videos no larger than a tile are not cut. An encoder of 2 x 2 pixels (Wan2.2 TI2V's) takes tiles of twice the side.
    """
    if side is None:
        vae.disable_tiling()
        vae.disable_slicing()
    else:
        vae.enable_tiling(side, side, side * 3 // 4, side * 3 // 4)
        vae.enable_slicing()


def _signed(pixels: Tensor) -> Tensor:
    """uint8 [0, 255] to float [-1, 1]."""
    return pixels.float() / 127.5 - 1
