"""What reward models learn from: margins, ratings by attribute, labels of steps, and what is refused of each."""

import json

import numpy as np
import pytest
from tiny import CHATML, tiny_tokenizer

from tokenq.core.losses.inputs import INPUTS, Scene
from tokenq.core.packing import at_own_state, last_token, pack, step_ends
from tokenq.core.tensors import Outputs
from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.signals import rated_attributes, with_margins, with_ratings
from tokenq.data.stretches.steps import step_stretches, with_step_labels
from tokenq.data.tokenize import tokenize
from tokenq.errors import UserError

PAIR = {"prompt": "q", "chosen": " c", "rejected": " r"}


def rows(*values):
    return [Row(value, f"row {number}") for number, value in enumerate(values, 1)]


def margins(*values, **more):
    return [example.margin for example in read_examples(rows(*values), selection="margins", **more).examples]


def test_where_a_margin_comes_from():
    """A column, the scores, the ratings that a pair is made of, the strength of a preference."""
    assert margins(PAIR | {"margin": "2.5", "score_chosen": 9, "score_rejected": 1}) == [2.5]
    assert margins(PAIR | {"score_chosen": 9, "score_rejected": 1}) == [8.0]
    answers = {"prompt": "q", "answers": [{"answer": "a", "rank": 3}, {"answer": "b", "rank": 1}]}
    assert margins(answers) == [2.0]
    two = {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": -2}
    assert margins(two) == [2.0]
    three = [{"prompt": "q", "response": text, "helpfulness": n} for text, n in (("a", 0), ("b", 3), ("c", 4))]
    assert margins(*three, pairing="all") == [3.0, 4.0, 1.0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "row 1: the pair has no number in column 'margin'"),
        ({"margin": "large"}, "'large' is no finite number"),
        ({"score_chosen": 1, "score_rejected": 9}, "the chosen response is rated -8 above the rejected one"),
        ({"margin": float("inf")}, "inf is no finite number"),
    ],
)
def test_margins_that_are_none(values, said):
    with pytest.raises(UserError, match=said):
        margins(PAIR | values)
    if "margin" not in values:  # without a loss that reads it nobody minds
        assert read_examples(rows(PAIR | values)).examples


def test_margins_reach_the_batch():
    read = read_examples(rows(PAIR | {"margin": 2}, PAIR | {"margin": 0.5}), selection="margins")
    data = tokenize(read.examples, BYTES, max_length=20)
    actions = pack(with_margins(data.groups)).actions
    assert INPUTS["margin"].sources["data"](Scene(actions, Outputs())).tolist() == [2.0, 0.5]
    bare = tokenize(read_examples(rows(PAIR)).examples, BYTES, max_length=20).groups
    assert not pack(with_margins(bare)).actions.response_columns


BYTES = tiny_tokenizer("bytes")


def rated(*values):
    return read_examples(rows(*values), selection="rated")


def test_ratings_by_attribute():
    found = rated(
        {"prompt": "q", "response": "a", "helpfulness": 4, "correctness": None, "coherence": "3", "verbosity": ""},
        {"prompt": "q", "response": "b", "helpfulness": None, "correctness": None},
        {"prompt": "p", "response": "c", "helpfulness": 0, "complexity": 1},
    )
    first, _ = found.examples
    assert [dict(one.ratings) for one in first.responses] == [{"helpfulness": 4.0, "coherence": 3.0}]
    assert found.dropped["response without a rating"] == 1
    data = tokenize(found.examples, BYTES, max_length=20)
    assert rated_attributes(data.groups) == ["helpfulness", "coherence", "complexity"]
    groups = with_ratings(data.groups, ["coherence", "helpfulness"])
    assert len(groups) == 2
    got = pack([at_own_state(group, last_token) for group in groups]).actions.response_columns["ratings"].numpy()
    np.testing.assert_array_equal(got, [[3.0, 4.0], [np.nan, 0.0]])
    # The first row is not rated on complexity: it is left out.
    (group,) = with_ratings(data.groups, ["complexity"])
    assert (group.where, group.responses[0].response_columns["ratings"].tolist()) == ("row 3", [1.0])
    assert with_ratings(data.groups, ["kindness"]) == []


def test_ratings_of_other_formats():
    record = {"kind": 4, "short": None}
    for given in (record, json.dumps(record)):
        (example,) = rated({"prompt": "q:", "completion": " a", "ratings": given}).examples
        assert [dict(one.ratings) for one in example.responses] == [{"kind": 4.0}]
    aspects = {"honesty": {"Rating": "4"}, "truthfulness": {"Rating": "N/A"}}
    completions = [{"response": "a", "overall_score": 8.5, "annotations": aspects}]
    (example,) = rated({"instruction": "q", "completions": completions}).examples
    assert [dict(one.ratings) for one in example.responses] == [{"honesty": 4.0}]
    # A rating without a name.
    (example,) = rated(PAIR | {"score_chosen": 7, "score_rejected": 2}).examples
    assert [dict(one.ratings) for one in example.responses] == [{"score": 7.0}, {"score": 2.0}]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"helpfulness": 5}, r"row 1: helpfulness is 5, and its scale is 0 to 4"),
        ({"helpfulness": 1, "verbosity": -1}, r"verbosity is -1, and its scale is 0 to 4"),
        ({"helpfulness": None}, "no response of the row has a rating"),
        ({"helpfulness": "high"}, "the rating 'helpfulness' is 'high', not a number"),
        ({"helpfulness": True}, "the rating 'helpfulness' is True, not a number"),
        ({"ratings": {"kind": "inf"}}, "the rating 'kind' is 'inf', not a number"),
        ({"ratings": {"kind": None}}, "no response of the row has a rating"),
        ({"ratings": "good"}, "column 'ratings' holds no record"),
        ({"ratings": {"kind": "good"}}, "the rating 'kind' is 'good', not a number"),
    ],
)
def test_ratings_that_are_none(values, said):
    with pytest.raises(UserError, match=said):
        rated({"prompt": "q", "response": "a"} | values)


