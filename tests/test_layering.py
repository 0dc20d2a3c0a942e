"""Imports point downward only: a package of one level knows nothing of a higher one."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = {
    "interfaces": 0, "errors": 0, "numbers": 0, "signatures": 0, "flow": 1, "seeds": 1, "timing": 1, "files": 1, "settings": 1,
    "validation": 1, "overrides": 1, "quiet": 1, "cpu_torchvision": 1, "config": 1, "outputs": 1, "terminal": 1,
    "timesteps": 2, "objectives": 2, "guidance": 2, "distill": 2, "policies": 2,
    "rankers": 2, "data": 2, "evaluators": 2, "world": 2, "generate": 2, "lineage": 2, "runs": 2, "pairs": 3, "modules": 3, "reports": 3,
    "delivery": 2, "lock": 2, "recorded": 2, "resume": 4, "evaluation": 3, "export": 3, "plan": 3, "closing": 3, "sweep": 1,
    "checks": 4, "run": 4, "tools": 5,
}
FILES = sorted((ROOT / "apo").rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} if node.module != "apo" else {f"apo.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("apo.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path):
    part = path.relative_to(ROOT / "apo").parts[0].removesuffix(".py")
    if part == "__init__":
        return
    above = {name for name in imported(path) if LEVELS[name.split(".")[1]] > LEVELS[part]}
    assert not above, f"{path.name} (level {LEVELS[part]}) imports {above}"


def test_interfaces_need_torch_only():
    tree = ast.parse((ROOT / "apo/interfaces.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules <= {"torch", "typing", "dataclasses", "contextlib", "collections.abc"}


def test_init_files_are_empty_and_files_are_short():
    assert all(path.read_text() == "" for path in (ROOT / "apo").rglob("__init__.py"))
    long = {path.name: n for path in FILES if (n := len(path.read_text().splitlines())) > 300}
    assert not long
