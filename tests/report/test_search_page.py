"""Search results to page data, by numbers worked out by hand; and the page as a file, closed to what texts try."""

import json
import math
import re
from dataclasses import replace
from itertools import chain

import pytest
from hand_made_results import EOS, beam_result, drawn_result, empty_result, hostile_result, large_result, wide_result
from hand_made_traces import HOSTILE
from test_html import Elements, islands

from tokenq.records.results import Candidate, SearchTree
from tokenq.report.search_page import search_page, search_view, write_search_page


def shown(result):
    """Return the page data of one result."""
    (data,) = search_view([result])["results"]
    return data


def test_the_list_says_what_was_searched_and_what_it_cost():
    rows = search_view([beam_result(), drawn_result(), empty_result(), wide_result()])["rows"]
    assert rows[0] == {
        "name": "1",
        "preview": "Where is it?",
        "method": "beam",
        "objective": "likelihood",
        "score": -0.425,
        "tokens": 1234,
        "badges": [],
    }
    assert (rows[1]["preview"], rows[1]["score"]) == ("How many birds?", -3)
    assert (rows[2]["score"], rows[2]["badges"]) == (None, ["stopped: interrupted", "no candidates"])
    assert rows[3]["tokens"] == 500 + 500 + 77
    assert rows[3]["badges"] == ["stopped: budget", "best is cut"]


def test_a_prompt_searched_twice_has_two_names():
    rows = search_view([beam_result("a"), beam_result("a (2)"), beam_result("a"), beam_result("a")])["rows"]
    assert [row["name"] for row in rows] == ["a", "a (2)", "a (3)", "a (4)"]


def test_candidates_have_both_models_numbers():
    paris, rome = shown(beam_result())["candidates"]
    assert (paris["length"], paris["total"], paris["ref_total"]) == (5, -2.125, -3.625)
    assert (rome["length"], rome["total"], rome["ref_total"]) == (4, -3.25, -2.5)
    assert paris["log_ratio"] == [0, 0.5, 1, 0, 0]
    assert rome["log_ratio"] == [0, 0.5, -1, -0.25]
    assert rome["logp"] == [-0.5, -0.25, -2, -0.5]
    assert rome["ref_logp"] == [-0.5, -0.75, -1, -0.25]
    assert paris["id"] == [10, 11, 12, 13, EOS]
    assert (paris["terminal"], paris["answer"], rome["terminal"], rome["answer"]) == (True, "Paris", False, None)


def test_candidates_part_from_the_best():
    """The best of the beams is the first; of the samples the second, and "Two b" is what the first shares with it."""
    _, rome = shown(beam_result())["candidates"]
    assert (rome["shared"], rome["head"]) == (2, "It is ")
    drawn = shown(drawn_result())
    assert (drawn["best"], drawn["best_first"]) == (1, False)
    assert [(one["shared"], one["head"]) for one in drawn["candidates"]] == [(1, "Two b"), (3, "Two bees."), (0, "")]
    assert shown(beam_result())["best_first"]


def test_a_score_that_is_no_number_is_not_the_best():
    lost, found = (Candidate("a", (1,), score, (-1.0,), None, terminal=True) for score in (math.nan, -math.inf))
    assert shown(beam_result(candidates=(lost, found)))["best"] == 0  # no number is as little as −∞, and stands first
    better = replace(found, score=-7.0)
    data = shown(beam_result(candidates=(lost, better)))
    assert (data["best"], data["candidates"][0]["score"]) == (1, None)


def test_tokens_have_the_texts_that_they_add():
    paris, rome = shown(beam_result())["candidates"]
    assert (paris["texts"], paris["running"]) == (["It", " is", " Paris", ".", ""], True)
    assert (rome["texts"], rome["running"]) == (["It", " is", " Rome", "!"], True)


def test_results_that_did_not_keep_them_have_none():
    assert [one["texts"] for one in shown(drawn_result())["candidates"]] == [[], [], []]
    assert not any(one["running"] for one in shown(drawn_result())["candidates"])


