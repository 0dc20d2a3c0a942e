"""Videos and images on disk to and from uint8 tensors. Everything the data layer knows about codecs is here."""

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import torch
import torch.nn.functional as nnf
from av.video.reformatter import Colorspace
from PIL import Image, ImageOps
from torch import Tensor

from apo.errors import UserError
from apo.io.files import replacing
from apo.io.shapes import fit

BT709 = 1  # ffmpeg's number for the matrix, the primaries and the transfer curve
LIMITED_RANGE = 1
SMALL = 256  # pixels; players show anything smaller as a stamp or blur it
# Of files that anyone may hand over: no playlists and scripts, which name other files, and nothing that calls another
# program
CONTAINERS = (
    "mov,mp4,m4a,3gp,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,ogg,asf,gif,apng,h264,hevc,av1,obu,ivf,mxf,nut,"
    "dv,rm,yuv4mpegpipe"
)
IMAGES = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
PIXELS = 89_478_485  # of a picture or a frame; PIL warns beyond it
warnings.filterwarnings("ignore", module=r"PIL\.")  # what is wrong with a file is an error here, which names it


class Spec(Protocol):
    """What a model takes: frames of height x width pixels, fps a second, and what becomes of other shapes (`fit`: crop
    or pad).
    """

    height: int
    width: int
    frames: int
    fps: float
    fit: str


class VideoError(UserError):
    """A file that can't be used; says which, why, and what to do."""


def read_video(
    path: Path,
    height: int,
    width: int,
    frames: int,
    fps: float,
    segment: tuple[float, float] | None = None,
    mode: str = "crop",
) -> Tensor:
    """(frames, 3, height, width) uint8: the source frames nearest in time to start + i / fps.

    mode: see `fit`. segment: (start, end) in seconds within the file; its first
    frames / fps seconds are read and nothing outside it is. VideoError if missing, undecodable, truncated or too short.
    """
    require_length(path, math.inf, frames, fps, segment)
    start, end = segment or (0.0, math.inf)
    times = [start + i / fps for i in range(frames)]
    for seek in (True, False) if start > 0 else (False,):  # some containers seek past what they were asked for
        picked, reached, declared = [], start, 0.0
        with open_stream(path) as (container, stream):
            declared = seconds(stream, stream.duration or 0)
            if seek:
                container.seek(int(start / stream.time_base) + (stream.start_time or 0), stream=stream)
            shown = ((since, until, frame) for since, until, frame in timed_frames(container, stream) if since < end)
            for since, until, frame in nearest(shown, times):
                if not picked and seek and since > start + 0.5 / rate(stream):
                    break
                picked.append(fit(upright(frame), height, width, pixel_aspect(stream), mode))
                reached = min(until, end)
        if len(picked) == frames:
            return torch.stack(picked)
    require_length(path, declared or reached, frames, fps, segment)
    raise VideoError(f"{path}: truncated, {declared:.1f} s declared, {reached:.1f} s decoded: {COPY_AGAIN}")


COPY_AGAIN = "copy the file again or drop the row"


def require_length(path: Path, duration: float, frames: int, fps: float, segment: tuple[float, float] | None) -> None:
    """VideoError unless `duration` seconds of file, cut to the segment, show something at every frame's time."""
    start, end = segment or (0.0, math.inf)
    has = max(min(duration, end) - start, 0.0)
    if has <= (frames - 1) / fps + 1e-6:
        where = "" if segment is None else f" in the segment [{start:g}, {end:g}]"
        raise VideoError(
            f"{path}: has {has:.1f} s of video{where}, the model needs {frames / fps:.1f} s "
            f"({frames} frames at {fps:g} fps): lower model.spec.frames or drop the row"
        )


def require_within(path: Path, duration: float, segment: tuple[float, float] | None) -> None:
    """VideoError for a segment that ends after `duration` seconds of file, which muxers round."""
    if segment is not None and segment[1] > duration + 0.25:
        start, end = segment
        raise VideoError(
            f"{path}: the segment [{start:g}, {end:g}] ends after the video ({duration:.1f} s): correct it "
            "or drop the row"
        )


def probe(path: Path) -> float:
    """Seconds of video in a file, without decoding more than its first frame.

    Reads every packet, so a truncated file is found. VideoError as for `read_video`.
    """
    with open_stream(path) as (container, stream):
        size = path.stat().st_size
        zero, last, decoded = stream.start_time or 0, None, False
        for count, packet in enumerate(container.demux(stream)):
            if packet.size == 0:
                break  # the flushing packet: end of file
            if packet.is_corrupt or (packet.pos or 0) + packet.size > size:
                there = seconds(stream, (last or zero) - zero)
                raise VideoError(f"{path}: truncated after {there:.1f} s: {COPY_AGAIN}")
            decoded = decoded or bool(packet.decode())
            if packet.pts is None:  # raw streams have no clock
                last = zero + round((count + 1) / rate(stream) / stream.time_base)
            else:
                last = max(last or zero, packet.pts + (packet.duration or frame_ticks(stream)))
        if not (decoded or stream.decode(None)):
            raise VideoError(f"{path}: no frame of it can be decoded: {COPY_AGAIN}")
        duration, declared = seconds(stream, last - zero), seconds(stream, stream.duration or 0)
        if duration < declared - max(0.25, 0.02 * declared):  # muxers round, and count a last frame or not
            raise VideoError(f"{path}: truncated, {declared:.1f} s declared, {duration:.1f} s there: {COPY_AGAIN}")
        return duration


