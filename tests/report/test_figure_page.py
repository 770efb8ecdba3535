"""Figures with their claims as files: what is written, the numbers in it, and a page closed to what texts try."""

import html
import json
import re
import sys
from dataclasses import replace

import pytest
from hand_made_sections import (
    CORRUPTED,
    FACTS,
    SUMMARY,
    credit,
    hostile_section,
    near,
    sections,
    stretches,
    words_trace,
)
from hand_made_traces import HOSTILE
from test_html import Elements

from tokenq.errors import UserError
from tokenq.figures.section import HeatMap, Section
from tokenq.report.drawing import installed
from tokenq.report.figure_page import STEPS, write_figures
from tokenq.stats.outcome import Table

needs_matplotlib = pytest.mark.skipif(not installed(), reason="figures need matplotlib")

BARE = Section("bare", "Is it so?", "It is so.", "not tested", "Nothing was drawn.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("figures") / "report"
    record = {"command": "tokenq demo --seed 0", "versions": {"torch": "2.13.0"}}
    assert write_figures(place, "The paper", sections(), FACTS, SUMMARY, record) == place / "index.html"
    return place


@pytest.fixture
def undrawable(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.fixture
def written(tmp_path, undrawable):
    """Return a function that gives the page of some sections, without figures, and its numbers."""

    def of(*shown, title="t", facts=FACTS, **given):
        path = write_figures(tmp_path / "out", title, shown, facts, **given)
        return path.read_text(encoding="utf-8"), json.loads((path.parent / "numbers.json").read_text(encoding="utf-8"))

    return of


@needs_matplotlib
def test_every_figure_has_its_files(folder):
    names = ("credit-1", "credit-heat-1", "credit-heat-2", "search-1", "search-2", "likelihood-1")
    figures = {f"{name}.{form}" for name in names for form in ("svg", "png")}
    assert {path.name for path in folder.iterdir()} == figures | {"index.html", "numbers.json"}
    assert all((folder / name).read_bytes().startswith((b"<?xml", b"\x89PNG")) for name in figures)


@pytest.mark.integration
@needs_matplotlib
def test_the_same_sections_give_the_same_bytes(folder, tmp_path):
    write_figures(tmp_path, "The paper", sections(), FACTS, SUMMARY, json.loads((folder / "numbers.json").read_text()))
    again = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert again == first


@needs_matplotlib
def test_the_page_has_every_figure_with_its_files_and_no_style_of_an_element(folder):
    found = Elements((folder / "index.html").read_text(encoding="utf-8"))
    assert [a["aria-label"] for a, _ in found.named("svg")] == [
        "AUROC by kind of error",
        "Gold reward against beam width",
        "Gold reward against what it costs",
        "Implicit rewards on held-out pairs",
    ]
    assert all("style" not in attributes for _, attributes, _ in found.found)
    links = [a["href"] for a, _ in found.named("a")]
    assert links[:5] == ["#credit", "#search", "#likelihood", "credit-1.svg", "credit-1.png"]
    assert links[5:11] == [
        *("credit-heat-1.svg", "credit-heat-1.png", "credit-heat-2.svg", "credit-heat-2.png"),
        *("credit-traces.html", "corrupted.html#row=a%20b"),
    ]
    assert links[-1] == "numbers.json"


def test_the_numbers_begin_with_where_they_come_from(folder):
    told = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
    assert list(told) == ["command", "versions", "facts", "summary", "sections"]
    assert told["versions"] == {"torch": "2.13.0"}
    assert told["facts"]["dpo"] == "41 s"
    assert told["summary"][0]["rows"][1][:2] == ["DPO", {"value": 3.39, "low": 3.37, "high": 3.41, "n": 300}]
    assert list(told["sections"]) == ["credit", "search", "likelihood"]


def test_the_numbers_of_a_section_are_all_there(folder):
    one = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))["sections"]["credit"]
    assert (one["verdict"], one["title"]) == ("in part", "Does the implicit reward point at what is wrong?")
    assert one["claim"].startswith("A DPO policy assigns credit")
    assert one["reading"].startswith("It finds corrupted facts")
    assert [table["title"] for table in one["tables"]][2] == "What was counted"
    assert one["tables"][2]["rows"] == [["corrupted facts", 300, 300], ["policy", 71, 84]]
    assert one["tables"][0]["head"][0] == "read-out"
    assert one["tables"][0]["note"] == "95 % intervals over posts."
    assert one["tables"][0]["rows"][0][1] == {"value": 0.982, "low": 0.974, "high": 0.99, "n": 300}
    (chart,) = one["charts"]
    assert chart["labels"][1] == "centred advantage"
    assert (chart["x"], chart["y"], chart["log_x"]) == ("read-out", "AUROC, mean over posts", False)
    assert [curve["name"] for curve in chart["curves"]][2] == "the policy's own errors"
    assert chart["curves"][2]["x"] == [0, 1, 2, 3, 4]
    assert [y["value"] for y in chart["curves"][2]["y"]] == [0.649, 0.88, 0.894, 0.934, 0.51]
    heat = one["heat_maps"][1]
    assert (heat["id"], heat["response"], heat["wrong"]) == ("corrupted", CORRUPTED, [[11, 14], [57, 61]])
    rewards = dict(zip(heat["tokens"], heat["implicit_rewards"], strict=True))
    assert (rewards[" 550"], rewards[" June"]) == pytest.approx((-1.84, -1.21))
    assert one["exact"]["rows"][1][:2] == ["implicit reward, the optimum's own errors", 0.5]
    assert one["links"][0] == {"name": "every summary, token by token", "path": "credit-traces.html"}


