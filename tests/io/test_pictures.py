"""Captions fit above what they are of, whatever is in them."""

import numpy as np
import pytest
import torch
from PIL import Image

from apo.io.pictures import LINES, MISSING, Caption, contact_sheet, font, header, looped, side_by_side, wrapped

TEXTS = [
    "",
    "a word",
    "the red digit five moves up quickly " * 9,
    "unbroken" * 99,
    "猫" * 50,
    "🐈",
    "two\nlines\ttab",
    " ",
    "\x00\ud800\u202e",
]
WHITE = 255


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("width", [40, 256])
def test_wrapped_lines_fit_and_lose_nothing_but_the_end(text, width):
    face = font(13)
    lines = wrapped(text, width, face)
    assert 1 <= len(lines) <= LINES and all(face.getlength(line) <= width for line in lines)
    whole, kept = "".join(text.split()), "".join(lines).replace(" ", "")
    shortened = kept.endswith("…")
    kept = kept.removesuffix("…")
    assert all(ours in (theirs, MISSING) for ours, theirs in zip(kept, whole))
    assert len(kept) < len(whole) if shortened else len(kept) == len(whole)


def test_what_the_font_lacks_is_a_box_and_what_it_has_is_drawn():
    assert wrapped("café Ελλάδα Привет", 500, font(13)) == ["café Ελλάδα Привет"]
    assert wrapped("猫🐈 ran", 500, font(13)) == [f"{MISSING}{MISSING} ran"]


def test_captions_leave_a_margin_on_the_right():
    pixels = np.array(header([Caption("the red digit five " * 9), Caption("bold " * 20, "firebrick", True)], 256, 15))
    assert (pixels[:, -2:] == WHITE).all() and (pixels[:, :250] != WHITE).any()


@pytest.mark.parametrize("height, width", [(64, 64), (32, 48), (31, 97), (300, 20), (256, 256)])
def test_videos_beside_each_other_are_large_labelled_and_otherwise_as_they_were(height, width):
    videos = [torch.randint(0, 256, (5, 3, height, width), dtype=torch.uint8) for _ in range(2)]
    shown = side_by_side(
        videos, "a prompt " * 30, [[Caption("baseline"), Caption("clean")], [Caption("a long name of an arm " * 5)]]
    )
    factor = -(-256 // min(height, width)) if min(height, width) < 256 else 1
    assert min(height, width) * factor >= 256 and shown.shape[0] == 5 and shown.shape[-2] > height * factor
    below = shown[..., -height * factor :, :]
    assert below[..., ::factor, : width * factor : factor].equal(videos[0])
    assert below[..., ::factor, -width * factor :: factor].equal(videos[1])
    assert (shown[..., : -height * factor, :] < 100).any()  # text


@pytest.mark.parametrize("frames, fps, expected", [(9, 8, 27), (9, 2.5, 9), (1, 16, 48), (81, 16, 81), (24, 8, 24)])
def test_short_videos_are_looped_at_their_own_speed(frames, fps, expected):
    video = torch.arange(frames, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 1, 1)
    shown = looped(video, fps)
    assert len(shown) == expected and shown[:frames].equal(video) and shown[-1].equal(video[-1])


def test_a_contact_sheet_holds_videos_of_any_size(tmp_path):
    videos = [
        torch.zeros(frames, 3, height, width, dtype=torch.uint8)
        for frames, height, width in ((9, 64, 64), (1, 8, 400), (3, 400, 2))
    ]
    contact_sheet(tmp_path / "sheets" / "sheet.png", videos, TEXTS[1:4], ["black", "firebrick", "black"], 32)
    assert (
        Image.open(tmp_path / "sheets" / "sheet.png").width >= 1600 and len(list((tmp_path / "sheets").iterdir())) == 1
    )
