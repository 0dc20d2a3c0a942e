"""Studies over made-up run folders, in a folder of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from apo.studies.definition import load
from apo.studies.measurements import Results
from apo.studies.output import Tables


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("outputs")


@pytest.fixture
def report(outputs) -> Callable[..., Tables]:
    """study -> its tables of what is in outputs/."""

    def made(name: str, seeds: list[int] | None = None) -> Tables:
        study = load(name)
        study.seeds = seeds or study.seeds
        return Tables(study, Results(study, study.seeds))

    return made


def cells(tables: Tables, table: str, title: str) -> dict[str, str]:
    """Head -> text of the row with a title."""
    found = tables.found[table]
    place = [row.title for row in found.rows].index(title)
    return dict(zip(found.heads, (cell.text for cell in found.cells[place])))