def test_numbers_that_there_are_not_are_null(written):
    unknown = replace(near(float("nan")), n=0)
    _, told = written(replace(BARE, tables=[Table("t", ["a", "b"], [[unknown, None, float("inf")]])]))
    (table,) = told["sections"]["bare"]["tables"]
    assert table["rows"] == [[{"value": None, "low": None, "high": None, "n": 0}, None, None]]


def test_without_matplotlib_the_page_has_all_but_the_figures(written):
    text, told = written(*sections(), summary=SUMMARY)
    assert "pip install matplotlib" in text
    found = Elements(text)
    assert not found.named("svg")
    assert len(found.named("table")) == 1 + 3 + 2 + 1 + 2  # the summary, those of the sections, and two exact ones
    assert len([1 for a, _ in found.named("div") if a.get("class") == "text"]) == 2 * 4  # each by four channels
    assert [a["href"] for a, _ in found.named("a")][3:5] == ["credit-traces.html", "corrupted.html#row=a%20b"]
    assert told["sections"]["search"]["charts"][0]["curves"][0]["y"][4]["value"] == 3.56


@needs_matplotlib
def test_with_matplotlib_nothing_is_to_be_installed(folder):
    assert "pip install" not in (folder / "index.html").read_text(encoding="utf-8")


def test_a_section_says_claim_verdict_and_reading(written):
    text, _ = written(BARE, replace(BARE, name="in-part", verdict="in part"), title="a <title>")
    found = Elements(text)
    assert [body for _, body in found.named("h1")] == ["a <title>"]
    assert [(a["class"], body) for a, body in found.named("span") if "verdict" in a.get("class", "")] == [
        ("verdict not-tested", "not tested"),
        ("verdict in-part", "in part"),
    ] * 2
    assert [body for _, body in found.named("dt")] == [*FACTS, "Claim", "Claim"]
    assert [body for _, body in found.named("dd")][-1] == "It is so."
    assert ("Nothing was drawn.", "reading") in [(body, a.get("class")) for a, body in found.named("p")]


def test_the_first_table_is_open_and_the_others_are_folded(written):
    tables = [Table(name, ["a"], [[1]]) for name in ("first", "second", "third")]
    text, _ = written(replace(BARE, tables=tables, exact=Table("solved", ["a"], [[1]])))
    found = Elements(text)
    assert [body for _, body in found.named("h3")] == [
        "first",
        "The same quantity in small worlds that can be solved exactly",
    ]
    assert [body for _, body in found.named("summary")] == ["second", "third"]
    assert [a["aria-label"] for a, _ in found.named("table")] == ["first", "solved", "second", "third"]


def tokens_of(heat):
    """Return the classes and the text of the tokens of a heat map in the page's HTML, without its baselines."""
    spans = re.findall(r'<span class="(token[^"]*)"[^>]*>(.*?)</span>', heat.split("<details>")[0])
    return [(classes, html.unescape(re.sub("<[^>]*>", "", text))) for classes, text in spans]


