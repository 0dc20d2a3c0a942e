"""What a model is: a pipeline folder and the numbers that sampling from it needs (conf/common/model/*.yaml)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from apo.config.numbers import Filled, Finite, Null, Positive, Range, Rank, Rows, Share, Size, Text, Whole
from apo.errors import UserError
from apo.places import ROOT
from apo.policies.folder import check_folder, check_weights

HUB_S = 10  # seconds to wait for the hub's first word
DTYPES = ("float32", "bfloat16", "float16")
Dtype = Literal["float32", "bfloat16", "float16"]
Targets = Annotated[tuple[str, ...], Filled()]  # names of linear layers
Boundary = Annotated[Share | None, Null("for a model with one expert")]
Rate = Annotated[float, Range(0, 1000, above=True)]  # frames per second


class LoRA(TypedDict):
    """An adapter's shape, as policy.lora and vlm.lora have it."""

    rank: Rank
    alpha: Positive
    targets: Targets


class Omega(TypedDict):
    """CFG strengths of the high- and the low-noise expert."""

    high: Finite
    low: Finite


class STG(TypedDict):
    """λ, the blocks to skip, and whether predictions are batched, of guidance=cfg_stg."""

    lambda_: Finite
    blocks: tuple[Whole, ...]
    batched: bool


@dataclass(frozen=True)
class VideoSpec:
    """Pixels and time of every video: height, width, frames, frames per second. fit: what becomes of the user's videos
    and images of another shape, `crop` (to the centre) or `pad` (with black bars).
    """

    height: Size
    width: Size
    frames: Size
    fps: Rate
    fit: Literal["crop", "pad"] = "crop"  # YAML files of the user's own need not name it

    def __post_init__(self):
        if self.fit not in ("crop", "pad"):
            raise UserError(f"model.spec.fit={self.fit}: give crop or pad")

    @classmethod
    def of(cls, spec):
        """A spec as it is, or of what a YAML file says, which may leave out what has a default."""
        return cls(**spec) if isinstance(spec, Mapping) else spec

    def check(self, temporal: int, spatial: int) -> None:
        """ValueError unless the VAE (temporal, spatial factor times patch) divides the sizes; names the nearest that it
        can.
        """
        if (self.frames - 1) % temporal or self.frames < 1:
            near = max(round((self.frames - 1) / temporal), 0) * temporal + 1
            raise ValueError(
                f"model.spec.frames={self.frames}: must be a multiple of {temporal} plus 1; the nearest is {near}"
            )
        for name in ("height", "width"):
            size = getattr(self, name)
            if size % spatial or size <= 0:
                near = max(round(size / spatial), 1) * spatial
                raise ValueError(f"model.spec.{name}={size}: must be a multiple of {spatial}; the nearest is {near}")


