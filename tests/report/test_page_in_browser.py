"""The page as a reader meets it: opened from disk in headless Chromium, pointed at, walked through, taken away.

Every test also sees that the console stays silent and that nothing but the file itself is asked for.
"""

import csv
import io
import json
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hand_made_traces import hand_made_pair, hostile_trace, long_trace, make_trace

from tokenq.records.traces import TokenTrace
from tokenq.report.html import write_page
from tokenq.score.segments import segment_spans
from tokenq.score.spans import together

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(open_page, tmp_path):
    """Return a function that opens the page of some traces."""

    def of(traces, address="", title="a page"):
        write_page(tmp_path / "page.html", traces, title)
        return open_page(tmp_path / "page.html", address)

    return of


def token(view, number, side=0):
    return view.locator(".response").nth(side).locator(".text .token").nth(number)


def share(node):
    """Return the signed depth of the colour of a token."""
    sign = node.evaluate("node => node.classList.contains('positive') - node.classList.contains('negative')")
    return sign * float(node.evaluate("node => node.style.getPropertyValue('--share')"))


def rows_of(table):
    return [row.split("\t") for row in table.inner_text().split("\n")]


def test_a_pair_opens_side_by_side_on_one_scale(visit):
    """Rewards 0, .1, .5, .1, 0 and 0, .1, −1, −.2, −.3: the largest is 1 for both."""
    view = visit(hand_made_pair())
    expect(view).to_have_title("a page")
    expect(view.locator(".response")).to_have_count(2)
    assert [share(token(view, i)) for i in range(5)] == [0, 0.1, 0.5, 0.1, 0]
    assert [share(token(view, i, 1)) for i in range(5)] == [0, 0.1, -1, -0.2, -0.3]
    expect(view.locator(".legend")).to_contain_text("−1.000")
    expect(view.locator(".token.shared")).to_have_count(4)
    expect(view.locator(".token.parting")).to_have_text([" Paris", " Rome"], use_inner_text=False)
    expect(view.locator("#about")).to_contain_text("margin +2.100")
    expect(view.locator("#list")).to_be_hidden()
    colours = [token(view, 2, side).evaluate("node => getComputedStyle(node).backgroundColor") for side in (0, 1)]
    blue, orange = ([float(part) for part in re.findall(r"[\d.]+", text)] for text in colours)
    assert blue[2] > blue[0]
    assert orange[0] > orange[2]
    assert blue[3] == pytest.approx(orange[3] / 2, rel=0.02)  # .5 against 1


def test_pointing_shows_every_number_and_the_alternatives(visit):
    view = visit(hand_made_pair())
    token(view, 2, 1).hover()
    panel = view.locator("#inspector")
    expect(panel.locator(".name")).to_have_text("␣Rome")
    expect(panel).to_contain_text("rejected, token 3 of 5, id 445, characters 5–10")
    tables = panel.locator("table")
    assert rows_of(tables.nth(0))[1:] == [
        ["log-prob", "−2.400", "−0.400"],
        ["probability", "9.1 %", "67.0 %"],
        ["rank (0 = first)", "0", "3"],
        ["entropy", "0.250", "0.750"],
    ]
    assert rows_of(tables.nth(1)) == [
        ["implicit reward", "−1.000"],
        ["prefix value", "−0.900"],
        ["centred advantage", "−1.075"],
        ["advantage β log π", "−1.200"],
        ["KL(π‖π_ref) here", "0.125"],
    ]
    assert rows_of(tables.nth(2))[1:] == [["word", "−1.500", "−0.500", "3"], ["sentence", "−1.400", "−0.280", "5"]]
    assert [row[0] for row in rows_of(tables.nth(3))[1:]] == ["␣Rome ←", "␣the"]
    panel.get_by_role("tab", name="reference's").click()
    assert [row[0] for row in rows_of(tables.nth(3))[1:]] == ["␣a", "␣Rome ←"]
    panel.get_by_role("tab", name="favoured").click()
    assert rows_of(tables.nth(3))[1] == ["␣the", "22.3 %", "8.2 %", "+0.500"]
    token(view, 3).hover()
    expect(panel.locator(".name")).to_have_text(".")


