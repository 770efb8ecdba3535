"""The boundary, BOS, EOS and masks in token space, against ids written by hand and against the whole text."""

from dataclasses import replace

import numpy as np
import pytest
from examples import share_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_tokenizers import CHATML, HEADERS, MARKED, MARKED_WORDS, THINKING, bytes_tokenizer, words_tokenizer

from tokenq.data.digest import group_key
from tokenq.data.tokenize import Encoder, tokenize
from tokenq.errors import UserError
from tokenq.records.examples import Example, Message, Response, TokenGroup, TokenResponse

BOS, EOS = 0, 1
WORDS = "q w chosen rejected more"  # ids 7, 8, 9, 10, 11


def pair(prompt, chosen, rejected, **kwargs):
    return Example(prompt, (Response(chosen), Response(rejected)), True, "file.jsonl, row 1", **kwargs)


def single(prompt, response):
    return Example(prompt, (Response(response),), False, "file.jsonl, row 1")


def talk(*turns):
    return tuple(Message(role, content) for role, content in turns)


def one(example, tokenizer, **options):
    data = tokenize([example], tokenizer, **{"max_length": None, **options})
    return data.groups[0], data.summary


def ids(group):
    return [group.prompt_ids.tolist(), *(response.ids.tolist() for response in group.responses)]


def test_a_pair_of_strings_by_hand():
    group, summary = one(pair("q w", " chosen", " rejected more"), words_tokenizer(WORDS))
    assert ids(group) == [[7, 8], [9, EOS], [10, 11, EOS]]
    assert group.is_pair
    assert group.where == "file.jsonl, row 1"
    assert [response.mask.tolist() for response in group.responses] == [[True] * 2, [True] * 3]
    assert [response.terminal for response in group.responses] == [True, True]
    assert {array.dtype for array in (group.prompt_ids, group.responses[0].ids)} == {np.dtype(np.int32)}
    assert group.responses[0].mask.dtype == np.bool_
    assert (summary.eos_added, summary.eos_cut, summary.bos_added, summary.boundary_merges) == (2, 0, 0, 0)


@pytest.mark.parametrize("prompt", ["q w", "<bos> q w", "<bos> <bos> q w"])
def test_bos_stands_once_at_the_beginning(prompt):
    group, summary = one(pair(prompt, " chosen", " rejected"), words_tokenizer(WORDS, bos="<bos>"))
    assert ids(group) == [[BOS, 7, 8], [9, EOS], [10, EOS]]
    assert summary.bos_removed == (prompt.count("<bos>") == 2)
    assert summary.bos_added == 0  # for text it is the rule, and nothing was mended


def test_a_tokenizer_that_does_not_use_its_bos_gets_none():
    tokenizer = words_tokenizer(WORDS)
    tokenizer.bos_token = "<bos>"
    assert ids(one(pair("q", " chosen", " rejected"), tokenizer)[0])[0] == [7]


def test_leading_tokens_are_found_by_asking():
    assert Encoder.of(words_tokenizer(WORDS, bos="<bos>")).prefix == (BOS,)
    assert Encoder.of(words_tokenizer(WORDS)).prefix == ()
    assert Encoder.of(bytes_tokenizer(bos="<bos>")).prefix == (BOS,)


@pytest.mark.parametrize(
    ("chosen", "expected", "added", "cut"),
    [
        (" chosen", [9, EOS], 2, 0),
        (" chosen <eos>", [9, EOS], 1, 0),
        (" chosen <eos> <eos>", [9, EOS], 1, 1),
        (" chosen <eos>\n", [9, EOS], 1, 1),
    ],
)
def test_eos_stands_once_at_the_end(chosen, expected, added, cut):
    group, summary = one(pair("q", chosen, " rejected"), words_tokenizer(WORDS))
    assert group.responses[0].ids.tolist() == expected
    assert group.responses[0].mask.tolist() == [True] * len(expected)
    assert (summary.eos_added, summary.eos_cut) == (added, cut)


