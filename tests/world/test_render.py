from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from apo.world import render as world
from apo.world.grammar import COLOURS, Meaning
from apo.world.render import FRAMES, GLYPH, SIZE, Clip

BACKGROUND = (30, 60, 90, 110, 40, 70, 33)


def clips(count: int, scenes: float, split: str = "train", seed: int = 0) -> list[Clip]:
    rng = np.random.default_rng(seed)
    return [world.random_clip(rng, split, scenes) for _ in range(count)]


@pytest.mark.parametrize("scenes", [0.0, 1.0])
def test_every_frame_is_the_first_moved_by_the_prompts_velocity(scenes):
    for clip in clips(20, scenes):
        assert_close(clip.path().diff(dim=0), torch.tensor(clip.meaning.velocity).expand(FRAMES - 1, 2))
        assert clip.path().min() >= 0
        assert (clip.path() <= torch.tensor(world.room(clip.meaning.domain))).all()


def test_a_video_is_uint8_and_the_same_clip_gives_the_same_video():
    for clip in clips(4, 0.5):
        video = world.render(clip)
        assert (video.shape, video.dtype) == ((FRAMES, 3, SIZE, SIZE), torch.uint8)
        assert_close(world.render(clip), video, rtol=0, atol=0)


def test_a_scene_shows_the_photograph_at_the_path():
    clip = Clip(Meaning("down", "quickly", photo="flower"), (4, 8))
    expected = world.photo("flower")[:, 4 + 16 : 4 + 16 + SIZE, 8 : 8 + SIZE]
    assert_close(world.render(clip)[-1].float(), expected, rtol=0, atol=0.5)


def test_a_digit_is_its_colour_where_opaque_and_the_background_where_transparent():
    clip = Clip(Meaning("right", "slowly", digit=0, colour="green"), (8, 4), glyph=0, background=BACKGROUND)
    alpha = world.opacity(world.glyphs()[0], clip.path())
    video = world.render(clip).float()
    pixels = video.permute(0, 2, 3, 1)
    assert (pixels[alpha == 1] == torch.tensor(COLOURS["green"])).all()
    background = world.gradient(BACKGROUND).expand_as(video).permute(0, 2, 3, 1)
    assert_close(pixels[alpha == 0], background[alpha == 0].float(), rtol=0, atol=0.5)


def test_a_background_is_a_plane_between_its_two_colours():
    plane = world.gradient(BACKGROUND)
    assert plane.diff(n=2, dim=1).abs().max() < 1e-3
    assert plane.diff(n=2, dim=2).abs().max() < 1e-3
    low, high = torch.tensor(BACKGROUND[:3]), torch.tensor(BACKGROUND[3:6])
    assert_close(plane.amin((1, 2)), torch.minimum(low, high).float(), check_dtype=False, rtol=0, atol=1e-3)
    assert_close(plane.amax((1, 2)), torch.maximum(low, high).float(), check_dtype=False, rtol=0, atol=1e-3)


def test_opacity_beyond_the_frame_is_cut():
    glyph = torch.ones(GLYPH, GLYPH)
    inside, half, gone = world.opacity(glyph, torch.tensor([[0, 0], [-GLYPH // 2, 8], [SIZE + 9, 0]])).sum((1, 2))
    assert (inside, half, gone) == (GLYPH**2, GLYPH**2 / 2, 0)


def test_the_splits_share_no_glyph():
    used = {split: {clip.glyph for clip in clips(200, 0.0, split)} for split in world.SPLITS}
    for split, glyphs in used.items():
        low, high = world.SPLITS[split]
        assert low <= min(glyphs) and max(glyphs) < high
    assert sum(high - low for low, high in world.SPLITS.values()) == len(world.glyphs())


def test_a_glyph_shows_the_prompts_digit():
    assert all(world.digit_labels()[clip.glyph] == clip.meaning.digit for clip in clips(50, 0.0))


def test_a_redirected_clip_has_the_same_first_frame_and_another_motion():
    rng = np.random.default_rng(1)
    for clip in clips(20, 0.3):
        other = world.redirected(clip, rng)
        assert other.meaning.velocity != clip.meaning.velocity
        assert replace(other, meaning=clip.meaning) == clip
        assert_close(world.render(other)[0], world.render(clip)[0], rtol=0, atol=0)
