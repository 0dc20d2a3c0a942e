"""Reads the files that W&B writes while it is offline: records of its protocol in LevelDB's log format."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER, MAGIC = 32768, 7, b":W&B"
LAST = (1, 4)  # types of the part that ends a record: whole, last


@dataclass
class OfflineRun:
    """One `wandb.init` ... `finish` of a W&B run; rows: its history, by metric."""

    id: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    exit_code: int | None = None  # None: it was not finished

    @property
    def steps(self) -> list[int]:
        return [row["trainer/global_step"] for row in self.rows]


def offline_runs(folder: Path, patience_s: float = 30.0) -> list[OfflineRun]:
    """Of all files below a folder, in the order in which they began; W&B's own process writes the end of one a moment
    later.
    """
    deadline = time.monotonic() + patience_s
    while True:
        found = [read(path) for path in sorted(folder.rglob("*.wandb"), key=lambda path: path.parent.name)]
        if all(run.exit_code is not None for run in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def read(path: Path) -> OfflineRun:
    found = OfflineRun()
    for data in records(path.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("run"):
            run = record.run
            found.id, found.group, found.job_type, found.tags = run.run_id, run.run_group, run.job_type, list(run.tags)
        if record.HasField("history"):
            items = record.history.item
            found.rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
        if record.HasField("exit"):
            found.exit_code = record.exit.exit_code
    return found


def records(data: bytes) -> Iterator[bytes]:
    """The records of a log: parts with a header of checksum, length and type, in blocks that end with zeros where none
    fits.
    """
    assert MAGIC.startswith(data[: len(MAGIC)])
    place, record = HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if place + HEADER + length > len(data):
            return  # still being written
        record += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in LAST:
            yield record
            record = b""
