"""What a program wrote into a folder that others use, too: nothing else there is ever replaced or removed."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from apo.io.checksums import file_digest
from apo.io.files import replacing, require_no_folder, write_json

NAME = re.compile(r"(videos/)?\w[\w.-]*")  # the list is a file as well: no name in it leads elsewhere


class Written:
    """sha256 of the files that were written into `folder`, in .written.json there.

    A file is noted before it takes its place, and the one before it stays noted until then: whoever is killed between
    leaves nothing that the next one would take for the user's.
    """

    def __init__(self, folder: Path):
        self.folder, self.list = folder, folder / ".written.json"
        self.known = recorded(self.list)

    def free(self, name: str) -> bool:
        """Whether `name` may be written or removed: nothing is there, or what was written."""
        path = self.folder / name
        return not os.path.lexists(path) or self.unchanged(name)

    def unchanged(self, name: str) -> bool:
        """Whether the file is there as it was written."""
        path = self.folder / name
        return path.is_file() and not path.is_symlink() and file_digest(path) in self.known.get(name, [])

    def changed(self, name: str) -> bool:
        """Whether the file was written and is another now."""
        return name in self.known and (self.folder / name).is_file() and not self.unchanged(name)

    def put(self, name: str, write: Callable[[Path], None], always: bool = False) -> None:
        """Writes a file through `write(path)`, or says that someone else's is there. always: whatever is there."""
        if not always and not self.free(name):
            print(
                f"left as it is: {self.folder / name}, not written here or changed since; move it away to have ours",
                file=sys.stderr,
            )
            return
        with replacing(self.folder / name) as partial:
            write(partial)
            self.note(name, [*self.known.get(name, []), file_digest(partial)])
        self.note(name, self.known[name][-1:])

    def keep(self, folder: str, names: Iterable[str]) -> None:
        """Removes what was written below `folder` and is not among `names`."""
        for name in [name for name in self.known if name.startswith(f"{folder}/") and name not in set(names)]:
            if self.unchanged(name):
                (self.folder / name).unlink()
            self.note(name, [])

    def note(self, name: str, digests: list[str]) -> None:
        self.known = {key: value for key, value in (self.known | {name: digests}).items() if value}
        write_json(self.list, self.known)


def recorded(path: Path) -> dict[str, list[str]]:
    """File name -> digests of a list; of one that is damaged nothing is believed, so that what is there stays.

    UserError if it is a folder.
    """
    require_no_folder(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: [str(digest) for digest in digests] for name, digests in found.items() if NAME.fullmatch(name)}
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
