"""What a Wan model is made of, from its pipeline folder or, where none is on this disk, from what was published."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apo.policies.model import VideoSpec, WanModel

UMT5_XXL = dict(
    vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, is_encoder_decoder=False
)
CLIP_H = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14)
VAE_5B = dict(
    base_dim=160,
    decoder_base_dim=256,
    z_dim=48,
    is_residual=True,
    in_channels=12,
    out_channels=12,
    patch_size=2,
    scale_factor_spatial=16,
    latents_mean=[0.0] * 48,
    latents_std=[1.0] * 48,
)


@dataclass(frozen=True)
class Architecture:
    """transformer: WanTransformer3DModel's arguments, the same for each expert. vae, text and image: those of
    AutoencoderKLWan, UMT5Config and, if there is an image encoder, CLIPVisionConfig.
    """

    transformer: dict
    experts: int
    channels: int  # of the latents
    temporal: int  # pixels per latent, in time and in space
    spatial: int
    image_tokens: int = 0  # of the CLIP image encoder (Wan2.1)
    expand_timesteps: bool = False  # a timestep for each token (TI2V)
    vae: dict = field(default_factory=dict)
    text: dict = field(default_factory=lambda: UMT5_XXL)
    image: dict | None = None

    def latent_shape(self, spec: VideoSpec) -> tuple[int, int, int, int]:
        """(C, F, H, W); ValueError names the nearest size if the VAE or the patches don't divide the video's."""
        spec.check(self.temporal, self.spatial * self.transformer["patch_size"][1])
        return (
            self.channels,
            (spec.frames - 1) // self.temporal + 1,
            spec.height // self.spatial,
            spec.width // self.spatial,
        )

    def tokens(self, spec: VideoSpec) -> int:
        _, frames, height, width = self.latent_shape(spec)
        patch = self.transformer["patch_size"]
        return (frames // patch[0]) * (height // patch[1]) * (width // patch[2])

    @property
    def heads(self) -> int:
        return self.transformer["num_attention_heads"]

    @property
    def width(self) -> int:
        return self.heads * self.transformer["attention_head_dim"]


SHARED = dict(
    patch_size=(1, 2, 2),
    attention_head_dim=128,
    text_dim=4096,
    freq_dim=256,
    cross_attn_norm=True,
    qk_norm="rms_norm_across_heads",
    eps=1e-6,
    rope_max_seq_len=1024,
)
WAN_14B = SHARED | dict(num_attention_heads=40, num_layers=40, ffn_dim=13824, in_channels=36, out_channels=16)
WAN_5B = SHARED | dict(num_attention_heads=24, num_layers=30, ffn_dim=14336, in_channels=48, out_channels=48)

# The config.json of the published folders' parts, after diffusers' scripts/convert_wan_to_diffusers.py
PUBLISHED = {
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": Architecture(WAN_14B, experts=2, channels=16, temporal=4, spatial=8),
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": Architecture(
        WAN_14B | dict(image_dim=1280, added_kv_proj_dim=5120),
        experts=1,
        channels=16,
        temporal=4,
        spatial=8,
        image_tokens=257,
        image=CLIP_H,
    ),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": Architecture(
        WAN_5B, experts=1, channels=48, temporal=4, spatial=16, expand_timesteps=True, vae=VAE_5B
    ),
}


def architecture_of(model: WanModel) -> Architecture:
    """Of model.path; ValueError if it is neither a folder on this disk nor a model that was published."""
    if (folder := model.local()) is not None:
        return read(folder)
    if model.path not in PUBLISHED:
        raise ValueError(
            f"model.path={model.path}: no folder here, and its sizes are not known; give a pipeline folder (config "
            "files are "
            f"enough), or one of {', '.join(PUBLISHED)}"
        )
    return PUBLISHED[model.path]


def fitting(model: WanModel) -> Architecture | None:
    """What the model is made of, or None if that is not known before it is downloaded. ValueError for videos, tiles or
    a boundary that it can't have.
    """
    if model.local() is None and model.path not in PUBLISHED:
        return None
    architecture = architecture_of(model)
    architecture.latent_shape(model.spec)
    model.check_tiles(architecture.spatial)
    model.check_boundary(architecture.experts)
    return architecture


def read(folder: Path) -> Architecture:
    """Of a pipeline folder, from its config files alone; ValueError for one that is not there or can't be read."""
    found = []
    for file in ("model_index.json", *CONFIGS):
        try:
            found.append(json.loads((folder / file).read_text()))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model.path={folder}: {file} is missing or damaged ({error}): copy the pipeline folder again"
            ) from None
    index, transformer, vae, text = found
    clip = folder / "image_encoder" / "config.json"
    image = json.loads(clip.read_text()) if clip.is_file() else None
    return Architecture(
        public(transformer),
        experts=1 + (index.get("transformer_2", [None])[0] is not None),
        channels=vae["z_dim"],
        temporal=vae.get("scale_factor_temporal", 4),
        spatial=vae.get("scale_factor_spatial", 8),
        image_tokens=0 if image is None else clip_tokens(image),
        expand_timesteps=bool(index.get("expand_timesteps")),
        vae=public(vae),
        text=text,
        image=image,
    )


CONFIGS = ("transformer/config.json", "vae/config.json", "text_encoder/config.json")


def public(config: dict) -> dict:
    """What a class is built with, without diffusers' own notes."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def clip_tokens(config: dict) -> int:
    return (config["image_size"] // config["patch_size"]) ** 2 + 1


ATTENTION = ("to_k", "to_out.0", "to_q", "to_v")


def linear_layers(transformer: dict) -> list[str]:
    """Names of the linear layers of a WanTransformer3DModel of these arguments, without building it."""
    added = ["add_k_proj", "add_v_proj"] if transformer.get("added_kv_proj_dim") else []
    block = [f"attn1.{name}" for name in ATTENTION] + [f"attn2.{name}" for name in (*ATTENTION, *added)]
    around = [
        "time_embedder.linear_1",
        "time_embedder.linear_2",
        "time_proj",
        "text_embedder.linear_1",
        "text_embedder.linear_2",
    ]
    around += ["image_embedder.ff.net.0.proj", "image_embedder.ff.net.2"] if transformer.get("image_dim") else []
    return [
        *(f"condition_embedder.{name}" for name in around),
        "proj_out",
        *(
            f"blocks.{i}.{name}"
            for i in range(transformer["num_layers"])
            for name in (*block, "ffn.net.0.proj", "ffn.net.2")
        ),
    ]


def check_targets(targets: Sequence[str], architecture: Architecture) -> None:
    """ValueError for a LoRA target that the transformer lacks; peft itself asks that one of them is there."""
    layers = linear_layers(architecture.transformer)
    if lacking := [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in layers)]:
        raise ValueError(
            f"policy.lora.targets: the model has no layer {lacking[0]}; give some of {', '.join(ATTENTION)}, ..."
        )
