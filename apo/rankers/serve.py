"""Serves a ranker by the very code that trains it and that ranks in process, with the OpenAI protocol:

    python -m apo.rankers.serve --path /models/qwen3-vl-8b --adapter human=runs/human/adapter scene=runs/scene/adapter --port 8000

For `ranker=served`, where vLLM or SGLang is not at hand: a chat of texts and videos in, one token out, with the
probabilities of its alternatives. Videos are taken as they are, every frame at its own time. The base is called
`base`, an adapter by the name given here; all share one copy of the base. What a question may cost is limited (`--help`,
docs/serving.md). Needs the `serve` extra (fastapi, uvicorn).
"""

import argparse
import asyncio
import logging
import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import apo.quiet  # noqa: F401  isort: skip
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from apo.errors import UserError, one_line
from apo.policies.model import DTYPES
from apo.rankers.answer import FRAMES
from apo.rankers.folders import check_adapter, check_device, check_model
from apo.rankers.question import Deadline, Limits, Question, Refused, parse, read_videos

if TYPE_CHECKING:
    from apo.rankers.vlm import RankingVLM

BASE = "base"
LONGEST_WAIT = 60  # seconds that a client is asked to wait; openai's waits no longer than two minutes
LOG = logging.getLogger("uvicorn.error")


@dataclass
class Answerer:
    """One question at a time. adapters: name -> folder."""

    vlm: "RankingVLM"
    adapters: dict[str, str]
    limits: Limits

    def models(self) -> dict:
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "owned_by": "apo"} for name in (BASE, *self.adapters)],
        }

    def complete(self, question: Question, deadline: Deadline) -> dict:
        """The protocol's chat completion: the likeliest next token. Refused for what can't be answered."""
        deadline.start()
        name = question.model
        if name != BASE and name not in self.adapters:
            raise Refused(404, f"model={name!r} is not served; there are {', '.join((BASE, *self.adapters))}")
        inputs = self.inputs(question, deadline)
        with looked_at(deadline):
            logprobs = self.answer(inputs, None if name == BASE else self.adapters[name]).log_softmax(-1)
        wanted = question.top_logprobs or 0
        values, tokens = logprobs.topk(max(1, wanted))
        words = [self.vlm.processor.tokenizer.decode([token]) for token in tokens.tolist()]
        likeliest = [{"token": word, "logprob": value} for word, value in zip(words, values.tolist())]
        content = [likeliest[0] | {"top_logprobs": likeliest[:wanted]}]
        choice = {
            "index": 0,
            "finish_reason": "length",
            "message": {"role": "assistant", "content": words[0]},
            "logprobs": {"content": content} if question.logprobs else None,
        }
        length = inputs["input_ids"].shape[1]
        usage = {"prompt_tokens": length, "completion_tokens": 1, "total_tokens": length + 1}
        made = int(time.time())
        return {
            "id": f"{made}",
            "object": "chat.completion",
            "created": made,
            "model": name,
            "choices": [choice],
            "usage": usage,
        }

    @torch.no_grad()
    def answer(self, inputs, adapter: str | None) -> Tensor:
        """(vocabulary,) float32 logits of the next token."""
        loaded = None if adapter is None else self.vlm.load_adapter(adapter)
        with self.vlm.using(loaded):
            return self.vlm.model(**inputs.to(self.vlm.model.device), logits_to_keep=1).logits[0, -1].float()

    def inputs(self, question: Question, deadline: Deadline):
        """The processor's batch of one conversation."""
        processor = self.vlm.processor
        if found := [
            token for token in processor.tokenizer.get_added_vocab() if any(token in text for text in question.texts())
        ]:
            raise Refused(400, f"a text holds {found[0]!r}, which is a token of the model's own: leave it out")
        text = processor.apply_chat_template(question.chat(), tokenize=False, add_generation_prompt=True)
        frames, metadata = (
            zip(*read_videos(question.videos(), self.limits, deadline)) if question.videos() else ([], [])
        )
        given = dict(
            videos=list(frames), video_metadata=list(metadata), do_sample_frames=False, cap_pixels_per_frame=True
        )
        try:
            inputs = processor(text=[text], return_tensors="pt", **(given if frames else {}))
        except ValueError as error:
            raise Refused(
                400, f"the model can't be shown this ({str(error).splitlines()[0]}): send other videos"
            ) from error
        if (length := inputs["input_ids"].shape[1]) > (
            most := self.vlm.model.config.text_config.max_position_embeddings
        ):
            raise Refused(
                400, f"the question has {length} tokens, and the model reads {most}: send fewer or smaller frames"
            )
        return inputs


@contextmanager
def looked_at(deadline: Deadline):
    """Inside, every layer of a model looks at the clock before it works."""
    hook = register_module_forward_pre_hook(lambda *_: deadline.require())
    try:
        yield
    finally:
        hook.remove()


