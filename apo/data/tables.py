"""Tables of the user's: JSONL, CSV, Parquet, or a folder with metadata.* as Hugging Face lays it out. Plain data and
nothing else.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from apo.errors import UserError

KINDS = (".jsonl", ".csv", ".parquet")


class Unreadable(str):
    """What is wrong with a whole row."""


Record = Any  # column -> cell, if it is a row at all; or Unreadable


def table_file(path: Path) -> Path:
    """The table at `path`, or in it if it is a folder. UserError if there is none."""
    try:
        path.stat()
    except (FileNotFoundError, ValueError):  # ValueError: a NUL in it
        raise UserError(
            f"{path}: no such manifest: give data.path, a .jsonl, .csv or .parquet file, or a folder with metadata.*"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: give a manifest that can be read as data.path") from None
    if path.is_dir():
        found = [path / f"metadata{kind}" for kind in KINDS if (path / f"metadata{kind}").is_file()]
        if len(found) != 1:
            there = " and ".join(file.name for file in found) or "no metadata.jsonl, metadata.csv or metadata.parquet"
            raise UserError(f"{path}: a folder with {there}: give the manifest's own path")
        return found[0]
    if not path.is_file():  # a pipe or a device, which may never end
        raise UserError(f"{path}: no regular file: give a .jsonl, .csv or .parquet file as data.path")
    if path.suffix not in KINDS:
        kind = path.suffix or "none of them"
        raise UserError(f"{path}: a manifest is a .jsonl, .csv or .parquet file, this is {kind}: give one as data.path")
    return path


def place(path: Path, line: int) -> str:
    """Of a row of the table at `path`, or in it if it is a folder, in a message."""
    is_parquet = path.suffix == ".parquet" or (path / "metadata.parquet").is_file()
    return f"{'row' if is_parquet else 'line'} {line}"


def records(path: Path) -> Iterator[tuple[int, Record]]:
    """(line, record) of each row that isn't blank. Lines count from 1; in Parquet they are rows. A CSV's cells are all
    text.
    """
    return {".jsonl": jsonl, ".csv": csv_rows, ".parquet": parquet}[path.suffix](path)


def jsonl(path: Path) -> Iterator[tuple[int, Record]]:
    with open(path, "rb") as file:
        for line, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
            except UnicodeDecodeError:
                yield line, Unreadable("not UTF-8 text: write JSON, one object per line")
                continue
            if text.strip():
                yield line, parsed(text)


def parsed(text: str):
    """What a line of JSON says, or what is wrong with it."""
    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at column {error.colno}"
    except ValueError as error:  # a number of thousands of digits, a name that is there twice
        reason = str(error)
    except RecursionError:
        reason = "nested too deeply"
    return Unreadable(f"not JSON ({reason}): write one object per line")


def without_repeats(cells: list[tuple]) -> dict:
    record = dict(cells)
    if len(record) < len(cells):
        raise ValueError("a name is there twice")
    return record


def csv_rows(path: Path) -> Iterator[tuple[int, Record]]:
    """Empty cells are left out. Bytes that are not UTF-8 become lone surrogates, which no column takes."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader, line = csv.reader(file, strict=True), 1
        try:
            header = next(reader, [])
            if len(set(header)) < len(header) or "" in header:
                raise UserError(f"{path}: line 1: columns need names, each its own: {', '.join(map(repr, header))}")
            line = reader.line_num + 1  # a quoted cell may go over several
            for cells in reader:
                if cells:
                    yield line, record_of(header, cells)
                line = reader.line_num + 1
        except csv.Error as error:
            yield line, Unreadable(f"not CSV ({error}): quote cells that hold commas, quotes or line breaks")


def record_of(header: list[str], cells: list[str]) -> Record:
    if len(cells) != len(header):
        return Unreadable(f"has {len(cells)} cells, the header has {len(header)}: quote cells that hold commas")
    return {name: cell for name, cell in zip(header, cells) if cell != ""}


def parquet(path: Path) -> Iterator[tuple[int, Record]]:
    with open(path, "rb") as file:
        try:
            rows = pyarrow.parquet.read_table(file).to_pylist()
        except (
            Exception
        ) as error:  # whatever a damaged file makes pyarrow raise: ArrowException, OSError, UnicodeDecodeError ...
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: not a readable Parquet file ({reason}): write it again") from error
    yield from enumerate(rows, start=1)
