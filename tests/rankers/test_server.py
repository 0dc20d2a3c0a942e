"""The ranking server, asked by strangers: over real connections, with a tiny model that answers."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import torch
import uvicorn

from apo.rankers.question import Deadline, Refused, read
from apo.rankers.serve import listen
from apo.rankers.server import Answerer, Service, build_app, within_deadline
from apo.rankers.vlm import RankingVLM
from tests.rankers.strangers import CLIP, GOOD, LIMITS, MALFORMED, question, text, url


class Watched(Answerer):
    """Remembers whom it answered; while `closed`, it waits; for the name `fault`, it fails."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.answered, self.open = [], threading.Event()
        self.open.set()

    def complete(self, question, deadline):
        if question.model == "fault":
            raise KeyError("/srv/secret/path")
        self.open.wait(20)
        deadline.require()
        self.answered += question.texts()[:1]
        return super().complete(question, deadline)


@pytest.fixture(scope="module")
def service(base):
    return Service(Watched(RankingVLM(str(base), "float32", 4, 8.0), {}, LIMITS))


@pytest.fixture(scope="module")
def served(service):
    """The address of a server in this process."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_app(service), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def post(address: str, body, **headers) -> httpx.Response:
    content = body if isinstance(body, bytes) or not isinstance(body, dict | list) else json.dumps(body).encode()
    return httpx.post(
        f"{address}/v1/chat/completions",
        content=content,
        headers={"content-type": "application/json"} | headers,
        timeout=30,
    )


def sentence(response: httpx.Response) -> str:
    """What the server says is wrong: one line without its paths."""
    said = response.json()["error"]["message"]
    assert (
        said
        and "\n" not in said
        and len(said) < 400
        and not any(word in said for word in ("Traceback", "/tmp", "/work", ".py"))
    )
    return said


def test_malformed_questions_get_400_and_one_sentence(served, caplog):
    wrong = {}
    for name, body in MALFORMED.items():
        response = post(served, body)
        if response.status_code != 400 or not sentence(response):
            wrong[name] = (response.status_code, response.text[:200])
    assert not wrong
    assert not caplog.records  # nothing of it was a surprise
    assert post(served, GOOD, **{"content-type": "text/plain"}).status_code == 400
    assert post(served, GOOD).status_code == 200


def test_the_sentence_says_what_and_where(served):
    for body, said in (
        (GOOD | {"messages": [{"role": "user", "content": 3}]}, "messages.0.content: Input should be a valid array"),
        (MALFORMED["type unknown"], "image_url.*send text and video_url parts"),
        (MALFORMED["too many frames"], "more than 12 frames"),
        (MALFORMED["three videos"], "3 videos: at most 2"),
        (MALFORMED["NUL"], "messages.0.content.*NUL"),
        (b"{", "the question: Invalid JSON"),
        (MALFORMED["sound"], "no pictures"),
        (MALFORMED["a bomb of large frames"], "more pixels"),
        (GOOD | {"stream": True}, "^stream: "),
    ):
        assert pytest.raises(Refused, raise_, sentence(post(served, body))).match(said)
    missing = post(served, GOOD | {"model": "other"})
    assert missing.status_code == 404 and sentence(missing) == "model='other' is not served; there are base"
    elsewhere = httpx.get(f"{served}/v1/secrets")
    assert elsewhere.status_code == 404 and "POST /v1/chat/completions" in sentence(elsewhere)


def raise_(said: str):
    raise Refused(400, said)


def test_a_long_body_is_refused_whether_or_not_its_length_is_declared(served):
    long = json.dumps(question(text("x" * 2**20))).encode()
    for body in (long, (long[i : i + 65536] for i in range(0, len(long), 65536))):
        response = post(served, body)
        assert response.status_code == 413 and "at most 0.5 are read" in sentence(response)


def test_whatever_damaged_bytes_make_the_decoder_raise_is_a_refusal():
    rng, ended = np.random.default_rng(0), []
    for _ in range(150):
        damaged = bytearray(CLIP)
        for place in rng.integers(0, len(damaged), rng.integers(1, 40)):
            damaged[place] = rng.integers(0, 256)
        try:
            ended.append(read(url(bytes(damaged))["video_url"]["url"], 12, 10**6, Deadline(20))[0].dtype)
        except Refused as refusal:
            ended.append(refusal.status)
    assert set(ended) == {400, torch.uint8} and ended.count(400) > 20


@contextmanager
def slow_upload(address: str):
    """A client that declares a body and sends a little of it."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
            b"1000\r\n\r\n{"
        )
        yield client


def test_a_slow_upload_ends_and_holds_nobody_up(served):
    with slow_upload(served) as client:
        began = time.monotonic()
        assert post(served, GOOD).status_code == 200
        assert time.monotonic() - began < LIMITS.upload_s
        client.settimeout(10)
        said = b"".join(iter(lambda: client.recv(4096), b""))
    assert b" 408 " in said.splitlines()[0] and b"did not arrive within 2 s" in said


@contextmanager
def closed(answerer: Watched):
    """Inside, whoever is asked waits."""
    answerer.open.clear()
    try:
        yield
    finally:
        answerer.open.set()


def test_who_goes_away_is_not_answered_and_a_full_queue_says_when_to_come_again(served, service):
    async def scene():
        async with httpx.AsyncClient(base_url=served, timeout=30) as client:

            def ask(name):
                return asyncio.create_task(client.post("/v1/chat/completions", json=question(text(name))))

            with closed(service.answerer):
                first, gone, third = [ask(name) for name in ("first", "gone", "third")]
                await until(lambda: service.waiting == 3)
                full = await ask("fourth")
                gone.cancel()
                await until(lambda: service.waiting == 2)
                fifth = ask("fifth")
                await until(lambda: service.waiting == 3)
            return full, [(await task).status_code for task in (first, third, fifth)]

    service.answerer.answered.clear()
    full, statuses = asyncio.run(scene())
    assert full.status_code == 503 and int(full.headers["retry-after"]) >= 1 and "ask again in" in sentence(full)
    assert statuses == [200] * 3 and sorted(service.answerer.answered) == ["fifth", "first", "third"]


async def until(true, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def test_the_time_of_a_question_ends_while_it_is_decoded_and_while_the_model_works(service):
    late = Deadline(1e-9)
    late.start()
    with pytest.raises(Refused, match="took more than 1e-09 s"):
        read(url(CLIP)["video_url"]["url"], 12, 10**6, late)
    inputs = service.answerer.vlm.processor(text=["which?"], return_tensors="pt")
    worked = []
    hook = service.answerer.vlm.model.lm_head.register_forward_hook(lambda *_: worked.append(1))
    with within_deadline(late), pytest.raises(Refused, match="took more than"):
        service.answerer.answer(inputs, None)
    assert not worked
    service.answerer.answer(inputs, None)
    hook.remove()
    assert worked


def test_a_fault_of_the_server_is_one_sentence_and_in_its_log(served, caplog, monkeypatch):
    response = post(served, GOOD | {"model": "fault"})
    assert (
        response.status_code == 500
        and "its own output says why" in sentence(response)
        and "secret" not in response.text
    )
    assert "secret" in caplog.text and caplog.records[0].exc_info
    assert post(served, GOOD).status_code == 200
