"""What a person sees while something takes long, and the log that keeps it."""

import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from shutil import get_terminal_size
from typing import TextIO

from tqdm import tqdm

from apo.errors import UserError
from apo.places import ROOT

INTERVAL = 15.0  # seconds between the plain lines of something that takes long


def progress(
    iterable: Iterable | None = None,
    desc: str = "",
    total: int | None = None,
    initial: int = 0,
    delay: float = 0,
    leave: bool = True,
    disable: bool = False,
) -> "tqdm | Lines":
    """tqdm's bar where stdout is a terminal; elsewhere a whole line every INTERVAL seconds, and one at the end unless
    leave=False.

    The arguments are tqdm's.
    """
    columns, rows = get_terminal_size()  # tqdm's own draws nothing on terminals that do not know their size
    kind, options = (tqdm, dict(ncols=columns, nrows=rows)) if sys.stdout.isatty() else (Lines, {})
    return kind(
        iterable, desc, total, initial=initial, delay=delay, leave=leave, disable=disable, file=sys.stdout, **options
    )


class Lines:
    """The part of tqdm that is used here, for files and pipes: `world pairs: 40 of 160, 0:32 gone, 1:36 left`."""

    def __init__(
        self,
        iterable: Iterable | None,
        desc: str,
        total: int | None,
        initial: int,
        delay: float,
        leave: bool,
        disable: bool,
        file: TextIO,
    ):
        self.iterable, self.desc, self.n, self.initial, self.file = iterable, desc, initial, initial, file
        self.total = total if total is not None or iterable is None else len(iterable)
        self.delay, self.leave, self.disable, self.postfix = delay, leave, disable, ""
        self.began = self.spoke = time.monotonic()
        self.spoken = initial  # n, when it last spoke

    def __iter__(self) -> Iterator:
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def update(self, n: int = 1) -> None:
        self.n += n
        if time.monotonic() - self.spoke >= INTERVAL:
            self.speak()

    def set_description(self, desc: str) -> None:
        self.desc = desc

    def set_postfix(self, values: dict[str, str] | None = None, refresh: bool = True, **more) -> None:
        self.postfix = "".join(f", {name} {value}" for name, value in ((values or {}) | more).items())

    def close(self) -> None:
        if self.leave and self.n > self.spoken and time.monotonic() - self.began >= self.delay:
            self.speak()

    def speak(self) -> None:
        self.spoke, self.spoken = time.monotonic(), self.n
        if not self.disable:
            print(self, file=self.file, flush=True)

    def __str__(self) -> str:
        gone = time.monotonic() - self.began
        left = (self.total - self.n) * gone / max(self.n - self.initial, 1)
        times = f"{tqdm.format_interval(gone)} gone, {tqdm.format_interval(left)} left"
        return f"{self.desc}: {self.n} of {self.total}{self.postfix}, {times}"


class Recorded:
    """A stream whose whole lines also go to a log, as a terminal would finally show them: of a bar, its last state."""

    def __init__(self, stream: TextIO, log: TextIO):
        self.stream, self.log, self.line = stream, log, ""

    def write(self, text: str) -> int:
        for part in re.split(r"(\r|\n)", text):
            if part == "\n" and self.line.strip():
                self.log.write(self.line.rstrip() + "\n")
            self.line = "" if part in ("\r", "\n") else self.line + part
        return self.stream.write(text)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def say_where() -> None:
    """Outside the repository: where outputs and caches go."""
    if Path.cwd() != ROOT:
        print(f"outputs and caches: {Path.cwd() / 'outputs'}")


def shown(path: Path) -> Path:
    """From where the user is."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@contextmanager
def recorded(path: Path) -> Iterator[None]:
    """Inside, what is printed is also appended to the file at `path`, and what ends the command."""
    with path.open("a", buffering=1, encoding="utf-8") as log:
        with redirect_stdout(Recorded(sys.stdout, log)), redirect_stderr(Recorded(sys.stderr, log)):
            try:
                yield
            except (SystemExit, UserError) as end:
                if not str(end).isdigit():  # a status, whose reason has been printed
                    log.write(f"{end}\n")
                raise
            except Exception:
                traceback.print_exc(file=log)
                raise
