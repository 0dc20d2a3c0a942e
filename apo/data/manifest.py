"""Manifests: tables of the user's files, one row per line of JSONL or per row of Parquet, checked before anything long.

A kind of row is a dataclass: its fields are the columns, those with a default are optional, and their types say what a
cell must be. Paths are relative to the manifest's folder. Row numbers count from 1, in JSONL those of the lines.
"""

import difflib
import filecmp
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NewType, get_args, get_origin

import pyarrow
import pyarrow.parquet

from apo.data.video import Spec, VideoError, probe, read_image, require_length
from apo.errors import UserError
from apo.terminal import progress

VideoFile = NewType("VideoFile", Path)
ImageFile = NewType("ImageFile", Path)
Segment = NewType("Segment", tuple)  # (start, end) in seconds


@dataclass(frozen=True, kw_only=True)
class Row:
    """What every kind of row has."""

    line: int
    prompt: str
    domain: str | None = None  # for rankers and reports by domain
    segment: Segment | None = None  # the part of the video files that is meant; their beginning otherwise

    def files(self, kind: type) -> dict[str, Path]:
        """The row's files of a kind, VideoFile or ImageFile, by their columns."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if kind in (field.type, *get_args(field.type))}
        return {name: path for name, path in named.items() if path is not None}

    def texts(self) -> dict[str, str]:
        """What is said about the row's files: prompt, domain ('' if there is none), and a label where its kind has one."""
        return {"prompt": self.prompt, "domain": self.domain or ""}

    def problem(self) -> str | None:
        """What is wrong with the row's files together, each being fine."""


@dataclass(frozen=True, kw_only=True)
class PairRow(Row):
    """Two videos of one condition, of which people preferred one."""

    chosen: VideoFile
    rejected: VideoFile
    image: ImageFile | None = None  # the first frame to generate from; the chosen video's otherwise
    annotators: list[str] | None = None  # who chose; kept for the user's own records

    def problem(self) -> str | None:
        if filecmp.cmp(self.chosen, self.rejected, shallow=False):
            return f"chosen and rejected are the same video ({self.chosen.name}, {self.rejected.name}): drop the row"


@dataclass(frozen=True)
class Problem:
    line: int
    message: str


class ManifestError(UserError):
    """Every bad row of a manifest at once, each with its line and remedy."""

    def __init__(self, path: Path, problems: list[Problem]):
        self.path, self.problems = path, sorted(problems, key=lambda problem: problem.line)
        rows = len({problem.line for problem in problems})
        listed = "".join(f"\n  line {problem.line}: {problem.message}" for problem in self.problems)
        super().__init__(f"{path}: {rows} bad {'row' if rows == 1 else 'rows'}{listed}")

    def __reduce__(self):  # an exception with two arguments does not unpickle by itself
        return ManifestError, (self.path, self.problems)


@dataclass(frozen=True)
class Manifest:
    """The rows that could be read, and what was wrong with the others."""

    path: Path
    rows: list[Row]
    problems: list[Problem]


def load(path: Path, row_type: type[Row], spec: Spec) -> list[Row]:
    """A manifest's rows, all of them usable for the spec; ManifestError lists those that aren't."""
    return check(read(path, row_type), spec)


def read(path: Path, row_type: type[Row]) -> Manifest:
    """Reads and types the table; looks at no other file. FileNotFoundError or ValueError if there is no table."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest: give a .jsonl or .parquet file as data.path")
    if path.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"{path}: a manifest is a .jsonl or a .parquet file, this is {path.suffix or 'neither'}")
    rows, problems = [], []
    for line, record in (jsonl if path.suffix == ".jsonl" else parquet)(path):
        found = [Problem(line, message) for message in complaints(record, row_type)]
        problems += found
        if not found:
            rows.append(typed(line, record, row_type, path.parent))
    if not rows and not problems:
        problems = [Problem(1, "the manifest has no rows: write at least one")]
    return Manifest(path, rows, problems)


def check(manifest: Manifest, spec: Spec) -> list[Row]:
    """The manifest's rows if every file of every row can be used; else ManifestError with all problems."""
    with ThreadPoolExecutor(4) as pool:  # demuxing waits for the disk and releases the interpreter's lock
        found = pool.map(lambda row: file_problems(row, spec), manifest.rows)
        checked = progress(found, total=len(manifest.rows), desc=f"checking {manifest.path.name}", delay=2)
        problems = manifest.problems + [problem for row_problems in checked for problem in row_problems]
    if problems:
        raise ManifestError(manifest.path, problems)
    return manifest.rows


