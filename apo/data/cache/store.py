"""What the model's frozen parts make of the user's rows, computed once: one safetensors file a pair,
anchor or prompt.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from apo.data.cells import VideoFile
from apo.data.manifest import Problem, Row
from apo.errors import DISK, UserError
from apo.interfaces import Policy
from apo.io.checksums import Checksums, Digests
from apo.io.files import require_no_folder, sweep, write_tensors, write_text
from apo.io.video import Spec, VideoError, read_image, read_video
from apo.terminal import progress

PIXELS = {"frame", "videos"}  # names of uint8 tensors; all others hold real numbers
TENSORS = {"text", "image", "frame"}  # and the videos, and image_embeds where the model has an image encoder


@dataclass
class Built:
    """One rank's share of a build: file name of each row's index, and the rows that turned out to be bad."""

    names: dict[int, str]
    problems: list[Problem]
    encoded: int = 0  # rows that had no sound file yet


class LatentCache:
    """Files `<condition>-<content>.safetensors` in a folder of their own for each fingerprint.

    A file holds the row's videos (C, F, H, W) under their columns' names, text (tokens, D) without its zeros, image
    (4 + C, F, H, W), frame (3, height, width) uint8, image_embeds (tokens, D') where the model has them, all in the
    dtype the policy gives, and prompt, domain and label as metadata. <condition> names what a video is generated from,
    <content> the whole row, both without the model: rows keep their names from model to model.

    fingerprint: changes whenever the policy would encode the same row differently.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self.folder = Path(folder) / hashlib.sha256(fingerprint.encode()).hexdigest()[:16]

    def build(
        self,
        rows: Sequence[Row],
        policy: Policy,
        rank: int = 0,
        world: int = 1,
        thorough: bool = False,
        quiet: bool = False,
    ) -> Built:
        """Encodes those of rows[rank::world] that have no sound file yet. Interrupted, it goes on where it was.

        A bad row doesn't stop the others; it is reported in the result. No collective calls. thorough: files that are
        there are read whole, see `flaw`; otherwise their headers.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        digest, checksums = (
            Digests(self.folder.parent, f"{rank}of{world}"),
            Checksums(self.folder, f"rank{rank}of{world}"),
        )
        built = Built({}, [])
        for index in progress(range(rank, len(rows), world), desc="encoding", disable=quiet or rank > 0):
            row = rows[index]
            try:
                name = file_name(row, digest)
                path = self.folder / name
                if thorough and path.is_file() and (wrong := flaw(path, checksums)):
                    print(f"{path}: {wrong}; it is encoded anew", flush=True)
                    path.unlink()
                if not is_sound(path, row):
                    write_tensors(path, encode(row, policy), row.texts())
                    checksums.record(path)
                    built.encoded += 1
                built.names[index] = name
            except VideoError as error:
                built.problems.append(Problem(row.line, str(error)))
            except OSError as error:
                if error.errno in DISK:  # of the cache's own disk, which no row can help
                    raise
                built.problems.append(Problem(row.line, str(error)))
        return built


class Verified:
    """Makes sure of cache files before they are used: each is read whole once in a process, and encoded anew if it is
    damaged.

    rows: by the names of their files.
    """

    def __init__(self, cache: LatentCache, rows: dict[str, Row], policy: Policy, writer: str):
        self.rows, self.policy, self.checksums = rows, policy, Checksums(cache.folder, writer)
        self.seen: set[str] = set()

    def __call__(self, path: Path) -> None:
        """UserError if the file is damaged and its row can't be encoded any more."""
        if path.name in self.seen:
            return
        if wrong := flaw(path, self.checksums):
            print(f"{path}: {wrong}; it is encoded anew", flush=True)
            row = self.rows[path.name]
            write_tensors(path, encode(row, self.policy), row.texts())
            self.checksums.record(path)
        self.seen.add(path.name)


def flaw(path: Path, checksums: Checksums) -> str | None:
    """What is wrong with the bytes or the numbers of a file of tensors; reads it whole."""
    require_no_folder(path)
    try:
        if not checksums.holds(path):
            return "its bytes are not those that were written"
        with safe_open(path, "pt") as file:
            return next(filter(None, (wrong_numbers(name, file.get_tensor(name)) for name in file.keys())), None)
    except FileNotFoundError:
        return "it is missing"
    except SafetensorError as error:
        return f"it is no whole safetensors file ({error})"


def wrong_numbers(name: str, tensor: Tensor) -> str | None:
    if name in PIXELS:
        return None if tensor.dtype == torch.uint8 else f"{name} is {tensor.dtype}, pixels are uint8"
    if not tensor.is_floating_point():
        return f"{name} is {tensor.dtype}, no real numbers"
    return None if tensor.isfinite().all() else f"{name} has NaN or infinite numbers"


def fingerprint(policy: Policy) -> str:
    """Of the policy's frozen parts, its spec and the length that it cuts prompts to."""
    spec, length = policy.spec, policy.max_sequence_length
    size = f"{spec.height}x{spec.width}" if spec.fit == "crop" else f"{spec.height}x{spec.width} {spec.fit}"
    return f"{policy.fingerprint} {size} {spec.frames} frames {spec.fps:g} fps {length} tokens"


@torch.no_grad()
def encode(row: Row, policy: Policy) -> dict[str, Tensor]:
    """What a cache file holds. VideoError if the row's files turn out not to be usable."""
    spec: Spec = policy.spec
    paths = row.files(VideoFile)
    videos = [
        read_video(path, spec.height, spec.width, spec.frames, spec.fps, row.segment, spec.fit)
        for path in paths.values()
    ]
    if len(videos) == 2 and torch.equal(*videos):
        raise VideoError(f"{' and '.join(map(str, paths.values()))} show the same frames: drop the row")
    frame = read_image(row.image, spec.height, spec.width, spec.fit) if row.image else videos[0][0]
    latents = policy.encode(torch.stack(videos)) if videos else ()
    cond = policy.encode_condition([row.prompt], frame[None])
    tokens = cond.text[0].ne(0).any(-1).nonzero()
    length = int(tokens[-1]) + 1 if len(tokens) else 1
    tensors = dict(zip(paths, latents)) | {"text": cond.text[0, :length], "image": cond.image[0]}
    if cond.image_embeds is not None:
        tensors["image_embeds"] = cond.image_embeds[0]
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"row {row.line}: {name} of {row.prompt!r} is not finite: try model.dtype=float32")
    return {name: tensor.cpu().contiguous() for name, tensor in (tensors | {"frame": frame}).items()}