def test_a_response_that_leaves_the_tree_keeps_its_texts():
    """Of 10, 11, 12, 99 the tree has three; the line of the last that it has is " Paris." (line 2)."""
    pieces = ("It", " is", " Paris", ", no")
    beyond = Candidate("It is Paris, no", (10, 11, 12, 99), -1.0, (-1.0,) * 4, None, terminal=False, pieces=pieces)
    (one,) = shown(beam_result(candidates=(beyond,)))["candidates"]
    assert (one["texts"], one["line"], one["running"]) == (list(pieces), 2, True)
    elsewhere = replace(beyond, token_ids=(77, 78, 79, 80))
    (one,) = shown(beam_result(candidates=(elsewhere,)))["candidates"]
    assert (one["texts"], one["line"]) == (list(pieces), None)


def test_chains_of_a_tree_are_lines():
    """Lines: "It is" (nodes 1, 2), "No" (8), " Paris." to its end (3, 5, 6), " Rome!" (4, 7)."""
    data = shown(beam_result())
    assert data["tree"] == {
        "tokens": 8,
        "above": [-1, -1, 0, 0],
        "id": [[10, 11], [16], [12, 13, EOS], [14, 15]],
        "text": [["It", " is"], ["No"], [" Paris", ".", ""], [" Rome", "!"]],
        "logp": [[-0.5, -0.25], [-3], [-1, -0.125, -0.25], [-2, -0.5]],
        "sum": [-0.75, -3, -1.375, -2.5],
        "total": [-0.75, -3, -2.125, -3.25],
        "score": [-0.75, -3, -2.125, -3.25],
        "ends": [0, 0, 1, 0],
        "below": [2, 0, 0, 0],
        "visits": [],
        "value": [],
    }
    assert [one["line"] for one in data["candidates"]] == [2, 3]


def test_a_line_has_the_visits_of_its_beginning_and_the_value_of_its_end():
    tree = SearchTree(
        parents=(-1, 0, 1, 2, 2),
        token_ids=(-1, 1, 2, 3, 4),
        texts=("", "a", "b", "c", "d"),
        logps=(0.0, -1.0, -2.0, -math.inf, -0.5),
        scores=(0.0, 0.1, 0.2, 0.3, 0.4),
        ends=(False, False, False, True, False),
        visits=(9, 8, 7, 6, 0),
        values=(0.0, 1.0, 2.0, 3.0, math.inf),
    )
    lines = shown(beam_result(tree=tree))["tree"]
    assert lines["text"] == [["a", "b"], ["c"], ["d"]]
    assert (lines["visits"], lines["value"], lines["score"]) == ([8, 6, 0], [2, 3, None], [0.2, 0.3, 0.4])
    assert (lines["sum"], lines["total"]) == ([-3, None, -0.5], [-3, None, -3.5])


def test_a_line_ends_with_a_response_even_where_something_follows():
    tree = SearchTree((-1, 0, 1), (-1, 1, 2), ("", "a", "b"), (0.0, -1.0, -1.0), (0.0,) * 3, (False, True, False))
    assert shown(beam_result(tree=tree))["tree"]["text"] == [["a"], ["b"]]


def test_equal_branches_are_followed_side_by_side():
    """Two beams may hold the same tokens; the response is found in the one that goes on."""
    tree = SearchTree(
        (-1, 0, 0, 2), (-1, 10, 10, 11), ("", "It", "It", " is"), (0.0,) * 4, (0.0,) * 4, (False,) * 3 + (True,)
    )
    candidate = Candidate("It is", (10, 11), 0.0, (0.0,) * 2, None, terminal=False)
    (one,) = shown(beam_result(tree=tree, candidates=(candidate,)))["candidates"]
    assert one["line"] == 1


def test_trees_without_tokens_are_no_obstacle():
    nothing = SearchTree((), (), (), (), (), ())
    root = SearchTree((-1,), (-1,), ("",), (0.0,), (0.0,), (False,))
    assert shown(beam_result(tree=nothing))["tree"] is None
    assert shown(beam_result(tree=root))["tree"]["above"] == []
    assert shown(empty_result())["tree"] is None


