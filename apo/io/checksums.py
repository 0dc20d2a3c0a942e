"""sha256 of files: a cache's, so that a disk's silent damage is found before training meets it, and the user's, which
rows are named by.
"""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from apo.io.files import naming

DIGEST = re.compile(r"[0-9a-f]{64}")
LINE = re.compile(r"([0-9a-f]{64})  (.+)")  # as sha256sum writes it


def file_digest(path: Path) -> str:
    """In hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named_by_content(files: Iterable[Path]) -> str:
    """Identity in hexadecimal of files that are named by what they hold, in folders named by what made them."""
    return hashlib.sha256("".join(str(Path(*path.parts[-2:])) for path in files).encode()).hexdigest()


class Digests:
    """sha256 of files, remembered while a file has the same size and times: a start does not read all videos again.

    Each writer has a list of its own in the folder, and reads those of all.
    """

    def __init__(self, folder: Path, writer: str):
        self.list = Path(folder) / f"{writer}.digests"
        self.known: dict[tuple, str] = {}
        for line in lines(Path(folder), "*.digests"):
            if (found := recalled(line)) is not None:
                path, state, digest = found
                self.known[path, *state] = digest

    def __call__(self, path: Path) -> str:
        """In hexadecimal."""
        name, found = str(path.resolve()), os.stat(path)
        state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
        if (name, *state) not in self.known:
            self.known[name, *state] = digest = file_digest(path)
            append(self.list, json.dumps([name, state, digest]))
        return self.known[name, *state]


def recalled(line: str) -> tuple[str, list[int], str] | None:
    """(path, size and times, digest), or None of an empty line, of one that a dying writer left half and of one that is
    damaged.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match found:
        case [str(path), [int(), int(), int()] as state, str(digest)] if DIGEST.fullmatch(digest):
            return path, state, digest


def append(path: Path, line: str) -> None:
    """Adds a line to a list, on one of its own even after a writer that died within one."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")


def lines(folder: Path, pattern: str) -> Iterator[str]:
    """Of all lists in a folder; what is damaged in them fits nothing."""
    for file in folder.glob(pattern):
        yield from file.read_text(encoding="utf-8", errors="replace").split("\n")


class Checksums:
    """What writers said of their files, one list `<writer>.sha256` each in the folder.

    Two writers may have written one file, each its own bytes (safetensors does not order metadata): either is right.
    """

    def __init__(self, folder: Path, writer: str):
        self.list = Path(folder) / f"{writer}.sha256"
        self.known: dict[str, set[str]] = defaultdict(set)
        self.reread()

    def reread(self) -> None:
        for digest, name in filter(None, map(parsed, lines(self.list.parent, "*.sha256"))):
            self.known[name].add(digest)

    def holds(self, path: Path) -> bool:
        """Whether a file still has bytes that were recorded; one that nobody recorded yet is believed, and recorded."""
        digest = file_digest(path)
        if path.name in self.known and digest not in self.known[path.name]:
            self.reread()  # another writer may have made it anew since
            return digest in self.known[path.name]
        self.record(path, digest)
        return True

    def record(self, path: Path, digest: str | None = None) -> None:
        """On disk at once: a writer that dies has said of each file whether it is whole. digest: of the file, if it is
        known.
        """
        digest = digest or file_digest(path)
        if digest in self.known[path.name]:
            return
        self.known[path.name].add(digest)
        append(self.list, f"{digest}  {path.name}")


def parsed(line: str) -> tuple[str, str] | None:
    """(digest, name), or None of a line that a dying writer left half."""
    match = LINE.fullmatch(line)
    return match.groups() if match else None