def test_levels_colour_stretches_by_their_sum(visit):
    view = visit(hand_made_pair())
    view.get_by_label("Level").select_option("word")
    assert [share(token(view, i, 1)) for i in range(5)] == pytest.approx([0, 0.067, -1, -1, -1])  # .1 and −1.5 of 1.5
    assert share(token(view, 2)) == pytest.approx(0.4)  # .6 of 1.5
    expect(view.locator("#caption")).to_contain_text("Sum over each word")
    view.get_by_label("of a stretch").select_option("mean")
    assert share(token(view, 2)) == pytest.approx(0.4)  # .2 of .5
    view.keyboard.press("Escape")
    view.locator("h1").click()
    view.keyboard.press("l")
    expect(view.get_by_label("Level")).to_have_value("sentence")
    view.keyboard.press("l")
    expect(view.get_by_label("Level")).to_have_value("token")
    expect(view.get_by_label("of a stretch")).to_be_hidden()


def test_channels_switch_by_key_and_by_click_to_the_baselines(visit):
    view = visit(hand_made_pair())
    view.keyboard.press("3")
    expect(view.get_by_role("radio", name="policy surprisal")).to_be_checked()
    assert [share(token(view, i, 1)) for i in range(5)] == pytest.approx([-0.042, -0.083, -1, -0.417, -0.333])
    expect(view.locator("#caption")).to_contain_text("policy surprisal = −log π. A baseline")
    expect(view.locator("#next")).to_have_text("next most surprising ›")
    view.locator("#channels label", has_text="centred advantage").click()
    assert share(token(view, 2, 1)) == -1  # .5 (−2.4 + .25)
    view.get_by_role("radio", name="centred advantage").press("ArrowRight")
    expect(view.get_by_role("radio", name="policy surprisal")).to_be_checked()
    view.keyboard.press("1")
    expect(view.locator("#caption")).to_contain_text("not the reward itself")


def test_the_next_most_negative_is_a_key_away(visit):
    """Below 0 are " Rome" −1, EOS −.3 and "!" −.2, all of the rejected response."""
    view = visit(hand_made_pair())
    for status in ("1st most negative of 3: “␣Rome” −1.000 (rejected)", "2nd most negative of 3: “EOS” −0.300"):
        view.keyboard.press("n")
        expect(view.locator("#status")).to_contain_text(status)
    view.locator("#next").click()
    expect(view.locator("#status")).to_contain_text("3rd most negative of 3: “!” −0.200")
    view.keyboard.press("p")
    expect(view.locator("#inspector .name")).to_have_text("EOS")
    view.keyboard.press("l")
    view.keyboard.press("n")
    expect(view.locator("#status")).to_have_text("1st most negative of 1: “␣Rome!” −1.500 (rejected)")
    expect(view.locator(".token.in-unit")).to_have_count(3)


def test_arrows_walk_and_a_click_holds(visit):
    view = visit(hand_made_pair())
    name = view.locator("#inspector .name")
    view.keyboard.press("ArrowRight")
    expect(name).to_have_text("It")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("ArrowRight")
    expect(name).to_have_text("␣Paris")
    expect(token(view, 2)).to_be_focused()
    view.keyboard.press("o")
    expect(name).to_have_text("␣Rome")
    view.keyboard.press("End")
    expect(name).to_have_text("EOS")
    token(view, 1).click()
    token(view, 3).hover()
    expect(name).to_have_text("␣is")  # held
    expect(token(view, 1)).to_have_class(re.compile("pinned"))
    view.keyboard.press("Escape")
    token(view, 2).hover()
    token(view, 3).hover()
    expect(name).to_have_text(".")
    token(view, 3).click()
    token(view, 3).click()
    token(view, 2).hover()
    expect(name).to_have_text("␣Paris")


def test_every_token_says_its_number_without_colour(visit):
    view = visit(hand_made_pair())
    box = view.get_by_role("listbox", name="tokens of 1/rejected")
    expect(box.get_by_role("option")).to_have_count(5)
    expect(box.get_by_role("option", name="␣Rome, implicit reward −1.000")).to_be_visible()
    view.keyboard.press("4")
    expect(box.get_by_role("option", name="␣Rome, reference surprisal 0.400")).to_be_visible()


