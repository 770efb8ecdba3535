"""The page of a comparison in headless Chromium: tables, curves of all runs in their colours, wide and narrow."""

import pytest
from hand_made_runs import FIRST, SECOND, write_run

from tokenq.cli.main import main

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect

pytestmark = pytest.mark.browser


@pytest.fixture
def view(open_page, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    folders = [
        write_run(tmp_path / "dpo-0", FIRST),
        write_run(tmp_path / "dpo-1", FIRST, seed=1),
        write_run(tmp_path / "ipo", SECOND, loss="ipo", beta=0.5),
        write_run(tmp_path / "<b>simpo", SECOND, loss="simpo", reference=False),
    ]
    path = tmp_path / "compare.html"
    assert main(["compare", *folders, "--html", str(path), "--resamples", "1000"]) == 0
    view = open_page(path)
    view.set_viewport_size({"width": 1280, "height": 900})
    return view


def test_tables_have_a_row_for_every_setup(view):
    expect(view.locator("h1")).to_have_text("tokenq compare")
    rows = view.get_by_role("table", name="held-out pairs").locator("tbody th")
    expect(rows).to_have_text(["dpo", "ipo", "<b>simpo"])  # a name stays text
    difference = view.get_by_role("table", name="difference from dpo")
    expect(difference.locator("tbody th")).to_have_text(["ipo", "<b>simpo"])
    assert difference.locator("tbody tr").first.locator("td").nth(1).inner_text().startswith("−0.500\n[")
    expect(view.get_by_text("β differs between these runs")).to_have_count(1)
    spread = view.get_by_role("table", name="over seeds").locator("tbody td")
    expect(spread.nth(2)).to_have_text("1.000 ± 0.000")


def test_curves_lie_over_each_other_in_the_runs_colours(view):
    titles = view.locator("figcaption")
    expect(titles).to_have_text(
        [
            "margin of log-ratios, held-out pairs",
            "KL estimate, held-out pairs",
            "drift of log π, chosen, held-out pairs",
            "drift of log π, rejected, held-out pairs",
            "accuracy, held-out pairs",
        ]
    )
    first = view.locator("svg").first
    for colour in ("#0072b2", "#d55e00", "#009e73"):
        assert first.locator(f'[stroke="{colour}"]').count() > 0
    boxes = [view.locator("svg").nth(i).bounding_box() for i in range(2)]
    assert boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"]  # side by side


@pytest.mark.parametrize("width", [1280, 390])
def test_no_window_scrolls_sideways_and_every_table_can_be_read(width, view, tmp_path):
    view.set_viewport_size({"width": width, "height": 900})
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    for table in view.locator("table").all():
        size = table.evaluate("one => parseFloat(getComputedStyle(one).fontSize)")
        assert size >= 12
    view.screenshot(path=tmp_path / f"{width}.png", full_page=True)
    if width == 1280:
        wide = [box.evaluate("one => one.scrollWidth - one.clientWidth") for box in view.locator(".scroll").all()]
        assert max(wide[1:4]) <= 0  # held-out pairs, differences, drifts
