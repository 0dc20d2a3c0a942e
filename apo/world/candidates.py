"""Videos of one condition to be ranked: rendered with planted flaws, or slowed down (Appendix C.1)."""

import numpy as np
import torch
from torch import Tensor

from apo.world import flaws
from apo.world.render import FRAMES, Clip, random_clip, render

STREAMS = {"train": 300, "validation": 301, "test": 302}  # apart from those of conditions and prompts
DOMAINS = ("digit", "scene")
FLAWS = {
    "digit": (flaws.morph, flaws.vanish, flaws.split, flaws.recolour, flaws.repaint, flaws.flicker),
    "scene": (flaws.cut, flaws.ghost, flaws.flicker),
}
CLEAN, FLAWED = 0.35, 0.55  # shares of rendered candidates; the rest are clean and go elsewhere
PACES = (0.0, 0.25, 0.5)  # of slow motion; 0 stands still


def rng_of(split: str, domain: str, seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng([STREAMS[split], DOMAINS.index(domain), seed, *key])


def clip_of(split: str, domain: str, seed: int, index: int) -> Clip:
    """Condition `index` of a split and domain. Glyphs of a split are in no other split."""
    return random_clip(rng_of(split, domain, seed, index), split, scenes=float(domain == "scene"))


def rendered(clip: Clip, rng: np.random.Generator) -> Tensor:
    """(F, 3, 64, 64) uint8: the right video, a flawed one, or a clean one of another direction or speed."""
    draw = rng.random()
    if draw < CLEAN:
        return render(clip)
    if draw < CLEAN + FLAWED:
        kinds = FLAWS[clip.meaning.domain]
        return kinds[int(rng.integers(len(kinds)))](clip, rng)
    return flaws.misdirect(clip, rng)


def slowed(video: Tensor, rng: np.random.Generator) -> Tensor:
    """The video (F, 3, H, W) at a quarter or half of its pace, or standing still: the same frames, shown longer."""
    pace = PACES[int(rng.integers(len(PACES)))]
    return video[(torch.arange(FRAMES) * pace).long()]
