"""What holds for every page, wide and on a telephone: nothing hidden, everything legible, and where it comes from.

Every test also sees that the console stays silent and that nothing but the file itself is asked for.
"""

import re

import pytest
from every_page import PAGES

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect

pytestmark = pytest.mark.browser

WIDTHS = (1280, 390)

HIDDEN = """() => {
  const shadowed = (node) => getComputedStyle(node).backgroundAttachment.includes("local");
  const cut = [];
  for (const node of document.body.querySelectorAll("*")) {
    if (!(node instanceof HTMLElement) || !node.checkVisibility() || node.scrollWidth <= node.clientWidth + 1) continue;
    const style = getComputedStyle(node);
    if (style.display.startsWith("inline") || style.clipPath !== "none") continue;
    const moves = ["auto", "scroll"].includes(style.overflowX);
    const elided = style.textOverflow === "ellipsis";
    if (style.overflowX === "visible" || elided || (moves && shadowed(node))) continue;
    cut.push(`${node.className} ${node.scrollWidth} > ${node.clientWidth}: ${node.textContent.slice(0, 40)}`);
  }
  return cut;
}"""
"""Elements that are wider than what is seen of them, without dots or shadows that say so."""

FAINT = """() => {
  const paper = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const numbers = (colour) => {
    paper.clearRect(0, 0, 1, 1);
    paper.fillStyle = colour;
    paper.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = paper.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((value, i) => value * a + under[i] * (1 - a));
  const ground = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(numbers(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const light = (rgb) => {
    const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = new Map();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility() || node.closest("script, style, option, svg")) continue;
    let opacity = 1;
    for (let at = node; at; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
    const under = ground(node);
    const [r, g, b, a] = numbers(getComputedStyle(node).color);
    const ink = over([r, g, b, a * opacity], under);
    const [dark, bright] = [light(ink), light(under)].sort((x, y) => x - y);
    const ratio = (bright + 0.05) / (dark + 0.05);
    if (ratio < 4.5) faint.set(`${node.tagName}.${node.className} ${ratio.toFixed(2)}`, text.data.trim().slice(0, 30));
  }
  return [...faint].map((pair) => pair.join(": "));
}"""
"""Texts whose contrast with what they stand on is below 4.5 to 1."""


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Return the pages by their names; each is written once."""
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in PAGES.items()}


@pytest.fixture
def visit(open_page, paths):
    def of(name, width, scheme="light"):
        view = open_page(paths[name])
        view.set_viewport_size({"width": width, "height": 900})
        view.emulate_media(color_scheme=scheme)
        view.evaluate("document.querySelectorAll('details').forEach(one => (one.open = true))")
        return view

    return of


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_hidden(visit, name, width):
    """The page is as wide as the window; what is cut off in it says so; on a telephone no table is cut at all."""
    view = visit(name, width)
    if name == "score":
        view.keyboard.press("t")  # the table of numbers
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate(HIDDEN) == []
    if name not in ("score", "search"):
        boxes = view.locator(".scroll").evaluate_all("all => all.map(one => one.scrollWidth - one.clientWidth)")
        assert max(boxes, default=0) <= 1  # at these widths every column is seen


def test_a_wide_table_scrolls_in_its_box_with_its_names_in_sight(visit):
    view = visit("figures", 700)
    box = view.locator("#wide .scroll").first
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    assert view.evaluate(HIDDEN) == []
    name = box.locator("tbody th").first
    before = name.bounding_box()["x"]
    box.evaluate("box => box.scrollTo(300, 0)")
    assert name.bounding_box()["x"] == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_texts_have_contrast(visit, name, scheme):
    view = visit(name, 1280, scheme)
    assert view.evaluate(FAINT) == []
    if name in ("score", "search"):  # of the rows below too: tokens in every colour, greyed ones, those that are held
        for _ in range(4):
            view.keyboard.press("]")
            assert view.evaluate(FAINT) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_it_is_about(visit, name, width):
    """Command, models, data, date and version, in sight."""
    origin = visit(name, width).locator(".origin").first
    expect(origin).to_be_visible()
    said = dict(zip(origin.locator("dt").all_inner_texts(), origin.locator("dd").all_inner_texts(), strict=True))
    assert said["command"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", said["date"])
    assert said["tokenq"] == "0.1.0"
    if name in ("score", "search", "outcome", "figures"):
        assert said["command"] == "tokenq score --policy 'runs/a policy' --data pairs.jsonl"
        assert (said["policy"], said["reference"]) == ("runs/a policy/policy", "google/gemma-3-270m")
        assert said["data"] == "hh_harmless.jsonl, hh_helpful.jsonl"


def test_the_inspectors_head_stays_below_the_controls(visit):
    """At 1280 the controls take several lines; scrolled down, the token's name stands below them, its end in sight."""
    view = visit("score", 1280)
    view.locator("#rows button").last.click()
    view.locator(".response .token").nth(5).click()
    for top in (0, 300, 700, 1500):
        view.evaluate(f"window.scrollTo(0, {top})")
        bar, name, panel = (view.locator(one).bounding_box() for one in ("#controls", "#inspector .name", "#inspector"))
        assert name["y"] >= bar["y"] + bar["height"] or bar["y"] + bar["height"] < 0
        if view.evaluate("scrollY") > 400:
            assert panel["y"] + panel["height"] <= 900
    expect(view.locator("#inspector")).to_contain_text("pinned (Esc unpins)")


def test_names_of_rows_keep_their_numbers(visit):
    """A long file gives way, the number of the row does not."""
    view = visit("score", 1280)
    tails = view.locator("#rows .name .tail")
    assert tails.all_inner_texts()[:3] == [", row 3", ", row 12", ", row 117"]
    for tail in tails.all():
        assert tail.evaluate(
            "node => node.scrollWidth <= node.clientWidth + 1 || getComputedStyle(node).display === 'inline'"
        )
        name, own = tail.locator("xpath=..").bounding_box(), tail.bounding_box()
        assert own["x"] + own["width"] <= name["x"] + name["width"] + 0.5


def test_words_of_the_curve_do_not_cover_each_other(visit):
    """Where responses part at once, in the middle, and at the end."""
    view = visit("score", 1280)
    # All at one moment: the curve may be drawn anew between two readings.
    boxes = view.locator("#curve svg text").evaluate_all(
        "nodes => nodes.map(node => node.getBoundingClientRect().toJSON())"
    )
    assert len(boxes) > 1
    for number, one in enumerate(boxes):
        for other in boxes[:number]:
            apart = one["x"] >= other["x"] + other["width"] or other["x"] >= one["x"] + one["width"]
            assert apart or one["y"] >= other["y"] + other["height"] or other["y"] >= one["y"] + one["height"]


def test_backticks_become_code(visit):
    view = visit("figures", 1280)
    expect(view.locator(".reading code")).to_have_text("tokenq verify")
    assert "`" not in view.locator("body").inner_text()
    assert "One file" not in view.locator("footer").inner_text()
