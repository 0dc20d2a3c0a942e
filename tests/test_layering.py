"""Imports point downward: a package knows nothing of one on its own floor or above, and no files import each other in a
circle.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [  # from the ground up; what stands in one line knows nothing of each other
    "parts",
    "errors places interfaces random distributed timing intervals cpu_torchvision",
    "quiet terminal flow",
    "io",
    "config",
    "objectives timesteps policies",
    "guidance",
    "solvers",
    "data",
    "adapter",
    "rankers",
    "sources",
    "losses",
    "evaluators",
    "modules world",
    "stages",
    "runs resume closing card",
    "checks generation",
    "evaluation export run",
    "plan",
    "studies",
    "reports study",
    "tools",
    "train evaluate",
]
LEVELS = {name: level for level, floor in enumerate(FLOORS) for name in floor.split()}
ABOUT_THE_WORLD = {"apo.reports.oracle_audit", "apo.reports.ranker"}  # commands; apo.tools draws and tests with it, too
FILES = sorted((ROOT / "apo").rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def part_of(module: str) -> str:
    return (module.split(".") + [""])[1]


@cache
def imported(path: Path) -> set[str]:
    """The modules of apo that a file imports, wherever in it, but for the type checker's eyes alone."""
    tree, names = ast.parse(path.read_text()), set()
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    typing = {node for block in blocks for node in ast.walk(block)}
    for node in ast.walk(tree):
        if node in typing:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module
                for alias in node.names
            }
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("apo.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path):
    part = part_of(module_of(path))
    others = {part_of(name) for name in imported(path)} - {part}
    wrong = {other for other in others if LEVELS[other] >= LEVELS[part]}
    assert not wrong, f"{path.name} ({part}, floor {LEVELS[part]}) imports {wrong}"


def test_the_world_is_a_plug_in():
    users = {name for name, path in MODULES.items() if any(part_of(other) == "world" for other in imported(path))}
    assert ABOUT_THE_WORLD <= users
    assert {name for name in users if part_of(name) not in ("world", "tools")} == ABOUT_THE_WORLD
    texts = {
        name for name, path in MODULES.items() if "apo.world" in path.read_text() or "apo/world" in path.read_text()
    }
    assert {name for name in texts if part_of(name) not in ("world", "tools")} == ABOUT_THE_WORLD


def test_no_files_import_each_other_in_a_circle():
    left = {module: {name for name in imported(path) if name in MODULES} for module, path in MODULES.items()}
    while bare := [module for module, names in left.items() if not names & left.keys()]:
        for module in bare:
            del left[module]
    assert not left, f"a circle goes through some of {sorted(left)}"


def test_interfaces_need_torch_only():
    tree = ast.parse((ROOT / "apo/interfaces.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules <= {"torch", "typing", "dataclasses", "contextlib", "collections.abc", "apo", "apo.parts"}


def test_only_the_loop_and_what_runs_it_know_lightning():
    parts = " ".join(FLOORS[LEVELS["objectives"] : LEVELS["modules"]]).split()
    below = [path for path in FILES if part_of(module_of(path)) in parts]
    assert len(below) > 50 and not [
        path.name for path in below if re.search(r"(import|from) lightning", path.read_text())
    ]


def test_init_files_are_empty_and_files_are_short():
    assert all(path.read_text() == "" for path in (ROOT / "apo").rglob("__init__.py"))
    long = {path.name: n for path in FILES if (n := len(path.read_text().splitlines())) > 300}
    assert not long
