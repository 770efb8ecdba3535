"""The page of a search as a reader meets it: opened from disk in headless Chromium, pointed at, walked through.

Every test also sees that the console stays silent and that nothing but the file itself is asked for.
"""

import time
from dataclasses import replace

import pytest
from hand_made_results import beam_result, drawn_result, empty_result, hostile_result, large_result, wide_result
from hand_made_traces import HOSTILE

from tokenq.records.examples import Message
from tokenq.report.search_page import write_search_page

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(open_page, tmp_path):
    """Return a function that opens the page of some results."""

    def of(results, address="", title="a page"):
        write_search_page(tmp_path / "page.html", results, title=title)
        return open_page(tmp_path / "page.html", address)

    return of


def card(view, number):
    return view.locator("#candidates .response").nth(number)


def shares(view, number):
    """Return the signed depths of the colours of a candidate's tokens."""
    return card(view, number).locator(".token").evaluate_all(
        "nodes => nodes.map(node => (node.classList.contains('positive') - node.classList.contains('negative'))"
        " * Number(node.style.getPropertyValue('--share')))"
    )  # fmt: skip


def lines(view):
    """Return what the tree shows: level, text and numbers of each line, in a row."""
    return [
        (int(level), text, numbers)
        for level, text, numbers in view.locator("#tree .line[aria-level]").evaluate_all(
            "rows => rows.map(row => [row.getAttribute('aria-level'), row.children[0].innerText.replace(/\\s+/g, ' '),"
            " [...row.children].slice(1).map(cell => cell.textContent).join(' ')])"
        )
    ]


def focused(view):
    return view.evaluate("document.activeElement.querySelector('.chain')?.textContent ?? ''")


def test_candidates_stand_with_their_numbers_on_one_scale(visit):
    """Log ratios 0, .5, 1, 0, 0 and 0, .5, −1, −.25: the largest is 1 for both."""
    view = visit([beam_result()])
    expect(view).to_have_title("a page")
    expect(view.locator("#about")).to_contain_text("policy 1,200 tokens")
    expect(view.locator("#about")).to_contain_text(
        "reference 34 tokensits share of the time 0.500 speak memory 2.35 GB"
    )
    expect(view.locator("#found-title")).to_have_text("2 candidates, best first")
    expect(view.locator("#list")).to_be_hidden()
    for text in (
        "1 score −0.425",
        "5 tokens",
        "Σ log π −2.125",
        "Σ log π_ref −3.625",
        "terminal",
        "answer Paris",
        "best",
    ):
        expect(card(view, 0).locator("header")).to_contain_text(text)
    for text in ("2 score −0.813", "4 tokens", "Σ log π −3.250", "2 shared with the best", "cut"):
        expect(card(view, 1).locator("header")).to_contain_text(text)
    assert shares(view, 0) == [0, 0.5, 1, 0, 0]
    assert shares(view, 1) == [0, 0.5, -1, -0.25]
    expect(view.locator("#legend")).to_contain_text("−1.000")
    view.keyboard.press("2")  # policy surprisal, of at most 2 nats
    assert shares(view, 1) == [-0.25, -0.125, -1, -0.25]
    expect(view.locator("#caption")).to_contain_text("policy surprisal = −log π. A baseline")


def test_tokens_say_their_numbers_to_pointer_and_keys(visit):
    view = visit([beam_result()])
    token = card(view, 1).locator(".token").nth(2)
    said = "token 3 “␣Rome” id 14, log π −2.000 (13.5 %), log π_ref −1.000 (36.8 %), difference −1.000"
    expect(token).to_have_attribute("title", said)
    token.hover()
    expect(view.locator("#reading")).to_have_text(said)
    card(view, 0).locator(".token").nth(0).focus()
    for _ in range(4):
        view.keyboard.press("ArrowRight")
    expect(view.locator("#reading")).to_contain_text("token 5 “EOS” id 2, log π −0.250")
    view.keyboard.press("Home")
    expect(view.locator("#reading")).to_contain_text("token 1 “It” id 10")


