"""Ranker servers that answer wrongly, and questions that our own server must refuse."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from apo.tools.cases import TRAIN, Case

MODELS = {"object": "list", "data": [{"id": "judge", "object": "model"}]}


def completion(content: object = "1", logprobs: object = None, choices: object = None) -> dict:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": content},
        "logprobs": logprobs,
    }
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "judge",
        "choices": [choice] if choices is None else choices,
    }


def tokens(*pairs: tuple[str, float]) -> dict:
    top = [{"token": token, "logprob": value} for token, value in pairs]
    return {"content": [top[0] | {"top_logprobs": top}]}


ANSWERS = {  # how a server errs -> the body of its completions
    "html": b"<html><body>502 Bad Gateway</body></html>",
    "empty": b"",
    "no json": b"{",
    "a list": b"[]",
    "null": b"null",
    "text": b'"1"',
    "no choices": json.dumps(completion(choices=[])).encode(),
    "choices null": json.dumps(completion() | {"choices": None}).encode(),
    "label 7": json.dumps(completion("7")).encode(),
    "prose": json.dumps(completion("the first one")).encode(),
    "nothing said": json.dumps(completion("")).encode(),
    "content null": json.dumps(completion(None)).encode(),
    "infinite": json.dumps(completion("1", tokens(("1", float("-inf")), ("2", float("-inf"))))).encode(),
    "nan": json.dumps(completion("1", tokens(("1", float("nan")), ("2", 0.0)))).encode(),
    "other tokens": json.dumps(completion("1", tokens(("a", -0.1), ("b", -3.0)))).encode(),
    "logprobs a number": json.dumps(
        completion("1") | {"choices": [{"message": {"content": "1"}, "logprobs": 3}]}
    ).encode(),
}
STATUS = {"status 500": 500, "status 404": 404, "status 401": 401, "status 429": 429, "status 302": 302}


class Wrong(BaseHTTPRequestHandler):
    """/<how it errs>/v1/..."""

    def log_message(self, *words) -> None:
        pass

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def how(self) -> str:
        return self.path.split("/")[1].replace("_", " ")

    def do_GET(self) -> None:
        if self.how() == "models html":
            return self.reply(200, ANSWERS["html"])
        if self.how() == "hangs at once":
            time.sleep(60)
        self.reply(200, json.dumps(MODELS).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.how().startswith("hangs"):
            time.sleep(60)
        self.reply(STATUS.get(self.how(), 200), ANSWERS.get(self.how(), ANSWERS["html"]))


def serve() -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Wrong)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def cases(port: int) -> Iterator[Case]:
    """port: of `serve`."""
    base = (
        *TRAIN,
        "stage=online",
        "data=prompts",
        "data.path=data/prompts.jsonl",
        "ranker=served",
        "ranker.model=judge",
        "ranker.timeout_s=2",
        "ranker.retries=0",
        "ranker.frames=4",
    )
    for how in (*ANSWERS, *STATUS, "hangs", "hangs at once", "models html"):
        url = f"http://127.0.0.1:{port}/{how.replace(' ', '_')}/v1"
        yield Case(f"server: {how}", (*base, f"ranker.base_url={url}"), ("ranker",))
    good = f"ranker.base_url=http://127.0.0.1:{port}/label_7/v1"
    for url in ("http://127.0.0.1:9/v1", "127.0.0.1:8000", "ftp://a/v1", "http://nowhere.invalid/v1", "abc", ""):
        yield Case(f"server: base_url={url}", (*base, f"ranker.base_url={url}"), ("base_url",))
    for words in (
        "frames=0",
        "frames=-1",
        "frames=nan",
        "timeout_s=0",
        "timeout_s=nan",
        "timeout_s=-1",
        "retries=-1",
        "retries=nan",
        "max_concurrency=0",
        "media=audio",
        "top_logprobs=0",
        "top_logprobs=-1",
        "api_key_env=NOWHERE",
        "fps=0",
        "model=other",
    ):
        yield Case(f"served: {words}", (*base, good, f"ranker.{words}"), (words.split("=")[0],))
    local = (*base[:-5], "ranker=qwen3_vl")
    for words in (
        "path=nowhere",
        "path=data",
        "adapter=nowhere",
        "frames=0",
        "batch_size=0",
        "dtype=float9",
        "device=tpu",
    ):
        yield Case(f"qwen3_vl: {words}", (*local, "ranker.path=vlm", f"ranker.{words}"), (words.split("=")[0],))