def file_problems(row: Row, spec: Spec) -> list[Problem]:
    """What is wrong with the files of a row."""
    found = []
    for path in row.files(VideoFile).values():
        try:
            require_length(path, probe(path), spec.frames, spec.fps, row.segment)
        except VideoError as error:
            found.append(str(error))
    for path in row.files(ImageFile).values():
        try:
            read_image(path, spec.height, spec.width)
        except VideoError as error:
            found.append(str(error))
    together = None if found else row.problem()
    return [Problem(row.line, message) for message in (found + [together] if together else found)]


def complaints(record: Any, row_type: type[Row]) -> list[str]:
    """What is wrong with a row's cells."""
    if isinstance(record, str):
        return [record]
    if not isinstance(record, dict):
        return [f"is {shown(record)}: write an object, {{\"prompt\": ..., ...}}"]
    columns = {field.name: field for field in fields(row_type) if field.name != "line"}
    found = []
    for name in record.keys() - columns.keys():
        close = difflib.get_close_matches(name, columns, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(columns)}"
        found.append(f"unknown field {name!r}: {hint}")
    for name, field in columns.items():
        value = record.get(name)
        if value is not None:
            found += [f"{name} is {shown(value)}: {wish}" for wish in unmet(field.type, value)]
        elif field.default is MISSING:
            found.append(f"{name} is missing: add it or drop the row")
    return found


def unmet(kind: Any, value: Any) -> list[str]:
    """Empty if a cell may hold the value; else what it should be instead."""
    kind = next((part for part in get_args(kind) if part is not type(None)), kind) if is_optional(kind) else kind
    if get_origin(kind) is Literal:
        ok, wish = value in get_args(kind), f"write one of {', '.join(map(repr, get_args(kind)))}"
    elif kind is Segment:
        numbers = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) for v in value)
        ok, wish = numbers and 0 <= value[0] < value[1], "write [start, end] in seconds, 0 <= start < end"
    elif kind == list[str]:
        ok, wish = isinstance(value, list) and all(isinstance(v, str) for v in value), "write a list of strings"
    else:  # str, VideoFile, ImageFile
        ok, wish = isinstance(value, str) and value.strip() != "", "write a text that is not empty"
    return [] if ok else [wish]


def typed(line: int, record: dict, row_type: type[Row], folder: Path) -> Row:
    """The row of a record that has no complaints."""
    values = {}
    for field in fields(row_type):
        value = record.get(field.name)
        if value is not None:
            kinds = (field.type, *get_args(field.type))
            is_file = VideoFile in kinds or ImageFile in kinds
            values[field.name] = folder / value if is_file else tuple(value) if Segment in kinds else value
    return row_type(line=line, **values)


def is_optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def jsonl(path: Path):
    """(line, record) of each line that isn't blank; the record is a complaint where the line is not JSON."""
    with open(path, "rb") as file:
        for line, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
            except UnicodeDecodeError:
                yield line, "not UTF-8 text: write JSON, one object per line"
                continue
            if text.strip():
                try:
                    yield line, json.loads(text)
                except json.JSONDecodeError as error:
                    yield line, f"not JSON ({error.msg} at column {error.colno}): write one object per line"


def parquet(path: Path):
    """(row, record), counting from 1."""
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}): write it again") from error
    yield from enumerate(table.to_pylist(), start=1)
