"""Words, sentences, lines, paragraphs, steps, turns and patterns by hand; and for any text, that nothing is lost."""

from itertools import pairwise

import pytest
from examples import share_of
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_builders import make_tokens

from tokenq.errors import UserError
from tokenq.records.examples import Response
from tokenq.records.trace_tokens import tokens_of
from tokenq.score import spans as module
from tokenq.score.spans import LEVELS, find_cut

ANY = Response("")


def spans_of(cut, text, tokens, response):
    return list(module.spans_of(cut, tokens_of(tokens, text, 0.1), response))


def parts(level, text, response=ANY, tokens=()):
    """Return the stretches of a level as text."""
    return [text[start:end] for (start, end), _ in LEVELS[level].find(text, response, tokens_of(tokens, text, 0.1))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat sat.", ["The", " cat", " sat."]),
        ("  The cat ", ["  The", " cat "]),
        ("a\n\nb\tc\u3000d", ["a", "\n\nb", "\tc", "\u3000d"]),
        ("one", ["one"]),
        (" \n ", [" \n "]),
        ("", [""]),
    ],
)
def test_words_take_the_blanks_before_them(text, expected):
    assert parts("word", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is so. Is it? Yes!", ["It is so.", " Is it?", " Yes!"]),
        ("Pi is 3.14 and 3.5 is more. So.", ["Pi is 3.14 and 3.5 is more.", " So."]),
        ('He said "No." She left.', ['He said "No."', " She left."]),
        ("He said “No!” (Twice.) Then went…", ["He said “No!”", " (Twice.)", " Then went…"]),
        ("Really?! Wait... what?", ["Really?!", " Wait...", " what?"]),
        ("See a.b and www.c.org now.", ["See a.b and www.c.org now."]),
        ("First.\nSecond\nthird.\n\nFourth.", ["First.", "\nSecond\n", "third.", "\n\nFourth."]),
        ("End.  \n", ["End.  \n"]),
        ("\n\nHello. There", ["\n\nHello.", " There"]),
        ("天空。为什么？！“蓝。”好", ["天空。", "为什么？！", "“蓝。”", "好"]),
        ("no mark at all", ["no mark at all"]),
        ("", [""]),
    ],
)
def test_sentences_end_with_their_mark_or_their_line(text, expected):
    assert parts("sentence", text) == expected


def test_lines_are_lines_and_blank_ones_too():
    assert parts("line", "a\n\nb \n c") == ["a\n", "\n", "b \n", " c"]
    assert parts("line", "a\n") == ["a\n"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\n\nc\n \n\n d", ["a\nb\n\n", "c\n \n\n ", "d"]),
        ("\n\na\n\n", ["\n\na\n\n"]),
        ("a\nb", ["a\nb"]),
    ],
)
def test_paragraphs_are_parted_by_blank_lines(text, expected):
    assert parts("paragraph", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So:\nStep 1: add\nthem.\nStep 2. Done.", ["So:\n", "Step 1: add\nthem.\n", "Step 2. Done."]),
        ("\n  step 1) a\nSTEP 10: b", ["\n  step 1) a\n", "STEP 10: b"]),
        ("Schritt 1: a\nétape 2: b", ["Schritt 1: a\n", "étape 2: b"]),
        ("In step 1: no\nand so on", ["In step 1: no\n", "and so on"]),  # not at the beginning of a line
        ("2 + 2\n\n= 4\n", ["2 + 2\n", "\n= 4\n"]),
        ("all in one", ["all in one"]),
    ],
)
def test_steps_that_are_not_given_begin_with_their_number_or_are_lines(text, expected):
    assert parts("step", text) == expected


def labelled(text, steps, labels=()):
    found = LEVELS["step"].find(text, Response("", steps=steps, step_labels=labels), ())
    return [(text[start:end], label) for (start, end), label in found]


def test_steps_that_are_given_keep_their_labels():
    steps = ("2 + 2 is 4.\n", "4 + 4 is 9.\n", "So 9.")
    text = "".join(steps)
    assert labelled(text, steps, (True, False, True)) == list(zip(steps, (True, False, True), strict=True))
    assert labelled(text, steps) == [(step, None) for step in steps]


def test_a_template_may_trim_the_steps_and_put_marks_around_them():
    assert labelled("a b<|im_end|>", ("  a", " b  "), (True, False)) == [("a", True), (" b<|im_end|>", False)]


def test_steps_that_are_alike_are_taken_one_after_the_other():
    assert labelled("x = 1x = 1y", ("x = 1", "x = 1", "y"), (True, False, True)) == [
        ("x = 1", True),
        ("x = 1", False),
        ("y", True),
    ]


