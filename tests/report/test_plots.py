"""Figures: every piece in its place and its colour, the curve by hand, the same bytes twice."""

import sys
from itertools import pairwise

import pytest
from hand_made_traces import hand_made_pair, judged_pair, make_trace, without_policy

from tokenq.errors import UserError
from tokenq.report.plots import CELLS, figure, lay_out, save_figure, wrong_tokens


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="matplotlib") as caught:
        figure(hand_made_pair()[0])
    assert caught.value.hint == "pip install matplotlib"


def test_lines_break_where_the_text_breaks_and_where_they_are_full():
    pieces = ["a" * 60, "b" * 30, "\n", " c\nd", "x" * 100, ""]
    count = len(pieces)
    placed = list(lay_out(make_trace("1", pieces, [-1.0] * count, [-1.0] * count)))
    assert [(piece.token, piece.line, piece.start) for piece in placed] == [
        (0, 0, 0),
        (0, 0, 40),
        (1, 0, 60),
        (2, 0, 90),  # the sign of the line end
        (3, 1, 0),
        (3, 1, 2),
        (3, 2, 0),
        (4, 2, 1),
        (4, 2, 41),
        (4, 3, 0),  # 81 of 96 cells are full: the last 20 go to the next line
        (5, 3, 20),
    ]
    assert placed[-1].text == "[EOS]"
    assert max(piece.start + piece.width for piece in placed) <= CELLS


def test_wide_and_composed_characters_have_their_width():
    (piece,) = lay_out(make_trace("1", ["日e\u0301"], [-1.0], [-1.0], terminal=False))
    assert piece.width == 3


def test_colours_and_curve_are_those_of_the_numbers():
    """Rewards 0, .1, −1, −.2, −.3: the curve 0, 0, .1, −.9, −1.1, −1.4."""
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    drawn = figure(hand_made_pair()[1])
    text, curve = drawn.axes
    opacities = [patch.get_facecolor()[3] for patch in text.patches]
    assert opacities == pytest.approx([0.072, 0.72, 0.144, 0.216])  # of a deepest 0.72; 0 has no ground
    assert [patch.get_facecolor()[2] > 0.5 for patch in text.patches] == [True, False, False, False]
    assert "".join(words.get_text() for words in text.texts) == "It is Rome![EOS]"
    (steps,) = curve.collections
    heights = [segment[:, 1].tolist() for segment in steps.get_segments()]
    assert heights[0] == [0, 0]
    assert [segment[1] for segment in heights] == pytest.approx([0, 0.1, -0.9, -1.1, -1.4])


def test_wrong_stretches_are_outlined_word_by_word_and_neighbours_together():
    """The word Paris begins at 6, its token at 5; "It" and " is" are neighbours; a line end parts a stretch."""
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    chosen = hand_made_pair()[0]
    assert wrong_tokens(chosen, [(6, 11)]) == {2}
    boxes = [outlines(figure(chosen, wrong=wrong)) for wrong in ([(6, 11)], [(0, 5), (6, 7)], [(1, 2), (11, 12)])]
    assert boxes == [[(6, 0.08, 5)], [(0, 0.08, 11)], [(0, 0.08, 2), (11, 0.08, 1)]]
    lines = make_trace("1", [" a", "\n", " b", " c"], [-1.0] * 4, [-1.0] * 4)
    assert outlines(figure(lines, wrong=[(0, 7)])) == [(1, 0.08, 2), (1, 1.08, 3)]
    assert outlines(figure(chosen)) == []
    with pytest.raises(UserError, match="outside the response"):
        figure(chosen, wrong=[(0, 99)])


def outlines(drawn):
    return [(box.get_x(), box.get_y(), box.get_width()) for box in drawn.axes[0].patches if not box.get_fill()]


def test_figures_beside_each_other_can_have_one_scale():
    """The largest of the chosen response is .5: on a scale of 1 it is half as deep as the deepest."""
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    own, shared = (figure(hand_made_pair()[0], scale=scale).axes[0].patches for scale in (None, 1.0))
    assert max(patch.get_facecolor()[3] for patch in own) == pytest.approx(0.72)
    assert max(patch.get_facecolor()[3] for patch in shared) == pytest.approx(0.36)


def test_dollars_are_not_mathematics():
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    drawn = figure(make_trace("$x^", ["$a_b$", " $"], [-1.0, -1.0], [-2.0, -1.0]))
    drawn.canvas.draw()
    assert [words.get_text() for words in drawn.axes[0].texts] == ["$a_b$", " $"]


@pytest.mark.parametrize("ending", [".svg", ".png", ".pdf"])
def test_figures_are_files_that_repeat(ending, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    beginning = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[ending]
    contents = []
    for name in ("one", "two"):
        save_figure(tmp_path / f"{name}{ending}", hand_made_pair()[0], "centred_advantage")
        contents.append((tmp_path / f"{name}{ending}").read_bytes())
    assert contents[0].startswith(beginning)
    assert contents[0] == contents[1]
    assert len(list(tmp_path.iterdir())) == 2


def test_other_forms_and_channels_are_refused(tmp_path):
    with pytest.raises(UserError, match="no figure is written in this form"):
        save_figure(tmp_path / "figure.gif", hand_made_pair()[0])
    with pytest.raises(UserError, match="Unknown channel"):
        figure(hand_made_pair()[0], "rewards")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_response_has_a_figure(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    save_figure(tmp_path / "empty.svg", make_trace("1", [], [], []))
    assert (tmp_path / "empty.svg").stat().st_size > 1000


def test_a_reward_model_alone_is_drawn_as_a_level():
    """Rewards .2, .4, −1, −.5, −1.5: colours of their size, and a curve through them from the first token on."""
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    trace = without_policy(judged_pair()[1])
    drawn = figure(trace)
    text, curve = drawn.axes
    opacities = [patch.get_facecolor()[3] / 0.72 for patch in text.patches]
    assert opacities == pytest.approx([0.2 / 1.5, 0.4 / 1.5, 1 / 1.5, 0.5 / 1.5, 1])
    assert text.get_title(loc="left") == "1/rejected: reward -1.500. Colour: reward model r(x, y≤t)"
    (steps,) = curve.collections
    points = [[segment[0].tolist(), segment[1].tolist()] for segment in steps.get_segments()]
    heights = [0.2, 0.4, -1, -0.5, -1.5]
    assert points == [
        [[n, pytest.approx(a)], [n + 1, pytest.approx(b)]] for n, (a, b) in enumerate(pairwise(heights), 1)
    ]
    assert curve.get_ylabel() == "reward model so far"
    correctness = figure(trace, "reward/correctness").axes[0].patches
    assert [patch.get_facecolor()[3] / 0.72 for patch in correctness] == pytest.approx([0.1, 0.5, 0.5, 1])
    with pytest.raises(UserError, match="Unknown channel"):
        figure(trace, "implicit_reward")