def test_the_table_sorts_and_leads_to_the_token(visit):
    view = visit(hand_made_pair())
    view.keyboard.press("t")
    table = view.locator("#table")
    expect(table.locator("tbody tr")).to_have_count(10)
    table.get_by_role("button", name="implicit reward").click()
    expect(table.locator("th[aria-sort=ascending]")).to_have_text("implicit reward ↑")
    rows = [row[1:4] for row in rows_of(table.locator("table"))[1:]]
    assert rows[:3] == [["␣Rome", "rejected", "−1.000"], ["EOS", "rejected", "−0.300"], ["!", "rejected", "−0.200"]]
    table.get_by_role("button", name="implicit reward").click()
    expect(table.locator("tbody tr").first).to_contain_text("␣Paris")
    table.locator("tbody tr").first.click()
    expect(view.locator("#inspector .name")).to_have_text("␣Paris")
    expect(table.locator("tr.chosen-row")).to_have_count(1)
    view.get_by_label("Level").select_option("word")
    table.get_by_role("button", name="sum").click()
    assert rows_of(table.locator("table"))[1][1:] == [
        "␣Rome!",
        "rejected",
        "−1.500",
        "−0.500",
        "−1.000",
        "−0.300",
        "−1.400",
        "3",
    ]


def test_what_earns_the_margin_is_listed(visit):
    view = visit(hand_made_pair())
    box = view.locator("#shares")
    expect(box.locator("h2")).to_have_text("What earns the margin of +2.100")
    expect(box.locator("tbody tr").first).to_contain_text("␣Rome")
    view.get_by_label("Level").select_option("word")
    expect(box.locator("tbody tr")).to_have_count(2)
    assert rows_of(box.locator("table"))[2] == ["+0.600", "", "chosen", "→ ␣Paris."]
    box.locator("tbody tr").nth(1).get_by_role("button").click()
    expect(view.locator("#inspector .name")).to_have_text("␣Paris")


def test_a_margin_is_split_by_segment(visit):
    """Words are what both share, .1 each; the image .6 against −1.5 makes the margin of 2.1."""
    parts = np.array([0, 0, 1, 1, 1])
    traces = [
        replace(one, spans=together([one.spans, *segment_spans(one.tokens, parts, {"words": 0.5, "image": 0.5})]))
        for one in hand_made_pair()
    ]
    view = visit(traces)
    expect(view.locator("#shares p")).to_contain_text("segment words 0.000, segment image +2.100.")
    expect(view.locator(".response header").first).to_contain_text("segment words +0.100")
    expect(view.locator(".response header").nth(1)).to_contain_text("segment image −1.500")
    view.get_by_label("Level").select_option("segment image")
    expect(view.locator("#shares tbody tr")).to_have_count(2)


def test_the_curve_and_the_text_point_at_each_other(visit):
    view = visit(hand_made_pair())
    curve = view.locator("#curve svg")
    token(view, 2, 1).hover()
    heights = {}
    for number, side in ((2, 1), (4, 1), (4, 0)):
        token(view, number, side).hover()
        heights[number, side] = float(curve.locator("circle").get_attribute("cy"))
    assert heights[4, 0] < heights[2, 1] < heights[4, 1]  # .7 stands above −.9 above −1.4
    box = curve.bounding_box()
    view.mouse.move(box["x"] + 53 + 0.6 * (box["width"] - 64), box["y"] + box["height"] - 30)
    expect(view.locator("#inspector .name")).to_have_text("␣Rome")
    view.mouse.move(box["x"] + 53 + 0.6 * (box["width"] - 64), box["y"] + 10)
    expect(view.locator("#inspector .name")).to_have_text("␣Paris")
    expect(curve).to_have_attribute("aria-label", "Value curve: chosen ends at +0.700, rejected ends at −1.400")


def test_the_underline_is_a_second_channel(visit):
    view = visit(hand_made_pair())
    view.get_by_label("Underline").select_option(label="policy surprisal")
    under = "node => node.style.getPropertyValue('--under-share')"
    assert float(token(view, 2, 1).evaluate(under)) == 1
    assert float(token(view, 3, 1).evaluate(under)) == pytest.approx(0.417)
    assert share(token(view, 2, 1)) == -1  # the colour stays
    expect(view.locator("#legend")).to_contain_text("policy surprisal, thickest at 2.400 nats")