def test_what_the_best_has_too_is_grey(visit):
    view = visit([beam_result()])
    expect(card(view, 1).locator(".token.common")).to_have_text(["It", " is"], use_inner_text=False)
    expect(card(view, 1).locator(".token.parting")).to_have_text([" Rome"], use_inner_text=False)
    expect(card(view, 0).locator(".common")).to_have_count(0)
    ink = "getComputedStyle(document.querySelector('.token.common')).color"
    assert view.evaluate(ink) == "rgb(90, 98, 109)"
    view.keyboard.press("g")
    assert view.evaluate(ink) == "rgb(22, 25, 29)"
    expect(view.get_by_label("grey what the best has too")).not_to_be_checked()


def test_without_a_tree_the_text_stands_over_cells(visit):
    view = visit([drawn_result()])
    expect(view.locator("#found-title")).to_have_text("3 candidates, in the order in which they were drawn")
    expect(view.locator("#tree-box")).to_be_hidden()
    expect(card(view, 0).locator(".whole .common")).to_have_text("Two b")
    expect(card(view, 0).locator(".whole .parting")).to_have_text("irds.")
    expect(card(view, 1).locator("header")).to_contain_text("best")
    expect(card(view, 0).locator(".cells-strip .token")).to_have_text(["", "", "EOS"])
    expect(card(view, 0).locator(".token").nth(1)).to_have_attribute("title", "token 2 id 21, log π −2.000 (13.5 %)")
    assert shares(view, 2) == [-1]
    assert shares(view, 0) == [-0.2, -0.4, -0.2]
    expect(view.locator("#prompt-text .turn")).to_have_text(["systemBe brief.", "userHow many\nbirds?"])


def test_a_prompt_without_reference_takes_the_policys_own_colour(visit):
    view = visit([beam_result(), drawn_result()])
    view.keyboard.press("]")
    expect(view.get_by_role("radio", name="policy surprisal")).to_be_checked()
    expect(view.get_by_role("radio", name="log π − log π_ref")).to_be_disabled()
    view.keyboard.press("1")
    expect(view.get_by_role("radio", name="policy surprisal")).to_be_checked()
    view.keyboard.press("[")
    expect(view.get_by_role("radio", name="log π − log π_ref")).to_be_checked()


def test_the_tree_opens_along_the_best(visit):
    view = visit([beam_result()])
    expect(view.locator("#tree-title")).to_have_text("Tree: 8 tokens looked at, in 4 lines")
    assert lines(view) == [
        (1, "It is 2 below", "−0.750 −0.750 −0.750"),
        (2, " Paris.EOS ■ end 1", "−1.375 −2.125 −2.125"),
        (2, " Rome! 2", "−2.500 −3.250 −3.250"),
        (1, "No", "−3.000 −3.000 −3.000"),
    ]
    expect(view.locator("#tree .line.best .chain")).to_have_text(["It is", " Paris.EOS"], use_inner_text=False)
    rome = view.locator("#tree .chain span").filter(has_text="Rome")
    expect(rome).to_have_attribute("title", "“␣Rome” id 14, log π −2.000 (13.5 %)")
    view.get_by_role("button", name="Close all").click()
    assert [text for _, text, _ in lines(view)] == ["It is 2 below", "No"]
    card(view, 1).get_by_role("button", name="in the tree").click()
    assert focused(view) == " Rome!"
    assert len(lines(view)) == 4


def test_the_tree_is_walked_by_keys(visit):
    view = visit([beam_result()])
    view.keyboard.press("t")
    assert focused(view) == "It is"
    walk = [
        ("ArrowLeft", "It is", 2),  # closes
        ("ArrowDown", "No", 2),
        ("ArrowUp", "It is", 2),
        ("ArrowRight", "It is", 4),  # opens
        ("ArrowRight", " Paris.EOS", 4),
        ("ArrowRight", " Paris.EOS", 4),  # nothing below
        ("ArrowLeft", "It is", 4),  # to the line above
        ("End", "No", 4),
        ("ArrowLeft", "No", 4),
        ("Home", "It is", 4),
        ("Enter", "It is", 2),
        ("Enter", "It is", 4),
    ]
    for key, text, count in walk:
        view.keyboard.press(key)
        assert (focused(view), len(lines(view))) == (text, count), key
    assert view.locator("#tree [tabindex='0']").count() == 1


