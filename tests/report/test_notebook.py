"""A trace that shows itself: the HTML of the fragment in a notebook, a card in a terminal, a table row by row."""

import sys
import types

import pytest
from hand_made_traces import hand_made_pair

from tokenq.report.html import fragment
from tokenq.report.notebook import TraceView

CHOSEN, REJECTED = hand_made_pair()


def put_in_shell(monkeypatch, name):
    """Pretend to run inside IPython with a shell of this class; return what gets displayed."""
    displayed = []
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: type(name, (), {})() if name else None
    display.HTML = lambda text: ("html", text)
    display.display = displayed.append
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return displayed


def test_it_is_the_trace():
    shown = TraceView(CHOSEN)
    assert shown.trace is CHOSEN
    assert (shown.tokens, shown.spans, shown.totals) == (CHOSEN.tokens, CHOSEN.spans, CHOSEN.totals)
    assert shown._repr_html_() == fragment(CHOSEN)


def test_a_notebook_shows_html(monkeypatch, capsys):
    displayed = put_in_shell(monkeypatch, "ZMQInteractiveShell")
    TraceView(REJECTED).show()
    assert displayed == [("html", fragment(REJECTED))]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shell", ["TerminalInteractiveShell", None])
def test_a_terminal_shows_text(shell, monkeypatch, capsys):
    displayed = put_in_shell(monkeypatch, shell)
    TraceView(REJECTED).show()
    said = capsys.readouterr().out
    assert displayed == []
    assert said.startswith("It is Rome!")
    assert "implicit reward -1.400" in said


def test_without_ipython_it_is_a_terminal(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "IPython", None)
    TraceView(CHOSEN).show()
    assert capsys.readouterr().out.startswith("It is Paris.")


def test_a_table_has_a_row_a_token():
    pytest.importorskip("pandas", reason="tables need pandas")
    frame = TraceView(REJECTED).to_frame()
    assert frame.shape == (5, 18)
    assert list(frame.columns[:5]) == ["id", "text", "start", "end", "written"]
    assert list(frame["text"]) == ["It", " is", " Rome", "!", ""]
    assert list(frame["implicit_reward"]) == pytest.approx([0, 0.1, -1, -0.2, -0.3])
    assert frame["implicit_reward"].sum() == pytest.approx(REJECTED.totals.implicit_reward)
    assert list(frame["written"]) == [True] * 5
