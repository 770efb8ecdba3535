"""Tables as pages show them: numbers to the right with a true minus, intervals apart, rows as long as the head."""

import pytest

from tokenq.report.outcome import ShownCell, shown_cell, shown_table
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Table

NAN = float("nan")


@pytest.mark.parametrize(
    ("cell", "text", "interval"),
    [
        (None, "", ""),
        ("beam - width 3 [a", "beam - width 3 [a", ""),
        (3, "3", ""),
        (-3, "−3", ""),
        (-0.12345, "−0.123", ""),
        (12345.6, "12346", ""),
        (Estimate(-0.5, -0.75, 0.25, 9), "−0.500", "[−0.750, 0.250]"),
        (Estimate(NAN, NAN, NAN, 0), "–", ""),
    ],
)
def test_cells(cell, text, interval):
    assert shown_cell(cell) == ShownCell(text, interval)


def test_columns_of_numbers_are_told_from_text():
    shown = shown_table(
        Table("t", ["name", "n", "mixed", "empty"], [["a", 1, "none"], [2, Estimate(1.0, 0.0, 2.0, 3), 4]], "a note")
    )
    assert shown.numbers == (False, True, False, True)
    assert [[cell.text for cell in row] for row in shown.rows] == [["a", "1", "none", ""], ["2", "1.000", "4", ""]]
    assert (shown.title, shown.head, shown.note) == ("t", ("name", "n", "mixed", "empty"), "a note")


def test_rows_and_head_have_one_length():
    shown = shown_table(Table("t", ["a"], [[], [1, 2]]))
    assert shown.head == ("a", "")
    assert [[cell.text for cell in row] for row in shown.rows] == [["", ""], ["1", "2"]]