@dataclass
class Service:
    """Questions over HTTP: a bounded number of them arrives and waits, one thread answers them in turn."""

    answerer: Answerer
    inside: int = 0
    pace: float = 1.0  # seconds that the last answer took
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "answers"))

    @property
    def limits(self) -> Limits:
        return self.answerer.limits

    async def chat(self, request: Request) -> Response:
        """A chat completion, or what is wrong with the question, in one sentence."""
        try:
            return await self.one_of_few(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Refused as refusal:
            return refused(refusal)
        except Exception:
            LOG.exception("a question could not be answered")
            return refused(Refused(500, "the server failed to answer this question: its own output says why"))

    async def one_of_few(self, request: Request) -> Response:
        if self.inside >= self.limits.queue:
            wait = math.ceil(min(max(self.inside * self.pace, 1), LONGEST_WAIT))
            await received(request, math.inf, self.limits.upload_s, keep=False)
            raise Refused(503, f"{self.inside} questions are waiting already: ask again in {wait} s", wait)
        self.inside += 1
        try:
            body = await received(request, self.limits.body, self.limits.upload_s)
            if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
                raise Refused(400, "the question is no application/json: set the header Content-Type")
            return JSONResponse(await self.answered(await asyncio.to_thread(parse, body, self.limits), request))
        finally:
            self.inside -= 1

    async def answered(self, question: Question, request: Request) -> dict:
        """The answer in its turn; ClientDisconnect if nobody waits for it any more, and then the work is dropped."""
        deadline = Deadline(self.limits.seconds)
        answer = asyncio.wrap_future(self.worker.submit(self.timed, question, deadline))
        gone = asyncio.create_task(left(request))
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if answer.done():
            return answer.result()
        deadline.end()
        answer.cancel()
        raise ClientDisconnect

    def timed(self, question: Question, deadline: Deadline) -> dict:
        began = time.monotonic()
        try:
            return self.answerer.complete(question, deadline)
        finally:
            self.pace = time.monotonic() - began


async def received(request: Request, limit: float, seconds: float, keep: bool = True) -> bytes:
    """The body, of at most `limit` bytes. One that is too long, or not to be kept, is read to its end, for the client to hear why."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if keep and size <= limit:
                    parts.append(part)
                else:
                    parts.clear()
    except TimeoutError:
        raise Refused(408, f"the question did not arrive within {seconds:g} s: send it again") from None
    if size > limit:
        raise Refused(
            413,
            f"the question has {size / 2**20:.1f} MiB: at most {limit / 2**20:g} are read; send fewer or smaller frames",
        )
    return b"".join(parts)


async def left(request: Request) -> None:
    """Ends when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refused(refusal: Refused) -> JSONResponse:
    """As the protocol writes errors."""
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    if refusal.status == 408:
        headers["Connection"] = "close"  # the rest of the body is not waited for
    return JSONResponse(
        {"error": {"message": refusal.sentence, "type": kind, "code": refusal.status}}, refusal.status, headers
    )


def build_app(service: Service) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.get("/v1/models")(service.answerer.models)
    app.post("/v1/chat/completions", response_model=None)(service.chat)

    @app.exception_handler(HTTPException)
    def elsewhere(request: Request, error: HTTPException) -> Response:
        return refused(Refused(error.status_code, "there are GET /v1/models and POST /v1/chat/completions here"))

    return app


def named(pair: str) -> tuple[str, str]:
    name, _, folder = pair.partition("=")
    if not folder or not name or name == BASE:
        raise argparse.ArgumentTypeError(f"{pair!r}: write NAME=FOLDER, with a name other than {BASE}")
    return name, folder


def above_zero(kind: type):
    """An argument's type: a finite number above 0."""

    def number(text: str):
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError(text)
        return value

    number.__name__ = f"{'whole ' if kind is int else ''}number above 0"  # what argparse says was wanted
    return number


class OneLine(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"serve: {message}; --help lists the options\n")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = OneLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", required=True, help="model folder or hub id")
    parser.add_argument("--adapter", nargs="*", type=named, default=[], metavar="NAME=FOLDER", help="LoRA adapters")
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 to be reached from other machines; there is no password"
    )
    parser.add_argument("--port", type=int, default=8000)
    limits = parser.add_argument_group("limits")
    for limit in fields(Limits):
        flag, kind = f"--{limit.name.replace('_', '-')}", above_zero(limit.type)
        limits.add_argument(flag, type=kind, default=limit.default, help=f"{limit.metadata['help']} (%(default)s)")
    return parser.parse_args(given)


def listening(host: str, port: int) -> socket.socket:
    """Taken before the model is loaded; UserError if it can't be."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--host {host} --port {port}: can't listen there ({error}); give another --port, or a --host of here"
        ) from None


def check(a: argparse.Namespace) -> None:
    """UserError for what can be known to be wrong before the model is loaded."""
    check_model("--path", a.path)
    for name, folder in a.adapter:
        check_adapter(f"--adapter {name}", folder, a.path)
    check_device("--device", a.device)


def main() -> None:
    a = arguments()
    with one_line("serve"):
        check(a)
        listener = listening(a.host, a.port)
        from apo.rankers.vlm import RankingVLM  # transformers takes seconds

        limits = Limits(**{limit.name: getattr(a, limit.name) for limit in fields(Limits)})
        vlm = RankingVLM(a.path, a.dtype, FRAMES, fps=1.0).to(a.device)  # requests bring their own frames and times
        for _, folder in a.adapter:
            vlm.load_adapter(folder)
    app = build_app(Service(Answerer(vlm, dict(a.adapter), limits)))
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
