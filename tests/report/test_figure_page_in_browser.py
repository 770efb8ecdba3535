"""Figures with their claims in headless Chromium, wide and narrow, light and dark, and by keyboard.

Every test also sees that the console stays silent and that nothing but the file itself is asked for.
"""

import os
import re
from pathlib import Path

import pytest
from hand_made_sections import CORRUPTED, FACTS, SUMMARY, hostile_section, sections
from hand_made_traces import FOREIGN, HOSTILE, hostile_trace

from tokenq.report.drawing import installed
from tokenq.report.figure_page import write_figures

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not installed(), reason="figures need matplotlib"),
]

WIDTHS = [1280, 390]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Return the pages, by what they show; they are written once."""
    made = {"three": sections(), "hostile": (hostile_section(),)}
    return {
        name: write_figures(tmp_path_factory.mktemp(name), "The paper", shown, FACTS, SUMMARY)
        for name, shown in made.items()
    }


@pytest.fixture
def visit(open_page, paths):
    def of(name, width=1280):
        view = open_page(paths[name])
        view.set_viewport_size({"width": width, "height": 900})
        return view

    return of


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("name", "charts", "heats"), [("three", 4, 2), ("hostile", 2, 2)])
def test_every_figure_is_there_and_nothing_is_wider_than_the_page(visit, name, charts, heats, width):
    view = visit(name, width)
    view.evaluate("document.querySelectorAll('details').forEach(one => (one.open = true))")
    assert view.evaluate("document.documentElement.scrollWidth") == width
    for found, count in ((view.locator("figure.chart svg"), charts), (view.locator("figure.heat"), heats)):
        expect(found).to_have_count(count)
        for box in (one.bounding_box() for one in found.all()):
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["width"] >= 320
            assert box["height"] > 90


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_can_be_read(visit, width):
    """Texts of the page have 15 pixels and more, what explains them 13; texts in figures 10 and more on a telephone."""
    view = visit("three", width)
    sizes = "all => all.map(one => parseFloat(getComputedStyle(one).fontSize))"
    assert (
        min(view.locator("p:not(.quiet):not(.files):not(.key), dd, h2, td, li, .heat .text").evaluate_all(sizes)) >= 15
    )
    assert min(view.locator("body *:not(.interval):not(svg *):not(.glyph)").evaluate_all(sizes)) >= 14
    drawn = view.locator("svg text").evaluate_all(
        "all => all.map(one => one.getScreenCTM().a * parseFloat(getComputedStyle(one).fontSize))"
    )
    level = [size for size in drawn if size > 1]  # upright text has no width in this direction
    assert min(level) >= 10
    assert len(level) > 60


def test_charts_stand_side_by_side_when_wide_and_below_each_other_when_narrow(visit):
    view = visit("three")
    first, second = (view.locator("#search figure.chart").nth(i) for i in range(2))
    heat = view.locator("#credit .heats")
    assert first.bounding_box()["y"] == second.bounding_box()["y"]
    assert heat.bounding_box()["x"] > view.locator("#credit figure.chart").bounding_box()["x"] + 300
    view.set_viewport_size({"width": 390, "height": 900})
    assert second.bounding_box()["y"] > first.bounding_box()["y"] + first.bounding_box()["height"]
    assert heat.bounding_box()["x"] == view.locator("#credit figure.chart").bounding_box()["x"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["three"])
def test_names_in_charts_touch_nothing(visit, name, width):
    """The page's letters are not those the figures were laid out with: they must fit all the same."""
    view = visit(name, width)
    boxes = """svg => [...svg.querySelectorAll("text")].map(one => {
        const box = one.getBoundingClientRect();
        return [box.left, box.top, box.right, box.bottom];
    })"""
    for svg in view.locator("figure.chart svg").all():
        outer = svg.bounding_box()
        found = svg.evaluate(boxes)
        assert len(found) > 10
        for number, (left, top, right, bottom) in enumerate(found):
            assert left >= outer["x"] - 1
            assert right <= outer["x"] + outer["width"] + 1
            for other in found[number + 1 :]:
                apart = right <= other[0] + 1 or other[2] <= left + 1 or bottom <= other[1] + 3 or other[3] <= top + 3
                assert apart


def test_on_a_telephone_a_row_is_a_block_of_lines_with_their_heads(visit):
    """Nothing lies beside the window, and to a reader of screens it is a table still."""
    view = visit("three", 390)
    table = view.locator("#search table").first
    name, cells = table.locator("tbody th").first, table.locator("tbody tr").first.locator("td")
    heads = ["gold reward", "− greedy", "win rate", "ties", "tokens"]
    assert [cell.get_attribute("data-head") for cell in cells.all()] == heads
    shown = [cell.evaluate("node => getComputedStyle(node, '::before').content") for cell in cells.all()]
    assert shown == [f'"{head}"' for head in heads]
    places = [one.bounding_box()["y"] for one in (name, *cells.all())]
    assert places == sorted(set(places))
    expect(view.get_by_role("columnheader", name="win rate").first).to_be_attached()
    expect(view.get_by_role("cell").first).to_be_attached()


def test_heat_maps_show_the_text_and_what_is_wrong(visit):
    view = visit("three")
    heat = view.locator("figure.heat").nth(1)
    assert heat.locator(".text").first.text_content() == CORRUPTED
    expect(heat.locator(".text").first.locator(".wrong")).to_have_text(["550", "June"])
    assert heat.locator(".wrong").first.evaluate("node => getComputedStyle(node).outlineStyle") == "dashed"
    deepest = heat.locator(".wrong .token").first
    expect(deepest).to_have_attribute("title", re.compile(r"^implicit reward -1\.8400, log π -\d"))
    colour = "node => getComputedStyle(node).backgroundColor"
    assert deepest.evaluate(colour) == "color(srgb 0.901961 0.380392 0.00392157 / 0.72)"
    heat.get_by_text("The same text by 3 baselines").click()
    expect(heat.locator("details .text")).to_have_count(3)
    expect(heat.locator("details .text").nth(2)).to_be_visible()


