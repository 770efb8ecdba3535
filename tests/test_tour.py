"""docs/tour.ipynb goes from a list of dictionaries to a page, in a kernel of its own."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"


def test_the_tour_runs(tmp_path):
    notebook = nbformat.read(TOUR, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    shown = [
        output.data
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "data" in output
    ]
    assert shown[0]["text/plain"].startswith("{'prompt': ")
    assert sum("text/html" in data for data in shown) == 6  # curves, coloured text, tables of tokens, numbers, findings


def test_what_it_shows_names_no_place():
    assert "/home/" not in TOUR.read_text()
    assert "/tmp/" not in TOUR.read_text()
