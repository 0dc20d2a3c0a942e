"""docs/paper_map.md points at what is there: files, symbols in them, and tests."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
POINTERS = sorted(
    {
        pointer
        for file in ("docs/paper_map.md", "README.md")
        for pointer in re.findall(r"`([^`\s]+)`", (ROOT / file).read_text())
        if "middle." not in pointer and re.match(r"(apo|tests|conf|experiments|notebooks|docs)/", pointer)
    }
)


@cache
def symbols(path: Path) -> set[str]:
    """What a module defines, and methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= (
            {node.name} if hasattr(node, "name") else {target.id for target in targets if isinstance(target, ast.Name)}
        )
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if hasattr(part, "name")}
    return found


def test_there_are_pointers():
    assert len(POINTERS) > 150


@pytest.mark.parametrize("pointer", POINTERS)
def test_what_it_points_at_is_there(pointer):
    path, _, symbol = pointer.partition(":")
    assert any(ROOT.glob(path.rstrip("/"))), f"{path} is not there"
    assert not symbol or symbol in symbols(ROOT / path), f"{path} has no {symbol}"
