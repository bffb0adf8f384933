"""Every notebook runs from top to bottom, is short, and is stored without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import secfad

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


@pytest.mark.sample(quick=0)
@each
def test_notebook_runs_to_its_last_assertion(path, tmp_path, monkeypatch):
    # The kernel is another process: it must find the packages that this one tests.
    monkeypatch.setenv("PYTHONPATH", str(Path(secfad.__file__).parent.parent))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=180, kernel_name="python3", resources=resources).execute()


@each
def test_notebook_is_short_and_ends_with_an_assertion(path):
    cells = code(path)
    assert len(cells) <= 16
    assert max(c.source.count("\n") + 1 for c in cells) <= 40
    assert "assert" in cells[-1].source


@each
def test_notebook_is_stored_without_outputs(path):
    assert not any(c.outputs or c.execution_count for c in code(path))


def test_there_are_notebooks():
    assert NOTEBOOKS
