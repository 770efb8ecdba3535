"""Charts as figures: points where their numbers are, names that can be read, a legend that hides nothing."""

import sys
import xml.etree.ElementTree as ET

import pytest
from hand_made_sections import near

from tokenq.errors import UserError
from tokenq.report.drawing import COLOURS, MARKERS, blank, drawable, installed, save
from tokenq.report.inline_svg import inline_svg
from tokenq.report.outcome import figure
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Chart, Curve

needs_matplotlib = pytest.mark.skipif(not installed(), reason="figures need matplotlib")


def line_chart(count=2, points=3, **given):
    curves = [
        Curve(f"curve {i}", range(1, points + 1), [near(i + x, 0.5) for x in range(points)]) for i in range(count)
    ]
    return Chart(**{"title": "t", "x": "width", "y": "reward", "curves": curves} | given)


def place_chart(labels=("a", "b", "c"), count=3):
    curves = [Curve(f"kind {i}", range(len(labels)), [near(0.5 + i / 10)] * len(labels)) for i in range(count)]
    return Chart("t", "read-out", "AUROC", curves, labels=labels)


def names_of(axes):
    """Return the labels of both axes that can be seen."""
    (left, right), (bottom, top) = axes.get_xlim(), sorted(axes.get_ylim())
    seen = [text for text in axes.get_xticklabels() if left <= text.get_position()[0] <= right]
    return seen + [text for text in axes.get_yticklabels() if bottom <= text.get_position()[1] <= top]


def drawn_axes(chart):
    drawn = figure(chart)
    drawn.draw_without_rendering()
    return drawn, drawn.axes[0]