def test_ratings_of_ultrafeedback_have_their_own_scale():
    completions = [{"response": "a", "annotations": {"honesty": {"Rating": "0"}}}]
    with pytest.raises(UserError, match="honesty is 0, and its scale is 1 to 5"):
        rated({"instruction": "q", "completions": completions})


def stepped(*values, tokenizer=BYTES, style="as_given", **limits):
    examples = read_examples(rows(*values), selection="steps", style=style).examples
    return tokenize(examples, tokenizer, max_length=limits.pop("max_length", 60), with_texts=True, **limits)


STEPS = {"prompt": "q?", "completions": ["One.", "Two 2.", "Three."], "labels": [True, "false", 1]}


def labels_by_text(data):
    """Return the text up to each token at which a label stands, with the label."""
    groups = with_step_labels(data)
    lost = sum(len(group.responses) for group in data.groups) - sum(len(group.responses) for group in groups)
    found = []
    for group, texts in zip(groups, data.texts, strict=True):
        for response, text in zip(group.responses, texts, strict=True):
            labels = response.token_columns["step_labels"]
            for place in np.flatnonzero(labels >= 0):
                said = text.text[: text.ends[place]], bool(labels[place])
                found.append((*said, place == len(response.ids) - 1))
    return found, lost


def test_the_label_of_a_step_stands_at_its_last_token():
    """The last one at EOS, where a classifier reads the whole response."""
    want = [("One.\n", True, False), ("One.\nTwo 2.\n", False, False), ("One.\nTwo 2.\nThree.", True, True)]
    assert labels_by_text(stepped(STEPS)) == (want, 0)
    assert labels_by_text(stepped(STEPS, tokenizer=tiny_tokenizer("words", texts=["One.\nTwo 2.\nThree. q?"]))) == (
        want,
        0,
    )


def test_the_labels_of_steps_in_a_chat_template():
    tokenizer = tiny_tokenizer("bytes", chat_template=CHATML, eos="<|im_end|>")
    found, _ = labels_by_text(stepped(STEPS, tokenizer=tokenizer, style="chat", max_length=200))
    assert [label for _, label, _ in found] == [True, False, True]
    assert [text for text, *_ in found][:2] == ["One.\n", "One.\nTwo 2.\n"]
    assert found[2][2]


def test_a_step_that_was_cut_is_not_read():
    """A prompt of 4 tokens (BOS, "q?", newline) and 9 of 20: the first step has 5, the second is cut."""
    data = stepped(STEPS, max_length=13, truncation="response_right")
    assert labels_by_text(data) == ([("One.\n", True, False)], 0)
    data = stepped(STEPS, STEPS | {"completions": ["A", "B", "C"]}, max_length=8, truncation="response_right")
    (group,) = with_step_labels(data)
    assert (
        len(data.groups[0].responses) - len(group.responses) == 1
    )  # rows of one prompt are one group: its first response has no whole step left
    assert [response.token_columns["step_labels"].tolist() for response in group.responses] == [[-1, 1, -1, -1]]


def test_the_batch_reads_a_step_at_its_own_state():
    data = stepped(STEPS)
    groups = with_step_labels(data)
    batch = pack([at_own_state(group, step_ends) for group in groups])
    ids = groups[0].responses[0].ids
    ends = np.flatnonzero(groups[0].responses[0].token_columns["step_labels"] >= 0)
    assert batch.input_ids[batch.predictors].tolist() == ids[ends].tolist()
    assert (batch.predictors - len(groups[0].prompt_ids)).tolist() == ends.tolist()
    assert batch.actions.token_columns["step_labels"].tolist() == [1, 0, 1]


def test_the_batch_reads_a_response_at_its_last_token():
    """Of a pair: the state at each EOS, and no other token is a target."""
    data = tokenize(read_examples(rows(PAIR, PAIR | {"rejected": " long"})).examples, BYTES, max_length=20)
    batch = pack([at_own_state(group, last_token) for group in data.groups])
    assert batch.input_ids[batch.predictors].tolist() == [2] * 4
    assert batch.actions.responses.tolist() == [0, 1, 2, 3]
    assert len(batch.input_ids) == sum(group.n_tokens for group in data.groups)  # with the last token of each


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (STEPS | {"labels": [True, False]}, "row 1: 3 completions but 2 labels"),
        (STEPS | {"labels": [True, "perhaps", False]}, "label 'perhaps' is neither true nor false"),
        (STEPS | {"labels": [1, 0.5, 0]}, "label 0.5 is neither true nor false"),
        (STEPS | {"completions": [], "labels": []}, "no response of the row comes in steps"),
        ({"prompt": "q", "completion": "c", "label": True}, "no response of the row comes in steps"),
        ({"prompt": "q", "completion": "c"}, "not ones in steps"),
    ],
)
def test_steps_without_labels_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        stepped(values)


def test_stretches_of_steps():
    assert step_stretches("a\nbb\nc", ["a\n", "bb\n", "c"]) == [(0, 2), (2, 5), (5, 6)]
    assert step_stretches("a\nb", ["a\n", "bb\n", "c"]) == [(0, 2), (2, 3), (3, 3)]  # cut within the second
    assert step_stretches("a bb", ["a\n", "bb"]) == [(0, 1), (1, 4)]  # a template has trimmed the first
