"""What a reward model says on the page, in headless Chromium: beside a policy, and where it has read alone."""

import csv
import io
import json
import xml.etree.ElementTree as ET

import pytest
from hand_made_traces import hand_made_pair, judged, judged_pair, make_trace, without_policy

from tokenq.records.traces import TokenTrace
from tokenq.report.html import write_page

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect

pytestmark = pytest.mark.browser

POLICY = ["implicit reward", "centred advantage", "policy surprisal", "reference surprisal"]
JUDGE = ["reward model", "reward/helpfulness", "reward/correctness"]


@pytest.fixture
def visit(open_page, tmp_path):
    """Return a function that opens the page of some traces."""

    def of(traces, address=""):
        write_page(tmp_path / "page.html", traces, "a page")
        return open_page(tmp_path / "page.html", address)

    return of


@pytest.fixture
def alone():
    return [without_policy(trace) for trace in judged_pair()]


def token(view, number, side=0):
    return view.locator(".response").nth(side).locator(".text .token").nth(number)


def share(node):
    """Return the signed depth of the colour of a token."""
    sign = node.evaluate("node => node.classList.contains('positive') - node.classList.contains('negative')")
    return sign * float(node.evaluate("node => node.style.getPropertyValue('--share')"))


def depths(view, side):
    return [share(token(view, i, side)) for i in range(5)]


def rows_of(table):
    return [row.split("\t") for row in table.inner_text().split("\n")]


def channels(view):
    return view.locator("#channels label").all_inner_texts()


def lines(view):
    """Return the curves as lists of heights on the page, from the top."""
    paths = view.locator("#curve path").evaluate_all("nodes => nodes.map(node => node.getAttribute('d'))")
    return [[float(point.split(",")[1]) for point in path[1:].split("L")] for path in paths]


def test_the_reward_is_a_channel_beside_those_of_the_policy(visit):
    """Rewards .2, .4, 1.5, 1.2, 2 and .2, .4, −1, −.5, −1.5 of 2; correctness 0 to .5 and 0 to −1 of 1."""
    view = visit(judged_pair())
    assert channels(view) == POLICY + JUDGE
    assert depths(view, 1) == [0, 0.1, -1, -0.2, -0.3]  # the implicit reward, as without a reward model
    expect(view.locator("#legend")).to_contain_text("nats")
    view.keyboard.press("5")
    expect(view.get_by_role("radio", name="reward model")).to_be_checked()
    assert depths(view, 0) == [0.1, 0.2, 0.75, 0.6, 1]
    assert depths(view, 1) == [0.1, 0.2, -0.5, -0.25, -0.75]
    expect(view.locator("#caption")).to_contain_text("reward model = r(x, y≤t). What the reward model says")
    expect(view.locator("#legend")).to_contain_text("+2.000")
    expect(view.locator("#legend")).not_to_contain_text("nats")
    expect(token(view, 2, 1)).to_have_attribute("aria-label", "␣Rome, reward model −1.000")
    view.locator("#channels label", has_text="reward/correctness").click()
    assert depths(view, 0) == [0, 0.1, 0.5, 0.5, 0.5]
    assert depths(view, 1) == [0, 0.1, -0.5, -0.5, -1]
    expect(view.locator("#caption")).to_contain_text("r_2(x, y≤t). The output 'correctness' of the reward model alone")
    expect(view.locator("#about")).to_contain_text("reward model judge")
    expect(view.locator(".response header").first).to_contain_text("reward +2.000helpfulness +1.000correctness +0.500")
    view.keyboard.press("?")
    expect(view.locator("#keys")).to_contain_text("1–7 channel")


def test_a_stretch_has_the_reward_at_its_end_and_nothing_is_summed(visit):
    """Words: "It" .2, " is" .4, " Paris." with EOS 2; " Rome!" −1.5."""
    view = visit(judged_pair(), "#channel=reward&level=word")
    assert depths(view, 0) == [0.1, 0.2, 1, 1, 1]
    assert depths(view, 1) == [0.1, 0.2, -0.75, -0.75, -0.75]
    expect(view.locator("#caption")).to_contain_text("At the end of each word.")
    expect(view.get_by_label("of a stretch")).to_be_hidden()
    view.keyboard.press("n")
    expect(view.locator("#status")).to_have_text("1st most negative of 1: “␣Rome!” −1.500 (rejected)")
    view.keyboard.press("1")
    expect(view.get_by_label("of a stretch")).to_be_visible()
    expect(view.locator("#caption")).to_contain_text("Sum over each word.")


