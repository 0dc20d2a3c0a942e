"""Pairwise ranking through any OpenAI-compatible server that serves a vision-language model (docs/serving.md).

The question is that of `ranker=qwen3_vl`; only the model is elsewhere: on other GPUs, behind vLLM, SGLang,
`transformers serve` or `python -m apo.rankers.serve`.
"""

import base64
import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import openai
import torch
from openai.types.chat.chat_completion import Choice
from PIL import Image
from torch import Tensor

from apo.data.video import write_video
from apo.interfaces import Condition, Verdict
from apo.rankers.answer import LABELS, order_averaged, parse_label, prompt_text, standard_frames, verdict
from apo.rankers.domains import DomainRule

LOST = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)  # APITimeoutError is a connection error
HELP = "docs/serving.md has the commands"


class ServerGone(RuntimeError):
    """The server stopped answering during a run. The run's last checkpoint is whole; the same command resumes it."""


@dataclass(kw_only=True)
class ServedRanker:
    """One label of four from the answer token's probabilities, where the server gives them; otherwise the answer alone.

    base_url: of the server, with /v1. model: as the server calls it. domains: whose prompt each condition gets. frames:
    that both videos are standardised to. fps: of the videos that are ranked; the model reads time stamps. media: what
    videos travel as, see `parts`. top_logprobs: how many tokens' probabilities are asked for; None: none, the answer
    counts as certain, as it does with a server that gives none. retries: of a request, after waits of 0.5 s, 1 s, 2 s
    ... 8 s. api_key_env: name of the environment variable that holds the key; None: the server wants none. body: more
    fields of every request, for what a server has beyond the protocol.
    """

    base_url: str
    model: str
    domains: DomainRule
    frames: int
    fps: float
    media: str
    swap_averaging: bool
    top_logprobs: int | None
    timeout_s: float
    retries: int
    max_concurrency: int
    api_key_env: str | None
    body: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.media not in ("video", "frames"):
            raise ValueError(f"ranker.media={self.media}: write video (one mp4 each) or frames (a PNG for each frame)")

    def check(self, spec) -> None:
        """ValueError if the server can't be reached or doesn't serve the model, with the remedy. Asks it for one token."""
        self.domains.check()
        client = self.client.with_options(max_retries=0)
        hello = [{"role": "user", "content": "Answer with one digit: 1"}]
        try:
            client.chat.completions.create(model=self.model, messages=hello, max_tokens=1, temperature=0)
        except openai.APIConnectionError as error:
            raise ValueError(
                f"ranker.base_url={self.base_url}: no server answers there ({reason(error)}): start one, for example "
                f"`vllm serve {self.model}`, or correct the address; {HELP}"
            ) from None
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ValueError(
                f"ranker.api_key_env={self.api_key_env}: the server at {self.base_url} refuses its key ({reason(error)})"
            ) from None
        except openai.APIStatusError as error:
            raise ValueError(
                f"ranker.model={self.model}: the server at {self.base_url} does not serve it ({reason(error)}){offered(client)}: "
                f"give one that it serves, or start it with this model; {HELP}"
            ) from None

    @cached_property
    def client(self) -> openai.OpenAI:
        """ValueError if the variable that should hold the key is not set."""
        key = "none" if self.api_key_env is None else os.environ.get(self.api_key_env)
        if not key:
            raise ValueError(f"ranker.api_key_env={self.api_key_env}: this variable is not set: export it, or give null")
        return openai.OpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout_s, max_retries=self.retries)

    def __call__(self, first: Tensor, second: Tensor, cond: Condition) -> Verdict:
        result = verdict(self.probabilities(first, second, self.domains(cond)))
        return Verdict(result.label.to(first.device), result.confidence.to(first.device))

    def probabilities(self, first: Tensor, second: Tensor, domains: Sequence[str]) -> Tensor:
        """(B, 4) of the labels 1..4. ServerGone if the server doesn't answer, after the retries."""
        questions = []
        for one, other, domain in zip(first, second, domains):
            sides = self.parts(one), self.parts(other)
            orders = (sides, sides[::-1]) if self.swap_averaging else (sides,)
            questions += [question(*order, prompt_text(domain)) for order in orders]
        answers = torch.stack(self.ask_all(questions))
        return order_averaged(answers[::2], answers[1::2]) if self.swap_averaging else answers

    def ask_all(self, questions: list[list[dict]]) -> list[Tensor]:
        pool = ThreadPoolExecutor(self.max_concurrency)
        try:
            return [future.result() for future in [pool.submit(self.ask, content) for content in questions]]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # if one is lost, the others' retries are not waited for

    def ask(self, content: list[dict]) -> Tensor:
        """(4,) probabilities of the labels. ValueError if the server refuses the question or answers something else."""
        logprobs = {} if self.top_logprobs is None else {"logprobs": True, "top_logprobs": self.top_logprobs}
        try:
            reply = self.client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": content}], max_tokens=1, temperature=0, **logprobs,
                extra_body=self.body,
            )  # fmt: skip
        except LOST as error:
            raise ServerGone(
                f"the ranking server at {self.base_url} (model {self.model}) gave no answer in {self.retries + 1} attempts "
                f"({reason(error)}): start it again, then run the same command, which resumes at the last checkpoint; {HELP}"
            ) from error
        except openai.APIStatusError as error:
            raise ValueError(f"the ranking server at {self.base_url} refuses the question ({reason(error)}): {HELP}") from error
        return label_probabilities(reply.choices[0])

    def parts(self, video: Tensor) -> list[dict]:
        """(F, 3, H, W) uint8, standardised, as message parts.

        media=video: an mp4 that lasts as long as the video does. media=frames: a PNG of each frame, for servers that take
        no videos; the model then sees pictures without time stamps, which is not what a ranker is trained on.
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


def label_probabilities(choice: Choice) -> Tensor:
    """(4,) of the labels among themselves from the answer token's most likely alternatives; 1 and 0s where none came.

    ValueError says what the answer was if it is no label.
    """
    label = parse_label(choice.message.content or "")
    found = torch.zeros(len(LABELS), dtype=torch.float64)
    if choice.logprobs is not None and choice.logprobs.content:
        for candidate in choice.logprobs.content[0].top_logprobs:
            if candidate.token.strip() in LABELS:
                found[LABELS.index(candidate.token.strip())] += math.exp(candidate.logprob)
    if found.sum() == 0:
        found[label - 1] = 1
    return (found / found.sum()).float()


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


def reason(error: openai.APIError) -> str:
    """What the server said, or why nothing came."""
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: {error.response.text[:300]}"
    return str(error.__cause__ or error)


def offered(client: openai.OpenAI) -> str:
    """'; it offers a, b' where the server lists its models."""
    try:
        names = [model.id for model in client.models.list()]
    except openai.APIError:
        return ""
    return f"; it offers {', '.join(names)}" if names else ""
