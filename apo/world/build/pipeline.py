"""Step 4 of `make world`: pipeline folders that plain `WanImageToVideoPipeline.from_pretrained` loads and samples.

`assemble` writes the trained Wan2.2-style pipeline. The `tiny_*` builders write random ones in each of the three
Wan styles, for tests; the Wan2.1-style one is shipped too: `python -m apo.world.build.pipeline`.
"""

from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from apo.interfaces import T
from apo.world.build.text import TEXT_DIM, build_text

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
Z_DIM = 16
BOUNDARY, SHIFT = 0.9, 5.0  # Wan2.2 I2V's expert boundary; its flow shift at 720p
KEY_NORMS = ("attn2.norm_k.weight", "attn2.norm_added_k.weight")


def transformer_config(**changes) -> dict:
    """WanTransformer3DModel's arguments for the shipped Wan2.2-style experts, with `changes`.

    The 36 input channels are x_t (16), the first-frame mask (4) and the encoded first frame (16).
    """
    config = dict(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=64,
        num_layers=4,
        ffn_dim=512,
        in_channels=2 * Z_DIM + 4,
        out_channels=Z_DIM,
        text_dim=TEXT_DIM,
        freq_dim=64,
        rope_max_seq_len=64,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        image_dim=None,
        added_kv_proj_dim=None,
    )
    return config | changes


def assemble(
    folder: Path,
    vae,
    tokenizer,
    text_encoder,
    transformer,
    transformer_2=None,
    boundary_ratio: float | None = BOUNDARY,
    flow_shift: float = SHIFT,
    **extra,
) -> WanImageToVideoPipeline:
    """Saves a complete pipeline as safetensors and returns it as plain diffusers loads it back, having sampled once.

    transformer: the high-noise expert (t >= boundary_ratio * T); transformer_2: the low-noise one.
    One transformer alone takes boundary_ratio=None. extra: image_encoder, image_processor, expand_timesteps.
    """
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=T, flow_shift=flow_shift
    )
    WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        scheduler=scheduler,
        transformer=transformer,
        transformer_2=transformer_2,
        boundary_ratio=boundary_ratio,
        **extra,
    ).save_pretrained(folder)
    pipeline = WanImageToVideoPipeline.from_pretrained(folder)
    smoke(pipeline)
    return pipeline


def smoke(pipeline: WanImageToVideoPipeline) -> None:
    """Samples the smallest video in two steps; RuntimeError if a pixel is not finite."""
    size = 2 * pipeline.transformer.config.patch_size[1] * pipeline.vae_scale_factor_spatial
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(
        image=Image.new("RGB", (size, size), "teal"),
        prompt="the",
        height=size,
        width=size,
        num_frames=5,
        num_inference_steps=2,
        output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).frames
    if not video.isfinite().all():
        raise RuntimeError(f"{pipeline.name_or_path} generates non-finite pixels: check the weights it was built from")


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Refills a module with weights through which every input visibly reaches the output; freezes it.

    Matrices are N(0, 1 / fan-in), 1.7 times PyTorch's default, biases N(0, 0.1²), norm gains N(1, 0.1²); the gain of
    the cross-attention's keys is 3x, or 500 padding tokens would drown the prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "scale_shift_table" in name:
            weight.copy_(noise / weight.shape[-1] ** 0.5)
        elif name.endswith("bias"):
            weight.copy_(0.1 * noise)
        elif weight.squeeze().ndim <= 1 and ("norm" in name or name.endswith("gamma")):
            weight.copy_((3 if name.endswith(KEY_NORMS) else 1) * (1 + 0.1 * noise))
        else:
            weight.copy_(noise / weight[0].numel() ** 0.5)
    return module.eval().requires_grad_(False)


def random_transformer(seed: int, **changes) -> WanTransformer3DModel:
    """A random two-block transformer of width 32."""
    smaller = dict(num_attention_heads=2, attention_head_dim=16, num_layers=2, ffn_dim=64, freq_dim=32)
    return randomise(WanTransformer3DModel(**transformer_config(**(smaller | changes))), seed)


def random_vae(seed: int, z_dim: int = Z_DIM, **changes) -> AutoencoderKLWan:
    """A random VAE, 4x in time and 8x in space unless `changes` say otherwise, with its latents standardised."""
    config = dict(base_dim=4, z_dim=z_dim, dim_mult=[1, 2, 2, 2], num_res_blocks=1, latents_mean=[0.0] * z_dim)
    vae = randomise(AutoencoderKLWan(**(config | dict(latents_std=[1.0] * z_dim) | changes)), seed)
    video = torch.rand(4, 3, 9, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return standardise(vae, video)


@torch.no_grad()
def standardise(vae: AutoencoderKLWan, video: Tensor) -> AutoencoderKLWan:
    """Sets latents_mean and latents_std from the latents of videos (B, 3, F, H, W) in [-1, 1]."""
    latents = vae.encode(video).latent_dist.mean
    # rounded, because convolutions differ in the last bit from one memory alignment to the next
    mean, std = ([round(value, 3) for value in f((0, 2, 3, 4)).tolist()] for f in (latents.mean, latents.std))
    vae.register_to_config(latents_mean=mean, latents_std=std)
    return vae


def random_clip_vision(seed: int) -> tuple[CLIPVisionModel, CLIPImageProcessorPil]:
    """A random image encoder (17 tokens of width 16 from 32 x 32 pixels) and its processor."""
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return randomise(CLIPVisionModel(config), seed), processor


def tiny_wan21(folder: Path) -> WanImageToVideoPipeline:
    """Wan2.1 I2V style: one transformer that also attends to CLIP tokens of the first frame."""
    tokenizer, text_encoder = build_text(folder)
    image_encoder, image_processor = random_clip_vision(seed=1)
    transformer = random_transformer(seed=2, image_dim=image_encoder.config.hidden_size, added_kv_proj_dim=32)
    return assemble(
        folder,
        random_vae(seed=3),
        tokenizer,
        text_encoder,
        transformer,
        boundary_ratio=None,
        image_encoder=image_encoder,
        image_processor=image_processor,
    )


def tiny_wan22(folder: Path) -> WanImageToVideoPipeline:
    """Wan2.2 I2V-A14B style: two experts, the first frame as extra input channels."""
    tokenizer, text_encoder = build_text(folder)
    return assemble(folder, random_vae(seed=4), tokenizer, text_encoder, random_transformer(5), random_transformer(6))


def tiny_ti2v(folder: Path, z_dim: int = 24) -> WanImageToVideoPipeline:
    """Wan2.2 TI2V-5B style: the clean first frame replaces x_t there, at timestep 0; a 16x VAE of `z_dim` channels."""
    tokenizer, text_encoder = build_text(folder)
    vae = random_vae(
        7,
        z_dim,
        decoder_base_dim=8,
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_spatial=16,
    )
    transformer = random_transformer(8, in_channels=z_dim, out_channels=z_dim)
    return assemble(folder, vae, tokenizer, text_encoder, transformer, boundary_ratio=None, expand_timesteps=True)


if __name__ == "__main__":
    tiny_wan21(CHECKPOINTS / "wan21")
