"""The page as a file: whole, closed to the outside, and closed to what texts try to do to it."""

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser

import pytest
from hand_made_traces import (
    HOSTILE,
    hand_made_pair,
    hostile_trace,
    judged_pair,
    long_trace,
    make_trace,
    without_policy,
)
from test_view import page_data

from tokenq.errors import UserError
from tokenq.report.html import fragment, page, write_page


class Elements(HTMLParser):
    """The elements of a page in order, as (tag, attributes, text inside)."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.found = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append([tag, dict(attrs), ""])
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.found[-1][2] += data

    def named(self, tag):
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


def islands(text):
    """Return the data of a page, by the id of its element."""
    scripts = Elements(text).named("script")
    found = {a["id"]: json.loads(body) for a, body in scripts if a.get("type") == "application/json"}
    packed = {a["id"]: base64.b64decode(body) for a, body in scripts if a.get("type") == "application/zlib"}
    return found | {name: json.loads(zlib.decompress(data)) for name, data in packed.items()}


@pytest.fixture(scope="module")
def hostile_page():
    return page([hostile_trace(), *hand_made_pair()], "".join(HOSTILE))


def test_the_data_comes_back_from_the_page():
    pair = hand_made_pair()
    data, found = page_data(pair, "two"), islands(page(pair, "two"))
    assert sorted(found) == ["index", "pair-0", "trace-0", "trace-1"]
    assert [found["trace-0"], found["trace-1"]] == data.pop("traces")
    assert [found["pair-0"]] == data.pop("pairs")
    assert found["index"] == data


def test_hostile_texts_are_data_and_add_no_element(hostile_page):
    """The same elements, in the same order, as with harmless texts; and the texts are all there."""
    harmless = page([make_trace("1", ["a"], [-1.0], [-2.0]), *hand_made_pair()], "title")
    tags = [tag for tag, _, _ in Elements(hostile_page).found]
    assert tags == [tag for tag, _, _ in Elements(harmless).found]
    found = islands(hostile_page)
    assert "".join(found["trace-0"]["tokens"]["text"]) == hostile_trace().response
    assert found["trace-0"]["prompt"] == "".join(HOSTILE)
    assert found["trace-0"]["warnings"] == list(HOSTILE)
    assert found["index"]["models"][:2] == [{"path": HOSTILE[1]}, {"path": HOSTILE[0]}]
    (title,) = Elements(hostile_page).named("title")
    assert title[1].strip() == "".join(HOSTILE)


def test_only_the_pages_own_script_and_style_may_run(hostile_page):
    found = Elements(hostile_page)
    (policy,) = [a["content"] for a, _ in found.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    run = [body for attributes, body in found.named("script") if "type" not in attributes]
    styles = [body for _, body in found.named("style")]
    assert (len(run), len(styles)) == (1, 1)
    for name, text in (("script-src", run[0]), ("style-src", styles[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert "unsafe" not in policy


def test_nothing_on_the_page_names_another_host(hostile_page):
    for _, attributes, _ in Elements(hostile_page).found:
        assert not {"onclick", "onload", "onerror", "style"} & set(attributes)
        for name in ("src", "href", "action", "srcset", "data"):
            assert attributes.get(name, "data:,") == "data:,"
    own = "".join(
        body for tag, a, body in Elements(hostile_page).found if tag in ("script", "style") and "type" not in a
    )
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/XML/1998/namespace"}
    assert set(re.findall(r"\w+://[^\"'` )]+", own)) <= namespaces
    assert not re.search(
        r"url\(|@import|fetch\(|XMLHttpRequest|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", own
    )


def test_a_page_is_written_in_one_piece(tmp_path):
    target = tmp_path / "page.html"
    write_page(target, hand_made_pair(), "two")
    assert target.read_text(encoding="utf-8") == page(hand_made_pair(), "two")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_half_a_surrogate_pair_does_not_spoil_the_file(tmp_path):
    trace = hostile_trace()
    write_page(tmp_path / "page.html", [trace], "\ud800")
    found = islands((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "".join(found["trace-0"]["tokens"]["text"]) == trace.response


def test_numbers_that_are_none_are_null_on_the_page():
    trace = make_trace("1", ["a"], [float("-inf")], [-1.0])
    tokens = islands(page([trace]))["trace-0"]["tokens"]
    assert (tokens["logp"], tokens["ref_logp"]) == ([None], [-1])


# ---------------------------------------------------------------------------------------------------------------------


def shown_text(text):
    """Return the text of a fragment's block of tokens, without the marks that stand beside the text."""
    block = text.split('<div dir="auto"', 1)[1].split("</div>", 1)[0]
    marks = re.sub(r'<span aria-hidden="true"[^>]*>[^<]*</span>', "", block.split(">", 1)[1])
    return Elements("<div>" + re.sub(r"</?span[^>]*>", "", marks)).found[0][2]


