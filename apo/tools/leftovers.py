"""What commands leave in outputs/, made comparable: files by content, without times, logs and random names."""

import csv
import hashlib
import io
import json
import re
from pathlib import Path

LOGS = (
    "train.log",
    "evaluate.log",
    "last.ckpt",
    "previous.ckpt",
    ".sha256",
)  # they tell of interruptions, or hold what does
TIMED = ("time/",)  # columns of metrics.csv


def files(folder: Path) -> dict[str, str]:
    """Relative path -> digest of each file; logs and sharded checkpoints count as there or not."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "wandb" not in path.parts:
            name, shards = re.subn(r"(step_\d+)-[0-9a-f]+", r"\1", str(path.relative_to(folder)))
            digest = "" if shards or path.name.endswith(LOGS) else hashlib.sha256(content(path)).hexdigest()
            found[name if name not in found else f"{name} (again)"] = digest
    return found


def content(path: Path) -> bytes:
    """A file's bytes; of metrics.csv what does not depend on the clock, of safetensors what does not on the header's
    order.
    """
    if path.suffix == ".safetensors":
        raw = path.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        return json.dumps(json.loads(raw[8:start]), sort_keys=True).encode() + raw[start:]
    if path.name != "metrics.csv":
        return path.read_bytes()
    return repr([{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in table(path)]).encode()


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def rows(folder: Path) -> list[str]:
    """The rows of the metrics of all runs below, times and all: a step that is done again gets another one."""
    return [f"{path} {sorted(row.items())}" for path in sorted(folder.rglob("metrics.csv")) for row in table(path)]


def done_twice(before: list[str], after: list[str]) -> int:
    """Steps of `before` that were done again."""
    return len(set(before) - set(after))
