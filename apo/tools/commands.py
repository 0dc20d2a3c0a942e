"""The commands that README and docs show: in bash blocks, in inline code, in tables; and the Python snippets."""

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
COMMAND = re.compile(r"(python |make [a-z]|sbatch |vllm |torchrun |srun |pip )|(train|evaluate)\.py \S")
CONTINUED = re.compile(r"\.\.\. (?=[\w.]+=)")  # of a table: the command above with more words


@dataclass(frozen=True)
class Shown:
    """A command or snippet as it is written, and where."""

    text: str
    file: str
    line: int
    python: bool = False  # a block of Python

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def documents(root: Path) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def shown(root: Path) -> list[Shown]:
    """Every command and snippet, once, in the order of the documents."""
    found: dict[str, Shown] = {}
    for path in documents(root):
        for command in in_document(path, root):
            found.setdefault(command.text, command)
    return list(found.values())


def in_document(path: Path, root: Path) -> list[Shown]:
    text, name, found, before = path.read_text(encoding="utf-8"), str(path.relative_to(root)), [], ""
    for start, code, python in pieces(text):
        if python:
            found.append(Shown(code, name, text.count("\n", 0, start) + 1, True))
            continue
        if CONTINUED.match(code):
            code = f"{before} {code.removeprefix('... ')}"
        if COMMAND.match(code):
            before = (
                code
                if code.startswith(("python", "make", "sbatch", "vllm", "torchrun", "srun", "pip"))
                else f"python {code}"
            )
            found.append(Shown(before, name, text.count("\n", 0, start) + 1))
    return found


def pieces(text: str) -> list[tuple[int, str, bool]]:
    """(offset, code on one line, whether it is a block of Python), in order."""
    found, rest = [], list(text)
    for block in FENCE.finditer(text):
        rest[block.start() : block.end()] = " " * (block.end() - block.start())
        if block[1] == "python":
            found.append((block.start(), block[2], True))
        if block[1] == "bash":
            found += [(block.start(2) + at, line, False) for at, line in lines(block[2])]
    found += [(code.start(), " ".join(code[1].split()), False) for code in INLINE.finditer("".join(rest))]
    return sorted(found, key=lambda piece: piece[0])


def lines(block: str) -> list[tuple[int, str]]:
    """(offset, command) of a bash block: continued lines joined, comments left out."""
    found = []
    for line in re.finditer(r"(?:.*\\\n)*.+", block):
        command = re.sub(r"(^|\s+)#.*$", "", line[0].replace("\\\n", " "), flags=re.M)
        found.append((line.start(), " ".join(command.split())))
    return found