def test_a_response_that_was_cut_keeps_the_labels_in_place():
    """The text ends amid the second of three steps: the third has nothing."""
    assert labelled("one two th", ("one ", "two three ", "four"), (True, False, True)) == [
        ("one ", True),
        ("two th", False),
        ("", True),
    ]


def test_turns_end_where_the_policy_does():
    tokens = make_tokens(("Hi", 1.0), (".", 2.0), ("<user>", None), ("?", None), ("Yes", 3.0), ("", 4.0))
    text = "Hi.<user>?Yes"
    assert parts("turn", text, tokens=tokens) == ["Hi.", "<user>?", "Yes"]
    spans = spans_of(LEVELS["turn"], text, tokens, ANY)
    assert [(span.first, span.last, span.tokens, span.sum) for span in spans] == [
        (0, 2, 2, 3.0),
        (2, 4, 0, 0.0),
        (4, 6, 2, 7.0),
    ]
    assert [span.mean for span in spans] == [1.5, None, 3.5]
    assert [span.min for span in spans] == [1.0, None, 3.0]
    assert [span.end_value for span in spans] == [3.0, 3.0, 10.0]
    assert [span.final for span in spans] == [2.0, None, 4.0]
    one = make_tokens(("Hi", 1.0), ("", 2.0))
    assert parts("turn", "Hi", tokens=one) == ["Hi"]


def test_the_credit_of_a_span_by_hand():
    """Tokens "The", " cat", "'s", " out", EOS; the second word has two tokens, EOS counts in the last."""
    tokens = make_tokens(("The", 0.5), (" cat", -1.0), ("'s", 0.25), (" out", 2.0), ("", -4.0))
    spans = spans_of(find_cut("word"), "The cat's out", tokens, ANY)
    assert [(span.level, span.start, span.end) for span in spans] == [("word", 0, 3), ("word", 3, 9), ("word", 9, 13)]
    assert [(span.first, span.last, span.tokens) for span in spans] == [(0, 1, 1), (1, 3, 2), (3, 5, 2)]
    assert [span.sum for span in spans] == [0.5, -0.75, -2.0]
    assert [span.mean for span in spans] == [0.5, -0.375, -1.0]
    assert [span.min for span in spans] == [0.5, -1.0, -4.0]
    assert [span.end_value for span in spans] == [0.5, -0.25, -2.25]


def test_a_token_over_two_spans_counts_in_the_one_where_it_begins():
    tokens = make_tokens(("a. B", 1.0), ("c d", 2.0), ("e", 4.0))
    spans = spans_of(find_cut("sentence"), "a. Bc de", tokens, ANY)
    assert [(span.start, span.end, span.sum) for span in spans] == [(0, 2, 1.0), (2, 8, 6.0)]
    words = spans_of(find_cut("word"), "a. Bc de", tokens, ANY)
    assert [(span.sum, span.first, span.last) for span in words] == [(1.0, 0, 1), (2.0, 1, 2), (4.0, 2, 3)]
    whole = spans_of(find_cut("word"), "a b c", make_tokens(("a b c", 1.0)), ANY)
    assert [(span.sum, span.first, span.last, span.end_value) for span in whole] == [
        (1.0, 0, 1, 1.0),
        (0.0, 1, 1, 1.0),
        (0.0, 1, 1, 1.0),
    ]


def test_the_later_bytes_of_a_character_go_with_it():
    """ "é" and "。" are two and three tokens; what follows is another word, or another sentence."""
    tokens = make_tokens(("é", 1.0), ("", 2.0), (" x", 4.0), ("", 8.0))
    assert [span.sum for span in spans_of(find_cut("word"), "é x", tokens, ANY)] == [3.0, 12.0]
    tokens = make_tokens(("好", 1.0), ("。", 2.0), ("", 4.0), ("", 8.0), ("是", 16.0), ("", 32.0), ("", 64.0))
    assert [span.sum for span in spans_of(find_cut("sentence"), "好。是", tokens, ANY)] == [15.0, 112.0]
    assert [span.sum for span in spans_of(find_cut("regex:。"), "好。是", tokens, ANY)] == [14.0]


@pytest.mark.parametrize("level", LEVELS)
def test_a_response_without_text_is_one_span(level):
    (span,) = spans_of(find_cut(level), "", make_tokens(("", -1.5)), ANY)
    assert (span.start, span.end, span.first, span.last, span.sum, span.end_value) == (0, 0, 0, 1, -1.5, -1.5)
    (span,) = spans_of(find_cut(level), "", (), ANY)
    assert (span.tokens, span.sum, span.mean, span.min, span.end_value) == (0, 0.0, None, None, 0.0)