def test_eos_amid_plain_text_is_counted_and_left_out():
    rows = [pair("q", " chosen <eos> more", " rejected"), pair("q", " chosen", " rejected")]
    data = tokenize(rows, words_tokenizer(WORDS), max_length=None)
    assert len(data.groups) == 1
    assert data.summary.dropped == {"EOS inside a response": 1}
    assert data.summary.eos_added == 2  # what was mended in rows that are left out does not count


def test_a_tokenizer_without_eos_is_an_error():
    with pytest.raises(UserError, match="no EOS"):
        one(pair("q", " chosen", " rejected"), words_tokenizer(WORDS, eos=None))


def test_tokens_that_merge_over_the_end_of_the_prompt_go_to_both_responses():
    """ "ab" is one token: of "xa" only "x" is common to the prompt and both texts, so that "a" moves as well."""
    tokenizer = bytes_tokenizer([("a", "b")])
    a, b, c, x, ab = tokenizer.convert_tokens_to_ids(["a", "b", "c", "x", "ab"])
    group, summary = one(pair("xa", "b", "c"), tokenizer)
    assert ids(group) == [[x], [ab, EOS], [a, c, EOS]]
    assert [response.mask.tolist() for response in group.responses] == [[True, True], [True, True, True]]
    assert summary.boundary_merges == 1
    assert "1 boundary merges" in summary.line()
    group, summary = one(pair("xa", "c", "bb"), tokenizer)
    assert ids(group) == [[x], [a, c, EOS], [ab, b, EOS]]
    group, summary = one(pair("xa", "c", "x"), tokenizer)
    assert ids(group) == [[x, a], [c, EOS], [x, EOS]]
    assert summary.boundary_merges == 0


def test_what_responses_share_beyond_the_prompt_stays_with_them():
    group, _ = one(pair("q", " more chosen", " more rejected"), words_tokenizer(WORDS))
    assert ids(group) == [[7], [11, 9, EOS], [11, 10, EOS]]


def test_a_prompt_that_merges_whole_gives_way_to_the_first_common_token():
    tokenizer = bytes_tokenizer([("a", "b")])
    ab, c = tokenizer.convert_tokens_to_ids(["ab", "c"])
    assert ids(one(single("a", "bc"), tokenizer)[0]) == [[ab], [c, EOS]]
    data = tokenize([pair("a", "bc", "c"), pair("a", "c", "x")], tokenizer, max_length=None)
    assert len(data.groups) == 1
    assert data.summary.dropped == {"no common first token and no BOS": 1}


def test_text_without_a_prompt_is_conditioned_on_bos_or_on_its_first_token():
    assert ids(one(single("", "q w"), words_tokenizer(WORDS, bos="<bos>"))[0]) == [[BOS], [7, 8, EOS]]
    assert ids(one(single("", "q w"), words_tokenizer(WORDS))[0]) == [[7], [8, EOS]]


def test_responses_equal_in_tokens_are_left_out():
    rows = [pair("q", " more  chosen", " more chosen"), pair("q", " chosen", " rejected")]
    data = tokenize(rows, words_tokenizer(WORDS), max_length=None, rows=5, dropped={"tied ratings": 3})
    assert [group.responses[0].ids.tolist() for group in data.groups] == [[9, EOS]]
    assert data.summary.dropped == {"tied ratings": 3, "chosen equals rejected": 1}
    assert data.summary.eos_added == 2
    assert data.summary.rows == 5


def test_a_response_that_the_tokenizer_makes_nothing_of_is_left_out():
    data = tokenize([single("q", " \u3000"), single("q", " w")], words_tokenizer(WORDS), max_length=None)
    assert data.summary.dropped == {"response without tokens": 1}


def test_nothing_left_is_an_error_that_says_why():
    with pytest.raises(UserError, match="1 chosen equals rejected"):
        one(pair("q", " more  chosen", " more chosen"), words_tokenizer(WORDS))
    with pytest.raises(UserError, match="there were none"):
        tokenize([], words_tokenizer(WORDS), max_length=None)