def test_colours_and_markers_tell_ninety_curves_apart():
    assert len({(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i in range(90)}) == 90


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not installed()
    with pytest.raises(UserError, match="matplotlib") as caught:
        figure(line_chart())
    assert caught.value.hint == "pip install matplotlib"


@needs_matplotlib
def test_lines_join_the_values_and_bars_are_the_intervals():
    _, axes = drawn_axes(line_chart())
    first, second, zero = axes.lines
    assert (list(first.get_xdata()), list(first.get_ydata())) == ([1, 2, 3], [0, 1, 2])
    assert list(second.get_ydata()) == [1, 2, 3]
    assert list(zero.get_ydata()) == [0, 0]  # the first interval goes from −0.5 to 0.5
    assert first.get_linestyle() == "-"
    bars = [segment.tolist() for segment in axes.collections[0].get_segments()]
    assert bars == [[[1, -0.5], [1, 0.5]], [[2, 0.5], [2, 1.5]], [[3, 1.5], [3, 2.5]]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("width", "reward")


@needs_matplotlib
def test_many_points_have_a_band_in_place_of_bars():
    _, axes = drawn_axes(line_chart(count=1, points=13))
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (-0.5, 12.5)
    assert len(axes.lines) == 2  # the curve, and 0


@needs_matplotlib
@pytest.mark.parametrize(
    ("values", "zeros"),
    [
        ([1.0, -1.0], 1),
        ([0.0, -1.0], 1),
        ([Estimate(0.5, -0.1, 0.9, 10)], 1),  # an interval across 0
        ([0.0, 1.0], 0),
        ([2.0, 1.0], 0),
        ([-2.0, -1.0], 0),
        ([float("nan"), 1.0], 0),
        ([], 0),
    ],
)
def test_zero_is_drawn_where_the_sign_changes(values, zeros):
    _, axes = drawn_axes(Chart("t", "x", "y", [Curve("one", range(len(values)), values)]))
    flat = [line for line in axes.lines if len(set(line.get_ydata())) == 1 and list(line.get_xdata()) == [0, 1]]
    assert [line.get_ydata()[0] for line in flat if line.get_label().startswith("_")] == [0] * zeros


@needs_matplotlib
def test_points_at_places_stand_beside_each_other_and_are_not_joined():
    """Three kinds at the places 0, 1, 2: 0.2 apart, the middle one on its place."""
    _, axes = drawn_axes(place_chart())
    assert [list(line.get_xdata()) for line in axes.lines] == [
        pytest.approx([-0.2, 0.8, 1.8]),
        [0, 1, 2],
        pytest.approx([0.2, 1.2, 2.2]),
    ]
    assert {line.get_linestyle() for line in axes.lines} == {"None"}
    assert len({line.get_color() for line in axes.lines}) == 3
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b", "c"]
    bars = axes.collections[2].get_segments()
    assert bars[1].ravel().tolist() == pytest.approx([1.2, 0.68, 1.2, 0.72])


@needs_matplotlib
def test_places_with_long_names_stand_below_each_other_the_first_on_top():
    names = ("implicit reward", "centred advantage", "reference surprisal", "policy surprisal", "chance")
    drawn, axes = drawn_axes(place_chart(names))
    assert [text.get_text() for text in axes.get_yticklabels()] == list(names)
    assert list(axes.lines[1].get_ydata()) == [0, 1, 2, 3, 4]
    assert axes.yaxis_inverted()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("AUROC", "read-out")
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert all(not one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[i + 1 :])
    assert all(box.x0 >= 0 and box.y1 <= drawn.bbox.y1 for box in boxes)


@needs_matplotlib
@pytest.mark.parametrize("labels", [("a", "b"), ("four words of a name", "x" * 60, "a name")])
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_names_and_legend_stay_apart_and_inside(labels, count):
    for chart in (place_chart(labels, count), line_chart(count)):
        drawn, axes = drawn_axes(chart)
        (legend,) = drawn.legends
        box = legend.get_window_extent()
        assert [text.get_text() for text in legend.get_texts()] == [curve.name for curve in chart.curves]
        assert not box.overlaps(axes.get_window_extent())
        assert drawn.bbox.x0 - 1 <= box.x0 < box.x1 <= drawn.bbox.x1 + 1
        assert box.y1 <= drawn.bbox.y1 + 1
        names = [text.get_window_extent() for text in names_of(axes)]
        assert names
        assert all(not box.overlaps(name) for name in names)
        assert all(not one.overlaps(other) for i, one in enumerate(names) for other in names[i + 1 :])
        assert axes.get_window_extent().height > 60


@needs_matplotlib
@pytest.mark.parametrize(
    ("places", "shown"),
    [
        ((1, 2, 3, 5, 10, 20), ["1", "2", "3", "5", "10", "20"]),
        (range(1, 40), ["1", "2", "4", "8", "16", "32"]),
        ((30.5, 61, 900.25), ["32", "64", "128", "256", "512", "1024"]),
        ((100.5, 150, 160), ["105", "120", "135", "150"]),
    ],
)
def test_a_logarithmic_axis_has_numbers_that_people_use(places, shown):
    chart = Chart("t", "x", "y", [Curve("one", places, [1.0] * len(places))], log_x=True)
    _, axes = drawn_axes(chart)
    inside = [text.get_text() for text in names_of(axes) if text in axes.get_xticklabels()]
    assert inside == shown


@needs_matplotlib
def test_what_is_unknown_is_not_drawn():
    unknown = Estimate(float("nan"), float("nan"), float("nan"), 0)
    alone = Estimate(2.0, float("nan"), float("nan"), 1)
    _, axes = drawn_axes(Chart("t", "x", "y", [Curve("one", [1, 2, 3], [unknown, alone, near(3.0)])]))
    assert len(axes.collections[0].get_segments()) == 1
    _, empty = drawn_axes(Chart("t", "x", "y", []))
    assert not empty.lines


@needs_matplotlib
def test_dollars_are_not_mathematics():
    names = ("$a_b$", "$\\frac{$")
    curves = [Curve(name, [0, 1], [1.0, 2.0]) for name in names]
    for labels in ((), names):
        drawn, axes = drawn_axes(Chart("$t$", "$x_", "$y^", curves, labels=labels))
        assert [text.get_text() for text in drawn.legends[0].get_texts()] == list(names)
        assert axes.get_xlabel() == "$x_"


@needs_matplotlib
@pytest.mark.parametrize("ending", [".svg", ".png", ".pdf"])
def test_a_chart_gives_the_same_bytes(ending, tmp_path):
    for chart in (line_chart(), place_chart()):
        files = [tmp_path / f"one{ending}", tmp_path / f"two{ending}"]
        for file in files:
            save(file, figure(chart))
        assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(UserError, match="no figure is written in this form"):
        save(tmp_path / "one.gif", figure(line_chart()))


def test_what_an_svg_may_not_hold_is_replaced():
    assert drawable("a\x07b\u202ec\ud800\n日") == "a\ufffdb\ufffdc?\n日"


# ---------------------------------------------------------------------------------------------------------------------


@needs_matplotlib
def test_a_figure_on_a_page_has_no_style_and_its_text_is_text():
    svg = inline_svg(figure(place_chart()), "one", 'a "chart" <b>')
    assert "style" not in svg
    root = ET.fromstring(svg)
    assert root.get("aria-label") == 'a "chart" <b>'
    texts = ["".join(node.itertext()) for node in root.iter("text")]
    assert {"a", "b", "c", "AUROC", "read-out", "kind 0", "kind 1", "kind 2"} <= set(texts)
    assert {node.get("font-size") for node in root.iter("text")} == {"10.5px"}
    inks = {node.get(name) for node in root.iter() for name in ("fill", "stroke")}
    assert set(COLOURS[:3]) | {"currentColor", "none"} <= inks
    assert "#000000" not in inks
    assert "#ffffff" not in inks  # no ground of its own


@needs_matplotlib
def test_figures_on_one_page_share_no_id_and_lead_nowhere_else():
    found = []
    for name in ("one", "two"):
        root = ET.fromstring(inline_svg(figure(line_chart()), name, ""))
        ids = [node.get("id") for node in root.iter() if node.get("id")]
        ends = [node.get("href")[1:] for node in root.iter("use")]
        ends += [node.get("clip-path")[5:-1] for node in root.iter() if node.get("clip-path")]
        assert len(ids) == len(set(ids))
        assert ends
        assert set(ends) <= set(ids)
        found.append(set(ids))
    assert not found[0] & found[1]


@needs_matplotlib
def test_texts_of_a_figure_stay_texts():
    bad = '</text><script>x</script> style="fill:red" & \''
    drawn = blank(3, 2)
    drawn.text(0.1, 0.5, bad, parse_math=False)
    (text,) = ET.fromstring(inline_svg(drawn, "one", bad)).iter("text")
    assert text.text == bad
