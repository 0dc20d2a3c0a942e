"""The HTTP server behind `python -m apo.rankers.serve`: a chat of texts and videos in, one token out.

It answers by the very code that trains a ranker and that ranks in process, with the OpenAI protocol (docs/serving.md).
"""

import asyncio
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from apo.rankers.question import Deadline, Limits, Question, Refused, parse, read_videos

if TYPE_CHECKING:
    from apo.rankers.vlm import RankingVLM

BASE = "base"  # what the model without an adapter is called
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
        with within_deadline(deadline):
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
def within_deadline(deadline: Deadline):
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
    waiting: int = 0
    pace: float = 1.0  # seconds that the last answer took
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "answers"))

    @property
    def limits(self) -> Limits:
        return self.answerer.limits

    async def chat(self, request: Request) -> Response:
        """A chat completion, or what is wrong with the question, in one sentence."""
        try:
            return await self.admit(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Refused as refusal:
            return error_response(refusal)
        except Exception:
            LOG.exception("a question could not be answered")
            return error_response(Refused(500, "the server failed to answer this question: its own output says why"))

    async def admit(self, request: Request) -> Response:
        if self.waiting >= self.limits.queue:
            wait = math.ceil(min(max(self.waiting * self.pace, 1), LONGEST_WAIT))
            await read_body(request, math.inf, self.limits.upload_s, keep=False)
            raise Refused(503, f"{self.waiting} questions are waiting already: ask again in {wait} s", wait)
        self.waiting += 1
        try:
            body = await read_body(request, self.limits.body, self.limits.upload_s)
            if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
                raise Refused(400, "the question is no application/json: set the header Content-Type")
            return JSONResponse(await self.answer_in_turn(await asyncio.to_thread(parse, body, self.limits), request))
        finally:
            self.waiting -= 1

    async def answer_in_turn(self, question: Question, request: Request) -> dict:
        """The answer in its turn; ClientDisconnect if nobody waits for it any more, and then the work is dropped."""
        deadline = Deadline(self.limits.seconds)
        answer = asyncio.wrap_future(self.worker.submit(self.complete, question, deadline))
        gone = asyncio.create_task(disconnected(request))
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if answer.done():
            return answer.result()
        deadline.end()
        answer.cancel()
        raise ClientDisconnect

    def complete(self, question: Question, deadline: Deadline) -> dict:
        began = time.monotonic()
        try:
            return self.answerer.complete(question, deadline)
        finally:
            self.pace = time.monotonic() - began


async def read_body(request: Request, limit: float, seconds: float, keep: bool = True) -> bytes:
    """The body, of at most `limit` bytes. One that is too long, or not to be kept, is read to its end, for the client
    to hear why.
    """
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
            f"the question has {size / 2**20:.1f} MiB: at most {limit / 2**20:g} are read; send fewer or "
            "smaller frames",
        )
    return b"".join(parts)


async def disconnected(request: Request) -> None:
    """Ends when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_response(refusal: Refused) -> JSONResponse:
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
        return error_response(Refused(error.status_code, "there are GET /v1/models and POST /v1/chat/completions here"))

    return app
