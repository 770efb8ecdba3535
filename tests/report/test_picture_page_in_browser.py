"""The page of pictures in headless Chromium: maps that are squares of pixels, words, one curve over words and steps."""

import pytest
from hand_made_pictures import hand_made_picture

from tokenq.report.pictures.page import write_picture_page

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect

pytestmark = pytest.mark.browser


@pytest.fixture
def view(open_page, tmp_path):
    path = tmp_path / "pictures.html"
    write_picture_page(
        path, [hand_made_picture(), hand_made_picture("2", "a dot", words=False)], title="one against two"
    )
    view = open_page(path)
    view.set_viewport_size({"width": 1280, "height": 900})
    return view


def test_a_picture_has_its_sum_its_curve_and_a_map_a_step(view):
    first = view.locator("details.read").first
    expect(first.locator("summary b")).to_have_text("1/chosen")
    expect(first.locator(".asked").first).to_have_text("asked a <b>red</b> square")  # a text stays text
    expect(first.locator(".token")).to_have_text(["red", " square"])
    expect(first.locator(".map figcaption")).to_have_text(
        [
            "picture\nred square",
            "all steps\n5; up to ±2",
            "1: level 100\n1; up to ±0.25",
            "2: level 50\n2; up to ±0.5",
            "3: level 20\n2; up to ±2",
        ],
        use_inner_text=True,
    )
    expect(first.locator("svg")).to_have_attribute(
        "aria-label", "value so far, over words and steps over 5 actions: 2 words, then 3 steps, from 0 to 5.25"
    )
    assert first.locator("svg .mark").count() == 1  # where drawing begins
    loaded = "images => images.every(one => one.complete && one.naturalWidth === 8)"
    assert view.locator(".map img").evaluate_all(loaded)
    expect(view.locator("details.read").nth(1).locator("svg .mark")).to_have_count(0)


def test_colours_are_of_the_sign_at_the_depth_of_the_share(view):
    pixels = """image => {
        const canvas = new OffscreenCanvas(8, 8), pen = canvas.getContext("2d", {willReadFrequently: true})
        pen.drawImage(image, 0, 0)
        return [[2, 2], [7, 7], [0, 0]].map(([x, y]) => [...pen.getImageData(x, y, 1, 1).data].slice(0, 3))
    }"""
    step = view.locator("details.read").first.locator(".maps img").nth(2)
    liked, disliked, nothing = step.evaluate(pixels)
    assert disliked == [230, 97, 1]  # −2, the largest of the map
    assert liked == [144, 178, 214]  # 1: half way from white to (33, 102, 172)
    assert nothing == [255, 255, 255]


@pytest.mark.parametrize("width", [1280, 390])
def test_no_window_scrolls_sideways(width, view):
    view.set_viewport_size({"width": width, "height": 900})
    assert view.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
