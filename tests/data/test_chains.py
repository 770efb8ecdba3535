"""Chains of summaries as rows: by step, by votes, of one length; what is left out is counted."""

import pytest

from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.errors import UserError


def chain(**columns):
    row = {"prompt": "Say it.", "summaries": [" a b", " a b c", " a b c d", " a b c d e"]}
    return [Row({name: one for name, one in (row | columns).items() if one is not None}, "row 1")]


def sides(result):
    return [tuple(one.content.strip() for one in example.responses) for example in result.examples]


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        ("best_worst", [("a b c d e", "a b")]),
        ("adjacent", [("a b c", "a b"), ("a b c d", "a b c"), ("a b c d e", "a b c d")]),
    ],
)
def test_steps_make_pairs(pairing, expected):
    assert sides(read_examples(chain(), pairing=pairing)) == expected


def test_every_later_step_over_every_earlier_one():
    result = read_examples(chain(), pairing="all", selection="margins")
    assert sorted(one.margin for one in result.examples) == [1, 1, 1, 2, 2, 3]  # steps apart
    assert len(sides(result)) == 6


def test_votes_decide_and_ties_among_them_make_no_pair():
    """Steps 1 to 4 with 1, 3, 1 and 0 votes: step 2 beats all, and 1 and 3 beat 4."""
    result = read_examples(chain(votes=[2, 2, 1, 2, 3]), pairing="votes", selection="margins")
    assert {(*both, one.margin) for both, one in zip(sides(result), result.examples, strict=True)} == {
        ("a b c", "a b", 2),
        ("a b c", "a b c d", 2),
        ("a b c", "a b c d e", 3),
        ("a b", "a b c d e", 1),
        ("a b c d", "a b c d e", 1),
    }


def test_pairs_of_one_length_are_taken_and_others_counted():
    """Two to five tokens: neighbours differ by 1/2, 1/3 and 1/4 of the shorter one."""
    result = read_examples(chain(), pairing="adjacent", same_length=0.34)
    assert sides(result) == [("a b c d", "a b c"), ("a b c d e", "a b c d")]
    assert result.dropped == {"lengths that differ": 1}
    with pytest.raises(UserError, match="3 lengths that differ"):
        read_examples(chain(), pairing="adjacent", same_length=0.05)


def test_pairs_that_the_data_have_are_held_to_one_length_too():
    rows = [
        Row({"prompt": "p", "chosen": "a b c", "rejected": word}, f"row {n}") for n, word in enumerate(["x", "x y z"])
    ]
    result = read_examples(rows, same_length=0.05)
    assert sides(result) == [("a b c", "x y z")]
    assert result.dropped == {"lengths that differ": 1}


def test_a_ranking_and_a_demonstration():
    ranked = read_examples(chain(), selection="ranked")
    assert sides(ranked) == [("a b c d e", "a b c d", "a b c", "a b")]
    assert sides(read_examples(chain(), selection="responses")) == [("a b c d e",)]
    by_votes = read_examples(chain(votes=[3, 3, 2]), selection="responses", pairing="votes")
    assert sides(by_votes) == [("a b c d",)]


def test_columns_of_the_published_data():
    row = {
        "article": "Long ago.",
        "highlights": "It was.",
        "prediction": '["One.", "Two."]',
        "annotations": [2, 2, 1, 2],
    }
    result = read_examples([Row(row, "row 1")], pairing="votes")
    assert result.examples[0].prompt == "Long ago.\n\nTL;DR:"
    assert [one.content for one in result.examples[0].responses] == [" Two.", " One."]


def test_a_summary_that_says_nothing_new_is_left_out_and_counted():
    result = read_examples(chain(summaries=["a b", "a  b ", "", "a b c"]), pairing="adjacent")
    assert sides(result) == [("a b c", "a b")]
    assert result.dropped == {"a summary that repeats the one before": 1, "a summary without text": 1}


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"votes": [1, 5]}, "votes for step 5, and there are steps 1 to 4"),
        ({"votes": [0]}, "votes for step 0"),
        ({"votes": [1.5]}, "no whole number"),
        ({"votes": [None]}, "has an empty place"),
        ({"summaries": ["a", 1]}, "is no list of texts"),
        ({"summaries": ["", " "]}, "no summary of the chain has a text"),
        ({"prompt": None, "article": 7.5}, "column 'article' holds float, not text"),
    ],
)
def test_what_is_no_chain(columns, says):
    with pytest.raises(UserError, match=says):
        read_examples(chain(**columns), selection="all")


def test_votes_are_asked_for_where_there_are_none():
    with pytest.raises(UserError, match="has no column 'votes' or 'annotations'"):
        read_examples(chain(), pairing="votes")


def test_an_article_without_a_chain_is_counted():
    rows = [*chain(), *chain(summaries=[], problem="there is no list of records in it")]
    assert read_examples(rows).dropped == {"an article without a chain": 1}


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_any_number_of_steps_is_a_chain(steps):
    texts = [f" {'a ' * n}b" for n in range(steps)]
    result = read_examples(chain(summaries=texts), selection="all")
    assert [one.score for one in result.examples[0].responses] == [float(n) for n in range(1, steps + 1)]
