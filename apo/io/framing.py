"""A picture of what the model will see of the user's files: source frames with the part that is kept, and what becomes
of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from apo.io.files import replacing
from apo.io.shapes import central, fit
from apo.io.video import (
    COPY_AGAIN,
    Spec,
    VideoError,
    image_pixels,
    open_stream,
    pixel_aspect,
    timed_frames,
    upright,
)

HEIGHT, CAPTION, GAP = 240, 20, 12  # pixels of each frame, of the line above it, and between frames


@dataclass(frozen=True)
class Frame:
    """The shape of a file's first frame. seconds: of the whole file; None for images, and where the
    file doesn't say.
    """

    path: Path
    rows: int
    columns: int
    aspect: float  # of a pixel, width over height
    seconds: float | None
    is_image: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as it is seen."""
        return round(self.columns * self.aspect), self.rows

    def kept(self, spec: Spec) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of what the model sees, in source pixels."""
        if spec.fit == "pad":
            return 0, 0, self.rows, self.columns
        return central(self.rows, self.columns, spec.width / spec.height / self.aspect)

    def share(self, spec: Spec) -> float:
        """Of the picture's area that the model sees."""
        top, left, bottom, right = self.kept(spec)
        return (bottom - top) * (right - left) / (self.rows * self.columns)

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8, read from the file."""
        return image_pixels(self.path) if self.is_image else first_frame(self.path)[0]


def image_frame(path: Path) -> Frame:
    return Frame(path, *image_pixels(path).shape[:2], 1.0, None, True)


def video_frame(path: Path) -> Frame:
    pixels, aspect, seconds = first_frame(path)
    return Frame(path, *pixels.shape[:2], aspect, seconds, False)


def first_frame(path: Path) -> tuple[np.ndarray, float, float | None]:
    """Pixels (H, W, 3) uint8, their aspect, and the seconds that the file says it has."""
    with open_stream(path) as (container, stream):
        frame = next((frame for _, _, frame in timed_frames(container, stream)), None)
        if frame is None:
            raise VideoError(f"{path}: no frame of it can be decoded: {COPY_AGAIN}")
        length = (
            stream.duration * stream.time_base if stream.duration else container.duration and container.duration / 1e6
        )
        return upright(frame), pixel_aspect(stream), float(length) if length else None


def draw(path: Path, frames: Sequence[Frame], captions: Sequence[str], spec: Spec) -> None:
    """Saves a row a frame: the source with what is cut darkened and a red line around what is kept, beside what the
    model sees.
    """
    rows = [row(frame, caption, spec) for frame, caption in zip(frames, captions)]
    sheet = Image.new("RGB", (max(image.width for image in rows), sum(image.height for image in rows)), "white")
    top = 0
    for image in rows:
        sheet.paste(image, (0, top))
        top += image.height
    with replacing(path) as partial:
        sheet.save(partial, format="png")


def row(frame: Frame, caption: str, spec: Spec) -> Image.Image:
    pixels = frame.pixels()
    source = marked(frame, pixels, spec)
    seen = fit(pixels, spec.height, spec.width, frame.aspect, spec.fit).permute(1, 2, 0).numpy()
    enlarge = (
        Image.Resampling.NEAREST if spec.height < HEIGHT else Image.Resampling.LANCZOS
    )  # the model's pixels, as they are
    model = Image.fromarray(seen).resize((round(HEIGHT * spec.width / spec.height), HEIGHT), enlarge)
    font = ImageFont.load_default(13)
    width = max(source.width + GAP + model.width, round(font.getlength(caption)) + 4)
    image = Image.new("RGB", (width, CAPTION + HEIGHT + GAP), "white")
    ImageDraw.Draw(image).text((2, 2), caption, fill="black", font=font)
    image.paste(source, (0, CAPTION))
    image.paste(model, (source.width + GAP, CAPTION))
    return image


def marked(frame: Frame, pixels: np.ndarray, spec: Spec) -> Image.Image:
    """The source frame, HEIGHT pixels high."""
    width, height = frame.size
    columns = round(HEIGHT * width / height)
    whole = Image.fromarray(pixels).resize((columns, HEIGHT))
    top, left, bottom, right = frame.kept(spec)
    down, across = HEIGHT / frame.rows, columns / frame.columns
    box = round(left * across), round(top * down), round(right * across), round(bottom * down)
    image = whole.point(lambda value: value // 3)
    image.paste(whole.crop(box), box[:2])
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline="red", width=2)
    return image