def test_a_transcript_that_goes_on_masks_the_other_speaker():
    tokenizer = bytes_tokenizer()
    prompt, chosen = "\n\nHuman: hi\n\nAssistant:", " a\n\nHuman: b\n\nAssistant: c"
    group, _ = one(pair(prompt, chosen, " d"), tokenizer)
    response = group.responses[0]
    assert tokenizer.decode(response.ids) == f"{chosen}<eos>"
    assert tokenizer.decode(response.ids[response.mask]) == " a c<eos>"
    assert group.responses[1].mask.all()


def test_a_conversation_by_hand():
    """The end of turn is EOS; the line break behind the last turn belongs to no turn."""
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=CHATML)
    group, summary = one(pair(talk(("user", "q")), talk(("assistant", "c")), talk(("assistant", "r"))), tokenizer)
    assert tokenizer.decode(group.prompt_ids) == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert [tokenizer.decode(response.ids) for response in group.responses] == ["c<|im_end|>", "r<|im_end|>"]
    assert all(response.mask.all() for response in group.responses)
    assert (summary.eos_added, summary.eos_cut, summary.template_rewrites) == (0, 2, 0)


def test_a_template_with_bos_and_another_end_of_turn():
    tokenizer = bytes_tokenizer(bos="<bos>", chat_template=HEADERS)
    group, summary = one(pair(talk(("user", "q")), talk(("assistant", "c")), talk(("assistant", "r"))), tokenizer)
    assert tokenizer.decode(group.prompt_ids) == "<bos>[user]q<|eot|>[assistant]"
    assert [tokenizer.decode(response.ids) for response in group.responses] == ["c<|eot|><eos>", "r<|eot|><eos>"]
    assert (summary.eos_added, summary.bos_added, summary.bos_removed) == (2, 0, 0)


def test_a_template_without_bos_gets_the_one_that_the_tokenizer_uses():
    tokenizer = bytes_tokenizer(bos="<bos>", chat_template=CHATML)
    group, summary = one(single(talk(("user", "q")), talk(("assistant", "c"))), tokenizer)
    assert group.prompt_ids[:2].tolist() == tokenizer.convert_tokens_to_ids(["<bos>", "<|im_start|>"])
    assert summary.bos_added == 1


def test_conversations_need_a_template():
    with pytest.raises(UserError, match="no chat template") as caught:
        one(single(talk(("user", "q")), talk(("assistant", "c"))), bytes_tokenizer())
    assert "row 1" in caught.value.message
    assert "--chat-template" in caught.value.hint


def test_a_template_that_refuses_names_the_row():
    tokenizer = bytes_tokenizer(chat_template="{{ raise_exception('no system turns, please') }}")
    with pytest.raises(UserError, match=r"row 1: the chat template refuses .*no system turns"):
        one(single(talk(("system", "s")), talk(("assistant", "c"))), tokenizer)


def test_the_arguments_of_a_row_reach_the_template():
    template = "{{ tools[0].name }}{{ mood }}{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = bytes_tokenizer(chat_template=template)
    context = {"tools": [{"name": "hammer"}], "mood": "calm"}
    group, _ = one(replace(single(talk(("user", "q")), talk(("assistant", "c"))), context=context), tokenizer)
    assert tokenizer.decode(group.prompt_ids) == "hammercalmq"


LONG_TALK = talk(("assistant", "one"), ("user", "two"), ("tool", "three"), ("assistant", "four"))


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_only_the_assistant_is_kept_in_a_response_of_several_turns(template):
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=template)
    group, summary = one(single(talk(("user", "q")), LONG_TALK), tokenizer)
    response = group.responses[0]
    assert tokenizer.decode(response.ids) == (
        "one<|im_end|>\n<|im_start|>user\ntwo<|im_end|>\n<|im_start|>tool\nthree<|im_end|>\n"
        "<|im_start|>assistant\nfour<|im_end|>"
    )
    assert tokenizer.decode(response.ids[response.mask]) == "one<|im_end|>four<|im_end|>"
    assert summary.rewritten_turns == 0


