"""Weights of tokens that the data give: by token, by stretch of text, of other tokens, and what is no weight."""

import math

import pytest
from tiny import tiny_tokenizer

from tokenq.core.token_weights import COLUMN
from tokenq.data.digest import data_digest
from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.stretches.weights import given_weights, with_given_weights
from tokenq.data.tokenize import tokenize
from tokenq.errors import UserError

# "ab" and "c" by the bytes of a tokenizer, with EOS: three and two tokens.
PAIR = {"prompt": "q", "chosen": "ab", "rejected": "c"}


def tokenised(mine, max_length=80, **more):
    rows = [Row({**PAIR, "mine": mine, **more}, "train.jsonl, row 1")]
    examples = with_given_weights(read_examples(rows, selection="pairs").examples, rows, "mine")
    options = {} if max_length == 80 else {"truncation": "response_right"}
    return tokenize(examples, tiny_tokenizer("bytes"), max_length=max_length, with_texts=True, **options)


def weights(mine, max_length=80, **more):
    (group,) = given_weights(tokenised(mine, max_length, **more))
    return [response.token_columns[COLUMN].tolist() for response in group.responses]


def test_a_number_for_each_token():
    assert weights({"chosen": [0.5, 2, 0], "rejected": [1, 3]}) == [[0.5, 2, 0], [1, 3]]


def test_an_eos_that_was_added_weighs_1():
    assert weights({"chosen": [0.5, 2], "rejected": [3]}) == [[0.5, 2, 1], [3, 1]]


def test_stretches_of_the_text():
    """Tokens in no stretch weigh 1, those in two what the last says; EOS has no text."""
    found = weights({"chosen": [[0, 2, 0.5], [1, 2, 3]], "rejected": [[0, 9, 2]]})
    assert found == [[0.5, 3, 1], [2, 1]]


def test_a_token_that_a_stretch_cuts_through_has_its_weight():
    tokenizer = tiny_tokenizer("bytes")
    rows = [Row({**PAIR, "chosen": "aé", "mine": {"chosen": [[1, 2, 2]], "rejected": [[0, 1, 1]]}}, "row 1")]
    examples = with_given_weights(read_examples(rows, selection="pairs").examples, rows, "mine")
    (group,) = given_weights(tokenize(examples, tokenizer, max_length=80, with_texts=True))
    assert group.responses[0].token_columns[COLUMN][:2].tolist() == [1, 2]  # a, and the first byte of é


def test_the_ids_beside_the_weights_are_held_against_the_tokens():
    ids = [
        response.ids.tolist() for response in tokenised({"chosen": [1] * 3, "rejected": [1] * 2}).groups[0].responses
    ]
    right = {"chosen": {"weights": [1, 2, 3], "token_ids": ids[0]}, "rejected": [1, 1]}
    assert weights(right)[0] == [1, 2, 3]
    wrong = {"chosen": {"weights": [1, 2, 3], "token_ids": [ids[0][0], 0, ids[0][2]]}, "rejected": [1, 1]}
    with pytest.raises(UserError, match=r"row 1: token weights of the chosen response .*are others \(token 2\)"):
        weights(wrong)
    short = {"chosen": {"weights": [1, 2, 3], "token_ids": ids[0][:2]}, "rejected": [1, 1]}
    with pytest.raises(UserError, match=r"3 weights of 2 tokens"):
        weights(short)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_weights_of_another_tokenizer_are_refused(count):
    with pytest.raises(UserError, match=f"row 1: .* not of its 3 tokens: there are {count} weights"):
        weights({"chosen": [1.0] * count, "rejected": [1, 1]})


def test_a_response_that_was_cut_keeps_the_first_of_its_weights():
    found = weights({"chosen": [2, 3, 4, 5, 6], "rejected": [1, 7]}, max_length=4, chosen="abcd")
    assert found == [[2, 3], [1, 7]]


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        ({"chosen": [1, math.nan, 1], "rejected": [1, 1]}, r"row 1: mine of the chosen response holds nan"),
        ({"chosen": [1, math.inf, 1], "rejected": [1, 1]}, r"holds inf"),
        ({"chosen": [1, None, 1], "rejected": [1, 1]}, r"holds None"),
        ({"chosen": [1, True, 1], "rejected": [1, 1]}, r"holds True"),
        ({"chosen": [1, -0.5, 1], "rejected": [1, 1]}, r"holds -0.5"),
        ({"chosen": [1, 1, 1], "rejected": [0, 0]}, r"row 1: all token weights of the rejected response are 0"),
        ({"chosen": [], "rejected": [1, 1]}, r"is no list of weights"),
        ({"chosen": "111", "rejected": [1, 1]}, r"is no list of weights"),
        ({"chosen": [1, 1, 1]}, r"mine is no record of chosen and rejected weights"),
        ([1, 1, 1], r"mine is no record of chosen and rejected weights"),
        ({"chosen": [[1, 1, 2.0]], "rejected": [1, 1]}, r"a stretch of token weights is \[1, 1\)"),
    ],
)
def test_what_is_no_weight_is_refused(mine, said):
    with pytest.raises(UserError, match=said):
        weights(mine)


def test_other_weights_are_other_data():
    """So that a run is not resumed with them; and 1 is what is there without any."""
    found = {data_digest(tokenised({"chosen": [w, 1, 1], "rejected": [1, 1]}).groups) for w in (1, 2)}
    assert len(found) == 2