def load_or_make(done: Path, make, checksums: Checksums):
    """What `make()` returned, from the JSON file `done` if it is there and whole: an interrupted build goes on after
    its last batch.
    """
    try:
        if checksums.holds(done):
            return json.loads(done.read_text())
        print(f"{done}: its bytes are not those that were written; it is made anew", flush=True)
    except FileNotFoundError:
        pass
    except (ValueError, RecursionError) as error:
        print(f"{done}: not JSON ({error}); it is made anew", flush=True)
    write_text(done, json.dumps(make()))
    checksums.record(done)
    return json.loads(done.read_text())


def is_sound(path: Path, row: Row) -> bool:
    """Whether a cache file is there, whole (its header fits its size) and labelled as the manifest says today."""
    require_no_folder(path)  # safetensors would call it a device
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() == row.texts() and TENSORS | row.files(VideoFile).keys() <= set(file.keys())
    except (FileNotFoundError, SafetensorError):
        return False


def file_name(row: Row, digest) -> str:
    """digest: sha256 of a file, in hexadecimal."""
    videos = [digest(path) for path in row.files(VideoFile).values()]
    condition = f"{row.prompt}\n{digest(row.image) if row.image else f'{videos[0]} {row.segment}'}"
    labels = [text for name, text in row.texts().items() if name not in ("prompt", "domain")]
    content = "\n".join([condition, *videos, *labels, str(row.segment)])
    return f"{text_digest(condition)[:12]}-{text_digest(content)[:32]}.safetensors"


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