def test_the_end_of_a_response_counts_even_where_the_template_marks_words_alone():
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=MARKED_WORDS)
    group, summary = one(single(talk(("user", "q")), LONG_TALK), tokenizer)
    response = group.responses[0]
    assert tokenizer.decode(response.ids[response.mask]) == "onefour<|im_end|>"
    assert summary.eos_added == 0


def test_marks_of_the_template_stay_in_place_behind_an_added_bos():
    tokenizer = bytes_tokenizer(bos="<bos>", chat_template=MARKED)
    group, _ = one(single(talk(("user", "q")), LONG_TALK), tokenizer)
    response = group.responses[0]
    assert tokenizer.decode(response.ids[response.mask]) == "one<|im_end|>four<|im_end|><eos>"


def test_a_merge_over_the_header_belongs_to_the_assistant():
    tokenizer = bytes_tokenizer([("Ċ", "f"), ("Ċ", "o")], eos="<|im_end|>", chat_template=CHATML)
    group, summary = one(single(talk(("user", "q")), LONG_TALK), tokenizer)
    response = group.responses[0]
    assert tokenizer.decode(response.ids[response.mask]) == "\none<|im_end|>\nfour<|im_end|>"
    assert summary.boundary_merges == 1


def test_a_token_that_only_the_other_response_merges_counts_in_this_one():
    """Both responses must hold the same stretch of text, so the line break before "one" is the policy's as well."""
    tokenizer = bytes_tokenizer([("Ċ", "f")], eos="<|im_end|>", chat_template=CHATML)
    group, summary = one(pair(talk(("user", "q")), LONG_TALK, LONG_TALK[3:]), tokenizer)
    kept = [tokenizer.decode(response.ids[response.mask]) for response in group.responses]
    assert kept == ["\none<|im_end|>\nfour<|im_end|>", "\nfour<|im_end|>"]
    assert summary.boundary_merges == 1


def test_a_thinking_template_opens_thoughts_that_the_response_does_not_have():
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=THINKING)
    chosen, rejected = talk(("assistant", "c")), talk(("assistant", "<think>hm</think>r"))
    group, summary = one(pair(talk(("user", "q")), chosen, rejected), tokenizer)
    assert tokenizer.decode(group.prompt_ids) == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    texts = [tokenizer.decode(response.ids) for response in group.responses]
    assert texts == ["c<|im_end|>", "<think>hm</think>r<|im_end|>"]
    assert (summary.template_rewrites, summary.boundary_merges, summary.rewritten_turns) == (1, 0, 0)


def test_a_template_that_rewrites_earlier_turns_leaves_the_last_turn_and_says_so():
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=THINKING)
    turns = talk(("assistant", "<think>hm</think>one"), ("user", "two"), ("assistant", "<think>so</think>four"))
    group, summary = one(single(talk(("user", "q")), turns), tokenizer)
    response = group.responses[0]
    assert tokenizer.decode([*group.prompt_ids, *response.ids]) == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n<|im_start|>user\ntwo<|im_end|>\n"
        "<|im_start|>assistant\n<think>so</think>four<|im_end|>"
    )
    assert tokenizer.decode(response.ids[response.mask]) == "so</think>four<|im_end|>"
    assert summary.rewritten_turns == 1


def test_a_prompt_whose_thoughts_are_rewritten_trains_on_the_response_alone():
    """The last turn of a prompt keeps its thoughts until a turn follows, so prompt and text part early."""
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=THINKING)
    prompt = talk(("user", "q"), ("assistant", "<think>hm</think>one"))
    group, summary = one(single(prompt, talk(("assistant", "two"))), tokenizer)
    response = group.responses[0]
    assert tokenizer.decode(response.ids) == "one<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>"
    assert tokenizer.decode(response.ids[response.mask]) == "two<|im_end|>"
    assert (summary.template_rewrites, summary.rewritten_turns) == (1, 0)


