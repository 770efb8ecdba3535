"""The digest of a data set: equal if and only if what is learnt from it is equal."""

from dataclasses import fields, replace

import numpy as np
import pytest
from toy_tokenizers import bytes_tokenizer

from tokenq.data.digest import data_digest, group_digest
from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.tokenize import tokenize
from tokenq.records.examples import Response, TokenGroup, TokenResponse

GIVEN = Response("said", True, 1.0, ("a\n", "b"), (True, False), ratings={"kind": 2.0}, scale=(0, 4))
GIVEN = replace(GIVEN, token_ids=(5, 6, 2), token_numbers={"advantages": (0.5,)})
RESPONSE = TokenResponse(
    np.array([5, 6, 2], np.int32),
    np.array([True, False, True]),
    terminal=True,
    role="chosen",
    token_columns={"contrast": np.array([0.5, 0.0, 1.0], np.float32), "steps": np.array([0, 1, 1], np.int32)},
    response_columns={"rewards": 0.5, "ratings": np.array([1.0, np.nan], np.float32)},
    given=GIVEN,
)
GROUP = TokenGroup(np.array([1, 7], np.int32), (RESPONSE, RESPONSE), True, "a.jsonl, row 1", 2.0)

OTHERS = {
    "ids": np.array([5, 7, 2], np.int32),
    "mask": np.array([True, True, True]),
    "terminal": False,
}
COLUMNS = {
    "token_columns": {
        "contrast": np.array([0.5, 0.25, 1.0], np.float32),
        "steps": np.array([0, 0, 1], np.int32),
    },
    "response_columns": {"rewards": 0.25, "ratings": np.array([1.0, 2.0], np.float32)},
}
GIVEN_OTHERS = {
    "label": False,
    "score": 2.0,
    "steps": ("a", "\nb"),
    "step_labels": (False, False),
    "ratings": {"kind": 3.0},
    "scale": (0, 5),
    "token_numbers": {"advantages": (0.5, 1.0, 1.0)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_field_of_a_response_counts(name):
    other = replace(GROUP, responses=(replace(RESPONSE, **{name: OTHERS[name]}), RESPONSE))
    assert group_digest(other) != group_digest(GROUP)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, columns in COLUMNS.items() for name in columns])
def test_every_column_counts(kind, name):
    """Without a column is not the same as with any, and a column of another name is another one."""
    columns = getattr(RESPONSE, kind)
    others = [{**columns, name: COLUMNS[kind][name]}, {k: v for k, v in columns.items() if k != name}]
    others.append({**others[1], "other": columns[name]})
    changed = [replace(GROUP, responses=(replace(RESPONSE, **{kind: one}), RESPONSE)) for one in others]
    assert len({group_digest(one) for one in (GROUP, *changed)}) == 4


def test_a_label_counts():
    """None is not the same as a label."""
    given = [replace(GIVEN, label=label) for label in (True, False, None)]
    assert len({group_digest(replace(GROUP, responses=(replace(RESPONSE, given=g), RESPONSE))) for g in given}) == 3


@pytest.mark.parametrize("name", GIVEN_OTHERS)
def test_every_number_of_the_data_counts(name):
    given = replace(GIVEN, **{name: GIVEN_OTHERS[name]})
    other = replace(GROUP, responses=(replace(RESPONSE, given=given), RESPONSE))
    assert group_digest(other) != group_digest(GROUP)


def test_no_field_is_forgotten():
    assert {field.name for field in fields(TokenResponse)} == {*OTHERS, *COLUMNS, "given", "role"}
    # What a response says is in its ids, its end in those of the tokens; roles follow from order, pair and label. Ids
    # that were sampled decide whether a response is kept, and nothing else.
    assert {field.name for field in fields(Response)} == {*GIVEN_OTHERS, "content", "goes_on", "role", "token_ids"}
    assert {field.name for field in fields(TokenGroup)} == {"prompt_ids", "responses", "is_pair", "where", "margin"}


def test_prompt_sides_order_and_margin_count_and_the_place_does_not():
    ids = replace(GROUP, prompt_ids=np.array([1, 8], np.int32))
    others = [ids, replace(GROUP, is_pair=False), replace(GROUP, margin=1.0), replace(GROUP, margin=None)]
    others.append(replace(GROUP, responses=GROUP.responses[:1]))
    assert len({group_digest(one) for one in [GROUP, *others]}) == 6
    second = replace(GROUP, responses=(replace(RESPONSE, given=replace(GIVEN, label=False)), RESPONSE))
    assert group_digest(second) != group_digest(replace(second, responses=second.responses[::-1]))
    assert data_digest([GROUP, ids]) != data_digest([ids, GROUP])
    same = replace(GROUP, where="elsewhere, row 9", prompt_ids=GROUP.prompt_ids.astype(np.int64))
    assert group_digest(same) == group_digest(GROUP)


def _read(want, *values):
    rows = [Row(dict(one), f"row {number}") for number, one in enumerate(values)]
    examples = read_examples(rows, selection=want, bad_rows="error").examples
    return data_digest(tokenize(examples, bytes_tokenizer(), max_length=None).groups)


KTO = {"prompt": "q", "completion": " c", "label": True}
PAIR = {"prompt": "q", "chosen": " c", "rejected": " r", "score_chosen": 2, "score_rejected": 1, "margin": 3}
STEPS = {"prompt": "q", "completions": ["a", "b"], "labels": [True, False]}
RATED = {"prompt": "q", "completion": " c", "ratings": {"kind": 1, "true": 2}}
CHAT = {"role": "assistant", "content": "c"}


@pytest.mark.parametrize(
    ("want", "row", "change"),
    [
        ("labelled", KTO, {"label": False}),
        ("rewarded", KTO | {"reward": 1}, {"reward": 2}),
        ("margins", PAIR, {"margin": 2}),
        ("rated", RATED, {"ratings": {"kind": 2, "true": 2}}),
        ("rated", RATED, {"ratings": {"kind": 1}}),
        ("steps", STEPS, {"labels": [True, True]}),
        ("pairs", PAIR, {"rejected": " s"}),
    ],
)
def test_what_is_learnt_from_tells_data_apart(want, row, change):
    assert _read(want, row) != _read(want, row | change)


@pytest.mark.parametrize(
    ("want", "row", "change"),
    [
        ("pairs", PAIR, {"margin": 2, "score_chosen": 9}),
        ("labelled", PAIR, {"margin": 2}),
        ("margins", PAIR, {"score_chosen": 9}),
        ("responses", KTO, {"id": 7, "source": "elsewhere"}),
        ("labelled", KTO, {"label": "yes"}),
        ("rewarded", KTO | {"reward": 1}, {"reward": "1.0"}),
    ],
)
def test_what_is_not_learnt_from_does_not(want, row, change):
    assert _read(want, row) == _read(want, row | change)