def test_many_siblings_are_shown_by_the_fifty(visit):
    """120 lines at the top, by visits: w120 with its two, w119, …, w71; then 50 more, then 20."""
    view = visit([wide_result()])
    shown = lines(view)
    assert shown[:3] == [
        (1, " w120 2 below", "−1.000 −1.000 0.250 −120.0 120"),
        (2, " end ■ end 1", "−0.500 −1.500 1.000 1.000 2"),
        (2, " stop ■ end 2", "−1.500 −2.500 0.500 0.500 1"),
    ]
    assert [text for level, text, _ in shown if level == 1][-2:] == [" w71", "Show 50 more of 70"]
    bars = view.locator("#tree .visits").evaluate_all("all => all.map(one => one.style.getPropertyValue('--share'))")
    assert bars[:5] == ["1.000", "0.017", "0.008", "0.992", "0.983"]  # of 120
    view.get_by_role("button", name="Show 50 more of 70").click()
    assert focused(view) == " w70"
    view.keyboard.press("End")
    view.keyboard.press("Enter")
    assert focused(view) == " w20"
    assert len(lines(view)) == 122
    view.get_by_label("Sort by").select_option("value")
    assert [text for _, text, _ in lines(view)][:2] == [" w1", " w2"]


def test_the_way_to_the_best_is_open_even_where_it_is_sorted_last(visit):
    """Sorted by value, w120 is the last of 120: all of them are shown, for the way to be seen."""
    view = visit([wide_result()])
    view.get_by_label("Sort by").select_option("value")
    expect(view.locator("#tree .line.best .chain")).to_have_text([" w120", " end"], use_inner_text=False)


def test_a_large_tree_opens_at_once_and_draws_what_is_open(visit):
    """Of 10,000 nodes the page draws the four levels of ten along the best."""
    begun = time.monotonic()
    view = visit([large_result()])
    expect(view.locator("#tree-title")).to_contain_text("9,999 tokens looked at")
    assert time.monotonic() - begun < 5
    assert len(lines(view)) == 40
    timed = """() => {
        const begun = performance.now();
        document.getElementById("tree-sort").dispatchEvent(new Event("change"));
        return performance.now() - begun;
    }"""
    assert view.evaluate(timed) < 500  # milliseconds


def test_many_candidates_are_shown_by_the_ten(visit):
    one = drawn_result().candidates[0]
    many = tuple(replace(one, score=-float(number)) for number in range(25))
    view = visit([replace(drawn_result(), candidates=many)])
    expect(view.locator("#candidates .response")).to_have_count(10)
    view.get_by_role("button", name="Show 10 more of 15").click()
    assert view.evaluate("document.activeElement.getAttribute('aria-label')") == "candidate 11"
    view.get_by_role("button", name="Show 5 more").click()
    expect(view.locator("#candidates .response")).to_have_count(25)
    expect(view.locator("#candidates button.more")).to_have_count(0)


def test_the_list_finds_sorts_and_tells_what_was_stopped(visit):
    view = visit([beam_result("first"), drawn_result(), empty_result(), wide_result()])
    rows = view.locator("#rows button")
    expect(rows).to_have_count(4)
    expect(rows.nth(0)).to_contain_text("1,234 tokens")
    expect(rows.nth(2).locator(".badge")).to_have_text(["stopped: interrupted", "no candidates"])
    expect(rows.nth(3).locator(".badge")).to_have_text(["stopped: budget", "best is cut"])
    view.locator("#sort").select_option("score")
    view.locator("#direction").click()
    expect(view.locator("#rows .name")).to_have_text(["wide", "first", "drawn", "empty"])  # 1, −.425, −3, none
    view.get_by_label("Find").fill("interrupted")
    expect(view.locator("#list-count")).to_have_text("1 of 4 prompts")
    rows.first.click()
    expect(view.locator("#candidates")).to_have_text("The search ended before it had a candidate.")
    expect(view.locator("#controls")).to_be_hidden()
    expect(view.locator("#tree-box")).to_be_hidden()


