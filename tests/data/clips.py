"""Videos, manifests and a policy small enough to test the data layer in seconds."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import torch
from safetensors.torch import load_file
from torch import Tensor

from apo.interfaces import Condition

GRAY = 4  # gray levels from one counted frame to the next


@dataclass(frozen=True)
class Spec:
    height: int = 16
    width: int = 24
    frames: int = 5
    fps: float = 8
    fit: str = "crop"


SIZES = {"height": 16, "width": 24, "frames": 5, "fps": 8}  # the same without what has a default


class FakePolicy:
    """Encodes by averaging; counts the videos it was asked for."""

    def __init__(self, spec: Spec = Spec(), fingerprint: str = "fake", embeds: bool = False):
        self.spec, self.fingerprint, self.embeds = spec, fingerprint, embeds
        self.max_sequence_length = 8
        self.encoded = 0

    def encode(self, video: Tensor) -> Tensor:
        assert video.shape[1:] == (self.spec.frames, 3, self.spec.height, self.spec.width)
        assert video.dtype == torch.uint8
        self.encoded += len(video)
        return video[:, ::4, :, ::8, ::8].movedim(2, 1).bfloat16() / 255

    def encode_condition(self, prompt: list[str], frame: Tensor) -> Condition:
        text = torch.zeros(len(prompt), self.max_sequence_length, 4)
        for row, words in zip(text, prompt, strict=True):
            row[: len(words.split())] = torch.tensor([len(word) for word in words.split()])[:, None]
        image = frame[:, :1, None, ::8, ::8].expand(-1, 7, 2, -1, -1).float()
        return Condition(prompt, text, image, torch.ones(len(prompt), 2, 3) if self.embeds else None, frame)


def counted(path: Path, count: int, rate=8, height=16, width=24, codec="libx264", start=0) -> Path:
    """A video whose frame i is uniformly gray, GRAY * (start + i)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(60000))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options, stream.bit_rate = {"crf": "5"} if codec == "libx264" else {}, 5_000_000
        for i in range(count):
            gray = torch.full((height, width, 3), GRAY * (start + i), dtype=torch.uint8).numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def numbers(video: Tensor) -> list[int]:
    """Which counted frames (F, 3, H, W) shows, to the nearest."""
    return (video.float().mean((1, 2, 3)) / GRAY).round().int().tolist()


def write_jsonl(path: Path, records: list) -> Path:
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
    return path


def contents(folder: Path) -> dict[str, list]:
    """The tensors of every cache file below a folder. (The bytes vary: safetensors does not order metadata.)"""
    return {p.name: [(k, t.tolist()) for k, t in sorted(load_file(p).items())] for p in folder.rglob("*.safetensors")}
