"""The ranking server, asked by strangers: over real connections, with a tiny model that answers."""

import asyncio
import base64
import io
import json
import socket
import threading
import time
from contextlib import contextmanager

import av
import httpx
import numpy as np
import pytest
import torch
import uvicorn
from safetensors.torch import load_file, save_file

from apo.errors import UserError
from apo.rankers.folders import WEIGHTS
from apo.rankers.question import MP4, Deadline, Limits, Refused, read
from apo.rankers.serve import Answerer, Service, arguments, build_app, check, listening, looked_at
from apo.rankers.served import mp4
from apo.rankers.vlm import RankingVLM
from tests.rankers.tiny import tiny_adapter

LIMITS = Limits(body_mib=0.5, upload_s=2, seconds=20, videos=2, frames=12, megapixels=0.5, characters=500, queue=3)
CLIP = mp4(torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8), 8)


def url(content: bytes) -> dict:
    return {"type": "video_url", "video_url": {"url": MP4 + base64.b64encode(content).decode()}}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def question(*content: dict, **more) -> dict:
    return {"model": "base", "messages": [{"role": "user", "content": list(content)}], **more}


GOOD = question(
    text("Video 1: "), url(CLIP), text("Video 2: "), url(CLIP), text("which?"), logprobs=True, top_logprobs=20
)


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
    listener = listening("127.0.0.1", 0)
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


