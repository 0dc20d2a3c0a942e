"""Videos as pictures to look at: rows of frames, and videos beside each other, with captions that fit."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from apo.io.files import replacing
from apo.io.video import SMALL

COLUMNS = 9  # frames a row
LINES = 4  # of a caption; the rest of a longer one is left out
MARGIN, GAP = 4, 8  # pixels: around text; between videos
SHORTEST = 3.0  # seconds; anything shorter is over before one has looked
MISSING = "□"  # for what the font can't draw: it has no emoji, no Chinese


@dataclass(frozen=True)
class Caption:
    text: str
    colour: str = "black"  # by PIL's names
    bold: bool = False


def contact_sheet(
    path: Path,
    videos: Tensor | Sequence[Tensor],
    captions: Sequence[str],
    colours: Sequence[str] | None = None,
    height: int = 96,
) -> None:
    """Saves one row of at most nine evenly spaced frames per video (F, 3, H, W) uint8, its caption above it.

    colours: of the captions, by PIL's names.
    """
    rows = [strip(video, height) for video in videos]
    width, labelled = max(SMALL, *(row.width for row in rows)), zip(rows, captions, colours or ["black"] * len(rows))
    blocks = [block for row, text, colour in labelled for block in (header([Caption(text, colour)], width, 13), row)]
    sheet, top = Image.new("RGB", (width, sum(block.height for block in blocks)), "white"), 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    with replacing(path) as partial:
        sheet.save(partial, format="png")


def strip(video: Tensor, height: int) -> Image.Image:
    """A row of evenly spaced frames, each `height` pixels high."""
    index = torch.linspace(0, len(video) - 1, min(COLUMNS, len(video))).round().long()
    frames = video[index].float()
    frames = nnf.interpolate(
        frames, size=(height, max(1, round(height * frames.shape[-1] / frames.shape[-2]))), mode="nearest"
    )
    return Image.fromarray(
        torch.cat(list(nnf.pad(frames, (0, 2), value=255)), 2).permute(1, 2, 0).byte().numpy(force=True)
    )


def side_by_side(videos: Sequence[Tensor], title: str, captions: Sequence[Sequence[Caption]]) -> Tensor:
    """One video (F, 3, H', W') of several (F, 3, H, W) uint8 next to each other on white, the title above all and
    captions above each.

    Each is enlarged to at least 256 pixels a side, by a whole factor, so that its pixels are seen as they are.
    """
    shown = [enlarged(video) for video in videos]
    heads = [header(lines, video.shape[-1], 15) for lines, video in zip(captions, shown)]
    tallest = max(head.height for head in heads)
    columns = [torch.cat([repeated(head, len(video), tallest), video], 2) for head, video in zip(heads, shown)]
    row = torch.cat([nnf.pad(column, (0, GAP), value=255) for column in columns], 3)[..., :-GAP]
    top = header([Caption(title)], row.shape[-1], 15)
    return torch.cat([repeated(top, len(row), top.height), row], 2)


def looped(video: Tensor, fps: float) -> Tensor:
    """The video as often as it takes to last SHORTEST seconds at its own speed: slowed down, motion would look like
    another's.
    """
    times = -(-SHORTEST * fps // len(video))
    return video.repeat(max(1, int(times)), 1, 1, 1)


def enlarged(video: Tensor) -> Tensor:
    factor = max(1, -(-SMALL // min(video.shape[-2:])))
    return video.cpu().repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def repeated(image: Image.Image, frames: int, height: int) -> Tensor:
    """(frames, 3, height, W) uint8: an image at the bottom of white, in each frame."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return nnf.pad(pixels, (0, 0, height - image.height, 0), value=255).expand(frames, -1, -1, -1)


def header(captions: Sequence[Caption], width: int, size: int) -> Image.Image:
    """Captions below each other on white, wrapped to the width."""
    lines = [
        (line, caption)
        for caption in captions
        for line in wrapped(caption.text, width - 2 * MARGIN, font(size, caption.bold))
    ]
    step = round(1.3 * size)
    image = Image.new("RGB", (width, step * len(lines) + MARGIN), "white")
    for index, (line, caption) in enumerate(lines):
        ImageDraw.Draw(image).text((MARGIN, 1 + index * step), line, fill=caption.colour, font=font(size, caption.bold))
    return image


def wrapped(text: str, width: int, face: ImageFont.FreeTypeFont) -> list[str]:
    """At most LINES lines of at most `width` pixels; an ellipsis stands for the rest. Spaces and line ends of any kind
    are one space.
    """
    text = "".join(character if drawable(face, character) else MISSING for character in " ".join(text.split())[:2000])
    lines = []
    while text and len(lines) < LINES:
        fits = max(1, bisect_right(range(1, len(text) + 1), width, key=lambda end: face.getlength(text[:end])))
        end = fits if fits == len(text) or text[fits] == " " else text.rfind(" ", 0, fits)
        end = end if end > 0 else fits  # a word that is longer than a line
        lines.append(text[:end])
        text = text[end:].lstrip()
    return [*lines[:-1], shortened(lines[-1], width, face)] if text else lines or [""]


def shortened(line: str, width: int, face: ImageFont.FreeTypeFont) -> str:
    while line and face.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"


@cache
def drawable(face: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether the font has a picture of the character other than its one for what it lacks."""
    return character.isprintable() and (
        character == " " or bytes(face.getmask(character)) != bytes(face.getmask("\uffff"))
    )


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic, the same on every machine."""
    import matplotlib  # of use only where something is drawn

    return ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' * bold}.ttf", size
    )
