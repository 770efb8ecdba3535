"""Traces to page data: numbers by hand, pairs found, nothing lost, little written."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from examples import share_of
from hand_made_traces import HOSTILE, hand_made_pair, judged_pair, long_trace, make_trace, without_policy
from hypothesis import example, given, settings
from hypothesis.strategies import floats, integers, lists

from tokenq.errors import UserError
from tokenq.report.channels import CHANNELS, find_channel, largest, shares
from tokenq.report.view import page_parts, short, shortened


def page_data(traces, title):
    """Return the parts of a page as one."""
    parts = dict(page_parts(traces, title))
    index = parts.pop("index")
    return index | {
        kind: [parts[f"{name}-{i}"] for i in range(sum(one.startswith(name) for one in parts))]
        for kind, name in (("traces", "trace"), ("pairs", "pair"))
    }


@pytest.fixture(scope="module")
def data():
    return page_data(hand_made_pair(), "two")


def test_tokens_stand_in_columns(data):
    """β = 0.5: rewards 0.5 (log π − log π_ref), centred advantages 0.5 (log π + 0.25)."""
    tokens = data["traces"][0]["tokens"]
    assert tokens["text"] == ["It", " is", " Paris", ".", ""]
    assert (tokens["start"], tokens["end"]) == ([0, 2, 5, 11, 12], [2, 5, 11, 12, 12])
    assert tokens["implicit_reward"] == [0, 0.1, 0.5, 0.1, 0]
    assert tokens["prefix_value"] == [0, 0.1, 0.6, 0.7, 0.7]
    assert tokens["centred_advantage"] == [0.075, 0.025, -0.075, 0.075, 0.025]
    assert tokens["advantage"] == [-0.05, -0.1, -0.2, -0.05, -0.1]
    assert (tokens["rank"], tokens["ref_rank"], tokens["kl"]) == ([0] * 5, [3] * 5, [0.125] * 5)
    totals = {"implicit_reward": 0.7, "logp": -1, "ref_logp": -2.4, "tokens": 5, "reward": None, "outputs": []}
    assert data["traces"][0]["totals"] == totals


def test_a_pair_is_one_row_with_its_margin(data):
    (row,) = data["rows"]
    assert (row["name"], row["traces"], row["pair"]) == ("1", [0, 1], 0)
    assert (row["total"], row["margin"]) == (0.7, 2.1)
    assert row["worst"] == {"token": -1, "word": -1.5, "sentence": -1.4}
    (pair,) = data["pairs"]
    assert (pair["margin"], pair["shared"], pair["parts_at"]) == (2.1, 2, 5)


def test_stretches_earn_the_margin(data):
    """Words: " Rome!" −1.5 in the rejected gives +1.5, " Paris." +.6; "It" and " is" are shared and cancel."""
    earned = data["pairs"][0]["shares"]
    assert earned["word"] == {"side": [1, 0], "unit": [2, 2], "gain": [1.5, 0.6]}
    assert earned["token"] == {
        "side": [1, 0, 1, 1, 0, 0],
        "unit": [2, 2, 4, 3, 3, 4],
        "gain": [1, 0.5, 0.3, 0.2, 0.1, 0],
    }
    assert all(sum(level["gain"]) == pytest.approx(2.1) for level in earned.values())


def test_spans_stand_by_level(data):
    assert data["levels"] == ["token", "word", "sentence"]
    words = data["traces"][1]["spans"]["word"]
    assert (words["first"], words["last"]) == ([0, 1, 2], [1, 2, 5])
    assert words["sum"] == [0, 0.1, -1.5]
    assert words["mean"] == [0, 0.1, -0.5]
    assert words["min"] == [0, 0.1, -1]
    assert words["end_value"] == [0, 0.1, -1.4]


def test_alternatives_give_the_three_lists_back(data):
    found, words = data["traces"][0]["alternatives"], data["vocabulary"]
    token = hand_made_pair()[0].tokens[2]
    assert found["count"] == [3] * 5  # the token itself, " the" and " a", each once
    places = range(6, 9)
    ids = [words["id"][found["word"][at]] for at in places]
    assert ids[: found["likely"][2]] == [one.id for one in token.likely]
    for name, wanted in (("ref_likely", token.ref_likely), ("favoured", token.favoured)):
        assert [ids[ord(letter) - 48] for letter in found[name][2]] == [one.id for one in wanted]
    assert [found["logp"][at] for at in places] == [-0.4, -1.5, -3]
    assert [found["ref_logp"][at] for at in places] == [-1.4, -2.5, -1]


def test_models_and_words_are_written_once(data):
    assert data["models"] == [{"dtype": "float32", "path": "tuned"}, {"dtype": "float32", "path": "base"}]
    assert {(trace["policy"], trace["reference"]) for trace in data["traces"]} == {(0, 1)}
    words = list(zip(data["vocabulary"]["id"], data["vocabulary"]["text"], strict=True))
    assert len(words) == len(set(words))


def test_pairs_are_found_in_any_order_and_only_where_they_compare():
    chosen, rejected = hand_made_pair()
    single = make_trace("9", ["a"], [-1.0], [-2.0])
    other_prompt = replace(hand_made_pair("2")[1], prompt="Who? ")
    mixed = [single, rejected, hand_made_pair("2")[0], chosen, other_prompt]
    rows = page_data(mixed, "")["rows"]
    assert [(row["name"], row["traces"], row["margin"]) for row in rows] == [
        ("9", [0], None),
        ("1", [3, 1], 2.1),
        ("2/chosen", [2], None),
        ("2/rejected", [4], None),
    ]


def test_two_files_with_the_same_names_stay_apart():
    rows = page_data([*hand_made_pair(), *hand_made_pair()], "")["rows"]
    assert [row["traces"] for row in rows] == [[0, 1], [2, 3]]


def test_tokens_of_others_have_no_numbers():
    trace = make_trace("1", ["a", "user says", "b"], [-1.0, None, -1.0], [-2.0, None, -2.0])
    tokens = page_data([trace], "")["traces"][0]["tokens"]
    assert tokens["written"] == [1, 0, 1]
    assert tokens["logp"] == [-1, None, -1]
    assert tokens["prefix_value"] == [0.5, 0.5, 1]
    assert shares(trace, CHANNELS["implicit_reward"]) == [1, 0, 1]


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (None, None),
        (float("nan"), None),
        (float("-inf"), None),
        (0.0, 0),
        (-0.0, 0),
        (3.0, 3),
        (-12.3456789, -12.3457),
        (0.000123456789, 0.00012346),
        (1e-12, 1e-12),
        (1234.56789, 1234.5679),
    ],
)
def test_numbers_are_short(number, written):
    assert short(number) == written
    assert len(json.dumps(short(number))) <= 10


def test_channels_are_coloured_by_what_they_say():
    """Largest sizes: reward 1.0 of the rejected trace; surprisal 2.4, drawn as negative."""
    rejected = hand_made_pair()[1]
    assert shares(rejected, CHANNELS["implicit_reward"]) == pytest.approx([0, 0.1, -1, -0.2, -0.3])
    drawn = shares(rejected, CHANNELS["policy_surprisal"])
    assert drawn == pytest.approx([-0.1 / 2.4, -0.2 / 2.4, -1, -1 / 2.4, -0.8 / 2.4])
    assert shares(rejected, CHANNELS["implicit_reward"], 2.0) == pytest.approx([0, 0.05, -0.5, -0.1, -0.15])
    assert largest(hand_made_pair(), CHANNELS["policy_surprisal"]) == 2.4
    assert largest([], CHANNELS["policy_surprisal"]) == 0
    values = [CHANNELS["reference_surprisal"].value(token) for token in rejected.tokens]
    assert values == pytest.approx([0.1, 0.4, 0.4, 0.6, 0.2])


def test_an_unknown_channel_is_named_with_its_neighbours():
    with pytest.raises(UserError, match="implicit_rewards") as caught:
        find_channel("implicit_rewards", hand_made_pair()[0])
    assert "Did you mean 'implicit_reward'?" in caught.value.hint


def test_texts_pass_through_untouched():
    trace = make_trace("1", list(HOSTILE), [-1.0] * len(HOSTILE), [-1.0] * len(HOSTILE), prompt=HOSTILE[0])
    data = page_data([trace], HOSTILE[0])
    assert "".join(data["traces"][0]["tokens"]["text"]) == trace.response
    assert (data["title"], data["traces"][0]["prompt"]) == (HOSTILE[0], HOSTILE[0])


def test_five_thousand_tokens_are_written_in_a_third_of_a_megabyte_each_thousand():
    trace = long_trace()
    size = len(json.dumps(page_data([trace], ""), separators=(",", ":")))
    assert size < 5000 * 333
    assert size < len(json.dumps(trace.to_dict())) / 4


def test_an_empty_page_and_an_empty_response_have_data():
    assert page_data([], "none")["rows"] == []
    empty = page_data([make_trace("1", [], [], [])], "")
    assert empty["rows"][0]["total"] == 0
    assert empty["rows"][0]["worst"] == {"word": 0}


def test_a_pair_that_a_reward_model_alone_has_read_has_its_margin():
    """Rewards 2 and −1.5; the least reward is −1.5 at a token, at a word's end and at a sentence's."""
    data = page_data([without_policy(trace) for trace in judged_pair()], "")
    (row,) = data["rows"]
    assert (row["total"], row["margin"]) == (2, 3.5)
    assert row["worst"] == {"token": -1.5, "word": -1.5, "sentence": -1.5}
    (pair,) = data["pairs"]
    assert (pair["margin"], pair["shared"], pair["shares"]) == (3.5, 2, {})
    assert [channel["name"] for channel in data["channels"]] == ["reward", "reward/helpfulness", "reward/correctness"]
    assert data["models"][data["traces"][0]["reward_model"]]["path"] == "judge"


def test_beside_a_policy_rows_have_its_numbers():
    data = page_data(judged_pair(), "")
    assert (data["rows"][0]["total"], data["rows"][0]["margin"]) == (0.7, 2.1)
    assert len(data["channels"]) == 7
    assert find_channel(None, judged_pair()[0]).name == "implicit_reward"
    assert find_channel("reward/correctness", judged_pair()[1]).value(judged_pair()[1].tokens[4]) == -1.0


ROUNDED = [
    0.0,
    -0.0,
    1.0,
    -7.0,
    0.5,
    0.1,
    0.09999999,
    0.0999995,
    1e-5,
    1e-4,
    0.00012345,
    0.000123455,
    123.45678,
    1e-20,
    5e-324,
]


@settings(max_examples=share_of(300))
@given(numbers=lists(floats(allow_subnormal=True), max_size=20), shift=integers(-8, 8))
@example(numbers=[*ROUNDED, math.nan, math.inf, 1e9, 123456789.12345, 1e300, 2.00005, 0.30005, 1.00015], shift=0)
def test_a_column_is_shortened_as_each_of_its_numbers(numbers, shift):
    """Also halves of the last digit, in decimals that a float is just above or below."""
    some = [*numbers, *(round(number, 5) * 10.0**shift for number in numbers if abs(number) < 1e6)]
    found = shortened(np.array(some, np.float64))
    want = [short(number) for number in some]
    assert list(map(repr, found)) == list(map(repr, want))
