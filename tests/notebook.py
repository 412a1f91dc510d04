"""`python tests/notebook.py`: runs examples/focal_loss.ipynb and stores it with what it shows,
without what differs from machine to machine."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "focal_loss.ipynb"
LIMIT = 300  # seconds for a cell, on a machine with much else to do


def executed(path: Path = NOTEBOOK) -> nbformat.NotebookNode:
    """The notebook after a run; nbclient's CellExecutionError names the cell that fails."""
    notebook = nbformat.read(path, as_version=4)
    # In its own folder: the kernel's is the first on sys.path, and ./focaldet may not be built.
    beside = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=LIMIT, kernel_name="python3", resources=beside).execute()
    return notebook


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without times of execution, and versions of Python and of its kernel."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = {}, f"cell-{number}"
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output["data"].pop("text/plain", None)
    return notebook


if __name__ == "__main__":
    nbformat.write(cleaned(executed()), NOTEBOOK)