def test_intensity_and_scale_change_the_depth_and_never_the_sign(visit):
    view = visit([make_trace("1", ["a"] * 101, [-1.0] * 100 + [-11.0], [-1.2] * 50 + [-0.8] * 50 + [-1.0])])
    assert share(token(view, 0)) == pytest.approx(0.02)  # .1 of 5
    view.get_by_label("Scale").select_option("robust")
    assert (share(token(view, 0)), share(token(view, 50)), share(token(view, 100))) == (1, -1, -1)
    view.get_by_label("Scale").select_option("max")
    view.get_by_label("Intensity").fill("1")
    assert share(token(view, 0)) == pytest.approx(0.02 ** (2**-1.3), abs=1e-3)
    assert share(token(view, 100)) == -1


def test_hundreds_of_traces_sort_filter_and_open(visit):
    """500 rows; row i has one token of reward −i/100, and row 77 a second of −100/100 and 1."""
    traces = [make_trace(str(i), ["x"], [-i / 50], [0.0], prompt=f"prompt number {i}.") for i in range(500)]
    traces[77] = make_trace("77", ["x", "y"], [-9.0, -1.0], [0.0, -20.0], prompt="the odd one")
    view = visit(traces)
    rows = view.locator("#rows button")
    expect(view.locator("#list-count")).to_have_text("500 rows")
    assert rows.count() < 500  # what is not seen is not drawn
    view.get_by_label("Sort").select_option("worst")
    expect(rows.first).to_have_attribute("data-row", "499")
    view.locator("#direction").click()
    expect(rows.first).to_have_attribute("data-row", "0")
    view.get_by_label("Sort").select_option("total")
    expect(rows.first).to_have_attribute("data-row", "77")  # .5 (−9 + 19) = +5
    view.get_by_label("Find").fill("ODD")
    expect(rows).to_have_count(1)
    rows.first.click()
    expect(view.locator("#prompt-text")).to_have_text("the odd one")
    expect(rows.first).to_have_attribute("aria-current", "true")
    view.get_by_label("Find").fill("")
    view.locator("h1").click()
    view.keyboard.press("]")
    expect(view.locator("#prompt-text")).to_have_text("prompt number 0.")
    view.locator("#rows").evaluate("list => list.scrollTo(0, list.scrollHeight)")
    expect(rows).to_have_count(240)


def test_a_response_of_five_thousand_tokens_stays_usable(visit):
    view = visit([long_trace(), make_trace("2", ["a"], [-1.0], [-2.0])])
    expect(view.locator(".text .token")).to_have_count(5000)
    view.keyboard.press("n")
    expect(view.locator("#inspector .name")).to_have_text("␣w1234")
    expect(token(view, 1234)).to_be_in_viewport()
    view.keyboard.press("3")
    expect(view.get_by_role("radio", name="policy surprisal")).to_be_checked()
    view.keyboard.press("t")
    drawn = view.locator("#table tbody tr")
    assert drawn.count() < 1000
    view.get_by_role("button", name="Show all 5000").click()
    expect(drawn).to_have_count(5000)
    view.get_by_label("Level").select_option("line")
    expect(drawn).to_have_count(120)


def test_of_rows_asked_for_in_quick_succession_the_last_is_shown(visit):
    """Rows are unpacked while the reader goes on; what comes late is not put over what was asked for last."""
    view = visit([trace for n in range(40) for trace in hand_made_pair(str(n))])
    pressed = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: ']', bubbles: true}))"
    view.evaluate(f"for (let i = 0; i < 25; i += 1) {pressed}")
    view.locator("[aria-busy=true]").wait_for(state="detached")
    expect(view.locator("#rows button[aria-current=true] .name")).to_have_text("25")
    expect(view.locator(".response")).to_have_count(2)
    assert "row=25&" in view.evaluate("location.hash")


def test_hostile_texts_are_shown_and_not_run(visit):
    trace = hostile_trace()
    view = visit([trace, *hand_made_pair()])
    expect(view).to_have_title("a page")
    wanted = trace.response.replace("\ud800", "\ufffd")
    text = view.locator(".text").text_content()
    assert text.replace("\ud800", "\ufffd") == wanted
    expect(view.locator("#prompt-text")).to_have_text(trace.prompt)
    expect(view.locator(".warnings li").first).to_have_text("</script><script>document.title='run'</script>")
    expect(view.locator("#about b").first).to_have_text("<img src=x onerror=\"document.title='run'\">")
    for number in range(len(trace.tokens)):
        token(view, number).hover(force=True)
    view.keyboard.press("t")
    assert view.locator("main img, main script, main iframe").count() == 0


