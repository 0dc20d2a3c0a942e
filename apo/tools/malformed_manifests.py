"""Malformed manifests: every kind, every format, every field."""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from apo.tools.cases import TRAIN, Case, writes

STAGES = {"pairs": "offline", "prompts": "online", "anchors": "half_online", "rankings": "ranker"}
FILES = {"pairs": ("chosen", "rejected"), "prompts": ("image",), "anchors": ("video",), "rankings": ("first", "second")}
LABELS = {
    "anchors": ("good", "Positive", True, 1, None, ["positive"]),
    "rankings": (0, 5, 7, -1, True, 1.0, "1", 2.5, None, [1]),
}
VALUES = {
    "number": 7,
    "list": ["a"],
    "object": {"a": 1},
    "null": None,
    "empty": "",
    "true": True,
    "surrogate": "\ud800",
    "nul": "a\0b",
}
SEGMENTS = {
    "negative": [-1, 1],
    "reversed": [1, 0.5],
    "beyond": [50, 60],
    "texts": ["a", "b"],
    "one": [0],
    "three": [0, 1, 2],
    "number": 3,
    "nan": [float("nan"), 1],
    "infinite": [0, float("inf")],
    "short": [0, 0.01],
    "true": [False, True],
}
# a second row's file: name -> what its bytes are, of the good ones
MEDIA: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "text": lambda good: b"not a picture\n",
    "noise": lambda good: bytes(range(256)) * 40,
    "cut": lambda good: good[: len(good) // 3],
    "headless": lambda good: good[64:],
    "playlist": lambda good: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
    "concat": lambda good: b"ffconcat version 1.0\nfile /etc/hostname\n",
    "svg": lambda good: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>',
    "zip": lambda good: b"PK\x03\x04" + bytes(200),
    "html": lambda good: b"<html>404</html>",
}
# a whole table: name -> its bytes
TABLES = {
    "empty": b"",
    "blank": b"\n\n\n",
    "garbage": bytes(range(256)),
    "prose": b"these are my videos\n",
    "array": b"[1, 2]\n",
    "scalar": b"3\n",
    "null": b"null\n",
    "cut": b'{"prompt": "a", "ima',
    "utf16": '{"prompt": "a"}'.encode("utf-16"),
    "latin": '{"prompt": "é"}'.encode("latin-1"),
    "object": b'{"rows": []}\n',
    "deep": b'{"prompt": ' + b"[" * 100000 + b"]" * 100000 + b"}\n",
    "long number": b'{"prompt": ' + b"9" * 6000 + b"}\n",
    "pickle": b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
}


def train(kind: str, path: str) -> tuple[str, ...]:
    # the ranker is one that takes any prompt, and whose model is never reached
    judge = {"prompts": ("ranker=qwen3_vl", "ranker.path=vlm"), "rankings": ("vlm.path=vlm",)}.get(kind, ())
    return (*TRAIN, f"stage={STAGES[kind]}", f"data={kind}", f"data.path={path}", *judge)


def with_row(kind: str, change: Callable[[dict, Path], None], suffix: str = "jsonl") -> Callable[[Path], None]:
    """Spoils the second row of a table."""

    def spoil(tree: Path) -> None:
        rows = [json.loads(line) for line in (tree / f"data/{kind}.jsonl").read_text().splitlines()]
        change(rows[1], tree / "data")
        path = tree / f"data/spoiled.{suffix}"
        if suffix == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif suffix == "csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        else:
            pd.DataFrame(rows).to_parquet(path)

    return spoil


def assign(field: str, value) -> Callable[[dict, Path], None]:
    return lambda row, folder: row.update({field: value})


def drop(field: str) -> Callable[[dict, Path], None]:
    return lambda row, folder: row.pop(field)


def damage(field: str, change: Callable[[bytes], bytes]) -> Callable[[dict, Path], None]:
    """A file of its own for the row, spoiled."""

    def apply(row: dict, folder: Path) -> None:
        good = folder / row[field]
        bad = folder / f"spoiled_{good.name}"
        bad.write_bytes(change(good.read_bytes()))
        row[field] = bad.name

    return apply


def bomb(good: bytes) -> bytes:
    """A PNG that says it is 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def rows(kind: str) -> Iterator[Case]:
    """Fields that are missing, of another type, or name a file that is not one."""
    for suffix, line in (("jsonl", "line 2"), ("csv", "(line|row) [23]"), ("parquet", "row [12]")):
        command, fields = (
            train(kind, f"data/spoiled.{suffix}"),
            ("prompt", *FILES[kind], *(("label",) if kind in LABELS else ())),
        )
        for field in fields if suffix == "jsonl" else fields[:2]:
            yield Case(f"{kind}.{suffix}: no {field}", command, (field, line), with_row(kind, drop(field), suffix))
    command = train(kind, "data/spoiled.jsonl")
    for field in ("prompt", FILES[kind][0]):
        for name, value in VALUES.items():
            yield Case(f"{kind}: {field} is {name}", command, (field, "line 2"), with_row(kind, assign(field, value)))
    for label in LABELS.get(kind, ()):
        yield Case(f"{kind}: label is {label!r}", command, ("label", "line 2"), with_row(kind, assign("label", label)))
    for field in FILES[kind]:
        for name, value in {"missing": "nowhere.mp4", "a folder": ".", "absolute": "/nowhere/a.mp4"}.items():
            named = (rf"{field}|nowhere|data", "line 2")  # the field or the file
            yield Case(f"{kind}: {field} is {name}", command, named, with_row(kind, assign(field, value)))
    for name, change in MEDIA.items():
        yield Case(
            f"{kind}: {FILES[kind][0]} has {name}",
            command,
            ("spoiled_", "line 2"),
            with_row(kind, damage(FILES[kind][0], change)),
        )
    if kind != "prompts":
        for name, value in SEGMENTS.items():
            yield Case(
                f"{kind}: segment is {name}", command, ("segment", "line 2"), with_row(kind, assign("segment", value))
            )
    if kind == "prompts":
        yield Case("prompts: image is a bomb", command, ("spoiled_", "line 2"), with_row(kind, damage("image", bomb)))


def tables(kind: str) -> Iterator[Case]:
    """Files that are no table."""
    for suffix in ("jsonl", "parquet", "csv"):
        for name, content in TABLES.items():
            if kind == "pairs" or name in ("empty", "garbage", "cut"):
                path = f"data/spoiled.{suffix}"
                yield Case(
                    f"{kind}.{suffix}: {name}", train(kind, path), (rf"spoiled\.{suffix}",), writes(path, content)
                )
    others = {
        "no such file": "data/nowhere.jsonl",
        "a folder": "data",
        "another suffix": "data/first_0.png",
        "nothing": "",
    }
    for name, path in others.items():
        yield Case(f"{kind}: the manifest is {name}", train(kind, path), (path or "data.path",))


def cases() -> Iterator[Case]:
    for kind in STAGES:
        yield from rows(kind)
        yield from tables(kind)