def test_pointing_shows_what_the_reward_model_says(visit):
    """At "!": −.5 after −1; helpfulness .5, correctness −.5."""
    view = visit(judged_pair())
    token(view, 3, 1).hover()
    panel = view.locator("#inspector")
    assert rows_of(panel.get_by_role("table", name="Reward model")) == [
        ["reward up to here", "−0.500"],
        ["helpfulness up to here", "+0.500"],
        ["correctness up to here", "−0.500"],
        ["reward added here", "+0.500"],
    ]
    assert rows_of(panel.get_by_role("table", name="Stretches")) == [
        ["in its", "sum", "reward", "tokens"],
        ["word", "−1.500", "−1.500", "3"],
        ["sentence", "−1.400", "−1.500", "5"],
    ]
    expect(panel).to_contain_text("implicit reward")
    token(view, 0).hover()
    expect(panel.get_by_role("table", name="Reward model")).not_to_contain_text("added here")
    view.keyboard.press("t")
    heads, *rows = rows_of(view.locator("#table table"))
    assert heads[-1] == "reward so far"
    assert [row[-1] for row in rows if row[2] == "rejected"] == ["+0.200", "+0.400", "−1.000", "−0.500", "−1.500"]


def test_the_curve_is_of_what_is_coloured(visit):
    """The prefix value ends at .7 and −1.4, the reward at 2 and −1.5; of the reward nothing is known before a token."""
    view = visit(judged_pair())
    curve = view.locator("#curve svg")
    expect(curve).to_have_attribute("aria-label", "Value curve: chosen ends at +0.700, rejected ends at −1.400")
    assert [len(line) for line in lines(view)] == [6, 6]
    view.keyboard.press("5")
    expect(curve).to_have_attribute(
        "aria-label", "Curve of reward model: chosen ends at +2.000, rejected ends at −1.500"
    )
    expect(view.locator("#curve figcaption")).to_have_text(
        "reward model: what it would say if the response ended here. Solid: chosen; dashed: rejected."
    )
    chosen, rejected = lines(view)
    scale = (rejected[-1] - chosen[-1]) / 3.5
    assert [(chosen[-1] - y) / scale + 2 for y in chosen] == pytest.approx([0.2, 0.4, 1.5, 1.2, 2], abs=0.01)
    assert [(chosen[-1] - y) / scale + 2 for y in rejected] == pytest.approx([0.2, 0.4, -1, -0.5, -1.5], abs=0.01)
    token(view, 2, 1).hover()
    assert float(curve.locator("circle").get_attribute("cy")) == pytest.approx(rejected[2], abs=0.1)


@pytest.mark.parametrize("read_by", ["both", "judge"])
def test_what_is_shown_can_be_taken_away(visit, taken_away, read_by):
    pair = [without_policy(trace) if read_by == "judge" else trace for trace in judged_pair("17")]
    view = visit(pair, "#channel=reward/correctness")
    files = taken_away(view)
    back = [TokenTrace.from_dict(json.loads(line)) for line in files["json"].read_text().splitlines()]
    for one, other in zip(back, pair, strict=True):
        assert one.reward_model == other.reward_model
        assert [token.reward for token in one.tokens] == pytest.approx([token.reward for token in other.tokens])
        assert [token.outputs for token in one.tokens] == [token.outputs for token in other.tokens]
        assert [span.reward for span in one.spans] == pytest.approx([span.reward for span in other.spans])
        assert (one.totals.reward, one.totals.outputs) == (pytest.approx(other.totals.reward), other.totals.outputs)
        assert one.totals.implicit_reward == pytest.approx(other.totals.implicit_reward)
        assert (one.policy, [token.logp for token in one.tokens]) == (other.policy, [t.logp for t in other.tokens])
    table = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    rewards = [0.2, 0.4, 1.5, 1.2, 2, 0.2, 0.4, -1, -0.5, -1.5]
    assert [float(line["reward"]) for line in table] == rewards
    assert {line["logp"] == "" for line in table} == {read_by == "judge"}
    picture = ET.fromstring(files["svg"].read_text())
    words = [node.text for node in picture.iter("{http://www.w3.org/2000/svg}text")]
    before = "" if read_by == "judge" else "implicit reward −1.400, "
    assert f"rejected: {before}reward −1.500" in words
    assert "reward/correctness = r_2(x, y≤t), by token; deepest colour at 1.000" in words
    assert sum(node.get("fill") == "rgb(230,97,1)" for node in picture.iter("{http://www.w3.org/2000/svg}rect")) == 3