def test_what_cannot_be_seen_has_a_sign(visit):
    pieces = ["a\n\nb", "\t", "   ", "\u200b", "<|im_end|>", ""]
    count = len(pieces)
    view = visit([make_trace("1", pieces, [-1.0] * count, [-1.0] * count)])
    signs = view.locator(".text .glyph").evaluate_all("nodes => nodes.map(node => node.dataset.glyph)")
    assert signs == ["↵", "↵", "⇥", "U+200B", "EOS"]
    expect(token(view, 2)).to_have_class(re.compile("blank"))
    expect(token(view, 4)).to_have_class(re.compile("special"))
    assert view.locator(".text").text_content() == "".join(pieces)  # signs are not text: a copy is clean
    assert token(view, 0).evaluate("node => node.getClientRects().length") >= 3  # the line ends are kept


def test_words_of_others_have_no_numbers_and_no_colour(visit):
    """Two policy tokens of reward .5 around a turn of the user; the turn's own sum is 0."""
    pieces = ["Sure.", "<user> More?", " Yes."]
    view = visit([make_trace("1", pieces, [-1.0, None, -1.0], [-2.0, None, -2.0], levels=("turn",))])
    assert [share(token(view, i)) for i in range(3)] == [1, 0, 1]
    expect(token(view, 1)).to_have_attribute("aria-label", "<user> More?, not written by the policy")
    token(view, 1).hover()
    expect(view.locator("#inspector")).to_contain_text("The policy did not write this token")
    view.get_by_label("Level").select_option("turn")
    assert [share(token(view, i)) for i in range(3)] == [1, 0, 1]


def test_numbers_that_a_trace_does_not_have_are_dashes(visit):
    """Traces of two tokenizers know log-probs of stretches, and neither ranks nor entropies."""
    bare = {"rank": None, "ref_rank": None, "entropy": None, "ref_entropy": None, "kl": None, "centred_advantage": None}
    trace = make_trace("1", ["a", "b"], [-1.0, -1.0], [-2.0, -2.0])
    tokens = tuple(replace(one, **bare, likely=(), ref_likely=(), favoured=()) for one in trace.tokens)
    view = visit([replace(trace, tokens=tokens)])
    token(view, 0).hover()
    panel = view.locator("#inspector")
    assert rows_of(panel.locator("table").nth(0))[3:] == [["rank (0 = first)", "–", "–"], ["entropy", "–", "–"]]
    expect(panel.get_by_role("tab")).to_have_count(0)
    view.get_by_label("Underline").select_option("kl")
    view.keyboard.press("Escape")
    view.locator("h1").click()
    view.keyboard.press("2")
    assert [share(token(view, i)) for i in range(2)] == [0, 0]
    expect(token(view, 0)).to_have_attribute("aria-label", "a, centred advantage –")
    view.keyboard.press("n")
    expect(view.locator("#status")).to_have_text("No token is below 0 here.")


def test_right_to_left_text_reads_from_right_to_left(visit):
    pieces = ["שלום", " עולם", "\n", "one", " two"]
    view = visit([make_trace("1", pieces, [-1.0] * 5, [-1.2, -0.8, -1.0, -1.0, -1.0])])
    left = [token(view, i).bounding_box()["x"] for i in range(5)]
    assert left[0] > left[1]
    assert left[3] < left[4]


def test_what_is_shown_can_be_taken_away(visit, taken_away):
    pair = hand_made_pair("17")
    view = visit(pair)
    files = taken_away(view)
    assert [path.name for path in files.values()] == ["trace-17.jsonl", "trace-17.csv", "trace-17.svg"]
    back = [TokenTrace.from_dict(json.loads(line)) for line in files["json"].read_text().splitlines()]
    for one, other in zip(back, pair, strict=True):
        assert close(one.to_dict(), other.to_dict())
    table = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [json.loads(line["text"]) for line in table] == [token.text for trace in pair for token in trace.tokens]
    assert sum(float(line["implicit_reward"]) for line in table) == pytest.approx(0.7 - 1.4)
    picture = ET.fromstring(files["svg"].read_text())
    words = [node.text for node in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"It", " Paris", " Rome", "!", "EOS"} <= set(words)
    assert sum(node.get("fill") == "rgb(230,97,1)" for node in picture.iter("{http://www.w3.org/2000/svg}rect")) == 3