def image_pixels(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 of an image file as it is to be seen. VideoError if missing, unreadable or too large."""
    require_file(path)
    try:
        with Image.open(path, formats=IMAGES) as image:
            require_size(path, *image.size)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except VideoError:
        raise
    except Exception as error:  # PIL's decoders raise whatever a damaged or hostile file makes them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VideoError(f"{path}: not a readable image ({reason}): {COPY_AGAIN}") from error


def read_image(path: Path, height: int, width: int, mode: str = "crop") -> Tensor:
    """(3, height, width) uint8, see `fit`. VideoError if missing, unreadable or too large."""
    return fit(image_pixels(path), height, width, mode=mode)


def require_file(path: Path) -> None:
    """VideoError unless there is a file."""
    try:
        found = path.is_file()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise VideoError(f"{path}: {error.strerror}: correct the path or drop the row") from error
    if not found:
        raise VideoError(f"{path}: no such file: correct the path or drop the row")


def require_size(path: Path, width: int, height: int) -> None:
    """VideoError for a picture that would fill the memory: few bytes can hold very many pixels."""
    if width * height > PIXELS:
        raise VideoError(f"{path}: {width} x {height} pixels are more than {PIXELS:,}: make it smaller or drop the row")


def write_video(path: Path, video: Tensor, fps: float, crf: int = 12, enlarge: bool = True) -> None:
    """Writes (F, 3, H, W) uint8 as an H.264 mp4 that browsers play; complete or not there at all.

    crf: x264's quality, 0 (lossless) to 51 (worst). enlarge: videos under 256 pixels grow by a whole factor, so that
    players show their pixels as they are. An odd height or width gets one more row or column, which H.264 needs.
    """
    factor = max(1, SMALL // max(video.shape[-2:])) if enlarge else 1
    video = video.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    height, width = video.shape[-2:]
    video = nnf.pad(video.float(), (0, width % 2, 0, height % 2), mode="replicate").byte()
    with (
        replacing(path) as partial,
        av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(60000))
        stream.height, stream.width, stream.pix_fmt = *video.shape[-2:], "yuv420p"
        stream.options = {
            "crf": str(crf),
            "preset": "medium",
            "mbtree": "0",
        }  # of small frames mbtree reads what was not written
        context = stream.codec_context  # untagged, players guess the colours from the size
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        for image in video.permute(0, 2, 3, 1).contiguous().numpy(force=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)))
        container.mux(stream.encode(None))


@contextmanager
def open_stream(path: Path) -> Iterator[tuple]:
    """(container, video stream) of a file; what is raised inside, where it is decoded, becomes a VideoError that names
    the file.
    """
    require_file(path)
    try:
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            if not container.streams.video:
                raise VideoError(f"{path}: no video in it, truncated or another kind of file: {COPY_AGAIN}")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise VideoError(f"{path}: no decoder for its codec here: convert it to H.264, or drop the row")
            require_size(path, stream.codec_context.width, stream.codec_context.height)
            stream.thread_type = "AUTO"
            yield container, stream
    except UserError:
        raise
    except Exception as error:  # what a damaged or hostile file makes ffmpeg and PyAV raise
        reason = (
            error.strerror
            if isinstance(error, av.error.FFmpegError)
            else f"{type(error).__name__}: {' '.join(str(error).split())}"
        )
        raise VideoError(f"{path}: truncated or not a video ({reason}): {COPY_AGAIN}") from error


def timed_frames(container, stream) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """(from, until, frame) in seconds since the stream's start, in display order."""
    zero = stream.start_time or 0
    for index, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:
            raise VideoError(f"{container.name.removeprefix('file:')}: frame {index} is damaged: {COPY_AGAIN}")
        since = index / rate(stream) if frame.pts is None else seconds(stream, frame.pts - zero)
        yield since, since + seconds(stream, frame.duration or frame_ticks(stream)), frame


def nearest(shown: Iterable[tuple[float, float, av.VideoFrame]], times: list[float]) -> Iterator[tuple]:
    """(from, until, frame) whose start is nearest to each of the increasing times; ends early where the frames do."""
    waiting, before = list(reversed(times)), None
    for current in shown:
        while waiting and waiting[-1] <= current[0]:
            time = waiting.pop()
            yield before if before and time - before[0] < current[0] - time else current
        if not waiting:
            return
        before = current
    while waiting and before and waiting[-1] < before[1] - 1e-6:  # the last frame stays on for its duration
        waiting.pop()
        yield before


def upright(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8, turned as the file's display matrix says: phones store vertical videos lying down."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def pixel_aspect(stream) -> float:
    """Width of a pixel over its height, as it is to be seen."""
    return float(stream.sample_aspect_ratio or 1)


def rate(stream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def frame_ticks(stream) -> int:
    return max(1, round(1 / (rate(stream) * stream.time_base)))


def seconds(stream, ticks: int) -> float:
    return float(ticks * stream.time_base)
