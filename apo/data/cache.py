"""What the model's frozen parts make of the user's pairs, computed once: one safetensors file a pair."""

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from apo.data.manifest import PairRow, Problem
from apo.data.video import Spec, VideoError, read_image, read_video
from apo.interfaces import Policy

TENSORS = {"chosen", "rejected", "text", "image", "frame"}  # and image_embeds, where the model has an image encoder


@dataclass
class Built:
    """One rank's share of a build: file name of each row's index, and the rows that turned out to be bad."""

    names: dict[int, str]
    problems: list[Problem]


class LatentCache:
    """Files `<condition>-<content>.safetensors` in a folder of their own for each fingerprint.

    A file holds chosen and rejected (C, F, H, W), text (tokens, D) without its zeros, image (4 + C, F, H, W), frame
    (3, height, width) uint8, image_embeds (tokens, D') where the model has them, all in the dtype the policy gives,
    and prompt and domain as metadata. <condition> names what a video is generated from, <content> the whole pair, both
    without the model: pairs keep their names from model to model.

    fingerprint: changes whenever the policy would encode the same pair differently.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self.folder = Path(folder) / hashlib.sha256(fingerprint.encode()).hexdigest()[:16]

    def build(self, rows: Sequence[PairRow], policy: Policy, rank: int = 0, world: int = 1) -> Built:
        """Encodes those of rows[rank::world] that have no sound file yet. Interrupted, it goes on where it was.

        A bad row doesn't stop the others; it is reported in the result. No collective calls.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = cache(file_digest)  # the same video is often in many pairs
        built = Built({}, [])
        for index in tqdm(range(rank, len(rows), world), desc="encoding pairs", disable=rank > 0):
            row = rows[index]
            try:
                name = file_name(row, digest)
                metadata = {"prompt": row.prompt, "domain": row.domain or ""}
                if not is_sound(self.folder / name, metadata):
                    save(self.folder / name, encode(row, policy), metadata)
                built.names[index] = name
            except (VideoError, OSError) as error:
                built.problems.append(Problem(row.line, str(error)))
        return built


def fingerprint(policy: Policy) -> str:
    """Of the policy's frozen parts, its spec and the length that it cuts prompts to."""
    spec, length = policy.spec, policy.max_sequence_length
    return f"{policy.fingerprint} {spec.height}x{spec.width} {spec.frames} frames {spec.fps:g} fps {length} tokens"


@torch.no_grad()
def encode(row: PairRow, policy: Policy) -> dict[str, Tensor]:
    """What a cache file holds. VideoError if the row's files turn out not to be usable."""
    spec: Spec = policy.spec
    shape = spec.height, spec.width, spec.frames, spec.fps
    chosen, rejected = (read_video(path, *shape, row.segment) for path in (row.chosen, row.rejected))
    if torch.equal(chosen, rejected):
        raise VideoError(f"{row.chosen} and {row.rejected} show the same frames: drop the row")
    frame = read_image(row.image, spec.height, spec.width) if row.image else chosen[0]
    latents = policy.encode(torch.stack([chosen, rejected]))
    cond = policy.encode_condition([row.prompt], frame[None])
    tokens = cond.text[0].ne(0).any(-1).nonzero()
    length = int(tokens[-1]) + 1 if len(tokens) else 1
    tensors = {"chosen": latents[0], "rejected": latents[1], "text": cond.text[0, :length], "image": cond.image[0]}
    if cond.image_embeds is not None:
        tensors["image_embeds"] = cond.image_embeds[0]
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"line {row.line}: {name} of {row.chosen} is not finite: try model.dtype=float32")
    return {name: tensor.cpu().contiguous() for name, tensor in (tensors | {"frame": frame}).items()}


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Complete or not there at all, whoever kills the process and whoever else writes the same file."""
    partial = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
    save_file(tensors, partial, metadata)
    os.replace(partial, path)


def is_sound(path: Path, metadata: dict[str, str]) -> bool:
    """Whether a cache file is there, whole (its header fits its size) and labelled as the manifest says today."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() == metadata and TENSORS <= set(file.keys())
    except (FileNotFoundError, SafetensorError):
        return False


def file_name(row: PairRow, digest) -> str:
    """digest: sha256 of a file, in hexadecimal."""
    first = digest(row.image) if row.image else f"{digest(row.chosen)} {row.segment}"
    condition = f"{row.prompt}\n{first}"
    content = f"{condition}\n{digest(row.chosen)}\n{digest(row.rejected)}\n{row.segment}"
    return f"{text_digest(condition)[:12]}-{text_digest(content)[:32]}.safetensors"


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
