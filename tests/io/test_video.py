import math
import random
import subprocess
from contextlib import suppress

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from apo.io.framing import video_frame
from apo.io.shapes import fit
from apo.io.video import VideoError, probe, read_image, read_video, write_video
from tests.data.clips import counted, numbers


@pytest.mark.parametrize("rate", [8, 24, 25, 30000 / 1001, 50, 6])
def test_resampling_picks_the_frames_nearest_in_time(tmp_path, rate):
    path = counted(tmp_path / "a.mp4", math.ceil(rate * 1.2), rate)
    shown = numbers(read_video(path, 16, 24, 9, 8))
    assert all(abs(index / rate - i / 8) <= 0.5 / rate + 1e-3 for i, index in enumerate(shown)), shown


@pytest.mark.parametrize("kind, codec", [("avi", "mpeg4"), ("mkv", "libx264"), ("ts", "libx264"), ("webm", "libvpx")])
def test_codecs_and_containers(tmp_path, kind, codec):
    path = counted(tmp_path / f"a.{kind}", 30, 16, codec=codec)
    assert numbers(read_video(path, 16, 24, 5, 8)) == [0, 2, 4, 6, 8]
    assert numbers(read_video(path, 16, 24, 5, 8, (1.0, 1.6))) == [16, 18, 20, 22, 24]
    assert probe(path) == pytest.approx(30 / 16, abs=0.07)


def test_a_segment_never_shows_what_follows_it(tmp_path):
    path = counted(tmp_path / "a.mp4", 40, 10)
    shown = numbers(read_video(path, 16, 24, 5, 8, (1.0, 1.55)))
    assert shown[0] == 10 and max(shown) <= 15


def test_nothing_is_lost_at_the_models_own_rate(tmp_path):
    path = counted(tmp_path / "a.mp4", 17, 8)
    assert numbers(read_video(path, 16, 24, 17, 8)) == list(range(17))


@pytest.mark.parametrize("height, width", [(90, 50), (51, 91), (17, 33), (200, 30)])
def test_vertical_and_odd_sizes_keep_the_centre_and_the_proportions(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    y, x = np.ogrid[:height, :width]
    pixels[(y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2 < (min(height, width) / 4) ** 2] = 255
    disc = fit(pixels, 40, 60)[0].float() / 255
    tall, wide = disc.sum(0).max(), disc.sum(1).max()
    assert disc.shape == (40, 60) and abs(tall - wide) <= 2
    centre = (disc.nonzero().float().mean(0) - torch.tensor([19.5, 29.5])).abs()
    assert centre.max() <= 1.5  # half a source pixel, where the crop is odd in an even frame


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_videos_stand_as_their_display_matrix_says(tmp_path, degrees):
    video = torch.zeros(5, 3, 32, 64, dtype=torch.uint8)
    video[:, 0, :, :32], video[:, 1, :16] = 255, 200
    write_video(tmp_path / "lying.mp4", video, 8, enlarge=False)
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", str(degrees)]
    subprocess.run([*ffmpeg, "-i", tmp_path / "lying.mp4", "-c", "copy", tmp_path / "turned.mp4"], check=True)
    expected = torch.rot90(video, degrees // 90, (-2, -1))
    shown = read_video(tmp_path / "turned.mp4", *expected.shape[-2:], 5, 8)
    assert (shown.float() - expected.float()).abs().mean() < 6  # compression


def test_non_square_pixels_are_seen_as_displayed():
    pixels = np.zeros((40, 20, 3), np.uint8)  # 40 x 40 on the screen, with pixels twice as wide as high
    pixels[:, 10:] = 255
    assert fit(pixels, 16, 16, pixel_aspect=2.0)[0, 0].tolist()[:4] == [0] * 4
    assert fit(pixels, 16, 16, pixel_aspect=2.0)[0, 0].tolist()[-4:] == [255] * 4


@pytest.mark.parametrize("height, width", [(90, 50), (51, 91), (17, 33), (200, 30), (1, 99)])
def test_padding_keeps_all_of_a_picture_and_its_proportions(height, width):
    pixels = np.full((height, width, 3), 200, np.uint8)
    there = fit(pixels, 40, 60, mode="pad")[0] > 0
    rows, columns = there.any(1), there.any(0)
    assert there.shape == (40, 60) and there[rows][:, columns].all()
    assert (rows.sum() == 40 or columns.sum() == 60) and abs(
        columns.sum() - max(1, rows.sum() * width / height)
    ) <= max(1, width / height)
    assert abs(int(rows.nonzero().min()) - (39 - int(rows.nonzero().max()))) <= 1


def test_crop_and_pad_agree_on_what_has_the_models_shape():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert fit(pixels, 16, 24).equal(fit(pixels, 16, 24, mode="pad"))
    anamorphic = np.zeros((40, 20, 3), np.uint8) + 9
    assert fit(anamorphic, 16, 16, pixel_aspect=2.0, mode="pad").eq(9).all()


def test_same_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    assert fit(pixels, 16, 24).permute(1, 2, 0).equal(torch.from_numpy(pixels))


def test_written_colours_are_read_back(tmp_path):
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50]], dtype=torch.uint8)
    video = colours.T[None, :, None, :].repeat_interleave(8, 3).repeat(5, 1, 33, 1)  # (5, 3, 33, 32): an odd height
    write_video(tmp_path / "a.mp4", video, 8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (33 * 7 + 1, 32 * 7)
        assert stream.pix_fmt == "yuv420p" and stream.codec_context.name == "h264"
    back = read_video(tmp_path / "a.mp4", 33, 32, 5, 8)
    assert (back[:, :, 4:-4, 4::8].float() - video[:, :, 4:-4, 4::8].float()).abs().max() <= 4
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_too_short_says_what_there_is_and_what_to_do(tmp_path):
    path = counted(tmp_path / "a.mp4", 20, 25)
    with pytest.raises(VideoError, match=r"has 0.8 s of video, the model needs 2.1 s \(17 frames at 8 fps\): lower"):
        read_video(path, 16, 24, 17, 8)
    with pytest.raises(VideoError, match=r"has 0.3 s of video in the segment \[0.5, 5\]"):
        read_video(path, 16, 24, 5, 8, (0.5, 5))


def test_missing_foreign_and_truncated_files_are_named(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    noise = torch.randint(0, 256, (40, 3, 64, 64), dtype=torch.uint8)
    write_video(tmp_path / "whole.mp4", noise, 8, enlarge=False)
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])  # its index is at the front, so it opens
    (tmp_path / "head.mp4").write_bytes(whole[:100])
    for name, what in [("none", "no such file"), ("text", "not a video"), ("half", "truncated"), ("head", "truncated")]:
        for read in (probe, lambda path: read_video(path, 16, 24, 33, 8)):
            with pytest.raises(VideoError, match=rf"{name}.mp4: .*{what}.*: \w+"):
                read(tmp_path / f"{name}.mp4")
    assert probe(tmp_path / "whole.mp4") == pytest.approx(5.0)