def test_a_fragment_shows_the_response_and_its_numbers():
    chosen, rejected = hand_made_pair()
    shown = fragment(rejected)
    assert shown_text(shown) == rejected.response == "It is Rome!"
    assert "implicit reward <b>-1.400</b>" in shown
    assert "rgba(230,97,1,0.700)" in shown  # " Rome", the deepest
    assert "rgba(33,102,172,0.070)" in shown  # " is": 0.1 of 1.0, of a deepest 0.7
    assert "rgba(33,102,172,0.700)" in fragment(chosen)
    assert ">EOS</span>" in shown


def test_a_fragment_runs_nothing():
    trace = hostile_trace()
    found = Elements(fragment(trace))
    assert {tag for tag, _, _ in found.found} == {
        *("div", "b", "span", "details", "summary", "table", "thead", "tr", "th", "tbody", "td", "code")
    }
    assert shown_text(fragment(trace)) == trace.response.encode("utf-8", "replace").decode()
    assert all(not name.startswith("on") for _, attributes, _ in found.found for name in attributes)


def test_a_fragment_has_a_sign_for_what_cannot_be_seen():
    shown = fragment(make_trace("1", ["a\n", "\t", "\u202eb", ""], [-1.0] * 4, [-1.0] * 4))
    signs = re.findall(r'<span aria-hidden="true"[^>]*>([^<]*)</span>', shown)
    assert signs == ["↵", "⇥", "U+202E", "EOS"]
    assert shown_text(shown) == "a\n\t\u202eb"


def test_a_fragment_lists_the_tokens_that_stand_out():
    shown = fragment(hand_made_pair()[1])
    rows = [body for _, body in Elements(shown.split("<tbody>")[1]).named("code")]
    assert rows[0] == '" Rome"'
    surprising = fragment(hand_made_pair()[0], "reference_surprisal")
    assert Elements(surprising.split("<tbody>")[1]).named("code")[0][1] == '" Paris"'
    with pytest.raises(UserError, match="Unknown channel"):
        fragment(hand_made_pair()[0], "rewards")


def test_a_long_fragment_has_all_tokens():
    trace = long_trace(tokens=600)
    assert shown_text(fragment(trace)) == trace.response


def test_a_fragment_of_a_reward_model_alone_has_its_numbers_and_no_others():
    rejected = without_policy(judged_pair()[1])
    shown = fragment(rejected)
    assert shown_text(shown) == "It is Rome!"
    assert (
        "<b>1/rejected</b> · reward <b>-1.500</b> · helpfulness +0.500 · correctness -1.000 · 5 tokens</div>" in shown
    )
    assert "rgba(230,97,1,0.700)" in shown  # EOS, the deepest
    assert 'title="reward model -1.0000"' in shown
    for text in ("π", "β", "implicit", "None", "favoured"):
        assert text not in shown
    both = fragment(judged_pair()[1], "reward")
    assert "implicit reward <b>-1.400</b> · log π -4.50 · log π_ref -1.70 · reward -1.500 · helpfulness" in both
