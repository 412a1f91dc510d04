"""examples/focal_loss.ipynb runs, and is stored with what it shows and nothing of the machine."""

from __future__ import annotations

import copy
import re

import pytest

pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
import notebook  # noqa: E402, after what it imports is known to be there

pytestmark = pytest.mark.skipif(not notebook.NOTEBOOK.exists(), reason="no folder of examples")
OF_A_MACHINE = re.compile(r"/(home|root|tmp|usr|work|opt|var)/|ipykernel_|[A-Z]:\\|\d images/s")


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(notebook.NOTEBOOK, as_version=4)


def code_cells(node):
    return [cell for cell in node.cells if cell.cell_type == "code"]


def outputs(node):
    return [output for cell in code_cells(node) for output in cell.outputs]


def test_it_is_stored_as_it_was_run_once_from_top_to_bottom(stored):
    counts = [cell.execution_count for cell in code_cells(stored)]
    assert counts == list(range(1, len(counts) + 1)), "run: python tests/notebook.py"
    assert stored == notebook.cleaned(copy.deepcopy(stored))
    pictures = [o for o in outputs(stored) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 6
    assert notebook.NOTEBOOK.stat().st_size < 500_000


def test_it_shows_no_warning_and_nothing_of_the_machine(stored):
    for output in outputs(stored):
        assert output.output_type != "error" and output.get("name") != "stderr", output
        text = output.get("text", "") + "".join(output.get("data", {}).get("text/plain", ""))
        assert not OF_A_MACHINE.search(text), text


@pytest.mark.slow
def test_it_runs(stored):
    run = notebook.executed()
    assert [cell.source for cell in run.cells] == [cell.source for cell in stored.cells]
    for before, after in zip(code_cells(stored), code_cells(run), strict=True):
        kinds = [[o.get("name", o.output_type) for o in c.outputs] for c in (before, after)]
        assert kinds[0] == kinds[1], after.source
