"""Two responses to one prompt: what they share, where they part, and what earns the margin; by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_builders import make_trace

from tokenq.errors import UserError
from tokenq.records.examples import Response
from tokenq.score.compare import compare
from tokenq.score.spans import LEVELS, spans_of

CHOSEN = make_trace(
    ("It", 0.5), (" is", 0.25), (" four", 2.0), (".", 1.0), ("", 0.5), side="chosen",
    levels=[("sentence", 0, 5), ("word", 0, 1), ("word", 1, 2), ("word", 2, 5)],
)  # fmt: skip
REJECTED = make_trace(
    ("It", 0.5), (" is", 0.25), (" five", -3.0), (" I", 0.5), (" say", -1.0), ("", 0.0), side="rejected",
    levels=[("sentence", 0, 6), ("word", 0, 1), ("word", 1, 2), ("word", 2, 3), ("word", 3, 4), ("word", 4, 6)],
)  # fmt: skip


def test_a_pair_by_hand():
    """Totals are 4.25 and −2.75; what comes after "It is" sets them apart: 3.5 against −3.5."""
    found = compare(CHOSEN, REJECTED)
    assert (found.chosen, found.rejected) == (CHOSEN, REJECTED)
    assert found.margin == pytest.approx(7.0)
    assert (found.shared, found.parts_at) == (2, 5)
    assert [(share.side, share.span.level, share.gain) for share in found.shares] == [
        ("chosen", "sentence", 3.5),
        ("rejected", "sentence", 3.5),
    ]


def test_the_words_that_earn_the_margin():
    found = compare(CHOSEN, REJECTED, "word")
    earned = [(share.side, share.span.first, share.gain) for share in found.shares]
    assert earned == [
        ("chosen", 2, 3.5),
        ("rejected", 2, 3.0),
        ("rejected", 4, 1.0),
        ("rejected", 3, -0.5),
    ]


def test_responses_that_share_nothing():
    one = make_trace(("a", 1.0), ("", 2.0), side="chosen", levels=[("word", 0, 2)])
    other = make_trace(("b", -1.0), ("", 0.5), side="rejected", levels=[("word", 0, 2)])
    found = compare(one, other)
    assert (found.shared, found.parts_at, found.margin) == (0, 0, 3.5)
    assert [share.gain for share in found.shares] == [3.0, 0.5]


def test_a_response_that_goes_on_where_the_other_ends():
    one = make_trace(("a", 1.0), (" b", 2.0), side="chosen", levels=[("word", 0, 1), ("word", 1, 2)])
    other = make_trace(("a", 1.0), side="rejected", terminal=False, levels=[("word", 0, 1)])
    found = compare(one, other)
    assert (found.shared, found.parts_at, found.margin) == (1, 1, 2.0)
    assert [(share.side, share.gain) for share in found.shares] == [("chosen", 2.0)]


def test_tokens_that_are_shared_may_begin_different_characters():
    """ "é" is C3 A9 and "è" C3 A8: the first byte is shared, no character is."""
    one = make_trace(("x", 0.5), ("é", 1.0, 195), ("", 2.0, 169), side="chosen", levels=[("word", 0, 3)])
    other = make_trace(("x", 0.5), ("è", 1.0, 195), ("", -2.0, 168), side="rejected", levels=[("word", 0, 3)])
    found = compare(one, other)
    assert (found.shared, found.parts_at, found.margin) == (2, 1, 4.0)
    assert [share.gain for share in found.shares] == [2.0, 2.0]


def test_stretches_of_several_tokens_are_shared_when_text_and_credit_are():
    """Models with different tokenizers: such stretches have no token id."""
    same = make_trace(("ab", 1.0, None), ("cd", 2.0, None), side="chosen")
    other = make_trace(("ab", 1.0, None), ("ce", 2.0, None), side="rejected")
    assert (compare(same, other).shared, compare(same, other).parts_at) == (1, 2)
    parted = make_trace(("ab", 1.5, None), ("cd", 2.0, None), side="rejected")
    assert compare(same, parted).shared == 0


def test_without_spans_there_are_no_shares():
    found = compare(make_trace(("a", 1.0), side="chosen"), make_trace(("b", 0.0), side="rejected"))
    assert (found.margin, found.shares) == (1.0, ())


def test_the_level_is_the_same_for_both():
    """A pattern that only the rejected response has does not make its shares those of another level."""
    one = make_trace(("a", 1.0), side="chosen", levels=[("word", 0, 1)])
    other = make_trace(("7", 0.5), side="rejected", levels=[("regex", 0, 1), ("word", 0, 1)])
    assert {share.span.level for share in compare(one, other).shares} == {"word"}
    assert [share.side for share in compare(one, other, "regex").shares] == ["rejected"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"prompt": "R?"}, "row 1/chosen and row 1/rejected answer different prompts"),
        ({"policy": {"path": "other"}}, "scored by different models"),
        ({"reference": {"path": "other"}}, "scored by different models"),
        ({"beta": 0.2}, "scored by different models"),
        ({"reward_model": {"path": "other"}}, "scored by different models"),
    ],
)
def test_what_is_on_no_common_scale_is_refused(changed, says):
    with pytest.raises(UserError, match=says):
        compare(CHOSEN, make_trace(("It", 0.5), side="rejected", **changed))


def test_a_level_that_neither_has_is_refused():
    with pytest.raises(UserError, match="'line'") as caught:
        compare(CHOSEN, REJECTED, "line")
    assert "sentence, word" in caught.value.hint


some_pieces = st.lists(st.tuples(st.sampled_from(["a", " b", ". ", "\n", "é", ""]), st.floats(-3, 3)), max_size=8)


@pytest.mark.parametrize("level", LEVELS)
@given(common=some_pieces, first=some_pieces, second=some_pieces)
def test_the_shares_of_a_level_that_parts_the_text_are_the_margin(level, common, first, second):
    def made(side, rest):
        trace = make_trace(*common, *rest, ("", 1.0), side=side)
        spans = spans_of(LEVELS[level], trace.tokens, Response(trace.response))
        return make_trace(*common, *rest, ("", 1.0), side=side, spans=tuple(spans))

    found = compare(made("chosen", first), made("rejected", second), level)
    # Tokens of the same piece have the same id here, and may differ in their reward behind the common beginning.
    apart = sum(
        one.implicit_reward - other.implicit_reward
        for one, other in zip(found.chosen.tokens[: found.shared], found.rejected.tokens, strict=False)
    )
    assert found.shared >= len(common)
    assert sum(share.gain for share in found.shares) == pytest.approx(found.margin - apart, abs=1e-9)
    assert found.chosen.response[: found.parts_at] == found.rejected.response[: found.parts_at]
