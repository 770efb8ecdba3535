"""The page of an evaluation in headless Chromium: tables, and figures that keep their looks."""

import pytest
from hand_made_sections import near
from hand_made_traces import HOSTILE, hand_made_pair

from tokenq.report.outcome_page import write_outcome_page
from tokenq.stats.outcome import Chart, Curve, ListedExample, Outcome, Table

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect

pytestmark = pytest.mark.browser


@pytest.fixture
def view(open_page, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    chosen, rejected = hand_made_pair()
    outcome = Outcome(
        "preference",
        {},
        [Table("accuracy", ["score", "all"], [[f"score {i}", near(0.5 + i / 10)] for i in range(3)], "by hand")],
        [Chart("calibration", "confidence", "share", [Curve("one", [0.5, 1.0], [near(0.6), near(0.9)])])] * 2,
        [ListedExample(one.id, f"{one.id}: {HOSTILE[1]}", {"reward": 0.5}) for one in (chosen, rejected)],
        {"policy_tokens": 10.0},
    )
    path = tmp_path / "out.html"
    write_outcome_page(path, outcome, [chosen, rejected])
    return open_page(path)


def test_figures_are_drawn_in_their_colours(view):
    expect(view.locator("svg")).to_have_count(2)
    first, second = (view.locator("svg").nth(i) for i in range(2))
    assert (
        first.evaluate("svg => getComputedStyle(svg.querySelector('[stroke=\"#0072b2\"]')).stroke")
        == "rgb(0, 114, 178)"
    )
    boxes = [one.bounding_box() for one in (first, second)]
    assert all(box["width"] > 300 and box["height"] > 150 for box in boxes)
    assert boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"]  # side by side
    assert view.locator("table").first.inner_text().splitlines()[1:3] == ["score 0\t0.500", "[0.480, 0.520]"]


def test_examples_lead_to_their_traces_and_their_texts_stay_texts(view):
    link = view.locator("table a").first
    expect(link).to_have_attribute("href", "out-traces.html#row=1/chosen")
    expect(link).to_have_text(f"1/chosen: {HOSTILE[1]}")
    expect(view.locator("img")).to_have_count(0)


def test_a_narrow_window_needs_no_sideways_scrolling(view):
    view.set_viewport_size({"width": 390, "height": 800})
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