def test_the_address_leads_back(visit):
    results = [beam_result("7/a b"), *(drawn_result(f"drawn {number}") for number in range(200))]
    view = visit(results)
    view.keyboard.press("]")
    view.keyboard.press("]")
    view.keyboard.press("[")
    view.keyboard.press("[")
    view.keyboard.press("2")
    address = view.evaluate("location.hash")
    assert address == "#row=7%2Fa+b&channel=policy_surprisal"
    again = visit(results, address)
    expect(again.locator("#rows button[aria-current=true] .name")).to_have_text("7/a b")
    expect(again.get_by_role("radio", name="policy surprisal")).to_be_checked()
    far = visit(results, "#row=drawn+190")  # beyond what the list draws at first
    expect(far.locator("#rows button[aria-current=true] .name")).to_have_text("drawn 190")
    expect(far.locator("#rows button[aria-current=true]")).to_be_in_viewport()


def test_hostile_and_foreign_texts_are_only_shown(visit):
    view = visit([hostile_result(), beam_result()], title="".join(HOSTILE))
    expect(view.locator("#prompt-text img, #candidates img, #tree img, #rows img, #main script")).to_have_count(0)
    expect(card(view, 0).locator(".token").first).to_have_text(HOSTILE[0])
    expect(card(view, 1).locator("header b")).to_have_text(HOSTILE[0])
    assert view.title() != "run"
    chain = view.locator("#tree .chain").first.text_content()
    assert HOSTILE[1] in chain
    assert "↵" in chain
    assert "U+202E" in chain
    assert "⇥U+200B" in chain


def test_blanks_line_ends_and_control_characters_can_be_seen(visit):
    texts = ("", "  ", "\n", "\x07", " a")
    tree = replace(beam_result().tree, texts=("", *texts[1:], "", "", "", ""))
    tree = replace(tree, parents=(-1, 0, 1, 2, 3), token_ids=(-1, 1, 2, 3, 4), texts=texts)
    tree = replace(tree, logps=(0.0,) * 5, scores=(0.0,) * 5, ends=(False,) * 5)
    one = replace(beam_result().candidates[1], text="".join(texts), token_ids=(1, 2, 3, 4), pieces=texts[1:])
    view = visit([beam_result(tree=tree, candidates=(one,))])
    expect(view.locator("#tree .chain span")).to_have_text(["␣␣", "↵", "U+0007", " a"], use_inner_text=False)
    glyphs = card(view, 0).locator(".glyph").evaluate_all("all => all.map(one => one.dataset.glyph)")
    assert glyphs == ["↵", "U+0007"]
    expect(card(view, 0).locator(".token.blank")).to_have_count(1)


def test_a_long_prompt_is_folded(visit):
    long = beam_result("long", prompt=(Message("user", "word " * 2000), Message("assistant", "Yes.")))
    view = visit([long])
    expect(view.locator("#prompt summary")).to_have_text("Prompt, 10,004 characters")
    expect(view.locator("#prompt-text")).to_be_hidden()
    view.locator("#prompt summary").click()
    expect(view.locator("#prompt-text")).to_be_visible()
    assert view.locator("#prompt-text").evaluate("node => node.clientHeight") <= 260


@pytest.mark.parametrize("make", [beam_result, wide_result, drawn_result, hostile_result])
def test_a_narrow_window_needs_no_sideways_scrolling(visit, make):
    view = visit([make(), beam_result()])
    view.set_viewport_size({"width": 420, "height": 800})
    assert view.evaluate("document.documentElement.scrollWidth") <= 420


def test_light_and_dark_follow_the_system(visit):
    view = visit([beam_result()])
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert view.evaluate(ground) == "rgb(255, 255, 255)"
    view.emulate_media(color_scheme="dark")
    assert view.evaluate(ground) == "rgb(20, 23, 27)"


def test_a_page_without_results_says_so(visit):
    expect(visit([]).locator("main")).to_have_text("There are no results on this page.")
