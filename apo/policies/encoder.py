"""A policy's frozen parts without its transformers: encodes the user's rows on machines that need not
hold the model.
"""

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from apo.interfaces import Condition
from apo.policies.codec import WanCodec
from apo.policies.loading import pipeline_of
from apo.policies.model import VideoSpec, WanModel, codec_fingerprint


class WanEncoder(nn.Module):
    """Encodes as `WanPolicy` does, bit for bit, and has its fingerprint: what it encodes, training reads."""

    def __init__(self, model: WanModel):
        super().__init__()
        folder = model.folder()
        dtype = {"default": getattr(torch, model.dtype), "vae": torch.float32, "image_encoder": torch.float32}
        pipeline = pipeline_of(folder, transformer=None, transformer_2=None, dtype=dtype)
        patch = WanTransformer3DModel.load_config(folder, subfolder="transformer")["patch_size"]
        vae = pipeline.vae.config
        model.spec.check(vae.scale_factor_temporal, vae.scale_factor_spatial * patch[1])
        self.spec: VideoSpec = model.spec
        self.max_sequence_length = model.max_sequence_length
        self.codec = WanCodec(pipeline, model)
        self.fingerprint = codec_fingerprint(folder, model)
        self.requires_grad_(False).eval()

    def encode(self, video: Tensor) -> Tensor:
        return self.codec.encode(video)

    def encode_condition(self, prompt: list[str], frame: Tensor) -> Condition:
        return self.codec.condition(prompt, frame)