MERGES = [("a", "b"), ("Ġ", "a"), ("Ġa", "b"), ("b", "Ġ"), ("Ċ", "Ċ"), (":", "Ġ"), ("ab", "ab"), ("Ã", "©"), ("Ċ", "a")]
PLAIN = bytes_tokenizer(MERGES)
WITH_BOS = bytes_tokenizer(MERGES, bos="<bos>")
some_text = st.text("ab \n:é😀", min_size=1, max_size=12).filter(str.strip)


@pytest.mark.parametrize("tokenizer", [PLAIN, WITH_BOS], ids=["plain", "bos"])
@given(prompt=some_text, chosen=some_text, rejected=some_text)
@settings(max_examples=share_of(150), deadline=None)
def test_a_group_is_its_text_tokenised_once(tokenizer, prompt, chosen, rejected):
    """For any text: the ids are those of the whole text, and no longer prompt is common to all three."""
    rows = [pair(prompt, chosen, rejected), single("q", "r")]
    data = tokenize(rows, tokenizer, max_length=None)
    group = data.groups[0]
    if not group.is_pair:
        # A prompt that is no token of its own and merges with both responses, which then may be nothing more.
        possible = {"no common first token and no BOS", "response without tokens"} if tokenizer is PLAIN else set()
        assert chosen == rejected or set(data.summary.dropped) <= possible
        return
    wholes = [tokenizer(prompt + text)["input_ids"] for text in (chosen, rejected)]
    for response, text, whole in zip(group.responses, (chosen, rejected), wholes, strict=True):
        found = [*group.prompt_ids.tolist(), *response.ids.tolist()]
        assert found == [*whole, EOS]
        assert tokenizer.decode(found) == f"{'<bos>' if tokenizer is WITH_BOS else ''}{prompt}{text}<eos>"
        assert response.mask.all()
    alone = tokenizer(prompt)["input_ids"]
    size = len(group.prompt_ids)
    same = [a == b == c for a, b, c in zip(alone, *wholes, strict=False)]
    assert size == max(1, (same.index(False) if False in same else len(same)))
    assert data.summary.boundary_merges == (size < len(alone))


CHATS = {
    name: bytes_tokenizer(MERGES, bos=bos, eos=eos, chat_template=template)
    for name, bos, eos, template in [
        ("chatml", None, "<|im_end|>", CHATML),
        ("headers", "<bos>", "<eos>", HEADERS),
        ("marked", None, "<|im_end|>", MARKED),
        ("thinking", None, "<|im_end|>", THINKING),
    ]
}
some_said = st.text("ab :é", min_size=1, max_size=8).filter(str.strip)