def test_a_reward_model_alone_has_its_own_page(visit, alone):
    """Nothing that only a policy says is there; the pair has the margin of its rewards, 3.5."""
    view = visit(alone)
    assert channels(view) == JUDGE
    assert depths(view, 1) == [0.1, 0.2, -0.5, -0.25, -0.75]
    expect(view.locator(".response")).to_have_count(2)
    expect(view.locator("#about")).to_contain_text("margin +3.500")
    for text in ("policy", "unnamed", "β", "null", "undefined", "NaN"):
        expect(view.locator("#about")).not_to_contain_text(text)
    expect(view.locator(".response header").nth(1)).to_have_text(
        "rejectedreward −1.500helpfulness +0.500correctness −1.0005 tokens"
    )
    expect(view.get_by_label("Underline")).to_be_hidden()
    expect(view.locator("#shares")).to_be_hidden()
    expect(view.locator("#curve svg")).to_have_attribute(
        "aria-label", "Curve of reward model: chosen ends at +2.000, rejected ends at −1.500"
    )
    view.keyboard.press("n")
    expect(view.locator("#status")).to_have_text("1st most negative of 3: “EOS” −1.500 (rejected)")
    panel = view.locator("#inspector")
    expect(panel.locator("table")).to_have_count(2)
    assert rows_of(panel.get_by_role("table", name="Reward model"))[0] == ["reward up to here", "−1.500"]
    assert rows_of(panel.get_by_role("table", name="Stretches"))[1:] == [
        ["word", "−1.500", "3"],
        ["sentence", "−1.500", "5"],
    ]
    token(view, 0).click()
    expect(panel).to_contain_text("Both responses have it.")
    view.keyboard.press("t")
    assert rows_of(view.locator("#table table"))[0] == ["# ↑", "token", "response", "reward so far"]
    view.get_by_label("Level").select_option("word")
    assert rows_of(view.locator("#table table"))[0][3:] == ["reward at its end", "tokens"]
    assert [row[3] for row in rows_of(view.locator("#table table")) if row[2] == "rejected"] == [
        "+0.200",
        "+0.400",
        "−1.500",
    ]


def test_rows_of_a_reward_model_sort_by_its_numbers(visit, alone):
    """Totals 2, −3 and 1; the worst token of the pair is −1.5, that of the second row −3, that of the third −4."""
    weights = {"reward": 1.0}
    rows = [("b", [(-1.0,), (-3.0,)]), ("c", [(-4.0,), (1.0,)])]
    single = [
        without_policy(judged(make_trace(name, ["x", "y"], [-1.0] * 2, [-1.0] * 2), said, weights))
        for name, said in rows
    ]
    view = visit([*alone, *single])
    assert channels(view) == ["reward model"]  # other outputs: what is common is the reward
    names = view.locator("#rows .name")
    view.get_by_label("Sort").select_option("total")
    assert names.all_inner_texts() == ["b", "c", "1"]
    view.get_by_label("Sort").select_option("worst")
    assert names.all_inner_texts() == ["c", "b", "1"]
    view.locator("#rows button").first.click()
    expect(view.locator(".response header")).to_have_text(["creward +1.0002 tokens"])


def test_tokens_that_were_not_written_have_no_reward(visit):
    pieces = ["Sure.", "<user> More?", " Yes."]
    trace = make_trace("1", pieces, [-1.0, None, -1.0], [-2.0, None, -2.0], levels=("turn",))
    trace = without_policy(judged(trace, [(1.0,), None, (-2.0,)], {"reward": 1.0}))
    view = visit([trace])
    assert [share(token(view, i)) for i in range(3)] == [0.5, 0, -1]
    token(view, 1).hover()
    expect(view.locator("#inspector")).to_contain_text("it is context and has no numbers")
    token(view, 2).hover()
    expect(view.locator("#inspector")).to_contain_text("reward added here\t−3.000", use_inner_text=True)
    view.get_by_label("Level").select_option("turn")
    assert [share(token(view, i)) for i in range(3)] == [0.5, 0, -1]


def test_a_narrow_window_needs_no_sideways_scrolling(visit, alone, tmp_path):
    for number, traces in enumerate((judged_pair(), alone, hand_made_pair())):
        view = visit(traces)
        for width in (1280, 390):
            view.set_viewport_size({"width": width, "height": 900})
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            token(view, 2, 1).click()
            assert view.locator("#inspector").evaluate("node => node.scrollWidth - node.clientWidth") == 0
            view.screenshot(path=tmp_path / f"{number}-{width}.png", full_page=True)
            token(view, 2, 1).click()
