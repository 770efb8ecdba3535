"""docs/tour.ipynb goes from a list of dictionaries to a page.

By default its cells run here, on a seventh of its posts; in a kernel of its own and as it stands the whole is slow.
"""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.integration

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"
FEWER = {
    "make_posts(700": "make_posts(100",
    "[:500]": "[:60]",
    "[500:]": "[60:]",
    "140": "26",
    "eval_steps=9": "eval_steps=3",
}


def cells():
    return [one.source for one in nbformat.read(TOUR, as_version=4).cells if one.cell_type == "code"]


def shown_by(source, names):
    """Run a cell, and return the value of its last line, which a notebook shows."""
    tree = ast.parse(source)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return last and eval(compile(last, "cell", "eval"), names)


def test_its_cells_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources = cells()
    for many, few in FEWER.items():
        assert any(many in source for source in sources), many
        sources = [source.replace(many, few) for source in sources]
    names = {}
    shown = [shown_by(source, names) for source in sources]
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert set(shown[0]) == {"prompt", "completion"}
    drawn = [one._repr_html_() for one in shown if not isinstance(one, str | dict | None)]
    assert len(drawn) == 6  # curves, coloured text, tables of tokens, numbers, findings
    assert all("<" in one for one in drawn)


@pytest.mark.slow
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
