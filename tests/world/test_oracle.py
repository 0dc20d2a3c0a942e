"""What the oracle must see and must not see: ground truth, softened ground truth, and every planted corruption."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.testing import assert_close

from apo.world import flaws, render
from apo.world.grammar import Meaning, describe
from apo.world.oracle import CAUSES, Measurement, excess, first_cause, measure
from apo.world.render import Clip
from apo.world.tracking import dice, fit_planes, track_digits, track_scenes


@dataclass
class Sample:
    clips: list[Clip]
    videos: Tensor
    prompts: list[str]
    frames: Tensor

    def judge(self, videos: Tensor) -> Measurement:
        return measure(videos, self.prompts, self.frames)


def sample(count: int, scenes: float, seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    clips = [render.random_clip(rng, "validation", scenes) for _ in range(count)]
    videos = torch.stack([render.render(clip) for clip in clips])
    return Sample(clips, videos, [describe(clip.meaning) for clip in clips], videos[:, 0])


@pytest.fixture(scope="module")
def truth() -> Sample:
    return sample(500, 0.3, seed=0)


@pytest.fixture(scope="module")
def domains() -> dict[str, Sample]:
    return {"digit": sample(50, 0.0, seed=1), "scene": sample(50, 1.0, seed=2)}


def softened(videos: Tensor) -> Tensor:
    """Videos as a small VAE would return them: blurred by 0.8 px, tinted more and more, with fine and coarse noise."""
    generator = torch.Generator().manual_seed(0)
    count, frames = videos.shape[:2]
    offsets = torch.arange(-3, 4)
    kernel = torch.exp(-(offsets**2) / (2 * 0.8**2))
    kernel = (kernel[:, None] * kernel / kernel.sum() ** 2).expand(3, 1, 7, 7)
    blurred = nnf.conv2d(nnf.pad(videos.flatten(0, 1).float(), (3,) * 4, mode="replicate"), kernel, groups=3)
    coarse = nnf.interpolate(torch.randn(count * frames, 3, 16, 16, generator=generator), size=64, mode="bilinear")
    fine = torch.randn(blurred.shape, generator=generator)
    tint = 3 * torch.randn(count, 1, 3, 1, 1, generator=generator) * torch.linspace(0, 1, frames)[:, None, None, None]
    return render.to_uint8((blurred + 5 * fine + 5 * coarse).unflatten(0, (count, frames)) + tint)


def psnr(a: Tensor, b: Tensor) -> float:
    errors = (a.float() - b.float()).square().mean((1, 2, 3, 4))
    return float((10 * torch.log10(255**2 / errors)).mean())


def test_no_ground_truth_is_distorted_and_all_of_it_follows(truth):
    found = truth.judge(truth.videos)
    assert found.cause == [""] * 500
    assert found.followed.all()
    assert_close(found.speed, torch.tensor([max(map(abs, c.meaning.velocity)) for c in truth.clips]).float())
    assert found.motion_smoothness.min() == 1
    assert found.subject_consistency.min() > 0.999
    assert found.background_consistency.min() > 0.998


def test_at_most_one_percent_of_ground_truth_softened_to_30_db_is_distorted(truth):
    some = slice(0, 200)
    soft = softened(truth.videos[some])
    assert 29 < psnr(soft, truth.videos[some]) < 31
    found = measure(soft, truth.prompts[some], truth.frames[some])
    assert found.distorted.float().mean() <= 0.01
    assert found.followed.float().mean() >= 0.99


DISTORTION, DYNAMICS, INSTRUCTION = "distortion_rate", "dynamic_degree", "instruction_following"
SUBJECT, BACKGROUND, SMOOTHNESS = "subject_consistency", "background_consistency", "motion_smoothness"


def changes(found: Measurement, right: Measurement) -> dict[str, Tensor]:
    """Per metric, (B,) whether it tells the video from the right one of the same clip."""
    return {
        DISTORTION: found.distorted,
        DYNAMICS: (found.speed - right.speed).abs() > 0.25,
        INSTRUCTION: ~found.followed,
        SUBJECT: found.subject_consistency < right.subject_consistency - 0.02,
        BACKGROUND: found.background_consistency < right.background_consistency - 0.02,
        SMOOTHNESS: found.motion_smoothness < right.motion_smoothness - 0.02,
    }


# corruption, domain, its cause, the metrics it must change, the metrics it changes in some clips. All others it must
# not.
TABLE = [
    # the position of a wrong shape is uncertain
    (flaws.morph, "digit", "deformed", {DISTORTION, SUBJECT}, {SMOOTHNESS, DYNAMICS}),
    # what is gone stops where it was last seen: a kink, and less motion unless it goes late
    (flaws.vanish, "digit", "vanished", {DISTORTION, SUBJECT, SMOOTHNESS}, {DYNAMICS}),
    # while the two overlap, either may be taken for the digit
    (flaws.split, "digit", "split", {DISTORTION, SUBJECT}, {SMOOTHNESS, INSTRUCTION}),
    (flaws.recolour, "digit", "colour", {DISTORTION, SUBJECT}, set()),
    # bright colours saturate, so some digits change colour with the brightness
    (flaws.flicker, "digit", "flicker", {DISTORTION, BACKGROUND}, {SUBJECT}),
    (flaws.flicker, "scene", "flicker", {DISTORTION, BACKGROUND}, set()),
    (flaws.repaint, "digit", "background", {DISTORTION, BACKGROUND}, set()),
    # in a scene the photograph is subject and background; a second one confuses where the camera is
    (flaws.ghost, "scene", "deformed", {DISTORTION, SUBJECT, BACKGROUND}, {SMOOTHNESS, DYNAMICS, INSTRUCTION}),
    # the jump may end nearer to another motion's path, and counts in the net displacement
    (flaws.cut, "scene", "cut", {DISTORTION, SMOOTHNESS}, {DYNAMICS, INSTRUCTION}),
    (flaws.freeze, "digit", "", {DYNAMICS, INSTRUCTION}, set()),
    (flaws.freeze, "scene", "", {DYNAMICS, INSTRUCTION}, set()),
    # every second frame stands still
    (flaws.slow_motion, "digit", "", {DYNAMICS, INSTRUCTION, SMOOTHNESS}, set()),
    (flaws.slow_motion, "scene", "", {DYNAMICS, INSTRUCTION, SMOOTHNESS}, set()),
    # the other motion may have the other speed
    (flaws.misdirect, "digit", "", {INSTRUCTION}, {DYNAMICS}),
    (flaws.misdirect, "scene", "", {INSTRUCTION}, {DYNAMICS}),
]


@pytest.mark.parametrize("flaw, domain, cause, must, may", TABLE, ids=[f"{row[0].__name__}-{row[1]}" for row in TABLE])
def test_a_corruption_changes_exactly_its_metrics(domains, flaw, domain, cause, must, may):
    truth, rng = domains[domain], np.random.default_rng(3)
    found = truth.judge(torch.stack([flaw(clip, rng) for clip in truth.clips]))
    rates = {key: float(x.float().mean()) for key, x in changes(found, truth.judge(truth.videos)).items()}
    assert {key for key in rates.keys() - may if rates[key] >= 0.95} == must, rates
    assert all(rates[key] <= 0.05 for key in rates.keys() - may - must), rates
    assert found.cause.count(cause) >= 0.9 * len(truth.clips)


@pytest.mark.parametrize("domain", flaws.PLANTED)
def test_planted_flaws_are_found_in_softened_videos_too(domains, domain):
    truth, rng = domains[domain], np.random.default_rng(4)
    for flaw in flaws.PLANTED[domain]:
        found = truth.judge(softened(torch.stack([flaw(clip, rng) for clip in truth.clips])))
        assert found.distorted.float().mean() >= 0.95, flaw.__name__


def test_a_digit_that_jumps_is_cut():
    clip = Clip(Meaning("right", "slowly", digit=0, colour="red"), (0, 0), 0, (30, 60, 90, 110, 40, 70, 33))
    moved = render.render(replace(clip, start=(12, 0)))
    video = torch.cat([render.render(clip)[:8], moved[8:]])
    assert measure(video[None], [describe(clip.meaning)], video[None, 0]).cause == ["cut"]


def test_a_video_that_does_not_start_with_the_first_frame_is_cut(domains):
    scenes = domains["scene"]
    starts = [torch.tensor([[c.start[0], abs(c.start[1] - 8)]]) for c in scenes.clips]
    moved = [render.crops(render.photo(c.meaning.photo), start) for c, start in zip(scenes.clips, starts)]
    moved = torch.stack([render.to_uint8(frame) for frame in moved])
    assert measure(moved.expand(-1, render.FRAMES, -1, -1, -1), scenes.prompts, scenes.frames).cause == ["cut"] * 50


def test_the_measurement_of_a_video_does_not_depend_on_its_neighbours(truth):
    pick = [3, 0, 41, 17, 8]
    together = measure(truth.videos[:48], truth.prompts[:48], truth.frames[:48])
    alone = measure(truth.videos[pick], [truth.prompts[i] for i in pick], truth.frames[pick])
    for field in fields(Measurement):
        assert_close(getattr(alone, field.name), getattr(together, field.name)[pick])


def test_a_wrong_direction_fails_the_direction_and_a_wrong_speed_the_speed(domains):
    digits = domains["digit"]
    other_speed = {"slowly": "quickly", "quickly": "slowly"}
    prompts = [describe(replace(c.meaning, speed=other_speed[c.meaning.speed])) for c in digits.clips]
    found = measure(digits.videos, prompts, digits.frames)
    assert found.direction_followed.all() and not found.speed_followed.any()
    reverse = digits.videos.flip(1)
    found = measure(reverse, digits.prompts, reverse[:, 0])
    assert found.speed_followed.all() and not found.direction_followed.any()


def test_tracks_are_exact(domains):
    digits, scenes = domains["digit"], domains["scene"]
    path = torch.stack([clip.path() for clip in digits.clips])
    track = track_digits(digits.videos.float(), [c.meaning for c in digits.clips], digits.frames.float(), 0.35)
    assert_close(track.position - track.start[:, None], (path - path[:, :1]).float())
    for name in {clip.meaning.photo for clip in scenes.clips}:
        chosen = [i for i, clip in enumerate(scenes.clips) if clip.meaning.photo == name]
        track = track_scenes(scenes.videos[chosen].float(), name, scenes.frames[chosen].float())
        assert_close(track.position, torch.stack([scenes.clips[i].path() for i in chosen]).float())


def test_the_plane_fit_recovers_the_background_behind_the_digit(domains):
    digits = domains["digit"]
    background = torch.stack([render.gradient(clip.background) for clip in digits.clips]).float()
    assert (fit_planes(digits.frames.float()) - background).abs().max() < 1


def test_dice_is_one_for_equal_and_zero_for_disjoint_shapes():
    shapes = torch.eye(2)[:, :, None].expand(2, 2, 5)
    assert_close(dice(shapes, shapes), torch.ones(2))
    assert_close(dice(shapes, shapes.flip(0)), torch.zeros(2))


def test_the_first_cause_explains_the_others(domains):
    digits = domains["digit"]
    track = track_digits(digits.videos.float(), [c.meaning for c in digits.clips], digits.frames.float(), 0.35)
    worse = replace(track, similarity=track.similarity * 0)
    assert (first_cause(excess(worse)) == 1 + CAUSES.index("deformed")).all()
    assert (first_cause(excess(replace(worse, mass=track.mass * 0))) == 1 + CAUSES.index("vanished")).all()


def test_severity_is_zero_for_clean_videos_alone_and_grows_with_the_frames_that_are_flawed(domains):
    digits, rng = domains["digit"], np.random.default_rng(5)
    clean, gone = digits.videos, torch.stack([flaws.vanish(clip, rng) for clip in digits.clips])
    found = digits.judge(torch.cat([clean[:25], gone[25:]]))
    assert torch.equal(found.severity > 0, found.distorted) and found.severity.max() <= 1
    assert found.distorted[25:].all() and found.severity[25:].min() >= 1 / 18
    background = torch.stack([render.to_uint8(render.gradient(clip.background)) for clip in digits.clips])
    last = None
    for frames in range(4):  # that many at the end show no digit
        video = clean.clone()
        video[:, 9 - frames :] = background[:, None]
        found = digits.judge(video).severity
        assert last is None or (found > last + 0.05).all()
        last = found
    faded = clean.clone()  # how far counts too
    faded[:, -3:] = render.to_uint8(0.8 * background[:, None] + 0.2 * clean[:, -3:])
    assert (digits.judge(faded).severity <= last + 1e-6).all()
