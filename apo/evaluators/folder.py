"""The folder of an arm's results: whose files lie there, what is whole, and which process writes."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from apo.config.outputs import require_inside
from apo.errors import UserError
from apo.evaluators import results
from apo.io.files import require_no_folder, sweep
from apo.io.lock import holding, was_killed
from apo.io.written import Written


@dataclass(frozen=True)
class ResultsFolder:
    """<run folder>/<results>: rows.json, report.json, report.md, contact_sheet.png, videos/ and latents-*/."""

    run: Path
    results: str

    @property
    def path(self) -> Path:
        return self.run / self.results

    def places(self) -> list[Path]:
        """The folder and those in it that evaluate.py writes to."""
        return [self.path, self.path / "videos", *self.path.glob("latents-*")]

    def check(self) -> None:
        """UserError unless results may be written there: a folder of the arm's own, without other programs' files in
        their places.
        """
        for place in self.places():
            require_inside(place, self.run, f"results={self.results}")
            if place.exists() and not place.is_dir():
                raise UserError(f"results={self.results}: {place} is a file: move it away, or give another name")
        for path in self.path.glob("latents-*/*.safetensors"):
            require_no_folder(path)
        written = Written(self.path)
        for name in ("rows.json", "report.json"):
            path = self.path / name
            results.require_ours(path)
            if path.exists() and (results.read(path) is None or written.changed(name)):
                print(f"damaged or changed since it was written, made anew: {path}", file=sys.stderr)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Inside, no other evaluation writes here; what killed ones were writing is removed."""
        with holding(self.path, "wait for it, stop it, or give another results=NAME"):
            for place in self.places():
                sweep(place)
            yield

    def was_killed(self) -> bool:
        """Whether a process that wrote here ended in the middle."""
        return was_killed(self.path)

    def scores(self, key: str, n: int) -> dict | None:
        """What rows.json holds of `n` videos under a key; None if that is not there or not whole."""
        found = results.read(self.path / "rows.json")
        whole = found is not None and found.get("key") == key and found["n"] == n
        return found if whole and not Written(self.path).changed("rows.json") else None

    def keep(self, scores: dict) -> None:
        text = json.dumps(scores)
        Written(self.path).put("rows.json", lambda path: path.write_text(text, encoding="utf-8"), always=True)
