"""Files that are there whole or not at all, whoever kills the process and whoever else writes them."""

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from apo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

HOST = hashlib.sha1(socket.gethostname().encode()).hexdigest()[
    :8
]  # in the names of partial files, where it must be short
PARTIAL = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.tmp")
DAY = 24 * 3600.0
being_written: set[Path] = set()  # by this process


def partial_name(path: Path) -> Path:
    """Beside `path`: a rename there is one move on one disk. It says who writes it, so that others know when it is
    stray.
    """
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Inside, a disk that refuses raises an OSError that names `path`, whichever library writes there."""
    try:
        yield
    except OSError as error:
        name = str(error.filename or partial)
        if error.errno is not None and name.startswith(str(partial)):  # it, or what lies in it
            error.filename, error.filename2 = f"{path}{name.removeprefix(str(partial))}", None
        raise
    except SafetensorError as error:
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a file in the same folder to write to, which replaces `path` at the end; if something is raised, nothing is
    left.

    Makes the folder. The bytes are on the disk before the name is. The file's mode is what the folder gives new files,
    whatever the writer gave it (safetensors: the owner's alone).
    """
    partial = partial_name(path)
    with naming(path, partial), stray_if_killed(partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        if partial.stat().st_mode != mode:
            partial.chmod(mode)
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Gives a new folder beside `path` to fill, which takes its place at the end: all of its files are there, or none.

    OSError if `path` is a folder that is not empty.
    """
    partial = partial_name(path)
    with naming(path, partial), stray_if_killed(partial):
        partial.mkdir(parents=True)
        yield partial
        for folder in [each for each in partial.rglob("*") if each.is_dir()] + [partial]:
            sync(folder)
        os.rename(partial, path)
        sync(path.parent)


@contextmanager
def stray_if_killed(partial: Path) -> Iterator[None]:
    """Takes `partial` away if something is raised inside; after a kill it stays, for `sweep` to find."""
    being_written.add(partial)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            remove(partial)
        raise
    finally:
        being_written.discard(partial)


def sync(path: Path) -> None:
    """Waits until a file, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what killed processes were writing in a folder; a name that is not ours, or whose writer lives, stays."""
    for path in folder.iterdir() if folder.is_dir() else []:
        if (match := PARTIAL.fullmatch(path.name)) is not None and is_stray(path, match["host"], int(match["pid"])):
            with suppress(FileNotFoundError):  # another process sweeps here too
                remove(path)


def is_stray(path: Path, host: str, pid: int) -> bool:
    """Whether the writer of a partial file is dead. Of another machine's process only the file's age tells."""
    if host != HOST:
        return path.stat().st_mtime < time.time() - DAY
    return path not in being_written if pid == os.getpid() else not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def require_no_folder(path: Path) -> None:
    """UserError if there is a folder where a file belongs."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, and a file belongs there: move it away, then run the same command again")


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, content) -> None:
    write_text(path, json.dumps(content, indent=1))


def write_tensors(path: Path, tensors: "dict[str, Tensor]", metadata: dict[str, str] | None = None) -> None:
    from safetensors.torch import save_file  # torch takes a second, and locks do without

    with replacing(path) as partial:
        save_file(tensors, partial, metadata)


def read_json(path: Path, remedy: str):
    """What a JSON file holds; UserError with what is wrong with it and the remedy."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from None


def read_tensors(path: Path, remedy: str) -> "dict[str, Tensor]":
    """The weights that a safetensors file holds; UserError if it is damaged, or one is no tensor of finite
    floating-point numbers.
    """
    try:
        with safe_open(path, "pt") as file:
            found = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from None
    for key, tensor in found.items():
        require_weights(key, tensor, path, remedy)
    return found


def require_weights(key: str, tensor: "Tensor", path: Path, remedy: str) -> None:
    """UserError unless a stored tensor holds finite floating-point numbers."""
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{path}: {key} is of {kind}, and weights are floating-point numbers: {remedy}")
    if not is_finite(tensor):
        raise UserError(f"{path}: {key} has values that are not finite: {remedy}")


def is_finite(tensor: "Tensor") -> bool:
    """Whether all values are finite. Looks at their sum first, which takes no memory; one that only overflows is looked
    at again.
    """
    import torch

    summable = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    wide = tensor if tensor.dtype in summable else tensor.float()
    return bool(wide.sum(dtype=torch.float32).isfinite()) or bool(wide.isfinite().all())
