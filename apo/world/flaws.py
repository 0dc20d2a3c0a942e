"""What can go wrong in a video, planted on purpose: in pretraining data (`PLANTED`) and in the oracle's tests.

Every flaw has one signature: (clip, rng) -> (F, 3, 64, 64) uint8, the clip's video with that flaw.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from apo.world import render as world
from apo.world.grammar import PHOTOS
from apo.world.render import FRAMES, GLYPH, GRID, SIZE, Clip


def onset(rng: np.random.Generator) -> int:
    """The first flawed frame, on a boundary of the VAE's 4-frame steps."""
    return 1 + 4 * int(rng.integers(0, 2))


def ramp(start: int, length: int = 4) -> Tensor:
    """(F,) 0 before `start`, rising linearly to 1 in `length` frames."""
    return ((torch.arange(FRAMES) - start + 1) / length).clamp(0, 1)


def morph(clip: Clip, rng: np.random.Generator) -> Tensor:
    """The digit turns into another one."""
    other = clip.glyph
    while world.digit_labels()[other] == world.digit_labels()[clip.glyph]:
        other = int(rng.integers(*world.SPLITS["train"]))
    blend = ramp(onset(rng))[:, None, None]
    shapes = (1 - blend) * world.glyphs()[clip.glyph] + blend * world.glyphs()[other]
    return _digit(clip, world.opacity(shapes, clip.path()))


def vanish(clip: Clip, rng: np.random.Generator) -> Tensor:
    """The digit fades away."""
    shapes = world.glyphs()[clip.glyph] * (1 - ramp(onset(rng)))[:, None, None]
    return _digit(clip, world.opacity(shapes, clip.path()))


def split(clip: Clip, rng: np.random.Generator) -> Tensor:
    """A second copy leaves the digit at a right angle to its motion, 3 pixels a frame."""
    dy, dx = clip.meaning.velocity
    steps = 3 * torch.arange(FRAMES)[:, None] * torch.tensor([abs(dx), abs(dy)]).clamp(max=1)
    # at an edge one side has no room: the copy would stay on the digit
    sides = [(clip.path() + sign * steps).clamp(0, SIZE - GLYPH) for sign in rng.permutation([-1, 1])]
    apart = [(side - clip.path())[-1].abs().max() for side in sides]
    copy = sides[0] if apart[0] >= GLYPH // 2 else sides[int(apart[1] > apart[0])]
    shape = world.glyphs()[clip.glyph]
    return _digit(clip, torch.maximum(world.opacity(shape, clip.path()), world.opacity(shape, copy)))


def cut(clip: Clip, rng: np.random.Generator) -> Tensor:
    """The camera jumps to another place of the photograph."""
    start = onset(rng)
    limit, path = torch.tensor(world.room("scene")), clip.path()
    while True:
        there = torch.tensor([int(rng.integers(0, int(m) // GRID + 1)) * GRID for m in limit])
        jumped = torch.where((torch.arange(FRAMES) >= start)[:, None], path + there - path[start], path)
        if (there - path[start]).abs().sum() >= 24 and (jumped >= 0).all() and (jumped <= limit).all():
            return world.to_uint8(world.crops(world.photo(clip.meaning.photo), jumped))


def ghost(clip: Clip, rng: np.random.Generator) -> Tensor:
    """Another photograph shines through."""
    name = PHOTOS[1 - PHOTOS.index(clip.meaning.photo)]
    blend = 0.6 * ramp(onset(rng))[:, None, None, None]
    here, there = (world.crops(world.photo(p), clip.path()) for p in (clip.meaning.photo, name))
    return world.to_uint8((1 - blend) * here + blend * there)


def flicker(clip: Clip, rng: np.random.Generator) -> Tensor:
    """Brightness jumps up and down from frame to frame."""
    signs = torch.from_numpy(rng.choice([-1.0, 1.0]) * (-1.0) ** np.arange(FRAMES)).float()
    signs[0] = 0
    return world.to_uint8(world.render(clip).float() + 24 * signs[:, None, None, None])


def recolour(clip: Clip, rng: np.random.Generator) -> Tensor:
    """The digit takes another colour."""
    from apo.world.grammar import COLOURS

    other = str(rng.choice([name for name in COLOURS if name != clip.meaning.colour]))
    blend = ramp(onset(rng))[:, None, None, None]
    changed = world.render(replace(clip, meaning=replace(clip.meaning, colour=other)))
    return world.to_uint8((1 - blend) * world.render(clip).float() + blend * changed.float())


def repaint(clip: Clip, rng: np.random.Generator) -> Tensor:
    """The background changes behind the digit."""
    background = tuple((c + 60 if c < 70 else c - 40) for c in clip.background[:6]) + clip.background[6:]
    blend = ramp(onset(rng))[:, None, None, None]
    changed = world.render(replace(clip, background=background))
    return world.to_uint8((1 - blend) * world.render(clip).float() + blend * changed.float())


def freeze(clip: Clip, rng: np.random.Generator) -> Tensor:
    """Nothing moves."""
    return world.render(clip)[:1].expand(FRAMES, -1, -1, -1).clone()


def slow_motion(clip: Clip, rng: np.random.Generator) -> Tensor:
    """The same motion at half the pace (every frame shown twice)."""
    return world.render(clip)[torch.arange(FRAMES) // 2]


def misdirect(clip: Clip, rng: np.random.Generator) -> Tensor:
    """A clean video of another direction or speed."""
    return world.render(world.redirected(clip, rng))


PLANTED = {"digit": (morph, vanish, split), "scene": (cut, ghost)}  # equally often, in pretraining data


def _digit(clip: Clip, alpha: Tensor) -> Tensor:
    return world.to_uint8(world.compose(alpha, clip.meaning.colour, world.gradient(clip.background)))