def test_every_node_of_a_large_tree_is_on_one_line():
    """Ten children a node: 9,999 lines; below the first of ten lie the 1,111 that a tree of this shape has there."""
    lines = shown(large_result())["tree"]
    assert sum(map(len, lines["id"])) == lines["tokens"] == 9999
    top = [below for below, above in zip(lines["below"], lines["above"], strict=True) if above == -1]
    assert len(lines["above"]) == sum(top) + len(top)
    assert top[0] == 10 + 100 + 1000


def test_a_deep_tree_is_no_obstacle():
    depth = 20_000
    tree = SearchTree(
        (-1, *range(depth)), (-1, *[1] * depth), ("a",) * (depth + 1), (0.0,) * (depth + 1), (0.0,) * (depth + 1),
        (False,) * (depth + 1),
    )  # fmt: skip
    assert shown(beam_result(tree=tree))["tree"]["below"] == [0]


def test_colours_are_those_that_some_result_has():
    channels = [channel["name"] for channel in search_view([drawn_result(), beam_result()])["channels"]]
    assert channels == ["log_ratio", "policy_surprisal", "reference_surprisal"]
    assert [channel["name"] for channel in search_view([drawn_result()])["channels"]] == ["policy_surprisal"]
    assert search_view([])["rows"] == search_view([])["results"] == []


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile_page():
    return search_page([hostile_result(), beam_result()], title="".join(HOSTILE))


def test_the_data_comes_back_from_the_page():
    results = [beam_result(), drawn_result(), empty_result()]
    data, found = search_view(results), islands(search_page(results, title="three"))
    assert sorted(found) == ["index", "result-0", "result-1", "result-2"]
    assert [found[f"result-{number}"] for number in range(3)] == data.pop("results")
    assert found["index"] == data


def test_hostile_texts_are_data_and_add_no_element(hostile_page):
    harmless = search_page([beam_result(), beam_result()], title="title")
    tags = [tag for tag, _, _ in Elements(hostile_page).found]
    assert tags == [tag for tag, _, _ in Elements(harmless).found]
    found = islands(hostile_page)["result-0"]
    hostile = hostile_result()
    assert found["prompt"] == hostile.prompt
    assert [one["text"] for one in found["candidates"]] == [one.text for one in hostile.candidates]
    assert list(chain(*found["tree"]["text"])) == list(hostile.tree.texts[1:])
    (title,) = Elements(hostile_page).named("title")
    assert title[1].strip() == "".join(HOSTILE)


def test_nothing_on_the_page_names_another_host_or_writes_html(hostile_page):
    found = Elements(hostile_page)
    for _, attributes, _ in found.found:
        assert not {"onclick", "onload", "onerror", "style"} & set(attributes)
        for name in ("src", "href", "action", "srcset", "data"):
            assert attributes.get(name, "data:,") == "data:,"
    own = "".join(body for tag, a, body in found.found if tag in ("script", "style") and "type" not in a)
    assert "startPage();" in own
    assert not re.search(
        r"\w://|url\(|@import|fetch\(|XMLHttpRequest|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", own
    )
    (policy,) = [a["content"] for a, _ in found.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_a_page_is_written_in_one_piece(tmp_path):
    target = tmp_path / "tree.html"
    write_search_page(target, [beam_result(), hostile_result()], title="two")
    assert target.read_text(encoding="utf-8") == search_page([beam_result(), hostile_result()], title="two")
    assert [path.name for path in tmp_path.iterdir()] == ["tree.html"]


def test_a_page_stays_small():
    """A tree of 10,000 nodes, with all their numbers, takes less than a hundred bytes per node."""
    page = search_page([large_result()], title="large")
    assert len(page.encode()) < 1_000_000 + len(search_page([], title="large").encode())
    json.dumps(islands(page))
