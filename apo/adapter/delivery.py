"""Files for other programs that appear all at once, in a folder that may be the user's own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from apo.errors import UserError
from apo.io.files import naming, partial_name, replacing_folder, stray_if_killed

ORIGIN = "apo.export"  # key of a safetensors file's metadata


@dataclass
class Delivery:
    """What is to appear in `out`: a new folder with all of it in one move; in a folder that is there, one file after
    the other once all are whole.

    origin: what it is made of. It stands in each file, so that a rerun knows its own. UserError if something else is
    there.
    """

    out: Path
    names: list[str]
    origin: str

    def __post_init__(self):
        for name in self.names:
            if (self.out / name).exists() and not self.is_made(name):
                raise UserError(
                    f"{self.out / name} is there already, of another adapter or damaged: delete it, or give "
                    "another --out"
                )

    def is_made(self, name: str) -> bool:
        path = self.out / name
        try:
            if path.suffix == ".json":
                return path.read_text(encoding="utf-8") == self.origin
            with safe_open(path, "pt") as file:
                return (file.metadata() or {}).get(ORIGIN) == self.origin
        except (OSError, ValueError, SafetensorError):
            return False

    def is_complete(self) -> bool:
        return all(self.is_made(name) for name in self.names)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Where to write. A kill leaves it as a partial folder, which the next start sweeps."""
        out = self.out.resolve()
        if not out.exists() or not any(out.iterdir()):
            with replacing_folder(out) as partial:
                yield partial
            return
        partial = partial_name(out / self.names[0])
        with naming(out, partial), stray_if_killed(partial):
            partial.mkdir()
            yield partial
            for name in self.names:
                os.replace(partial / name, out / name)
            partial.rmdir()

    def paths(self) -> list[Path]:
        return [self.out / name for name in self.names]
