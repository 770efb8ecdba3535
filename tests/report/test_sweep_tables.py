"""A sweep in the terminal: tables that fit it, with the numbers of its points."""

import io

from hand_made_sections import near
from rich.console import Console

from tokenq.evaluation.sweep import Beats, Point, Rival
from tokenq.report.outcome import tables
from tokenq.report.sweep import sweep_tables

BEATS = Beats(near(0.25), near(0.5), near(0.25))


def point(setting):
    rivals = tuple(Rival(name, near(0.4), near(0.1), BEATS) for name in ("sample", "best_of_n", "majority"))
    costs = (1234.4, 99.5, 0.0, 1.25, near(20.25), 0.995)
    return Point(setting, setting.split()[0], near(0.5), near(0.05), BEATS, rivals, *costs)


def test_tables_fit_the_terminal():
    settings = ["greedy", "beam_sample width=2 temperature=0.5", "mcts simulations=16"]
    for width in (80, 120, 200):
        console = Console(file=io.StringIO(), width=width)
        console.print(*tables(sweep_tables(list(map(point, settings)))))
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert sum("mcts" in line for line in lines) == 3


def test_their_numbers_are_those_of_the_points():
    quality, beaten, cost = sweep_tables([point("greedy")])
    assert list(quality.head[:3]) == ["search", "quality", "− greedy"]
    assert quality.head[-1] == "− majority at its cost"
    assert quality.rows[0][2] == near(0.05)
    assert beaten.rows == [["greedy", *["25 / 50"] * 4]]
    assert cost.rows == [["greedy", 1234, 100, "1.25", "20.2", "100 %"]]
