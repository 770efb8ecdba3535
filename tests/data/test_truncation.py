"""Policies for what is too long, on ids written by hand."""

import numpy as np
import pytest
from toy_tokenizers import words_tokenizer

from tokenq.data.tokenize import tokenize
from tokenq.data.truncation import LONG_PROMPT, LONG_ROW, NO_ROOM, TRUNCATIONS, LengthLimits
from tokenq.errors import UserError
from tokenq.records.examples import Example, Response, TokenGroup, TokenResponse


def group(prompt, *responses):
    made = tuple(
        TokenResponse(np.array(ids, np.int32), np.array([token != 5 for token in ids], np.bool_), True)
        for ids in responses
    )
    return TokenGroup(np.array(prompt, np.int32), made, len(made) == 2, "row 1")


GROUP = group([0, 1, 2, 3], [10, 11, 5, 12], [20, 21])


def ids(found):
    return found if isinstance(found, str) else [found.prompt_ids.tolist(), *(r.ids.tolist() for r in found.responses)]


WHOLE = ids(GROUP)


@pytest.mark.parametrize(
    ("policy", "longest", "prompt", "expected"),
    [
        # 4 tokens of prompt and 4 of the longer response are 8; one leading token (BOS) is kept.
        ("drop", 8, None, WHOLE),
        ("drop", 7, None, LONG_ROW),
        ("drop", 4, None, LONG_PROMPT),
        ("drop", 8, 3, LONG_PROMPT),
        ("drop", None, 3, LONG_PROMPT),
        ("drop", None, None, WHOLE),
        ("prompt_left", 8, None, WHOLE),
        ("prompt_left", 7, None, [[0, 2, 3], *WHOLE[1:]]),
        ("prompt_left", 6, None, [[0, 3], *WHOLE[1:]]),
        ("prompt_left", 5, None, NO_ROOM),
        ("prompt_left", 8, 3, [[0, 2, 3], *WHOLE[1:]]),
        ("prompt_left", None, 2, [[0, 3], *WHOLE[1:]]),
        ("response_right", 8, None, WHOLE),
        ("response_right", 7, None, [[0, 1, 2, 3], [10, 11, 5], [20, 21]]),
        ("response_right", 5, None, [[0, 1, 2, 3], [10], [20]]),
        ("response_right", 4, None, LONG_PROMPT),
        ("response_right", 8, 3, LONG_PROMPT),
        ("both", 8, None, WHOLE),
        ("both", 7, None, [[0, 2, 3], *WHOLE[1:]]),
        ("both", 6, None, [[0, 2, 3], [10, 11, 5], [20, 21]]),  # the prompt may have half of the whole
        ("both", 6, 2, [[0, 3], *WHOLE[1:]]),
        ("both", 4, None, [[0, 3], [10, 11], [20, 21]]),
        ("both", 2, None, NO_ROOM),
    ],
)
def test_policies_by_hand(policy, longest, prompt, expected):
    assert ids(TRUNCATIONS[policy](GROUP, LengthLimits(longest, prompt, kept=1))) == expected


def test_a_cut_response_is_not_terminal_and_keeps_its_mask():
    cut = TRUNCATIONS["response_right"](GROUP, LengthLimits(7, None, kept=1))
    assert [response.terminal for response in cut.responses] == [False, True]
    assert cut.responses[0].mask.tolist() == [True, True, False]


@pytest.mark.parametrize("policy", TRUNCATIONS)
@pytest.mark.parametrize("longest", [None, 2, 3, 4, 5, 6, 7, 8, 9])
@pytest.mark.parametrize("prompt", [None, 1, 2, 3, 4])
def test_whatever_is_kept_keeps_the_limits(policy, longest, prompt):
    found = TRUNCATIONS[policy](GROUP, LengthLimits(longest, prompt, kept=1))
    if isinstance(found, str):
        return
    assert 1 <= len(found.prompt_ids) <= (prompt or 4)
    assert found.prompt_ids[0] == 0
    for response, whole in zip(found.responses, GROUP.responses, strict=True):
        assert len(response.ids) >= 1
        assert len(found.prompt_ids) + len(response.ids) <= (longest or 8)
        assert response.terminal == (len(response.ids) == len(whole.ids))
        assert len(response.mask) == len(response.ids)


WORDS = "q w chosen rejected more"


def example(prompt, chosen, rejected, where):
    return Example(prompt, (Response(chosen), Response(rejected)), True, where)


EXAMPLES = [
    example("q", " chosen", " rejected", "row 1"),
    example("q w w w", " chosen", " rejected", "row 2"),
    example("q", " more more chosen", " more more rejected", "row 3"),
]


def run(**options):
    return tokenize(EXAMPLES, words_tokenizer(WORDS), **options)


def test_long_rows_are_dropped_and_counted():
    summary = run(max_length=4).summary
    assert summary.dropped == {LONG_PROMPT: 1, LONG_ROW: 1}
    assert (summary.pairs, summary.rows, summary.truncated_responses) == (1, 3, 0)


def test_cut_rows_are_counted_and_equal_ones_dropped():
    data = run(max_length=3, truncation="response_right")
    assert data.summary.dropped == {LONG_PROMPT: 1, "chosen equals rejected": 1}
    data = run(max_length=5, truncation="response_right")
    assert data.summary.truncated_responses == 2 + 0  # row 2: EOS is cut from both; row 3 just fits
    assert [[r.terminal for r in one.responses] for one in data.groups] == [[True] * 2, [False] * 2, [True] * 2]
    data = run(max_length=4, truncation="prompt_left")
    assert data.groups[1].prompt_ids.tolist() == [8, 8]
    assert (data.summary.truncated_prompts, data.summary.truncated_responses) == (1, 0)
    assert data.summary.dropped == {NO_ROOM: 1}


def test_a_response_cut_to_what_others_wrote_is_dropped():
    transcript = "\n\nHuman: q\n\nAssistant:"
    rows = [
        example(transcript, " \n\nHuman: w\n\nAssistant: chosen", " rejected", "row 1"),
        EXAMPLES[0],
    ]
    data = tokenize(rows, words_tokenizer(f"{WORDS} Human: Assistant:"), max_length=4, truncation="response_right")
    assert data.summary.dropped == {"no token of the policy in a response": 1}


def test_long_rows_can_be_an_error_with_the_row_and_the_numbers():
    with pytest.raises(UserError) as caught:
        run(max_length=4, truncation="error")
    assert caught.value.message == (
        "row 2: the prompt has 4 tokens and the longest response 2, over the limit (max_length 4). "
        "In all 2 rows are too long."
    )
    with pytest.raises(UserError, match="max_prompt_length 3"):
        run(max_length=9, max_prompt_length=3, truncation="error")
    assert len(run(max_length=6, truncation="error").groups) == 3


@pytest.mark.parametrize(
    "options", [{"max_length": 1}, {"max_length": None, "max_prompt_length": 0}, {"max_length": 0}]
)
def test_limits_that_fit_nothing_are_an_error(options):
    with pytest.raises(UserError, match="at least"):
        run(**options)


def test_an_unknown_policy_names_the_known():
    with pytest.raises(UserError, match="Unknown truncation 'left'") as caught:
        run(max_length=4, truncation="left")
    assert "prompt_left" in caught.value.hint
