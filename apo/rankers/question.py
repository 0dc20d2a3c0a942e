"""A question to the ranking server, read from bytes that anyone may have sent: its shape, its size and its videos."""

import base64
import io
import math
import time
from dataclasses import dataclass, field
from typing import Annotated, Literal

import av
import torch
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import Tensor

from apo.io.video import rate

MOST = 20  # alternatives of a token, as in the protocol
MP4 = "data:video/mp4;base64,"
TOO_LARGE = "the videos have more pixels, in all frames together, than are read here: send fewer or smaller frames"


class Refused(Exception):
    """A question that is not answered: the HTTP status, one sentence for whoever asked, and after how many seconds to
    ask again.
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after


@dataclass(frozen=True)
class Limits:
    """What one question may cost, and how many may wait."""

    body_mib: float = field(default=64, metadata={"help": "MiB of a question"})
    upload_s: float = field(default=30, metadata={"help": "seconds in which it has to arrive"})
    seconds: float = field(default=120, metadata={"help": "to decode and answer it"})
    videos: int = field(default=2, metadata={"help": "of a question"})
    frames: int = field(default=512, metadata={"help": "of a video"})
    megapixels: float = field(default=256, metadata={"help": "of all frames of a question together"})
    characters: int = field(default=20_000, metadata={"help": "of all texts of a question"})
    queue: int = field(
        default=64, metadata={"help": "questions that arrive, wait or are answered at once; the next gets 503"}
    )

    @property
    def body(self) -> int:
        """Bytes."""
        return int(self.body_mib * 2**20)


class Deadline:
    """Of one question: the seconds that its answer may take from `start` on, or none any more after `end`."""

    def __init__(self, seconds: float):
        self.seconds, self.until = seconds, math.inf

    def start(self) -> None:
        self.until = min(self.until, time.monotonic() + self.seconds)

    def end(self) -> None:
        self.until = -math.inf

    def require(self) -> None:
        """Refused once the time is over."""
        if time.monotonic() > self.until:
            more = "send fewer or smaller frames, or start the server with more --seconds"
            raise Refused(400, f"this question took more than {self.seconds:g} s: {more}")


class Strict(BaseModel):
    """Fields that are not named here are another server's and change nothing."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


def without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a text holds a NUL character")
    return text


def as_parts(content):
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Text(Strict):
    type: Literal["text"]
    text: Annotated[str, AfterValidator(without_nul)]


class URL(Strict):
    url: str


class Video(Strict):
    type: Literal["video_url"]
    video_url: URL


class Message(Strict):
    role: Literal["system", "user", "assistant"]
    content: Annotated[list[Annotated[Text | Video, Field(discriminator="type")]], BeforeValidator(as_parts)]


class Question(Strict):
    """The protocol's chat completion, as far as one token can answer it."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    n: Literal[1] | None = None
    stream: Literal[False] | None = None

    def texts(self) -> list[str]:
        return [part.text for message in self.messages for part in message.content if isinstance(part, Text)]

    def videos(self) -> list[str]:
        """Their URLs, in their order."""
        return [part.video_url.url for message in self.messages for part in message.content if isinstance(part, Video)]

    def chat(self) -> list[dict]:
        """The messages as a chat template takes them."""
        placed = [
            [part.model_dump() if isinstance(part, Text) else {"type": "video"} for part in m.content]
            for m in self.messages
        ]
        return [{"role": message.role, "content": content} for message, content in zip(self.messages, placed)]


def parse(body: bytes, limits: Limits) -> Question:
    """Refused says the first thing that is wrong, and where."""
    try:
        question = Question.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the question"
        raise Refused(
            400, f"{place}: {first['msg']}; send an OpenAI chat completion: send text and video_url parts"
        ) from None
    if (count := sum(map(len, question.texts()))) > limits.characters:
        raise Refused(400, f"the texts have {count} characters: at most {limits.characters} are read")
    if (count := len(question.videos())) > limits.videos:
        raise Refused(400, f"the question has {count} videos: at most {limits.videos} are read")
    return question


def read_videos(urls: list[str], limits: Limits, deadline: Deadline) -> list[tuple[Tensor, dict]]:
    """`read` of each; Refused if they are too much together."""
    found, pixels = [], int(limits.megapixels * 10**6)
    for url in urls:
        video, metadata = read(url, limits.frames, pixels, deadline)
        pixels -= video[:, 0].numel()
        found.append((video, metadata))
    return found


def read(url: str, frames: int, pixels: int, deadline: Deadline) -> tuple[Tensor, dict]:
    """All frames (F, 3, H, W) uint8 of a data URL, and their times for the processor.

    Refused for what is no mp4, has more than so many frames, or more pixels in all frames together. Only the mp4 reader
    is tried: others would follow addresses and paths that stand in the file.
    """
    if not url.startswith(MP4):
        raise Refused(400, f"video_url={url[:40]!r}: send {MP4}...")
    try:
        content = io.BytesIO(base64.b64decode(url.removeprefix(MP4), validate=True))
        with av.open(content, format="mp4") as container:
            images, fps = decoded(container, frames, pixels, deadline)
    except Refused:
        raise
    except Exception as error:  # damaged bytes lead PyAV to errors of many kinds
        what = " ".join(str(error.strerror if isinstance(error, av.error.FFmpegError) else error).split())
        raise Refused(400, f"a video can't be read ({what[:200]}): send an mp4, whole and base64-encoded") from None
    video = torch.stack(images).permute(0, 3, 1, 2)
    return video, dict(
        total_num_frames=len(video), fps=fps, frames_indices=list(range(len(video))), duration=len(video) / fps
    )


def decoded(container, frames: int, pixels: int, deadline: Deadline) -> tuple[list[Tensor], float]:
    """The (H, W, 3) uint8 frames, all of one size, and how many there are in a second."""
    if not container.streams.video:
        raise Refused(400, "a video has no pictures: send an mp4 with a video stream")
    stream = container.streams.video[0]
    if stream.width * stream.height > pixels:
        raise Refused(400, TOO_LARGE)
    stream.thread_type = "AUTO"
    stream.codec_context.options = {
        "max_pixels": str(max(pixels, 1))
    }  # also of frames that are larger than was declared
    images = []
    for frame in container.decode(stream):
        deadline.require()
        if len(images) == frames:
            raise Refused(400, f"a video has more than {frames} frames: send fewer")
        pixels -= frame.width * frame.height
        if pixels < 0:
            raise Refused(400, TOO_LARGE)
        images.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
    if len({image.shape for image in images}) != 1:
        raise Refused(400, "a video has no frames, or frames of several sizes: send frames of one size")
    return images, float(rate(stream))
