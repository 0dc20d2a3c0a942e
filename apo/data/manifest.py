"""Manifests: tables of the user's files, a row per pair, prompt, anchor or ranking, checked before anything long.

A kind of row is a dataclass: its fields are the columns, those with a default are optional, and their types say what a
cell must be. Paths are relative to the manifest's folder, or absolute: whoever gives a manifest says which files are
read. Row numbers count from 1, in JSONL and CSV those of the lines; messages say which.
"""

import filecmp
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

from apo.data.cells import Domain, ImageFile, Segment, VideoFile, shown
from apo.data.columns import Columns
from apo.data.tables import Unreadable, place, records, table_file
from apo.errors import UserError
from apo.io.video import Spec, VideoError, probe, read_image, require_length, require_within
from apo.terminal import progress


@dataclass(frozen=True, kw_only=True)
class Row:
    """What every kind of row has."""

    line: int
    prompt: str
    domain: Domain | None = None  # for rankers and reports by domain
    segment: Segment | None = None  # the part of the video files that is meant; their beginning otherwise

    def files(self, kind: type) -> dict[str, Path]:
        """The row's files of a kind, VideoFile or ImageFile, by their columns."""
        named = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if kind in (field.type, *get_args(field.type))
        }
        return {name: path for name, path in named.items() if path is not None}

    def texts(self) -> dict[str, str]:
        """What is said about the row's files: prompt, domain ('' if there is none), and a label where
        its kind has one.
        """
        return {"prompt": self.prompt, "domain": self.domain or ""}

    def problem(self) -> str | None:
        """What is wrong with the row's files together, each being fine."""

    def verdict(self, name: Callable[[Path], str]):
        """What the row says of its files, None if nothing. name: of a file, by its content."""


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

    def verdict(self, name: Callable[[Path], str]) -> str:
        return name(self.chosen)


@dataclass(frozen=True)
class Problem:
    line: int
    message: str


class ManifestError(UserError):
    """Every bad row of a manifest at once, each with its line and remedy."""

    def __init__(self, path: Path, problems: list[Problem]):
        self.path, self.problems = path, sorted(problems, key=lambda problem: problem.line)
        rows = len({problem.line for problem in problems})
        listed = "".join(f"\n  {place(path, problem.line)}: {problem.message}" for problem in self.problems)
        super().__init__(f"{path}: {rows} bad {'row' if rows == 1 else 'rows'}{listed}")

    def __reduce__(self):  # an exception with two arguments does not unpickle by itself
        return ManifestError, (self.path, self.problems)


@dataclass(frozen=True)
class Manifest:
    """The rows that could be read, and what was wrong with the others."""

    path: Path
    rows: list[Row]
    problems: list[Problem]


def load(path: Path, row_type: type[Row], spec: Spec, columns: Mapping[str, str] | None = None) -> list[Row]:
    """A manifest's rows, all of them usable for the spec; ManifestError lists those that aren't."""
    return check(read(path, row_type, columns), spec)


def read(path: Path, row_type: type[Row], columns: Mapping[str, str] | None = None) -> Manifest:
    """Reads and types the table; looks at no other file. columns: see `Columns`. UserError if there is no table."""
    path = table_file(Path(path))
    mapping = Columns(
        {field.name: field for field in fields(row_type) if field.name != "line"}, columns, path.suffix == ".csv"
    )
    rows, problems = [], []
    for line, record in records(path):
        if not isinstance(record, dict):
            said = (
                record
                if isinstance(record, Unreadable)
                else f'is {shown(record)}: write an object, {{"prompt": ..., ...}}'
            )
            problems.append(Problem(line, said))
            continue
        cells = mapping.cells(line, record)
        found = mapping.complaints(line, cells)
        problems += [Problem(line, message) for message in found]
        if not found and not mapping.absent(cells):
            rows.append(row_type(line=line, **mapping.typed(cells, path.parent)))
    problems += [Problem(*problem) for problem in mapping.problems()]
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
    found = [said for path in row.files(VideoFile).values() for said in refused(require_video, path, spec, row.segment)]
    found += [
        said for path in row.files(ImageFile).values() for said in refused(read_image, path, spec.height, spec.width)
    ]
    together = None if found else row.problem()
    return [Problem(row.line, message) for message in (found + [together] if together else found)]


def refused(look: Callable, *arguments) -> list[str]:
    """What `look` says is wrong, or nothing."""
    try:
        look(*arguments)
        return []
    except VideoError as error:
        return [str(error)]


def require_video(path: Path, spec: Spec, segment: tuple[float, float] | None) -> None:
    """VideoError unless a file can be decoded and shows enough for the spec, in the segment, which lies within it."""
    duration = probe(path)
    require_length(path, duration, spec.frames, spec.fps, segment)
    require_within(path, duration, segment)
