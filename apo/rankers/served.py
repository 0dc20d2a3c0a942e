"""Pairwise ranking through any OpenAI-compatible server that serves a vision-language model (docs/serving.md).

The question is that of `ranker=qwen3_vl`; only the model is elsewhere: on other GPUs, behind vLLM, SGLang,
`transformers serve` or `python -m apo.rankers.serve`.
"""

import asyncio
import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal
from urllib.parse import urlsplit

import openai
import torch
from PIL import Image
from torch import Tensor

from apo.config.numbers import Range, Size, Text
from apo.data.domains import DomainRule
from apo.errors import UserError
from apo.interfaces import Condition, Verdict
from apo.io.video import write_video
from apo.parts import Part, Setting
from apo.policies.model import Rate
from apo.rankers.answer import order_averaged, standard_frames, verdict
from apo.rankers.reply import label_probabilities

LONGEST_REPLY = 2**24  # bytes
BUSY = (429, 503)
HELP = "docs/serving.md has the commands"


class ServerGone(UserError):
    """The server stopped answering during a run. The run's last checkpoint is whole; the same command resumes it."""


Seconds = Annotated[float, Range(0, 10**6, above=True)]


@dataclass(kw_only=True)
class ServedRanker(Part):
    """One label of four from the answer token's probabilities, where the server gives them; otherwise the answer alone.

    base_url: of the server, with /v1. model: as the server calls it. domains: whose prompt each condition gets. frames:
    that both videos are standardised to. fps: of the videos that are ranked; the model reads time stamps. media: what
    videos travel as, see `parts`. top_logprobs: how many tokens' probabilities are asked for; None: none, the answer
    counts as certain, as it does with a server that gives none. timeout_s: of one attempt, to the end of its answer.
    retries: of a request, after waits of 0.5 s, 1 s, 2 s ... 8 s, or as long as the server says. hello_timeout_s: of
    the first question, before a run. api_key_env: name of the environment variable that holds the key; None: the server
    wants none. body: more fields of every request, for what a server has beyond the protocol.
    """

    base_url: Text
    model: Text
    domains: DomainRule
    frames: Size
    fps: Rate
    media: Literal["video", "frames"]
    swap_averaging: bool
    top_logprobs: Annotated[int, Range(1, 20)] | None
    timeout_s: Seconds
    retries: Annotated[int, Range(0, 1000)]
    max_concurrency: Annotated[int, Range(1, 10_000)]
    hello_timeout_s: Seconds
    api_key_env: Text | None
    body: dict = field(default_factory=dict)
    is_model = True

    def __post_init__(self):
        require_address(self.base_url)

    def check(self, setting: Setting) -> None:
        """UserError, with the remedy, unless the server answers a real question about two tiny clips as it will have to
        in training.
        """
        self.domains.check(setting.rows)
        clips = (
            torch.arange(2 * 256 * 3).view(2, 1, 3, 16, 16).repeat(1, self.frames, 1, 4, 4).byte()
        )  # (2, frames, 3, 64, 64)
        try:
            asyncio.run(
                self.hello(question(*(self.parts(clip) for clip in clips), self.domains.text(self.domains.default)))
            )
        except UserError as error:
            raise UserError(
                f"ranker.base_url={self.base_url} ranker.model={self.model}: {error}; correct ranker.base_url, or "
                "start the server as "
                "docs/serving.md says"
            ) from None

    async def hello(self, content: list[dict]) -> None:
        """Asks once, and again where the server is busy, within hello_timeout_s. UserError unless a
        verdict comes back.
        """
        said = "nothing came"
        async with self.client() as client:
            try:
                async with asyncio.timeout(self.hello_timeout_s):
                    while True:
                        try:
                            label_probabilities(await self.attempt(client, content))
                            return
                        except openai.APIStatusError as error:
                            if error.status_code not in BUSY:
                                raise
                            said = reason(error)
                        await asyncio.sleep(1)
            except (TimeoutError, openai.APITimeoutError):
                raise UserError(
                    f"no whole answer within ranker.hello_timeout_s={self.hello_timeout_s:g} ({said}): see whether "
                    "the server works, or "
                    "give it more time"
                ) from None
            except openai.APIConnectionError as error:
                raise UserError(
                    f"no server answers there ({reason(error)}): `vllm serve {self.model}` would start one"
                ) from None
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise UserError(
                    f"the server refuses the key of ranker.api_key_env={self.api_key_env} ({reason(error)}): export "
                    "one that it takes"
                ) from None
            except openai.APIStatusError as error:
                raise UserError(
                    f"the server does not answer ({reason(error)}){await self.hint(client, error)}"
                ) from None

    async def hint(self, client: openai.AsyncOpenAI, error: openai.APIStatusError) -> str:
        """What may be wrong with a server that does not answer: where it sends to, or what it offers."""
        if error.status_code in range(300, 400):
            return f": it sends to {error.response.headers.get('location', 'another place')[:200]}; give that address"
        hint = "" if urlsplit(self.base_url).path.rstrip("/").endswith("/v1") else "; most servers' address ends in /v1"
        try:
            async with asyncio.timeout(5):
                names = [str(model.id) for model in (await client.models.list()).data]
        except Exception:  # it was only asked for the hint's sake, and may answer anything
            return hint
        return hint + f"; it offers {', '.join(names)[:300]}: give one of these, or start it with this model"

    @property
    def key(self) -> str:
        """UserError if the variable that should hold it is not set."""
        key = "none" if self.api_key_env is None else os.environ.get(self.api_key_env)
        if not key:
            raise UserError(f"ranker.api_key_env={self.api_key_env}: this variable is not set: export it, or give null")
        return key

    def client(self) -> openai.AsyncOpenAI:
        """Follows no redirect, which would take the key and the videos elsewhere."""
        http = openai.DefaultAsyncHttpxClient(follow_redirects=False)
        return openai.AsyncOpenAI(
            base_url=self.base_url, api_key=self.key, timeout=self.timeout_s, max_retries=0, http_client=http
        )

    def __call__(self, first: Tensor, second: Tensor, cond: Condition) -> Verdict:
        result = verdict(self.probabilities(first, second, self.domains(cond)))
        return Verdict(result.label.to(first.device), result.confidence.to(first.device))

    def probabilities(self, first: Tensor, second: Tensor, domains: Sequence[str]) -> Tensor:
        """(B, 4) of the labels 1..4. ServerGone if the server doesn't answer, after the retries."""
        questions = []
        for one, other, domain in zip(first, second, domains):
            sides = self.parts(one), self.parts(other)
            orders = (sides, sides[::-1]) if self.swap_averaging else (sides,)
            questions += [question(*order, self.domains.text(domain)) for order in orders]
        answers = torch.stack(asyncio.run(self.ask_all(questions)))
        return order_averaged(answers[::2], answers[1::2]) if self.swap_averaging else answers

    async def ask_all(self, questions: list[list[dict]]) -> list[Tensor]:
        turns = asyncio.Semaphore(self.max_concurrency)
        async with self.client() as client:
            return await asyncio.gather(*(self.ask(client, content, turns) for content in questions))

    async def ask(self, client: openai.AsyncOpenAI, content: list[dict], turns: asyncio.Semaphore) -> Tensor:
        """(4,) probabilities of the labels. UserError if the server refuses the question or answers something else."""
        async with turns:
            for attempt in range(self.retries + 1):
                try:
                    async with asyncio.timeout(self.timeout_s):
                        body = await self.attempt(client, content)
                    return label_probabilities(body)
                except (openai.APIError, TimeoutError) as error:
                    if not passing(error):
                        raise UserError(
                            f"the ranking server at {self.base_url} refuses the question ({reason(error)}): {HELP}"
                        ) from error
                    lost = error
                if attempt < self.retries:
                    await asyncio.sleep(pause(lost, attempt))
        raise ServerGone(
            f"the ranking server at {self.base_url} (model {self.model}) gave no answer in {self.retries + 1} attempts "
            f"({reason(lost)}): start it again, then run the same command, which resumes at the last checkpoint; {HELP}"
        ) from lost

    async def attempt(self, client: openai.AsyncOpenAI, content: list[dict]) -> bytes:
        """The server's answer to one question, of at most LONGEST_REPLY bytes."""
        logprobs = {} if self.top_logprobs is None else {"logprobs": True, "top_logprobs": self.top_logprobs}
        body = bytearray()
        async with client.chat.completions.with_streaming_response.create(
            model=self.model,
            messages=[{"role": "user", "content": content}],
            max_tokens=1,
            temperature=0,
            **logprobs,
            extra_body=self.body,
        ) as reply:
            async for part in reply.iter_bytes():
                body += part
                if len(body) > LONGEST_REPLY:
                    raise UserError(
                        f"the ranking server's answer is longer than {LONGEST_REPLY >> 20} MiB, where one token was "
                        "asked for"
                    )
        return bytes(body)

    def parts(self, video: Tensor) -> list[dict]:
        """(F, 3, H, W) uint8, standardised, as message parts.

        media=video: an mp4 that lasts as long as the video does. media=frames: a PNG of each frame, for servers that
        take no videos; the model then sees pictures without time stamps, which is not what a ranker is trained on.
        """
        video = video.cpu()
        shown = standard_frames(video, self.frames)
        if self.media == "frames":
            return [{"type": "image_url", "image_url": {"url": data_url("image/png", png(frame))}} for frame in shown]
        rate = self.fps * max(1, self.frames - 1) / max(1, len(video) - 1)
        return [{"type": "video_url", "video_url": {"url": data_url("video/mp4", mp4(shown, rate))}}]