def test_a_file_that_names_other_files_is_no_video(tmp_path):
    secret = counted(tmp_path / "secret.mp4", 20, 8)
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{secret}\n#EXT-X-ENDLIST\n"
    playlists = {"hls.mp4": hls, "concat.mp4": "ffconcat version 1.0\nfile secret.mp4\n"}
    for name, content in playlists.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(VideoError, match=f"{name}: truncated or not a video"):
            probe(tmp_path / name)
    (tmp_path / "script.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    )  # PIL would have Ghostscript run it
    with pytest.raises(VideoError, match="script.png: not a readable image"):
        read_image(tmp_path / "script.png", 3, 2)


def test_damaged_files_of_every_kind_are_named_and_nothing_else_is_raised(tmp_path):
    draw = random.Random(0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    write_video(tmp_path / "whole.mp4", torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8), 8, enlarge=False)
    whole = {"mp4": (tmp_path / "whole.mp4").read_bytes()}
    for kind in ("png", "jpeg", "gif", "tiff", "webp"):
        picture.save(tmp_path / f"whole.{kind}")
        whole[kind] = (tmp_path / f"whole.{kind}").read_bytes()
    looks = {"mp4": (probe, lambda path: read_video(path, 16, 24, 5, 8), video_frame)}
    for kind, data in whole.items():
        for _ in range(60):
            damaged = bytearray(data[: draw.choice([len(data), draw.randrange(len(data))])])
            for _ in range(draw.choice([0, 1, 10])):
                place = draw.randrange(min(len(damaged), draw.choice([64, len(data)])) or 1)
                damaged[place : place + 1] = bytes([draw.randrange(256)])
            (path := tmp_path / f"damaged.{kind}").write_bytes(damaged)
            for look in looks.get(kind, (lambda path: read_image(path, 16, 24),)):
                with suppress(VideoError):
                    look(path)


def test_what_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path):
    for side in (9_600, 20_000):  # PIL warns of the first, and refuses the second
        Image.new("1", (side, side)).save(tmp_path / "bomb.png")
        with pytest.raises(VideoError, match="bomb.png: .*pixels"):
            read_image(tmp_path / "bomb.png", 16, 24)


def test_images_turn_as_their_exif_says(tmp_path):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    image.save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png", 3, 2)[0].tolist() == [[120, 0], [160, 40], [200, 80]]
    assert read_image(tmp_path / "a.png", 5, 2, "pad")[0].tolist()[0] == [0, 0]
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(VideoError, match="b.png: not a readable image"):
        read_image(tmp_path / "b.png", 3, 2)
