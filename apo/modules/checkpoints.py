"""Checkpoint files: written beside their place, checked before they are used, the one before kept.

A file is torch's zip archive, in which each record has its CRC-32; what stands beside it is named in it by sha256. Only
tensors, plain values and `Condition` are read: nothing in a file is ever called.
"""

import io
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from apo.errors import UserError
from apo.interfaces import Condition
from apo.io.checksums import file_digest
from apo.io.files import naming, sync

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
WHOLE = {
    "global_step": int,
    "loops": dict,
    "lr_schedulers": list,
    "pytorch-lightning_version": str,
}  # key -> type, of every checkpoint
FOLDER = re.compile(r"step_\d+-[0-9a-f]{8}")  # of sharded tensors


@dataclass
class Checkpoint:
    """A whole checkpoint on the disk. settings: of the run that wrote it; None if it is older than these."""

    path: Path
    step: int
    settings: dict | None
    is_sharded: bool
    instead: str | None = None  # of a damaged one: what to say of it


def newest(folder: Path) -> Checkpoint | None:
    """What the run in a folder continues from: its last checkpoint, or the previous one if the last is damaged.

    None if there is no checkpoint; UserError if there are some and all are damaged, or a folder stands where one
    belongs.
    """
    problems, paths = [], [folder / "checkpoints" / name for name in (LAST, PREVIOUS)]
    if there := [path for path in paths if path.is_dir()]:  # the next checkpoint could not be written there
        raise UserError(f"{there[0]} is a folder, where a checkpoint file belongs: move it away")
    for path in paths:
        if not path.exists():
            continue
        try:
            found = read(path, mmap=True)
        except UserError as error:
            problems.append(str(error))
            continue
        instead = f"{problems[0]}; continuing from {path.name}, step {found['global_step']}" if problems else None
        return Checkpoint(path, found["global_step"], found.get("settings"), "tensors" in found, instead)
    if problems:
        raise UserError(f"{'; '.join(problems)}: copy a whole checkpoint there, or delete {folder} to train it again")
    return None


def exists(folder: Path) -> bool:
    return any((folder / "checkpoints" / name).exists() for name in (LAST, PREVIOUS))


def write(checkpoint: dict, path: Path) -> None:
    """OSError if the disk refuses; torch's own writer would hide it behind a RuntimeError."""
    content = io.BytesIO()
    torch.save(checkpoint, content)
    with naming(path), open(path, "wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, mmap: bool = False) -> dict:
    """A checkpoint that `write` wrote; UserError says what is wrong with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (record := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {record} is wrong")
        with torch.serialization.safe_globals([Condition]):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        check(found)
        if "tensors" in found:
            check_folder(path.parent / found["tensors"], found.get("files", {}))
    except pickle.UnpicklingError:
        raise UserError(f"{path} has objects in it that no train.py writes: it was not read") from None
    except Exception as error:  # damage can make a reader stumble anywhere
        raise UserError(
            f"{path} is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from None
    return found


def check(found) -> None:
    """ValueError unless this is what a checkpoint holds, all of its numbers finite."""
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not a checkpoint of train.py")
    if wrong := [key for key, kind in WHOLE.items() if not isinstance(found.get(key), kind)]:
        raise ValueError(f"it has no {wrong[0]}, so it is no checkpoint of train.py")
    if "tensors" in found and FOLDER.fullmatch(str(found["tensors"])) is None:
        raise ValueError(f"tensors={found['tensors']!r} is no name of a folder that train.py writes")
    if "tensors" not in found and not isinstance(found.get("state_dict"), dict):
        raise ValueError("it has no state_dict, so it is no checkpoint of train.py")
    require_finite({key: value for key, value in found.items() if key not in ("settings", "loops")})


def require_same_tensors(
    ours: dict[str, torch.Size], theirs: dict[str, torch.Size], path: str | Path = "the checkpoint"
) -> None:
    """UserError unless a checkpoint, theirs, has exactly the run's tensors. Both: name -> shape."""
    if wrong := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
        raise UserError(
            f"{path} is of another run: {len(wrong)} of {len(ours)} tensors differ, {wrong[0]} first; give another "
            "run=NAME, or delete "
            "the run's folder to train it again"
        )


def require_finite(value, name: str = "") -> None:
    """ValueError that names the first tensor, however deep, that holds inf or nan, or whole numbers where weights
    belong.
    """
    for place, tensor in tensors_in(value, name):
        if place.startswith("state_dict") and not tensor.is_floating_point():
            raise ValueError(
                f"{place} is of {str(tensor.dtype).removeprefix('torch.')}: weights are floating-point numbers"
            )
        if not tensor.isfinite().all():
            raise ValueError(f"{place} is not finite")


def tensors_in(value, name: str) -> Iterator[tuple[str, Tensor]]:
    """(path, tensor) of all in nested dicts, lists and conditions."""
    if isinstance(value, Tensor):
        yield name, value
    parts = vars(value) if isinstance(value, Condition) else value
    items = parts.items() if isinstance(parts, dict) else enumerate(parts) if isinstance(parts, list | tuple) else ()
    for key, part in items:
        yield from tensors_in(part, f"{name}.{key}" if name else str(key))


def check_folder(folder: Path, files: dict[str, str]) -> None:
    """ValueError unless the files of sharded tensors are those that the checkpoint names."""
    for name in ".metadata", *files:
        if not (folder / name).is_file():
            raise ValueError(f"{folder.name}/{name} is not there")
    if changed := [name for name, digest in files.items() if file_digest(folder / name) != digest]:
        raise ValueError(f"the checksum of {folder.name}/{changed[0]} is wrong")


def digests(folder: Path) -> dict[str, str]:
    """name -> sha256 of a folder's files, which are on the disk when this returns."""
    for path in (*folder.iterdir(), folder):
        sync(path)
    return {path.name: file_digest(path) for path in sorted(folder.iterdir())}


def remove_others(folder: Path, kept: list[str]) -> None:
    """Removes the tensors of checkpoints that are no longer there, and of saves that were cut short."""
    for old in folder.glob("step_*-*"):
        if old.name not in kept:
            shutil.rmtree(old, ignore_errors=True)  # a file that is open elsewhere stays on NFS for a while
