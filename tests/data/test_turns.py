"""Implicit prompts and turns, case by case, and for any text: nothing is lost and no word is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenq.data.chat.messages import as_turns, is_turns
from tokenq.data.turns import (
    BadRow,
    common_length,
    plain_prompt,
    prompt_turns,
    response_turns,
    split_messages,
    split_text,
    split_transcript,
    split_turns,
)
from tokenq.records.examples import Message


def talk(*turns):
    return tuple(Message({"u": "user", "a": "assistant", "s": "system"}[turn[0]], turn) for turn in turns)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Q? Yes", "Q? Yesterday", "Q?"),  # a response is a word that begins the other's
        ("A: bad", "A: bat", "A:"),  # words that begin alike
        ("The sky is blue", "The sky is blue and vast", "The sky is"),  # one text begins the other
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("Q?\nYes", "Q?\nNo", "Q?\n"),  # line breaks stay with the prompt
        ("Q?\n\nYes", "Q?\n\nNo", "Q?\n\n"),
        ("Q?\r\nYes", "Q?\r\nNo", "Q?\r\n"),
        ("Q?\n  Yes", "Q?\n  No", "Q?\n"),  # an indent goes with its line
        ("Q:  Yes", "Q:  No", "Q:"),  # a run of blanks is not cut
        ("Q: Yes", "Q:  No", "Q:"),
        ("Q:\tYes", "Q: No", "Q:"),
        ("a b ", "a b c", "a"),  # a response of blanks alone says nothing
        ("天空是什么颜色？蓝色", "天空是什么颜色？蓝绿", "天空是什么颜色？"),
    ],
)
def test_an_implicit_prompt_ends_between_words(chosen, rejected, prompt):
    assert split_text(chosen, rejected) == (prompt, chosen[len(prompt) :], rejected[len(prompt) :])
    assert split_text(rejected, chosen) == (prompt, rejected[len(prompt) :], chosen[len(prompt) :])


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [("Yes", "No"), ("Yes", "Yesterday"), ("bad", "bat"), (" Yes", " No"), ("a b", "a b"), ("", "x")],
)
def test_texts_without_a_common_prompt_are_unusable(chosen, rejected):
    if chosen == rejected:
        assert split_text(chosen, rejected) == ("a", " b", " b")  # told apart later: chosen equals rejected
        return
    with pytest.raises(BadRow, match="hold no prompt"):
        split_text(chosen, rejected)


words = st.lists(st.sampled_from(["a", "ab", "abc", "b.", "\n", "é"]), min_size=1, max_size=8)
blanks = st.sampled_from([" ", "  ", "\n", "\n\n", "\t"])


@given(st.lists(st.tuples(words, blanks), min_size=1, max_size=3), words, words)
def test_no_implicit_prompt_cuts_a_word_or_loses_text(start, first, second):
    common = "".join("".join(word) + blank for word, blank in start)
    chosen, rejected = common + "".join(first), common + "".join(second)
    try:
        prompt, *responses = split_text(chosen, rejected)
    except BadRow:
        return
    assert [prompt + response for response in responses] == [chosen, rejected]
    assert prompt.strip()
    for response in responses:
        assert response.strip()
        assert response[0].isspace() or prompt[-1].isspace()


def test_a_transcript_is_split_after_the_last_common_assistant_marker():
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant:"
    assert split_text(f"{start} Because.", f"{start} Because not.") == (start, " Because.", " Because not.")
    # Nothing said is an empty response, and not a reason to go back a turn.
    assert split_text(f"{start} Because.", start) == (start, " Because.", "")


def test_a_transcript_that_parts_early_keeps_its_later_turns_in_the_response():
    start = "\n\nHuman: hi\n\nAssistant:"
    chosen, rejected = f"{start} a\n\nHuman: b\n\nAssistant: c", f"{start} d"
    assert split_text(chosen, rejected) == (start, chosen[len(start) :], " d")


def test_one_transcript():
    assert split_transcript("\n\nHuman: q\n\nAssistant: r") == ("\n\nHuman: q\n\nAssistant:", " r")
    assert split_transcript("prose") == ("", "prose")


def test_conversations_are_split_before_an_assistant_turn():
    chosen, rejected = talk("u1", "a1", "u2", "a2"), talk("u1", "a1", "u2", "a3")
    assert split_turns(chosen, rejected) == (chosen[:3], chosen[3:], rejected[3:])


def test_conversations_that_part_at_a_user_turn_go_back_to_the_assistant():
    chosen, rejected = talk("u1", "a1", "u2", "a2"), talk("u1", "a1", "u3", "a3")
    assert split_turns(chosen, rejected) == (chosen[:1], chosen[1:], rejected[1:])


def test_a_conversation_that_begins_the_other_leaves_it_a_response():
    chosen, rejected = talk("u1", "a1"), talk("u1", "a1", "u2", "a2")
    assert split_turns(chosen, rejected) == (chosen[:1], chosen[1:], rejected[1:])


@pytest.mark.parametrize(
    ("chosen", "rejected"), [(talk("a1"), talk("a2")), (talk("u1", "a1"), talk("u2", "a2")), (talk("u1"), talk("u1"))]
)
def test_conversations_without_a_common_prompt_are_unusable(chosen, rejected):
    with pytest.raises(BadRow, match="share no turns"):
        split_turns(chosen, rejected)


def test_one_conversation_runs_from_its_first_assistant_turn_to_its_last():
    turns = talk("s", "u1", "a1", "u2", "a2", "u3")
    assert split_messages(turns) == (turns[:2], turns[2:5])
    with pytest.raises(BadRow, match="no assistant turn"):
        split_messages(talk("u1"))


def test_turns_in_either_spelling():
    openai = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "r"},
    ]
    sharegpt = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]
    expected = (Message("system", "s"), Message("user", "q"), Message("assistant", "r"))
    assert as_turns(openai) == as_turns(sharegpt) == expected
    parts = [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "!"}]}]
    assert as_turns(parts) == (Message("user", "q!"),)
    assert is_turns(openai)
    assert is_turns(sharegpt)
    assert not any(map(is_turns, ["text", [], ["text"], None, [{"role": "user"}]]))


@pytest.mark.parametrize(
    ("turn", "detail"),
    [
        ({"role": "narrator", "content": "x"}, "unknown role 'narrator'"),
        ({"role": "user", "content": None}, "not text"),
        ({"role": "user", "content": [{"type": "image", "url": "x"}]}, "not text"),
        ({"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}, "'tool_calls'"),
        ({"role": "user", "content": "x", "reasoning_content": "y"}, "only an assistant's turn"),
    ],
)
def test_turns_that_cannot_be_kept_whole_are_unusable(turn, detail):
    with pytest.raises(BadRow, match=detail):
        as_turns([turn])


def test_a_null_beside_the_text_is_no_field():
    """Arrow fills the keys that some turns have with nulls in all others."""
    assert as_turns([{"role": "user", "content": "q", "tool_calls": None}]) == (Message("user", "q"),)


def test_fields_as_plain_text():
    assert plain_prompt((Message("system", "Be kind."), Message("user", "Why?"))) == "Be kind.\n\nWhy?\n"
    assert plain_prompt((Message("user", "Why? "),)) == "Why? "


def test_text_as_turns():
    transcript = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant:"
    assert [(turn.role, turn.content) for turn in prompt_turns(transcript)] == [
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "why?"),
    ]
    assert [turn.content for turn in response_turns(" a\n\nHuman: b\n\nAssistant: c", transcript)] == ["a", "b", "c"]
    assert prompt_turns(" Why? ") == (Message("user", "Why?"),)
    assert response_turns(" So\n\nHuman: x", "Why?") == (Message("assistant", "So\n\nHuman: x"),)


@pytest.mark.parametrize(
    ("first", "second", "length"), [("abc", "abd", 2), ("ab", "abc", 2), ("", "a", 0), ("x", "y", 0)]
)
def test_common_length(first, second, length):
    assert common_length(first, second) == length
