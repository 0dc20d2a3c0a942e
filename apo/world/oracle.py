"""The world's exact judge: what a video shows, measured from its pixels, its prompt and its first frame."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as nnf
from torch import Tensor

from apo.world.grammar import DIRECTIONS, SPEEDS, Meaning, parse
from apo.world.tracking import Track, track_digits, track_scenes

CHUNK = 16  # videos measured at a time, so that intermediates stay near the cache


@dataclass(frozen=True)
class Thresholds:
    """Where a measurement becomes a distortion. Fixed before any model was trained, from 500 ground-truth clips and
    from the same clips blurred, tinted and made noisy to about 30 dB, as a VAE would (tests/world/test_oracle.py).

    Beside each: the worst value over ground truth | over softened ground truth (30.4 dB) | over the mildest clip of the
    planted flaw it is for.
    """

    similarity: float = 0.85  # least dice or correlation: 1.00 | 0.97 | morph 0.79 for 95 % of clips, 0.91 at most
    mass: float = 0.35  # least opacity, of the first frame's: 1.00 | 0.94 | vanish 0.00
    spill: float = 0.30  # most opacity away from an intact digit, of the first frame's: 0.00 | 0.004 | split 0.29
    colour: float = 50.0  # levels off the prompt's colour: 0.1 | 11 | recolour 86 (a saturated flicker reaches 40)
    local: float = 32.0  # levels, worst 16 x 16 block of a scene: 0.3 | 8.6 | ghost 50; between the VAE and a ghost
    brightness: float = 20.0  # levels, most |second difference| over frames: 0.03 | 1.9 | flicker 82 (repaint 15)
    background: float = 14.0  # levels, mean absolute: 0.4 | 8.8 | repaint 19
    jump: float = 3.5  # px between frames along an axis: 2 | 2 | cut 12


THRESHOLDS = Thresholds()

# What went wrong, in the order of the question "which explains the others": a digit that is gone also has the wrong
# shape, a second digit also lowers the similarity, and a morphing one is hard to follow.
CAUSES = ("vanished", "split", "colour", "deformed", "flicker", "background", "cut")

# Standing still comes first: it also wins for a video that shows no position at all.
MOTIONS = [("", "")] + [(direction, speed) for direction in DIRECTIONS for speed in SPEEDS]


@dataclass(frozen=True)
class Measurement:
    """Per-video measurements, (B,) each."""

    cause_code: Tensor  # long: 0 clean, otherwise 1 + index into CAUSES of the first that applies
    severity: Tensor  # in [0, 1]: 0 clean; otherwise how many frames are past a threshold, and how far (see `severity`)
    speed: Tensor  # px/frame, >= 0: net displacement along the axis of most, over F - 1
    direction_followed: Tensor  # bool: the best-fitting motion of the grammar has the prompt's direction
    speed_followed: Tensor  # bool: ... the prompt's speed
    subject_consistency: Tensor  # in [0, 1]: mean similarity to the first frame's digit, less its loss of colour
    background_consistency: Tensor  # in [0, 1]: 1 - mean absolute change / 255
    motion_smoothness: Tensor  # in [0, 1]: mean of 1 / (1 + acceleration in px/frame²); 1 at constant velocity

    @property
    def distorted(self) -> Tensor:
        return self.cause_code > 0

    @property
    def followed(self) -> Tensor:
        return self.direction_followed & self.speed_followed

    @property
    def cause(self) -> list[str]:
        """One of CAUSES, '' for a clean video."""
        return [("", *CAUSES)[code] for code in self.cause_code.tolist()]


@torch.no_grad()
def measure(videos: Tensor, prompts: list[str], frames: Tensor) -> Measurement:
    """Measures videos (B, F, 3, 64, 64) uint8 of B prompts and given first frames (B, 3, 64, 64) uint8.

    ValueError for a prompt that is not of the grammar.
    """
    order, parts = [], []
    for chunk, meanings, track in tracks(videos, prompts, frames):
        order += chunk
        parts.append(judge(track, meanings))
    inverse = torch.tensor(order, device=videos.device).argsort()
    return Measurement(**{f.name: torch.cat([getattr(p, f.name) for p in parts])[inverse] for f in fields(Measurement)})


def tracks(videos: Tensor, prompts: list[str], frames: Tensor) -> Iterator[tuple[list[int], list[Meaning], Track]]:
    """The places, meanings and track of a chunk of the videos at a time, in any order; arguments as for `measure`."""
    meanings = [parse(prompt) for prompt in prompts]
    groups: dict[str | None, list[int]] = {}
    for index, meaning in enumerate(meanings):
        groups.setdefault(meaning.photo, []).append(index)
    for name, members in groups.items():
        for chunk in (members[i : i + CHUNK] for i in range(0, len(members), CHUNK)):
            subjects, clips, first = [meanings[i] for i in chunk], videos[chunk].float(), frames[chunk].float()
            if name is None:
                yield chunk, subjects, track_digits(clips, subjects, first, THRESHOLDS.mass)
            else:
                yield chunk, subjects, track_scenes(clips, name, first)


def judge(track: Track, meanings: list[Meaning]) -> Measurement:
    """The measurement of tracked videos; n meanings, (n, F) tracks."""
    motion = best_motion(track)
    directions = [m.direction for m in meanings]
    speeds = [m.speed for m in meanings]
    found = [MOTIONS[index] for index in motion.tolist()]
    device = motion.device
    past = excess(track)
    net = (track.position[:, -1] - track.position[:, 0]).abs().amax(-1)
    acceleration = track.position.diff(n=2, dim=1).abs().amax(-1)
    true_colour = 1 - (track.colour_error / 255).clamp(max=1)
    return Measurement(
        cause_code=first_cause(past),
        severity=severity(past),
        speed=net / (track.position.shape[1] - 1),
        direction_followed=torch.tensor([f[0] == d for f, d in zip(found, directions)], device=device),
        speed_followed=torch.tensor([f[1] == s for f, s in zip(found, speeds)], device=device),
        subject_consistency=(track.similarity * true_colour).mean(1),
        background_consistency=1 - track.background_error.mean(1) / 255,
        motion_smoothness=(1 / (1 + acceleration)).mean(1),
    )


def best_motion(track: Track) -> Tensor:
    """(n,) index into MOTIONS of the constant velocity from the first frame's position with the least mean distance
    to the positions seen."""
    velocity = [(0, 0)] + [Meaning(direction, speed).velocity for direction, speed in MOTIONS[1:]]
    times = torch.arange(track.position.shape[1], device=track.position.device)
    steps = torch.tensor(velocity, device=times.device)[:, None] * times[:, None]  # (9, F, 2)
    paths = track.start[:, None, None] + steps
    distance = (track.position[:, None] - paths).norm(dim=-1) * track.visible[:, None]
    return distance.sum(-1).argmin(1)


def excess(track: Track, limits: Thresholds = THRESHOLDS) -> Tensor:
    """(n, CAUSES, F) how far each frame is past each cause's threshold, over the threshold; 0 where it
    isn't past it.
    """
    positions = torch.cat([track.start[:, None], track.position], 1)
    bend = nnf.pad(track.brightness.diff(n=2, dim=1).abs(), (2, 0))  # shown in the last of its three frames
    past = {
        "vanished": (limits.mass - track.mass) / limits.mass,
        "split": (track.spill - limits.spill) / limits.spill * (track.intact >= limits.similarity),
        "colour": (track.colour_error - limits.colour) / limits.colour,
        "deformed": torch.maximum(
            (limits.similarity - track.similarity) / limits.similarity,
            (track.local_error - limits.local) / limits.local,
        ),
        "flicker": (bend - limits.brightness) / limits.brightness,
        "background": (track.background_error - limits.background) / limits.background,
        "cut": (positions.diff(dim=1).abs().amax(-1) - limits.jump) / limits.jump,
    }
    return torch.stack([past[cause] for cause in CAUSES], 1).clamp(min=0)


def first_cause(past: Tensor) -> Tensor:
    """(n,) 0 for a clean video, otherwise 1 + the index in CAUSES of the first that any frame shows."""
    shown = (past > 0).any(2)
    return torch.where(shown.any(1), 1 + shown.int().argmax(1), 0)


def severity(past: Tensor) -> Tensor:
    """(n,) in [0, 1]: the mean over frames of (1 + e) / 2, with e in (0, 1] the frame's worst excess; 0 for a frame
    without. One flawed frame of nine has at least 1/18, so that any flaw is told from none."""
    return severities(past).mean(1)


def severities(past: Tensor) -> Tensor:
    """(n, F) in [0, 1], of each frame."""
    worst = past.amax(1).clamp(max=1)
    return (1 + worst) / 2 * (worst > 0)
