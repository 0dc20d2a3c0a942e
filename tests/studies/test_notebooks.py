"""Both notebooks run from top to bottom and draw what they are for."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.studies import runs

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"


@pytest.fixture
def execute(monkeypatch):
    """name -> the outputs of a notebook's code cells, run in a fresh kernel that imports this tree."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return outputs_of


def outputs_of(name: str) -> list[dict]:
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def figures(outputs: list[dict]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def printed(outputs: list[dict]) -> str:
    return "\n".join(output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in outputs)


def test_loss_curves_of_two_runs(execute, tmp_path, monkeypatch):
    folders = [runs.training(tmp_path / "windowed", 40, 5), runs.training(tmp_path / "single", 200, 1)]
    monkeypatch.setenv("APO_RUNS", ":".join(map(str, folders)))
    outputs = execute("loss_curves.ipynb")
    assert figures(outputs) == 2
    text = printed(outputs)
    assert "windowed: 40 optimizer steps of 5 row(s)" in text and "single: 200 optimizer steps of 1 row(s)" in text
    assert "spikes, 5-row means" in text


def test_timesteps_needs_no_runs(execute):
    assert figures(execute("timesteps.ipynb")) >= 3


def test_committed_notebooks_are_small():
    assert all(path.stat().st_size < 400_000 for path in NOTEBOOKS.glob("*.ipynb"))
