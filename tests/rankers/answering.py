"""A server that answers as a test says, not as a model does."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(content="1", logprobs=None, **more) -> dict:
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "logprobs": logprobs}]
    } | more


def token(logprob, text="1", **more) -> dict:
    one = {"token": text, "logprob": logprob}
    return {"content": [one | {"top_logprobs": [one]} | more]}


class Handler(BaseHTTPRequestHandler):
    """Answers every question as the server's `answer` says."""

    def do_POST(self):
        self.server.asked.append(self.rfile.read(int(self.headers["content-length"])))
        status, body = self.server.answer(len(self.server.asked))
        if status is None:
            return getattr(self, body.replace(" ", "_"))()
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Location", "http://elsewhere/v1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = lambda self: self.send_error(404)  # noqa: E731

    def silence(self):
        time.sleep(2)

    def dribble(self):
        self.trickle(b"H", 20, 0.1)

    def noise(self):
        self.wfile.write(b"220 smtp.example.org\r\n\r\n")

    def hang_up(self):
        self.connection.close()

    def endless(self):
        self.send_response(200)
        self.end_headers()
        self.trickle(b" " * 2**20, 40, 0)

    def trickle(self, part: bytes, times: int, pause_s: float):
        for _ in range(times):
            try:
                self.wfile.write(part)
            except OSError:  # nobody waits any more
                return
            time.sleep(pause_s)

    def log_message(self, *_): ...


@contextmanager
def server(answer):
    """A server's address; answer: how often it was asked -> (status, body)."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.answer, http.asked, http.daemon_threads, http.block_on_close = answer, [], True, False
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", http
        http.shutdown()