def close(one, other):
    """Return whether two JSON values are the same, numbers to four decimals."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float | int) and not isinstance(one, bool):
        return one == pytest.approx(other, abs=1e-4)
    return one == other


def test_the_address_leads_back(visit):
    traces = [make_trace("7/a b", ["x", "y"], [-1.0, -1.0], [-2.0, -2.0]), *hand_made_pair()]
    view = visit(traces)
    view.locator("#rows button").nth(1).click()
    view.keyboard.press("3")
    view.keyboard.press("l")
    token(view, 2, 1).click()
    address = view.evaluate("location.hash")
    again = visit(traces, address)
    expect(again.locator("#inspector .name")).to_have_text("␣Rome")
    expect(again.get_by_role("radio", name="policy surprisal")).to_be_checked()
    expect(again.get_by_label("Level")).to_have_value("word")
    expect(again.locator("#rows button[aria-current=true] .name")).to_have_text("1")


def test_light_and_dark_follow_the_system_or_the_reader(visit):
    view = visit(hand_made_pair())
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert view.evaluate(ground) == "rgb(255, 255, 255)"
    view.emulate_media(color_scheme="dark")
    dark = view.evaluate(ground)
    assert dark == "rgb(20, 23, 27)"
    view.locator("#theme").click()
    assert view.evaluate(ground) == "rgb(255, 255, 255)"
    view.locator("#theme").click()
    view.emulate_media(color_scheme="light")
    assert view.evaluate(ground) == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_the_deepest_colour(visit, scheme):
    """WCAG contrast of the text on both colours at full depth is at least 4.5."""
    view = visit(hand_made_pair())
    view.emulate_media(color_scheme=scheme)
    view.get_by_label("Intensity").fill("1")
    view.get_by_label("Scale").select_option("robust")
    for number, side in ((2, 0), (2, 1)):
        node = token(view, number, side)
        node.evaluate("node => node.style.setProperty('--share', '1')")
        colours = node.evaluate(
            "node => [getComputedStyle(node).color, getComputedStyle(document.documentElement).backgroundColor,"
            " getComputedStyle(node).backgroundColor]"
        )
        ink, ground, colour = map(channels, colours)
        mixed = [colour[3] * part + (1 - colour[3]) * under for part, under in zip(colour[:3], ground, strict=False)]
        lights = sorted((luminance(ink[:3]), luminance(mixed)))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5


def channels(text):
    """Return a CSS colour as four numbers 0 … 1."""
    numbers = [float(part) for part in re.findall(r"[\d.]+(?:e-?\d+)?", text.replace("srgb", ""))]
    whole = 1 if text.startswith("color(") else 255
    return [part / whole for part in numbers[:3]] + (numbers[3:] or [1.0])


def luminance(colour):
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_narrow_window_needs_no_sideways_scrolling(visit):
    view = visit([*hand_made_pair(), hostile_trace()])
    view.set_viewport_size({"width": 420, "height": 800})
    assert view.evaluate("document.documentElement.scrollWidth") <= 420


def test_a_page_without_traces_says_so(visit):
    expect(visit([]).locator("main")).to_have_text("There are no traces on this page.")


def test_the_picture_of_a_real_run(visit, tmp_path):
    """Take the picture in the README.

    TOKENQ_TRACES=traces.jsonl TOKENQ_PICTURE=docs/page.png python -m pytest -m browser -k picture; the row and what is
    shown of it can be given as TOKENQ_ADDRESS="#row=1&level=word", as the address of a page has them.
    """
    source = os.environ.get("TOKENQ_TRACES")
    if not source:
        pytest.skip("TOKENQ_TRACES names no file of traces (tokenq score writes one)")
    with open(source, encoding="utf-8") as lines:
        traces = [TokenTrace.from_dict(json.loads(line), source) for line in lines]
    view = visit(traces, os.environ.get("TOKENQ_ADDRESS", ""), Path(source).stem)
    view.set_viewport_size({"width": 1440, "height": 860})
    expect(view.locator(".text .token").first).to_be_visible()
    if not view.locator(".token.pinned").count():
        view.keyboard.press("n")
    view.evaluate("scrollTo(0, 0)")
    picture = Path(os.environ.get("TOKENQ_PICTURE") or tmp_path / "page.png")
    view.screenshot(path=picture)
    assert picture.stat().st_size > 10_000