@dataclass(frozen=True)
class WanModel:
    """A Wan image-to-video pipeline in diffusers' layout with its sampling defaults."""

    path: Text  # a local folder, relative to the working directory or the repository, or a hub id
    spec: VideoSpec
    shift: Positive  # s of Eq. 5 at inference
    num_inference_steps: Rows
    boundary: Boundary  # share of T from which the high-noise expert (`transformer`) acts; None for one expert
    omega: Omega  # CFG strength (guidance scale − 1) of the high- and the low-noise expert
    max_sequence_length: Size  # text tokens
    negative_prompt: str
    lora_targets: Targets  # names of the linear layers that LoRA adapts
    dtype: Dtype  # of the frozen weights of transformer and text encoder; the VAE is float32
    stg: STG | None = None  # λ, the blocks to skip and whether predictions are batched, of guidance=cfg_stg
    decode_tile: Size | None = (
        None  # side in pixels of the tiles that videos are decoded in, see `apo.policies.codec.tile`; None: whole
    )
    encode_tile: Size | None = None  # of those that they are encoded in

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ValueError(f"model.dtype={self.dtype}: give one of {', '.join(DTYPES)}")
        object.__setattr__(self, "spec", VideoSpec.of(self.spec))

    def local(self) -> Path | None:
        """The pipeline folder if there is one on this disk."""
        return next((p for p in (Path(self.path), ROOT / self.path) if (p / "model_index.json").is_file()), None)

    def check(self) -> None:
        """Cheap checks before anything is loaded; ValueError names the field and the remedy."""
        looks_local = self.path.startswith((".", "/", "apo/", "outputs/")) or self.path.count("/") != 1
        if self.local() is None and looks_local:
            raise ValueError(
                f"model.path={self.path}: no model_index.json there; give a folder in diffusers' layout, or a hub id "
                "such as Wan-AI/Wan2.2-I2V-A14B-Diffusers"
            )
        if self.local() is not None:
            check_folder(self.local())

    def check_weights(self) -> None:
        """UserError if the folder is on this disk and lacks weights; `check` lets config files alone pass, which are
        enough for a plan.
        """
        if (folder := self.local()) is not None:
            check_weights(folder)

    def check_tiles(self, spatial: int) -> None:
        """ValueError unless tiles, and the quarters that they overlap by, are whole latents of a VAE's
        spatial factor.
        """
        for name in ("decode_tile", "encode_tile"):
            side = getattr(self, name)
            if side is not None and (side <= 0 or side % (4 * spatial)):
                raise ValueError(f"model.{name}={side}: give a multiple of {4 * spatial}, or null to have no tiles")

    def check_boundary(self, experts: int) -> None:
        """ValueError unless two experts have a boundary, and one has none."""
        if (self.boundary is None) != (experts == 1):
            raise ValueError(
                f"model.boundary={self.boundary} but {self.path} has {experts} expert(s): "
                "set a boundary for two experts (0.9 for Wan2.2 I2V-A14B) and null for one"
            )

    @staticmethod
    def base_hash(folder: Path) -> str:
        """Of the transformers in a pipeline folder: what an adapter is trained over."""
        return fingerprint(folder, ("transformer", "transformer_2"))

    def folder(self) -> Path:
        """The pipeline folder, downloaded from the hub if it is not on this disk."""
        if (local := self.local()) is not None:
            return local
        return downloaded(self.path)


@cache
def downloaded(path: str) -> Path:
    """The folder of a pipeline of the hub, which is asked once in a process; UserError if it has no
    answer in seconds.
    """
    from diffusers import WanImageToVideoPipeline
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        if try_to_load_from_cache(path, "model_index.json") is None:
            HfApi().model_info(path, timeout=HUB_S)  # the pipeline's own way tries for minutes
    except Exception as error:  # whatever the hub and the network may say
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model.path={path}: not on this disk, and the hub does not give it ({reason}); download it elsewhere and "
            "give its folder "
            "as model.path"
        ) from error
    folder = Path(WanImageToVideoPipeline.download(path, use_safetensors=True))
    check_folder(folder)
    return folder


def check_blocks(blocks: Sequence[int], count: int, name: str = "guidance.blocks") -> None:
    """ValueError unless all are among the `count` transformer blocks of an expert. name: of the setting."""
    if wrong := [index for index in blocks if not 0 <= index < count]:
        raise ValueError(
            f"{name}={list(blocks)}: there is no block {wrong[0]}; the model has {count}, give 0 to {count - 1}"
        )


CODEC_PARTS = ("vae", "text_encoder", "tokenizer", "image_encoder", "image_processor")


def codec_fingerprint(folder: Path, model: WanModel) -> str:
    """Of a pipeline's parts around the transformer, as the model uses them: what their encodings depend on."""
    tiles = "" if model.encode_tile is None else f"-tiles{model.encode_tile}"
    return f"{fingerprint(folder, CODEC_PARTS)}-{model.dtype}{tiles}"


def fingerprint(folder: Path, parts: tuple[str, ...], besides: str | None = None) -> str:
    """Hex digest of a pipeline's named parts: file names, sizes and the first MiB of each (headers and weights).

    besides: name of files that change nothing of what a model gives, and are left out.
    """
    digest = hashlib.sha256()
    for file in sorted(f for part in parts for f in (folder / part).rglob("*") if f.is_file() and f.name != besides):
        digest.update(f"{file.relative_to(folder)} {file.stat().st_size} ".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
    return digest.hexdigest()[:16]
