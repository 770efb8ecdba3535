"""Two tokenizations of one text: common boundaries by hand, and for any two that every token is counted once."""

from itertools import pairwise

from examples import share_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from tokenq.score.align import Stretch, align


def test_by_hand():
    """ "The| cats|EOS" and "The| cat|s|EOS": after "The" and at the end both have a boundary."""
    assert align([3, 8, 8], [3, 7, 8, 8]) == [
        Stretch(0, 3, (0, 1), (0, 1)),
        Stretch(3, 8, (1, 2), (1, 3)),
        Stretch(8, 8, (2, 3), (3, 4)),
    ]


def test_boundaries_that_cross():
    """ "ab|cd|e" and "a|bcd|e"."""
    assert align([2, 4, 5], [1, 4, 5]) == [Stretch(0, 4, (0, 2), (0, 2)), Stretch(4, 5, (2, 3), (2, 3))]


def test_the_same_tokens_are_a_stretch_each():
    assert align([1, 2, 4, 4], [1, 2, 4, 4]) == [
        Stretch(0, 1, (0, 1), (0, 1)),
        Stretch(1, 2, (1, 2), (1, 2)),
        Stretch(2, 4, (2, 3), (2, 3)),
        Stretch(4, 4, (3, 4), (3, 4)),
    ]


def test_the_bytes_of_a_character_stand_together():
    """ "é" as two bytes, then "x" and EOS, against whole characters."""
    assert align([1, 1, 2, 2], [1, 2, 2]) == [
        Stretch(0, 1, (0, 2), (0, 1)),
        Stretch(1, 2, (2, 3), (1, 2)),
        Stretch(2, 2, (3, 4), (2, 3)),
    ]


def test_the_last_bytes_of_a_text_are_not_its_end():
    """ "é" as three tokens of bytes and EOS, against one token and EOS; and both as bytes; and both cut."""
    assert align([1, 1, 1, 1], [1, 1]) == [Stretch(0, 1, (0, 3), (0, 1)), Stretch(1, 1, (3, 4), (1, 2))]
    assert align([1, 1, 1], [1, 1, 1]) == [Stretch(0, 1, (0, 2), (0, 2)), Stretch(1, 1, (2, 3), (2, 3))]
    assert align([1, 1], [1]) == [Stretch(0, 1, (0, 2), (0, 1))]


def test_an_end_that_is_text_for_one_of_them():
    """ "a<eos>": the first has EOS as its last token, the second spells it out and adds its own."""
    assert align([1, 6], [1, 3, 6, 6]) == [Stretch(0, 1, (0, 1), (0, 1)), Stretch(1, 6, (1, 2), (1, 4))]


def test_a_response_without_text():
    assert align([0], [0]) == [Stretch(0, 0, (0, 1), (0, 1))]
    assert align([], []) == []


def test_what_ends_before_the_text_begins():
    """A token of the prompt's characters alone goes with what comes first."""
    assert align([0, 2, 2], [2, 2]) == [Stretch(0, 2, (0, 2), (0, 1)), Stretch(2, 2, (2, 3), (1, 2))]
    assert align([0, 2, 2], [0, 2, 2])[0] == Stretch(0, 0, (0, 1), (0, 1))


def test_texts_that_do_not_end_alike_lose_no_token():
    assert align([1, 3], [1, 2]) == [Stretch(0, 1, (0, 1), (0, 1)), Stretch(1, 3, (1, 2), (1, 2))]


def test_a_text_under_two_real_tokenizers():
    """Whole pieces against single bytes: every piece is a stretch, and nothing is finer than that."""
    text = "the cat saw a café."
    pairs, single = (tiny_tokenizer(kind, bos="absent") for kind in ("bpe", "bytes"))
    own, other = (
        [end for _, end in tokenizer([text], return_offsets_mapping=True)["offset_mapping"][0]]
        for tokenizer in (pairs, single)
    )
    found = align(own, other)
    assert [stretch.end for stretch in found] == sorted(set(own))
    assert sum(b - a for _, _, _, (a, b) in found) == len(text.encode())


@st.composite
def two(draw):
    size = draw(st.integers(0, 12))

    def ends():
        inner = draw(st.lists(st.integers(0, size), max_size=10).map(sorted))
        return [*inner, size, *draw(st.sampled_from([[], [size]]))]

    return ends(), ends()


@given(two())
@settings(max_examples=share_of(300))
def test_every_token_is_in_one_stretch_and_the_text_is_parted(drawn):
    own, other = drawn
    found = align(own, other)
    assert [0, *(stretch.end for stretch in found)][:-1] == [stretch.start for stretch in found]
    assert found[-1].end == own[-1] == other[-1]
    for ends, sides in ((own, [s.own for s in found]), (other, [s.other for s in found])):
        assert sides[0][0] == 0
        assert sides[-1][1] == len(ends)
        assert all(one[1] == after[0] for one, after in pairwise(sides))
        assert all(first < last for first, last in sides)
        # A stretch ends where its last token does, and no token of it reaches beyond.
        assert all(ends[last - 1] == stretch.end for (_, last), stretch in zip(sides, found, strict=True))
    # The finest: whatever both have as a boundary is one.
    assert {stretch.end for stretch in found} == {*own} & {*other}
    # Totals are kept: the log-prob of every token stands in one sum.
    assert sum(sum(range(*stretch.own)) for stretch in found) == sum(range(len(own)))
