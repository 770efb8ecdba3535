"""Responses as they come: held back where they may be cut, cut at the character, whole characters only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from tokenq.server.engine.request import Token
from tokenq.server.openai.choice import Choice, first_stop, held_back
from tokenq.server.vocabulary import Vocabulary

BYTES = tiny_tokenizer("bytes", bos="absent")
END = BYTES.eos_token_id


def ids(text):
    return BYTES.encode(text, add_special_tokens=False)


def written(tokens, stops=(), finish="length"):
    """Return the parts in which tokens come, the last of which finishes the response."""
    choice = Choice(BYTES, ids("x"), stops)
    last = len(tokens) - 1
    return [choice.take(Token(0, one, 0.0, finish=finish if n == last else None)) for n, one in enumerate(tokens)]


def test_a_character_of_four_tokens_comes_whole():
    parts = written(ids("a😀b"))
    assert [part.text for part in parts] == ["a", "", "", "", "😀", "b"]
    assert [len(part.tokens) for part in parts] == [1, 0, 0, 0, 4, 1]


def test_the_bytes_of_tokens_are_the_text():
    vocabulary = Vocabulary(BYTES)
    shown = [vocabulary.shown(one) for one in ids("a😀é")]
    assert bytes(byte for one in shown for byte in one.bytes).decode() == "a😀é"
    assert [one.text for one in shown][:3] == ["a", "bytes:\\xf0", "bytes:\\x9f"]
    assert vocabulary.shown(END).bytes == ()


def test_half_a_character_at_the_end_is_said_to_be_one():
    parts = written(ids("a😀")[:3])
    assert "".join(part.text for part in parts) == "a�"
    assert sum(len(part.tokens) for part in parts) == 3


def test_a_stop_text_cuts_at_the_character_and_hides_its_tokens():
    parts = written(ids("one. two"), [". t"])
    assert [part.text for part in parts] == ["o", "n", "e", "", "", "", "", ""]
    assert parts[5].finish == "stop"
    assert [part.finish for part in parts[6:]] == [None, None]
    assert sum(len(part.tokens) for part in parts) == 3


def test_what_was_held_back_comes_where_it_stops_nothing():
    assert [part.text for part in written(ids("a..b"), ["..."])] == ["a", "", "", "..b"]


def test_a_stop_text_inside_a_token_shows_the_token():
    tokenizer = tiny_tokenizer("words", texts=("the cat", "at"))
    cat = next(one for one in tokenizer.encode("the cat") if "cat" in tokenizer.decode([one]))
    choice = Choice(tokenizer, [3], ["t"])
    part = choice.take(Token(0, cat, 0.0))
    assert (part.text.strip(), part.finish) == ("ca", "stop")
    assert len(part.tokens) == 1


def test_an_end_token_is_shown_and_says_nothing():
    parts = written([*ids("ab"), END], ["xyz"], finish="stop")
    assert "".join(part.text for part in parts) == "ab"
    assert parts[-1].tokens[-1].token.id == END
    assert parts[-1].finish == "stop"


def test_the_stop_text_that_is_complete_first_cuts():
    assert first_stop("abcd", ["abcd", "bc"]) == 1
    assert first_stop("abcd", ["bcd", "abcd"]) == 0
    assert first_stop("abcd", ["x"]) is None
    assert held_back("abca", ["abcd", "ax"]) == 1
    assert held_back("zabc", ["abcd"]) == 3
    assert held_back("zabc", []) == 0


@pytest.mark.parametrize("finish", ["stop", "length"])
@given(text=st.text("ab.😀", max_size=12), stops=st.lists(st.text("ab.😀", min_size=1, max_size=3), max_size=3))
def test_however_it_comes_it_is_what_stands_before_the_first_stop(finish, text, stops):
    tokens = ids(text)
    parts = written([*tokens, END] if finish == "stop" else tokens or ids("z"), stops, finish)
    whole = text if finish == "stop" or tokens else "z"
    ends = [(whole.find(one) + len(one), whole.find(one)) for one in stops if one in whole]
    assert "".join(part.text for part in parts) == whole[: min(ends)[1] if ends else len(whole)]
    assert [part.finish for part in parts if part.finish] == ["stop" if ends else finish]