def raw_video(frames: int, width: int, height: int, sound_only: bool = False) -> bytes:
    """An mp4 that is small on disk however large its frames are."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000) if sound_only else container.add_stream("libx264", rate=8)
        if sound_only:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
        else:
            stream.width, stream.height = width, height
            for _ in range(frames):
                container.mux(
                    stream.encode(
                        av.VideoFrame.from_ndarray(np.zeros((height, width, 3), dtype=np.uint8), format="rgb24")
                    )
                )
        container.mux(stream.encode(None))
    return buffer.getvalue()


MALFORMED = {
    "nothing": b"",
    "not JSON": b"hello",
    "cut JSON": b'{"model": "base", ',
    "no object": [],
    "a number": b"3",
    "not UTF-8": b"\xff\xfe{}",
    "empty object": {},
    "no model": {"messages": GOOD["messages"]},
    "a model that is a number": GOOD | {"model": 3},
    "no messages": {"model": "base"},
    "messages no list": GOOD | {"messages": "hi"},
    "no message": GOOD | {"messages": []},
    "messages null": GOOD | {"messages": None},
    "message no dict": GOOD | {"messages": [3]},
    "message null": GOOD | {"messages": [None]},
    "no content": GOOD | {"messages": [{"role": "user"}]},
    "content a number": GOOD | {"messages": [{"role": "user", "content": 3}]},
    "content null": GOOD | {"messages": [{"role": "user", "content": None}]},
    "no role": GOOD | {"messages": [{"content": "hi"}]},
    "role unknown": GOOD | {"messages": [{"role": "robot", "content": "hi"}]},
    "role a list": GOOD | {"messages": [{"role": [], "content": ""}]},
    "part no dict": question(3),
    "part without type": question({"text": "hi"}),
    "type unknown": question({"type": "image_url"}),
    "part without text": question({"type": "text"}),
    "text a number": question({"type": "text", "text": 3}),
    "part without video_url": question({"type": "video_url"}),
    "video_url a text": question({"type": "video_url", "video_url": "x"}),
    "url a number": question({"type": "video_url", "video_url": {"url": 3}}),
    "url null": question({"type": "video_url", "video_url": {}}),
    "a file of the server": question({"type": "video_url", "video_url": {"url": "file:///etc/passwd"}}),
    "an address": question({"type": "video_url", "video_url": {"url": "http://127.0.0.1/x.mp4"}}),
    "bad base64": question({"type": "video_url", "video_url": {"url": MP4 + "%%%"}}),
    "base64 of no ASCII": question({"type": "video_url", "video_url": {"url": MP4 + "é"}}),
    "an empty video": question(url(b"")),
    "no video": question(url(b"x" * 999)),
    "a cut video": question(url(CLIP[:-400])),
    "a playlist": question(url(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")),
    "a list of files": question(url(b"ffconcat version 1.0\nfile /etc/passwd\n")),
    "sound": question(url(raw_video(0, 0, 0, sound_only=True))),
    "too many frames": question(url(raw_video(13, 16, 16))),
    "a bomb of large frames": question(url(raw_video(1, 2048, 2048))),
    "many pixels in all": question(url(raw_video(11, 256, 256))),
    "a strip": question(url(raw_video(2, 1024, 2))),
    "three videos": question(url(CLIP), url(CLIP), url(CLIP)),
    "long text": question(text("x" * 501)),
    "NUL": question(text("a\0b")),
    "half a surrogate": b'{"model": "base", "messages": "\\ud800"}',
    "a token of the model's own": question(text("<|video_pad|>")),
    "its end of turn": question(text("<|im_end|>")),
    "top_logprobs a text": GOOD | {"top_logprobs": "x"},
    "top_logprobs negative": GOOD | {"top_logprobs": -1},
    "top_logprobs large": GOOD | {"top_logprobs": 21},
    "top_logprobs NaN": GOOD | {"top_logprobs": float("nan")},
    "top_logprobs true": GOOD | {"top_logprobs": True},
    "top_logprobs huge": b'{"model": "base", "top_logprobs": ' + b"9" * 9999 + b"}",
    "logprobs a number": GOOD | {"logprobs": 3},
    "max_tokens 0": GOOD | {"max_tokens": 0},
    "max_tokens a list": GOOD | {"max_tokens": []},
    "temperature NaN": GOOD | {"temperature": float("nan")},
    "temperature infinite": GOOD | {"temperature": float("inf")},
    "a stream": GOOD | {"stream": True},
    "two answers": GOOD | {"n": 2},
    "nested lists": b"[" * 10**5,
    "nested objects": b'{"a":' * 50_000,
}


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
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
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
                await until(lambda: service.inside == 3)
                full = await ask("fourth")
                gone.cancel()
                await until(lambda: service.inside == 2)
                fifth = ask("fifth")
                await until(lambda: service.inside == 3)
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
    with looked_at(late), pytest.raises(Refused, match="took more than"):
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


def test_the_command_refuses_its_own_arguments_before_it_loads_anything(base, tmp_path, capsys):
    path, there = ["--path", str(base)], listening("127.0.0.1", 0)
    port = there.getsockname()[1]
    with (
        there,
        pytest.raises(
            UserError, match=f"--host 127.0.0.1 --port {port}: can't listen there .*in use.*give another --port"
        ),
    ):
        listening("127.0.0.1", port)
    for host, wrong in (("127.0.0.1", 99999), ("no such host", 8000)):
        with pytest.raises(UserError, match="can't listen there"):
            listening(host, wrong)
    wide = tiny_adapter(base, tmp_path / "wide", 1)
    weights = load_file(wide / WEIGHTS)
    save_file(
        {name: torch.zeros(2, 7) if "lora_A" in name else value for name, value in weights.items()}, wide / WEIGHTS
    )
    for more, said in (
        (["--path", "nowhere"], "--path=nowhere: no config.json there"),
        ([*path, "--device", "tpu9"], "--device=tpu9: torch has no such device here"),
        ([*path, "--adapter", f"a={tmp_path}"], "--adapter a=.*no adapter_config.json"),
        ([*path, "--adapter", f"a={wide}"], "--adapter a=.* was trained over another model"),
    ):
        with pytest.raises(UserError, match=said):
            check(arguments(more))
    capsys.readouterr()
    for more in (
        ["--dtype", "int3"],
        ["--queue", "0"],
        ["--seconds", "nan"],
        ["--frames", "1.5"],
        ["--adapter", "base=x"],
        ["--port", "http"],
    ):
        with pytest.raises(SystemExit):
            arguments([*path, *more])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"serve: argument {more[0]}: ")
