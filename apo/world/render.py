"""The world's renderer: 9 frames of 64 x 64 RGB, exact to the pixel for a given clip.

Clips start on the VAE's 8-pixel cells and move by whole pixels, half a cell or a cell each latent frame: a tiny
transformer pays most for motion off that grid (see docs/world.md).
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from apo.world.grammar import COLOURS, DIRECTIONS, PHOTOS, SPEEDS, Meaning

FRAMES, SIZE, GLYPH, GRID, FPS = 9, 64, 24, 8, 8
PHOTO_HEIGHT, SOFTNESS = 112, 2.0  # pixels; the softness is a Gaussian's standard deviation
SPLITS = {"train": (0, 1397), "validation": (1397, 1597), "test": (1597, 1797)}  # of load_digits' 1797 glyphs


@dataclass(frozen=True)
class Clip:
    """Everything that determines a video: what is asked, and what the prompt leaves open."""

    meaning: Meaning
    start: tuple[int, int]  # top left corner (y, x) of the glyph in the frame, or of the frame in the photograph
    glyph: int = 0  # index into load_digits
    background: tuple[int, ...] = (0,) * 7  # two RGB colours and an angle in degrees

    def path(self) -> Tensor:
        """(F, 2) top left corners (y, x) in pixels."""
        steps = torch.arange(FRAMES)[:, None]
        return torch.tensor(self.start) + steps * torch.tensor(self.meaning.velocity)


@cache
def glyphs() -> Tensor:
    """(1797, 24, 24) opacities in [0, 1] of scikit-learn's handwritten digits."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images).float()[:, None] / 16
    large = nnf.interpolate(images, size=(GLYPH, GLYPH), mode="bicubic", align_corners=False)[:, 0]
    soft = ((large - 0.2) / 0.5).clamp(0, 1)
    return soft * soft * (3 - 2 * soft)


@cache
def digit_labels() -> np.ndarray:
    from sklearn.datasets import load_digits

    return load_digits().target


@cache
def photo(name: str) -> Tensor:
    """(3, 112, 160) in [0, 255]: one of scikit-learn's sample photographs, reduced and softened."""
    from sklearn.datasets import load_sample_images

    image = torch.from_numpy(load_sample_images().images[PHOTOS.index(name)].copy()).permute(2, 0, 1)[None].float()
    size = (PHOTO_HEIGHT, PHOTO_HEIGHT * image.shape[-1] // image.shape[-2] // GRID * GRID)
    small = nnf.interpolate(image, size=size, mode="bicubic", antialias=True)
    offsets = torch.arange(-6, 7)
    kernel = torch.exp(-(offsets**2) / (2 * SOFTNESS**2))
    kernel = (kernel[:, None] * kernel / kernel.sum() ** 2).expand(3, 1, 13, 13)
    return nnf.conv2d(nnf.pad(small, (6,) * 4, mode="replicate"), kernel, groups=3)[0].clamp(0, 255)


def gradient(colours: tuple[int, ...]) -> Tensor:
    """(3, 64, 64) linear blend between two colours along an angle: a plane in each channel."""
    first, second, angle = torch.tensor(colours[:3]), torch.tensor(colours[3:6]), np.deg2rad(colours[6])
    axis = torch.linspace(-1, 1, SIZE)
    ramp = axis[:, None] * np.sin(angle) + axis * np.cos(angle)
    ramp = 0.5 + ramp / (2 * (abs(np.sin(angle)) + abs(np.cos(angle))))
    return first[:, None, None] + (second - first)[:, None, None] * ramp


def opacity(glyph: Tensor, corners: Tensor) -> Tensor:
    """(F, 64, 64): a (24, 24) glyph, or (F, 24, 24) of them, pasted at (F, 2) corners; outside is cut."""
    stack = glyph.expand(len(corners), GLYPH, GLYPH)
    canvas = torch.zeros(len(corners), SIZE + 2 * GLYPH, SIZE + 2 * GLYPH)
    for layer, shape, (y, x) in zip(canvas, stack, corners.clamp(-GLYPH, SIZE).tolist()):
        layer[y + GLYPH : y + 2 * GLYPH, x + GLYPH : x + 2 * GLYPH] = shape
    return canvas[:, GLYPH:-GLYPH, GLYPH:-GLYPH]


def compose(alpha: Tensor, colour: str, background: Tensor) -> Tensor:
    """(F, 3, 64, 64) in [0, 255]: `colour` with opacity alpha (F, 64, 64) over the background (3, 64, 64)."""
    paint = torch.tensor(COLOURS[colour]).float()[:, None, None]
    return background + alpha[:, None] * (paint - background)


def crops(image: Tensor, corners: Tensor) -> Tensor:
    """(F, 3, 64, 64) windows of an image (3, H, W) at (F, 2) corners."""
    return torch.stack([image[:, y : y + SIZE, x : x + SIZE] for y, x in corners.tolist()])


def to_uint8(video: Tensor) -> Tensor:
    return video.round().clamp(0, 255).to(torch.uint8)


def render(clip: Clip) -> Tensor:
    """The right video of a clip: (F, 3, 64, 64) uint8."""
    if clip.meaning.domain == "scene":
        return to_uint8(crops(photo(clip.meaning.photo), clip.path()))
    alpha = opacity(glyphs()[clip.glyph], clip.path())
    return to_uint8(compose(alpha, clip.meaning.colour, gradient(clip.background)))


def room(domain: str) -> tuple[int, int]:
    """The largest start corner (y, x)."""
    if domain == "digit":
        return SIZE - GLYPH, SIZE - GLYPH
    _, height, width = photo(PHOTOS[0]).shape
    return height - SIZE, width - SIZE


def fits(start: tuple[int, int], meaning: Meaning) -> bool:
    """Whether the whole path stays inside the frame (or the photograph)."""
    ends = [s + v * (FRAMES - 1) for s, v in zip(start, meaning.velocity)]
    return all(0 <= end <= limit for end, limit in zip(ends, room(meaning.domain)))


def random_clip(rng: np.random.Generator, split: str = "train", scenes: float = 0.25) -> Clip:
    """A clip of a split (its glyphs are in no other split); a share `scenes` are pans over a photograph."""
    domain = "scene" if rng.random() < scenes else "digit"
    while True:
        motion = dict(direction=str(rng.choice(list(DIRECTIONS))), speed=str(rng.choice(list(SPEEDS))))
        start = tuple(int(rng.integers(0, limit // GRID + 1)) * GRID for limit in room(domain))
        if domain == "scene":
            clip = Clip(Meaning(**motion, photo=str(rng.choice(PHOTOS))), start)
        else:
            glyph = int(rng.integers(*SPLITS[split]))
            colour = str(rng.choice(list(COLOURS)))
            background = (*rng.integers(25, 115, 6).tolist(), int(rng.integers(0, 360)))
            clip = Clip(Meaning(**motion, digit=int(digit_labels()[glyph]), colour=colour), start, glyph, background)
        if fits(clip.start, clip.meaning):
            return clip


def redirected(clip: Clip, rng: np.random.Generator) -> Clip:
    """The same first frame with another direction or speed that also fits: a clean clip of another prompt."""
    others = [
        replace(clip.meaning, direction=direction, speed=speed)
        for direction in DIRECTIONS
        for speed in SPEEDS
        if (direction, speed) != (clip.meaning.direction, clip.meaning.speed)
    ]
    return replace(clip, meaning=rng.choice([other for other in others if fits(clip.start, other)]))