def test_tokens_are_coloured_on_one_scale_and_wrong_ones_outlined(written):
    """The deepest is −1.84: of 20 steps, .62 is 6.7 deep, −1.21 13.2, .05 half of one, and −.03 a third."""
    text, _ = written(credit())
    first, second = re.findall('<figure class="heat">(.*?)</figure>', text, re.DOTALL)
    assert ("token positive s7", " 800") in tokens_of(first)
    assert ("token positive s1", " pays") in tokens_of(first)
    assert tokens_of(first)[0] == ("token", " job")
    assert "less likely −1.84" in text
    assert 'class="wrong"' not in first
    outlined = [run.split("</span></span>")[0] for run in second.split("<details>")[0].split('<span class="wrong">')]
    assert [tokens_of(run + "</span>") for run in outlined[1:]] == [
        [("token negative s20", "550")],
        [("token negative s13", "June")],
    ]
    assert ("token negative s20", " ") in tokens_of(second)  # the blank before the number, outside
    assert "most negative: “550” −1.840, “June” −1.210" in second
    assert "".join(part for _, part in tokens_of(second)).rstrip() == CORRUPTED


def test_neighbours_that_are_wrong_are_outlined_together(written):
    trace = words_trace("x", " pays 550 a week.", {})
    text, _ = written(replace(BARE, heat_maps=[HeatMap("c", trace, stretches(trace.response, "550 a"))]))
    wrong = re.search(r'<span class="wrong">(.*?)</span></span>', text).group(1)
    assert re.sub("<[^>]*>", "", wrong) == "550 a"


def test_the_style_has_every_depth(folder):
    (style,) = [body for _, body in Elements((folder / "index.html").read_text(encoding="utf-8")).named("style")]
    found = re.findall(r"\.token\.s(\d+) \{ --share: ([\d.]+); \}", style)
    assert [(int(step), float(share)) for step, share in found] == [(n, n / STEPS) for n in range(1, STEPS + 1)]


@pytest.mark.integration
def test_hostile_texts_are_texts(tmp_path):
    path = write_figures(tmp_path / "out", "<script>", [hostile_section()], {"<b>": "<i>"}, hostile_section().tables)
    found = Elements(path.read_text(encoding="utf-8"))
    assert not {"img", "script", "iframe", "form"} & {tag for tag, _, _ in found.found}
    assert len(found.named("b")) == 1 + 2 * 3  # of the key, and of the baselines
    assert all(attributes == {"class": f"cell token {attributes['class'][11:]}"} for attributes, _ in found.named("i"))
    assert [body for _, body in found.named("h1")] == ["<script>"]
    assert "<i>" in [body for _, body in found.named("dd")]
    assert "".join(HOSTILE) in [body.strip() for _, body in found.named("h2")]
    assert all(not name.startswith("on") for _, attributes, _ in found.found for name in attributes)
    links = [a["href"] for a, _ in found.named("a")]
    assert "javascript%3Adocument.title=%27run%27" in links  # a file of this odd name, and no script
    assert not [link for link in links if ":" in link or '"' in link]
    told = json.loads((tmp_path / "out" / "numbers.json").read_text(encoding="utf-8"))
    assert told["sections"]["hostile"]["title"] == hostile_section().title
    assert told["sections"]["hostile"]["charts"][0]["y"].endswith("e\u0301?")  # half a surrogate pair


@pytest.mark.parametrize("place", ["taken", "taken/report"])
def test_a_folder_that_cannot_be_written_is_told(place, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="taken is a file") as caught:
        write_figures(tmp_path / place, "t", [BARE], {})
    assert "--output" in caught.value.hint
    assert (tmp_path / "taken").read_text() == "a file"


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/b", "a1", "-a", 'a"'])
def test_names_that_are_no_file_names_are_refused(name, tmp_path):
    with pytest.raises(UserError, match="names no section"):
        write_figures(tmp_path / "out", "t", [replace(BARE, name=name)], {})
    assert list(tmp_path.iterdir()) == []


def test_two_sections_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="Two sections are called 'bare'"):
        write_figures(tmp_path / "out", "t", [BARE, BARE], {})


def test_a_stretch_outside_the_response_is_told(tmp_path):
    heat = HeatMap("c", words_trace("x", " a b", {}), [(2, 9)])
    with pytest.raises(UserError, match="outside the response"):
        write_figures(tmp_path / "out", "t", [replace(BARE, heat_maps=[heat])], {})


def test_a_page_without_sections_is_a_page(written):
    text, told = written(facts={})
    assert "<nav" not in text
    assert told == {"facts": {}, "summary": [], "sections": {}}