def question(first: list[dict], second: list[dict], prompt: str) -> list[dict]:
    """A message's content: what the chat template's add_vision_id makes of two videos, for templates without it too."""
    return [text("Video 1: "), *first, text("Video 2: "), *second, text(prompt)]


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def mp4(video: Tensor, fps: float) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, video, fps, enlarge=False)
        return path.read_bytes()


def png(frame: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def require_address(url: str) -> None:
    """UserError unless `url` is an address that a server may have."""
    try:
        parts = urlsplit(url)
        fits = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and not parts.query
            and not parts.fragment
        )
    except (ValueError, AttributeError, TypeError):  # a port of letters, no text at all
        fits = False
    if not fits:
        raise UserError(f"ranker.base_url={url}: give a server's address, such as http://localhost:8000/v1")


def passing(error: Exception) -> bool:
    """Whether the same question may be answered if it is asked again."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 429) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | TimeoutError)


def pause(error: Exception, attempt: int) -> float:
    """Seconds to wait before the next attempt: as long as the server says, up to two minutes, or twice as long each
    time, up to 8 s.
    """
    if isinstance(error, openai.APIStatusError) and (said := error.response.headers.get("retry-after", "")).isdecimal():
        return min(int(said[:9]), 120)
    return min(0.5 * 2**attempt, 8)


def reason(error: Exception) -> str:
    """What the server said, or why nothing came, in one line."""
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: " + " ".join(error.response.text[:300].split())
    return " ".join(str(error.__cause__ or error).split())[:300] or "nothing came in time"