@pytest.mark.parametrize("name", CHATS)
@given(said=st.lists(some_said, min_size=4, max_size=6), length=st.sampled_from([1, 3]))
@settings(max_examples=share_of(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_group_is_its_conversation_tokenised_once(name, said, length):
    tokenizer = CHATS[name]
    roles = ["user", "assistant"] * 3
    prompt = talk(*zip(roles, said[: 1 if length == 3 else 3], strict=False))
    answers = [
        talk(*zip(("assistant", "user", "assistant")[:length], [last, *said[1:]], strict=False))
        for last in (said[0], said[0] + "!")
    ]
    group, _ = one(pair(prompt, *answers), tokenizer)
    for response, answer in zip(group.responses, answers, strict=True):
        conversation = [{"role": turn.role, "content": turn.content} for turn in (*prompt, *answer)]
        whole = tokenizer.apply_chat_template(conversation, tokenize=False).rstrip()
        ending = "<eos>" if name == "headers" else ""
        found = [*group.prompt_ids, *response.ids]
        assert tokenizer.decode(found) == whole + ending
        assert found == tokenizer(whole + ending, add_special_tokens=False)["input_ids"]
        if name in ("chatml", "marked"):
            kept = tokenizer.decode(response.ids[response.mask])
            mine = [turn.content + "<|im_end|>" for turn in answer if turn.role == "assistant"]
            # A token that merges over a header begins with the header's line break.
            assert kept.replace("\n", "") == "".join(mine)


def test_the_key_is_of_the_content_alone():
    group, _ = one(pair("q", " chosen", " rejected"), words_tokenizer(WORDS))
    key = group_key(group)
    assert len(key) == 32
    masked = TokenResponse(group.responses[0].ids, ~group.responses[0].mask, False)
    assert group_key(TokenGroup(group.prompt_ids, (masked, group.responses[1]), False, "elsewhere")) == key
    swapped = TokenGroup(group.prompt_ids, group.responses[::-1], True, group.where)
    shifted = TokenGroup(
        np.append(group.prompt_ids, group.responses[0].ids[:1]),
        (TokenResponse(group.responses[0].ids[1:], group.responses[0].mask[1:], True), group.responses[1]),
        True,
        group.where,
    )
    assert len({key, group_key(swapped), group_key(shifted)}) == 3
    wide = TokenGroup(group.prompt_ids.astype(np.int64), group.responses, True, group.where)
    assert group_key(wide) == key


def test_the_key_does_not_change_from_release_to_release():
    """BLAKE2b of the lengths (8 bytes) and ids (4 bytes), little-endian, prompt first.

    As coreutils has it, with \\0 shortened to 0: printf '1 0000000 7 000 2 0000000 2 000 1 000' | b2sum -l 128
    """
    response = TokenResponse(np.array([2, 1], np.int32), np.array([True, True]), True)
    group = TokenGroup(np.array([7], np.int32), (response,), False, "")
    assert group_key(group) == "c2dca618f75cdc3e4256af87e10b733d"


def step_pair(prompt, begun, chosen, rejected, role=None):
    """Return two steps amid a solution, as text or as turns."""
    wrapped = [begun + step if role is None else talk((role, begun + step)) for step in (chosen, rejected)]
    responses = tuple(Response(content, goes_on=True) for content in wrapped)
    return Example(prompt if role is None else talk(("user", prompt)), responses, True, "file.jsonl, row 1")


def test_nothing_ends_behind_a_step_amid_a_solution():
    """Neither EOS nor, in a conversation, the end of the turn; and nothing counts as cut."""
    group, summary = one(step_pair("q w", " more", " chosen", " rejected"), words_tokenizer(WORDS))
    assert ids(group) == [[7, 8], [11, 9], [11, 10]]
    assert [response.terminal for response in group.responses] == [False, False]
    assert (summary.eos_added, summary.truncated_responses) == (0, 0)
    for template in (CHATML, MARKED):
        tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=template)
        group, summary = one(step_pair("q", "a\n", "b ", "c", role="assistant"), tokenizer)
        texts = [tokenizer.decode(response.ids) for response in group.responses]
        assert tokenizer.decode(group.prompt_ids) == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
        assert texts == ["a\nb", "a\nc"]
        assert all(response.mask.all() for response in group.responses)
        assert summary.eos_added == 0
    group, _ = one(step_pair("q", "a ", "b", "c", role="assistant"), bytes_tokenizer(chat_template=HEADERS))
    assert [bytes_tokenizer().decode(response.ids) for response in group.responses] == ["a b", "a c"]


def test_a_step_may_be_one_token_and_may_be_cut():
    group, _ = one(step_pair("q", "", " chosen", " rejected"), words_tokenizer(WORDS))
    assert ids(group) == [[7], [9], [10]]
    data = tokenize(
        [step_pair("q", " w", " chosen", " rejected more")],
        words_tokenizer(WORDS),
        max_length=3,
        truncation="response_right",
    )
    assert ids(data.groups[0]) == [[7], [8, 9], [8, 10]]
    assert data.summary.truncated_responses == 1