def test_light_and_dark_follow_the_system(visit):
    view = visit("three")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    ink = "getComputedStyle(document.querySelector('svg text')).fill"
    line = "getComputedStyle(document.querySelector('svg [stroke=\"#0072b2\"]')).stroke"
    assert [view.evaluate(one) for one in (ground, ink, line)] == [
        "rgb(255, 255, 255)",
        "rgb(22, 25, 29)",
        "rgb(0, 114, 178)",
    ]
    view.emulate_media(color_scheme="dark")
    assert [view.evaluate(one) for one in (ground, ink, line)] == [
        "rgb(20, 23, 27)",
        "rgb(230, 232, 235)",
        "rgb(61, 154, 224)",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_verdicts_can_be_read(visit, scheme):
    """WCAG contrast of at least 4.5, of every verdict."""
    view = visit("three")
    view.emulate_media(color_scheme=scheme)
    view.evaluate("document.querySelector('.verdict').className = 'verdict not-tested'")
    view.locator(".verdict.reproduced").first.wait_for()
    for badge in view.locator(".verdict").all():
        colours = badge.evaluate("node => [getComputedStyle(node).color, getComputedStyle(node).backgroundColor]")
        light, dark = sorted((luminance(colour) for colour in colours), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_keyboard_goes_through_the_page_from_top_to_bottom(visit):
    view = visit("three")
    focused = "document.activeElement.getAttribute('href') ?? document.activeElement.tagName"
    walked, heights = [], []
    while not walked or walked[-1] != "numbers.json":
        view.keyboard.press("Tab")
        walked.append(view.evaluate(focused))
        heights.append(view.evaluate("document.activeElement.getBoundingClientRect().top + scrollY"))
        assert len(walked) < 60
    assert [one for one in walked if one not in ("SUMMARY", "DIV")] == [
        *("#credit", "#search", "#likelihood", "credit-1.svg", "credit-1.png"),
        *("credit-heat-1.svg", "credit-heat-1.png", "credit-heat-2.svg", "credit-heat-2.png"),
        *("credit-traces.html", "corrupted.html#row=a%20b"),
        *("search-1.svg", "search-1.png", "search-2.svg", "search-2.png"),
        *("likelihood-1.svg", "likelihood-1.png", "numbers.json"),
    ]
    assert walked.count("SUMMARY") == 4 + 2 + 1  # two a heat map, and the folded tables
    view.get_by_role("link", name="Does search over").focus()
    view.keyboard.press("Enter")
    expect(view.locator("#search")).to_be_in_viewport()


def test_the_page_has_an_outline(visit):
    view = visit("three")
    heads = view.locator("h1, h2").all_inner_texts()
    assert heads[0] == "The paper"
    assert " ".join(heads[1].split()) == "Does the implicit reward point at what is wrong? in part"
    expect(view.get_by_role("navigation", name="Figures").get_by_role("link")).to_have_count(3)
    expect(view.get_by_role("region", name=re.compile("Why does the likelihood"))).to_have_count(1)
    expect(view.get_by_role("img", name="Gold reward against beam width")).to_have_count(1)
    expect(view.get_by_role("table", name="What was learnt")).to_have_count(1)


def test_hostile_texts_are_shown_and_not_run(visit):
    view = visit("hostile")
    view.evaluate("document.querySelectorAll('details').forEach(one => (one.open = true))")
    expect(view).to_have_title("The paper")
    bad = "".join(HOSTILE)
    assert view.locator("img, .sheet script, iframe").count() == 0
    assert bad in view.locator("h2").text_content()
    assert view.locator(".claim dd").text_content() == bad + "".join(FOREIGN).replace("\ud800", "?")
    captions = view.locator("figcaption").all_text_contents()
    assert captions[:3] == [bad, bad, bad]
    text = view.locator("figure.heat .text").first
    assert text.text_content() == hostile_trace().response.replace("\ud800", "?")
    signs = text.locator(".glyph").evaluate_all("nodes => nodes.map(node => node.dataset.glyph)")
    assert signs == ["↵", "⇥", "U+200B", "↵", "↵", "U+202E", "EOS"]
    assert HOSTILE[0] in view.locator("svg text").all_text_contents()
    view.locator(".links a").first.focus()
    address = view.locator(".links a").first.evaluate("link => link.href")
    assert address.startswith("file:///")
    assert "javascript%3A" in address


def test_on_paper_it_is_light_and_unfolded(visit):
    view = visit("three")
    view.emulate_media(media="print", color_scheme="dark")
    assert view.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    expect(view.locator("nav")).to_be_visible()
    expect(view.locator("details.more table").first).to_be_visible()
    expect(view.locator(".files").first).to_be_hidden()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pictures_of_a_real_report(open_page, tmp_path, width, scheme):
    """Look at a report that a run has written, and take its pictures.

    TOKENQ_REPORT=runs/demo/report/index.html TOKENQ_PICTURES=FOLDER python -m pytest -m browser -k real_report
    """
    source = os.environ.get("TOKENQ_REPORT")
    if not source:
        pytest.skip("TOKENQ_REPORT names no page (tokenq demo writes one)")
    view = open_page(Path(source).resolve())
    view.set_viewport_size({"width": width, "height": 900})
    view.emulate_media(color_scheme=scheme)
    assert view.evaluate("document.documentElement.scrollWidth") == width
    picture = Path(os.environ.get("TOKENQ_PICTURES") or tmp_path) / f"report-{width}-{scheme}.png"
    view.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 10_000
