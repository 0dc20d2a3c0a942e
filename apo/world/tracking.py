"""Where the subject is in each frame, and how much it still looks like the first frame. No thresholds here.

n videos, F frames, N = n·F frames in a row. Pixels are in levels, [0, 255].
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as nnf
from torch import Tensor

from apo.world.grammar import COLOURS, Meaning
from apo.world.render import GLYPH, SIZE, photo

MARGIN = GLYPH // 2  # a digit may leave the frame by half of its box
HALO = 3  # px around the digit where softened edges still belong to it
FAINT, SOLID = 0.2, 0.8  # opacities read as 0 and 1: a decoder's noise is below, its soft edges are between
PULL = 0.003  # dice per px: of two equal matches the nearer to the last position is the digit
CANVAS = 96  # FFT size: SIZE + GLYPH - 1 rounded up, so that circular correlation does not wrap


@dataclass(frozen=True)
class Track:
    """Per-frame measurements, (n, F) unless noted."""

    start: Tensor  # (n, 2) the position in the given first frame
    position: Tensor  # (n, F, 2) (y, x) px: the digit in the frame, or the frame in the photograph
    visible: Tensor  # bool: there is something to locate
    similarity: Tensor  # in [0, 1]: dice with the first frame's digit, or correlation with the photograph
    intact: Tensor  # in [0, 1]: the same, looking only at the matched place
    mass: Tensor  # opacity relative to the first frame's (scenes: 1)
    spill: Tensor  # opacity away from the matched place, relative to the first frame's (scenes: 0)
    colour_error: Tensor  # levels: how far the digit's colour is off the line from background to its colour (scenes: 0)
    local_error: Tensor  # levels: the worst 16 x 16 block, brightness set aside (digits: 0)
    background_error: Tensor  # levels: mean absolute change of the background, or of the whole scene
    brightness: Tensor  # levels: mean of the background, or offset from the photograph


def fit_planes(images: Tensor) -> Tensor:
    """(N, 3, 64, 64) planes through the backgrounds of images (N, 3, 64, 64), one per channel, robust to the digit.

    Iteratively reweighted least squares with Geman-McClure weights of falling width, on every second pixel. A plane
    through every frame, not only the first, keeps the digit findable when the background changes.
    """
    axis = torch.linspace(-1, 1, SIZE, device=images.device)
    grid = torch.stack([torch.ones(SIZE, SIZE, device=images.device), *torch.meshgrid(axis, axis, indexing="ij")])
    features = grid[:, ::2, ::2].flatten(1).T  # (P, 3)
    products = (features[:, :, None] * features[:, None]).flatten(1)  # (P, 9)
    pixels = images[:, :, ::2, ::2].flatten(2)
    weights = torch.ones_like(pixels[:, 0])
    for width in (60.0, 30.0, 15.0, 15.0, None):
        normal = (weights @ products).unflatten(1, (3, 3))
        moments = (pixels * weights[:, None]) @ features
        planes = torch.linalg.solve(normal, moments.mT).mT  # (N, channel, feature)
        if width is not None:
            error = (pixels - planes @ features.T).square().sum(1)
            weights = (1 + error / width**2) ** -2
    return (planes @ grid.flatten(1)).unflatten(2, (SIZE, SIZE))


def opacity(images: Tensor, planes: Tensor, colour: Tensor) -> Tensor:
    """(N, 64, 64) in [0, 1]: distance from the background over the contrast of the colour (N, 3, 1, 1).

    Blind to the direction of the difference, so that a recoloured digit is still found.
    """
    distance = (images - planes).square().sum(1).sqrt() / (colour - planes).square().sum(1).sqrt()
    return ((distance - FAINT) / (SOLID - FAINT)).clamp(0, 1)


def paste(patches: Tensor, corners: Tensor) -> Tensor:
    """(N, 64, 64): patches (N, h, h) at corners (N, 2), which may lie outside the frame by up to h; the rest is cut."""
    count, height, _ = patches.shape
    steps = torch.arange(height, device=patches.device)
    rows, columns = ((corners[:, axis, None] + height + steps) for axis in (0, 1))
    canvas = patches.new_zeros(count, SIZE + 2 * height, SIZE + 2 * height)
    canvas[torch.arange(count, device=patches.device)[:, None, None], rows[:, :, None], columns[:, None]] = patches
    return canvas[:, height:-height, height:-height]


def cut_patch(images: Tensor) -> tuple[Tensor, Tensor]:
    """The (n, 24, 24) digit in opacities (n, 64, 64), and its corner (n, 2): the first row and column with opacity."""
    corners = torch.stack([(images.amax(axis) > 0).float().argmax(-1) for axis in (2, 1)], -1)
    steps = torch.arange(GLYPH, device=images.device)
    padded = nnf.pad(images, (0, GLYPH, 0, GLYPH))
    rows, columns = (corners[:, axis, None] + steps for axis in (0, 1))
    index = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None]], corners


def dice_maps(shapes: Tensor, patch: Tensor) -> Tensor:
    """(n, F, 65, 65): dice = 2⟨s, T⟩ / (|s|² + |T|²) of shapes (n, F, 64, 64) with the patch (n, 24, 24) at every
    corner from -MARGIN on, by FFT correlation; |T|² counts what of T lies inside the frame."""
    area, side = (CANVAS, CANVAS), SIZE - GLYPH + 2 * MARGIN + 1
    transform = torch.fft.rfft2(patch, s=area).conj()
    energy = torch.fft.rfft2(patch.square(), s=area).conj()
    frame = torch.fft.rfft2(patch.new_ones(SIZE, SIZE), s=area)

    def window(spectrum: Tensor) -> Tensor:
        maps = torch.fft.irfft2(spectrum, s=area).roll((MARGIN, MARGIN), (-2, -1))
        return maps[..., :side, :side].clamp(min=0)

    overlap = window(torch.fft.rfft2(shapes, s=area) * transform[:, None])
    return 2 * overlap / (shapes.square().sum((-2, -1))[..., None, None] + window(frame * energy)[:, None])


def follow(maps: Tensor, start: Tensor, visible: Tensor) -> Tensor:
    """(n, F, 2) corners: each frame's best match, pulled slightly to the last; unseen digits stay where they were."""
    side = maps.shape[-1]
    axis = torch.arange(side, device=maps.device) - MARGIN
    last, path = start, []
    for frame_maps, seen in zip(maps.unbind(1), visible.unbind(1)):
        away = (axis[None, :, None] - last[:, 0, None, None]).abs().maximum((axis - last[:, 1, None, None]).abs())
        best = (frame_maps - PULL * away).flatten(1).argmax(1)
        found = torch.stack([best // side, best % side], -1) - MARGIN
        last = torch.where(seen[:, None], found, last)
        path.append(last)
    return torch.stack(path, 1)


def dice(a: Tensor, b: Tensor) -> Tensor:
    """(N,) overlap 2⟨a, b⟩ / (|a|² + |b|²) of (N, 64, 64) opacities; 1 iff equal."""
    return 2 * (a * b).sum((-2, -1)) / (a.square() + b.square()).sum((-2, -1)).clamp(min=1e-6)


def track_digits(videos: Tensor, meanings: list[Meaning], first: Tensor, least_mass: float) -> Track:
    """The digit of the first frames (n, 3, 64, 64) in videos (n, F, 3, 64, 64), both float.

    A frame with less than `least_mass` of the digit's opacity shows no digit.
    """
    count, frames = videos.shape[:2]
    colour = torch.tensor([COLOURS[m.colour] for m in meanings], device=videos.device).float()[:, :, None, None]
    clean = fit_planes(first)
    template = opacity(first, clean, colour)
    patch, start = cut_patch(template)
    whole = template.sum((-2, -1))[:, None]

    images = videos.flatten(0, 1)
    planes = fit_planes(images)
    colours = colour.repeat_interleave(frames, 0)
    shapes = opacity(images, planes, colours)
    mass = shapes.sum((-2, -1)).unflatten(0, (count, frames)) / whole
    maps = dice_maps(shapes.unflatten(0, (count, frames)), patch)
    corners = follow(maps, start, mass >= least_mass)

    flat = corners.flatten(0, 1)
    matched = paste(patch.repeat_interleave(frames, 0), flat)
    wide = nnf.max_pool2d(nnf.pad(patch, (HALO,) * 4), 2 * HALO + 1, 1, HALO) > 0
    near = paste(wide.float().repeat_interleave(frames, 0), flat - HALO)

    contrast = colours - planes
    difference = images - planes
    along = (difference * contrast).sum(1, keepdim=True) / contrast.square().sum(1, keepdim=True)
    aside = difference - along * contrast
    both = (matched * shapes)[:, None]
    aside = (aside * both).sum((-2, -1)) / both.sum((-2, -1)).clamp(min=1)
    empty = (shapes == 0)[:, None]
    change = (images - clean.repeat_interleave(frames, 0)).abs() * empty

    def per_video(values: Tensor) -> Tensor:
        return values.unflatten(0, (count, frames))

    zero = torch.zeros_like(mass)
    return Track(
        start=start.float(),
        position=corners.float(),
        visible=mass >= least_mass,
        similarity=per_video(dice(shapes, matched)),
        intact=per_video(dice(shapes * near, matched)),
        mass=mass,
        spill=per_video((shapes * (1 - near)).sum((-2, -1))) / whole,
        colour_error=per_video(aside.norm(dim=1)),
        local_error=zero,
        background_error=per_video(change.sum((1, 2, 3)) / (3 * empty.sum((1, 2, 3))).clamp(min=1)),
        brightness=per_video(planes.mean((1, 2, 3))),
    )


@cache
def _photo_index(name: str) -> tuple[Tensor, Tensor]:
    """The photograph's mean-free luminance (112, 160), and the standard deviation of each 64 x 64 window of it."""
    grey = photo(name).mean(0)
    grey = grey - grey.mean()
    mean, square = (nnf.avg_pool2d(x[None, None].double(), SIZE, 1)[0, 0] for x in (grey, grey.square()))
    return grey, (square - mean.square()).clamp(min=1).sqrt().float()


def locate(images: Tensor, name: str) -> Tensor:
    """(N, 2) corners of the windows of a photograph that best correlate with images (N, 3, 64, 64), in luminance.

    The image is mean-free, so that the window's mean cancels in ⟨image, window⟩ / (σ_image · σ_window).
    """
    grey, spread = (x.to(images.device) for x in _photo_index(name))
    query = images.mean(1)
    query = query - query.mean((-2, -1), keepdim=True)
    spectrum = torch.fft.rfft2(grey) * torch.fft.rfft2(query, s=grey.shape).conj()
    height, width = spread.shape
    best = (torch.fft.irfft2(spectrum, s=grey.shape)[:, :height, :width] / spread).flatten(1).argmax(1)
    return torch.stack([best // width, best % width], -1)


def track_scenes(videos: Tensor, name: str, first: Tensor) -> Track:
    """The camera over the photograph `name` in videos (n, F, 3, 64, 64) from first frames (n, 3, 64, 64), float."""
    count, frames = videos.shape[:2]
    images = videos.flatten(0, 1)
    corners = locate(images, name)
    windows = photo(name).to(videos.device).unfold(1, SIZE, 1).unfold(2, SIZE, 1)  # (3, 49, 105, 64, 64), a view
    expected = windows[:, corners[:, 0], corners[:, 1]].transpose(0, 1)
    change = images - expected
    offset = change.mean((-2, -1), keepdim=True)
    a, b = (x - x.mean((-2, -1), keepdim=True) for x in (images, expected))
    correlation = (a * b).sum((1, 2, 3)) / (a.square().sum((1, 2, 3)) * b.square().sum((1, 2, 3))).sqrt().clamp(min=1)
    blocks = nnf.avg_pool2d((change - offset).abs().mean(1, keepdim=True), 16)

    def per_video(values: Tensor) -> Tensor:
        return values.unflatten(0, (count, frames))

    similarity = per_video(correlation.clamp(min=0))
    one, zero = torch.ones_like(similarity), torch.zeros_like(similarity)
    return Track(
        start=locate(first, name).float(),
        position=per_video(corners).float(),
        visible=one.bool(),
        similarity=similarity,
        intact=similarity,
        mass=one,
        spill=zero,
        colour_error=zero,
        local_error=per_video(blocks.amax((1, 2, 3))),
        background_error=per_video(change.abs().mean((1, 2, 3))),
        brightness=per_video(offset.mean((1, 2, 3))),
    )
