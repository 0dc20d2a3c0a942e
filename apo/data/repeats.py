"""Rows of a manifest that say the same twice, or the opposite of each other.

Neither is an error. Several people may judge one pair and disagree: what they say is data, and a row that is there
twice counts twice. But both also come of mistakes in making a manifest, so they are counted and said.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from apo.data.cells import ImageFile, VideoFile
from apo.data.manifest import Row
from apo.io.checksums import file_digest

SHOWN = 8  # rows in a message


def notes(rows: Sequence[Row]) -> list[str]:
    """A line each about repeated and contradicting rows; files count as the same by their content,
    wherever they lie.
    """
    names = names_by_content(
        [path for row in rows for kind in (VideoFile, ImageFile) for path in row.files(kind).values()]
    )
    said: dict[tuple, dict] = defaultdict(lambda: defaultdict(list))  # what is judged -> verdict -> row numbers
    for row in rows:
        videos = frozenset(names[path] for path in row.files(VideoFile).values())
        images = tuple(names[path] for path in row.files(ImageFile).values())
        said[row.prompt, row.segment, images, videos][row.verdict(names.__getitem__)].append(row.line)
    again = [number for verdicts in said.values() for numbers in verdicts.values() for number in numbers[1:]]
    opposed = [
        sorted(number for numbers in verdicts.values() for number in numbers)
        for verdicts in said.values()
        if len(verdicts) > 1
    ]
    found = []
    if again:
        found.append(f"{len(again)} of {len(rows)} rows repeat another and count again: rows {listed(sorted(again))}")
    if opposed:
        together = listed([" and ".join(map(str, numbers)) for numbers in sorted(opposed)])
        counted = f"{len(opposed)} contradiction{'s' * (len(opposed) > 1)}"
        found.append(f"{counted}, rows that judge the same videos differently: rows {together}")
    return found


def names_by_content(paths: Sequence[Path]) -> dict[Path, str]:
    """A name of each file, the same for the same content; only files of one size are read."""
    paths = set(paths)
    sizes = {path: path.stat().st_size for path in paths}
    of_size = Counter(sizes.values())
    return {path: file_digest(path) if of_size[sizes[path]] > 1 else str(path) for path in paths}


def listed(numbers: Sequence) -> str:
    more = len(numbers) - SHOWN
    return ", ".join(map(str, numbers[:SHOWN])) + (f" and {more} more" if more > 0 else "")
