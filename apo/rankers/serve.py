"""Serves a ranker by the very code that trains it and that ranks in process, with the OpenAI protocol:

    python -m apo.rankers.serve --path /models/qwen3-vl-8b --adapter human=runs/human/adapter scene=runs/scene/adapter --port 8000

For `ranker=served`, where vLLM or SGLang is not at hand: a chat of texts and videos in, one token out, with the
probabilities of its alternatives. Videos are taken as they are, every frame at its own time. The base is called
`base`, an adapter by the name given here; all share one copy of the base. Needs the `serve` extra (fastapi, uvicorn).
"""

import argparse
import base64
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock

import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from torch import Tensor

from apo.data.video import VideoError, open_stream, rate, timed_frames
from apo.rankers.answer import FRAMES
from apo.rankers.folders import check_paths
from apo.rankers.vlm import RankingVLM

BASE = "base"
MOST = 20  # alternatives of a token, as in the protocol


@dataclass
class Answerer:
    """One request at a time. adapters: name -> folder."""

    vlm: RankingVLM
    adapters: dict[str, str]
    lock: Lock = field(default_factory=Lock)

    def models(self) -> dict:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "apo"} for name in (BASE, *self.adapters)]}

    def complete(self, body: dict) -> dict:
        """The protocol's chat completion: the likeliest next token. HTTPException for what can't be answered."""
        name = body.get("model")
        if name != BASE and name not in self.adapters:
            raise HTTPException(404, f"model={name!r} is not served; there are {', '.join((BASE, *self.adapters))}")
        wanted = body.get("top_logprobs") or 0
        if not 0 <= wanted <= MOST:
            raise HTTPException(400, f"top_logprobs={wanted}: give 0 to {MOST}")
        inputs = self.inputs(body.get("messages") or [])
        with self.lock:
            logprobs = self.answer(inputs, None if name == BASE else self.adapters[name]).log_softmax(-1)
        values, tokens = logprobs.topk(max(1, wanted))
        words = [self.vlm.processor.tokenizer.decode([token]) for token in tokens.tolist()]
        likeliest = [{"token": word, "logprob": value} for word, value in zip(words, values.tolist())]
        content = [likeliest[0] | {"top_logprobs": likeliest[:wanted]}]
        choice = {
            "index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": words[0]},
            "logprobs": {"content": content} if body.get("logprobs") else None,
        }  # fmt: skip
        length = inputs["input_ids"].shape[1]
        usage = {"prompt_tokens": length, "completion_tokens": 1, "total_tokens": length + 1}
        made = int(time.time())
        return {"id": f"{made}", "object": "chat.completion", "created": made, "model": name, "choices": [choice], "usage": usage}

    @torch.no_grad()
    def answer(self, inputs, adapter: str | None) -> Tensor:
        """(vocabulary,) float32 logits of the next token."""
        loaded = None if adapter is None else self.vlm.load_adapter(adapter)
        with self.vlm.using(loaded):
            return self.vlm.model(**inputs.to(self.vlm.model.device), logits_to_keep=1).logits[0, -1].float()

    def inputs(self, messages: list[dict]):
        """The processor's batch of one conversation."""
        videos, chat = [], []
        for message in messages:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            videos += [read(part["video_url"]["url"]) for part in parts if part["type"] == "video_url"]
            chat.append({"role": message["role"], "content": [placeholder(part) for part in parts]})
        processor = self.vlm.processor
        text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        if not videos:
            return processor(text=[text], return_tensors="pt")
        frames, metadata = zip(*videos)
        return processor(
            text=[text], videos=list(frames), video_metadata=list(metadata), do_sample_frames=False, cap_pixels_per_frame=True,
            return_tensors="pt",
        )  # fmt: skip


def placeholder(part: dict) -> dict:
    if part["type"] not in ("text", "video_url"):
        raise HTTPException(400, f"a message part of type {part['type']!r}: send text and video_url")
    return part if part["type"] == "text" else {"type": "video"}


def read(url: str) -> tuple[Tensor, dict]:
    """All frames (F, 3, H, W) uint8 of a data URL, and their times for the processor."""
    if not url.startswith("data:video/mp4;base64,"):
        raise HTTPException(400, f"video_url={url[:40]!r}: send data:video/mp4;base64,...")
    with NamedTemporaryFile(suffix=".mp4") as file:
        try:
            file.write(base64.b64decode(url.split(",", 1)[1], validate=True))
            file.flush()
            with open_stream(Path(file.name)) as (container, stream):
                fps = float(rate(stream))
                images = [frame.to_ndarray(format="rgb24") for _, _, frame in timed_frames(container, stream)]
        except (ValueError, VideoError) as error:
            raise HTTPException(400, f"a video can't be read: {error}") from error
    video = torch.stack([torch.from_numpy(image) for image in images]).permute(0, 3, 1, 2)
    return video, dict(total_num_frames=len(video), fps=fps, frames_indices=list(range(len(video))), duration=len(video) / fps)


def build_app(answerer: Answerer) -> FastAPI:
    app = FastAPI()
    app.get("/v1/models")(answerer.models)

    @app.post("/v1/chat/completions")
    def chat_completions(body: dict) -> dict:
        return answerer.complete(body)

    return app


def named(pair: str) -> tuple[str, str]:
    name, _, folder = pair.partition("=")
    if not folder or name == BASE:
        raise argparse.ArgumentTypeError(f"{pair!r}: write NAME=FOLDER, with a name other than {BASE}")
    return name, folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", required=True, help="model folder or hub id")
    parser.add_argument("--adapter", nargs="*", type=named, default=[], metavar="NAME=FOLDER", help="LoRA adapters")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reached from other machines; there is no password")
    parser.add_argument("--port", type=int, default=8000)
    a = parser.parse_args()
    try:
        for folder in [None, *dict(a.adapter).values()]:
            check_paths("serve", a.path, folder)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    vlm = RankingVLM(a.path, a.dtype, FRAMES, fps=1.0).to(a.device)  # requests bring their own frames and times
    uvicorn.run(build_app(Answerer(vlm, dict(a.adapter))), host=a.host, port=a.port, log_level="warning")