def test_a_token_that_begins_before_the_text_counts_in_the_first_span_and_in_no_pattern():
    tokens = make_tokens(("", 1.0), ("ab", 2.0), (" c", 4.0), ("", 8.0))
    assert [span.sum for span in spans_of(find_cut("word"), "ab c", tokens, ANY)] == [3.0, 12.0]
    (span,) = spans_of(find_cut("regex:ab"), "ab c", tokens, ANY)
    assert (span.first, span.last, span.sum, span.end_value) == (1, 2, 2.0, 3.0)


def test_patterns_leave_out_what_they_do_not_find():
    tokens = make_tokens(("It", 1.0), (" is", 2.0), (" 4", 4.0), ("2", 8.0), (" or", 16.0), (" 7", 32.0), ("", 64.0))
    spans = spans_of(find_cut(r"regex:\s*\d+"), "It is 42 or 7", tokens, ANY)
    assert [(span.level, span.start, span.end, span.sum) for span in spans] == [
        ("regex", 5, 8, 12.0),
        ("regex", 11, 13, 32.0),  # and not EOS
    ]
    assert spans_of(find_cut("regex:nothing"), "It is 42 or 7", tokens, ANY) == []
    assert [
        span.end - span.start for span in spans_of(find_cut("regex:x*"), "axxb", make_tokens(("axxb", 1.0)), ANY)
    ] == [2]


def test_a_pattern_may_have_colons():
    (span,) = spans_of(find_cut("regex:b:c"), "ab:c", make_tokens(("a", 1.0), ("b:c", 2.0)), ANY)
    assert span.sum == 2.0


def test_stretches_that_are_given():
    tokens = make_tokens(("ab", 1.0), ("cd", 2.0), ("ef", 4.0), ("", 8.0))
    cut = module.given([(2, 6), (3, 4), (0, 2)])
    spans = spans_of(cut, "abcdef", tokens, ANY)
    assert [(span.level, span.first, span.last, span.sum, span.end_value) for span in spans] == [
        ("given", 1, 3, 6.0, 7.0),
        ("given", 2, 2, 0.0, 3.0),  # within a token that begins before it
        ("given", 0, 1, 1.0, 1.0),
    ]


def test_unknown_levels_and_broken_patterns_are_errors():
    with pytest.raises(UserError, match="Unknown level 'wrod'") as caught:
        find_cut("wrod")
    assert "'word'" in caught.value.hint
    assert "regex:PATTERN" in caught.value.hint
    with pytest.raises(UserError, match="no regular expression"):
        find_cut("regex:(")
    with pytest.raises(UserError, match="Unknown level 'regex'"):
        find_cut("regex")


# For any text --------------------------------------------------------------------------------------------------------

some_text = st.lists(
    st.sampled_from(
        ["a", "Step 1:", "Step 2.", " ", "  ", "\n", "\n\n", ". ", "3.5", "?!", '."', "é", "。", "”", "x y"]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@st.composite
def some_tokens(draw):
    """Draw a text and tokens that make it up, with empty pieces and tokens that the policy did not write among them."""
    text = draw(some_text)
    borders = draw(st.lists(st.integers(0, len(text)), max_size=10).map(sorted))
    rewards = draw(st.lists(st.none() | st.floats(-5, 5), min_size=len(borders) + 2, max_size=len(borders) + 2))
    places = [0, *borders, len(text), len(text)]
    return text, make_tokens(*((text[a:b], reward) for (a, b), reward in zip(pairwise(places), rewards, strict=True)))


@pytest.mark.parametrize("level", LEVELS)
@given(drawn=some_tokens(), steps=st.lists(some_text, max_size=3))
@settings(max_examples=share_of(100), deadline=None)
def test_every_token_lies_in_one_span_and_the_sums_are_the_total(level, drawn, steps):
    text, tokens = drawn
    response = Response(text, steps=tuple(steps))
    spans = spans_of(LEVELS[level], text, tokens, response)
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == len(text)
    assert [span.first for span in spans] == [0, *(span.last for span in spans[:-1])]
    assert spans[-1].last == len(tokens)
    for span in spans:
        for token in tokens[span.first : span.last]:
            assert not token.text or span.start <= token.start < span.end
        assert span.tokens == sum(token.written for token in tokens[span.first : span.last])
    total = sum(token.implicit_reward or 0.0 for token in tokens)
    assert sum(span.sum for span in spans) == pytest.approx(total, abs=1e-9)
    assert spans[-1].end_value == pytest.approx(total, abs=1e-9)
    if level in ("word", "sentence", "paragraph") and text.strip():
        assert all(text[span.start : span.end].strip() for span in spans)
