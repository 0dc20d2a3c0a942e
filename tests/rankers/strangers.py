"""What strangers send to a ranking server: a good question and malformed ones."""

import base64
import io

import av
import numpy as np
import torch

from apo.rankers.question import MP4, Limits
from apo.rankers.served import mp4

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
