"""Videos as pictures: rows of frames with a caption."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as nnf
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLUMNS, CAPTION = 9, 18  # frames a row; pixels above it


def contact_sheet(
    path: Path, videos: Tensor | Sequence[Tensor], captions: Sequence[str], colours: Sequence[str] | None = None, height: int = 96
) -> None:
    """Saves one row of at most nine evenly spaced frames per video (F, 3, H, W) uint8, its caption above it.

    colours: of the captions, by PIL's names.
    """
    rows = [strip(video, height) for video in videos]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height + CAPTION for row in rows)), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(13), 0
    for row, caption, colour in zip(rows, captions, colours or ["black"] * len(rows)):
        draw.text((2, top + 1), caption, fill=colour, font=font)
        sheet.paste(row, (0, top + CAPTION))
        top += CAPTION + row.height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def strip(video: Tensor, height: int) -> Image.Image:
    """A row of evenly spaced frames, each `height` pixels high."""
    index = torch.linspace(0, len(video) - 1, min(COLUMNS, len(video))).round().long()
    frames = video[index].float()
    frames = nnf.interpolate(frames, size=(height, round(height * frames.shape[-1] / frames.shape[-2])), mode="nearest")
    return Image.fromarray(torch.cat(list(nnf.pad(frames, (0, 2), value=255)), 2).permute(1, 2, 0).byte().numpy(force=True))


def side_by_side(videos: Sequence[Tensor], gap: int = 4) -> Tensor:
    """One video (F, 3, H, W') of several (F, 3, H, W) next to each other on white."""
    return torch.cat([nnf.pad(video, (0, gap), value=255) for video in videos], 3)[..., :-gap]
