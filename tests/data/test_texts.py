"""Where tokens stand in the text: pieces by hand, and for any text against the bytes that the tokens are made of."""

from itertools import accumulate

import numpy as np
import pytest
from examples import share_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers
from toy_tokenizers import CHATML, HEADERS, MARKED, THINKING, bytes_tokenizer, words_tokenizer
from transformers import PreTrainedTokenizerFast

from tokenq.data.tokenize import tokenize
from tokenq.errors import UserError
from tokenq.records.examples import Example, Message, Response

WORDS = "q w chosen rejected more"


def example(prompt, *responses):
    return Example(prompt, tuple(map(Response, responses)), len(responses) == 2, "file.jsonl, row 1")


def talk(*turns):
    return tuple(Message(role, content) for role, content in turns)


def located(row, tokenizer, **options):
    """Return the group of a row and the texts of its responses."""
    data = tokenize([row], tokenizer, with_texts=True, **{"max_length": None, **options})
    assert len(data.texts) == len(data.groups) == 1
    return data.groups[0], data.texts[0]


def pieces(text):
    ends = text.ends.tolist()
    return [text.text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def check(group, texts):
    """Assert what holds for all: one end a token, ascending, up to the end of the text; the pieces are the text."""
    for response, text in zip(group.responses, texts, strict=True):
        assert text.ends.dtype == np.int32
        assert len(text.ends) == len(response.ids)
        assert (np.diff(text.ends, prepend=0) >= 0).all()
        assert text.ends[-1] == len(text.text)
        assert "".join(pieces(text)) == text.text


def test_a_pair_by_hand():
    group, texts = located(example("q w", " chosen", " rejected more"), words_tokenizer(WORDS))
    check(group, texts)
    assert [text.prompt for text in texts] == ["q w", "q w"]
    assert [text.text for text in texts] == [" chosen", " rejected more"]
    assert [pieces(text) for text in texts] == [[" chosen", ""], [" rejected", " more", ""]]
    assert texts[1].ends.tolist() == [9, 14, 14]


def test_texts_are_told_where_they_are_asked_for_and_for_the_rows_that_are_left():
    rows = [example("q", " more", " more"), example("q", " chosen", " more")]
    data = tokenize(rows, words_tokenizer(WORDS), max_length=None, with_texts=True)
    assert [[text.text for text in texts] for texts in data.texts] == [[" chosen", " more"]]
    plain = tokenize(rows, words_tokenizer(WORDS), max_length=None)
    assert plain.texts == ()
    assert [r.ids.tolist() for r in plain.groups[0].responses] == [r.ids.tolist() for r in data.groups[0].responses]


def test_a_character_of_several_tokens_stands_with_the_first_of_them():
    """In UTF-8 "é" has 2 bytes, "😀" 4."""
    group, (text,) = located(example("x", "aéb😀"), bytes_tokenizer())
    check(group, [text])
    assert pieces(text) == ["a", "é", "", "b", "😀", "", "", "", ""]
    _, (text,) = located(example("x", "aéb"), bytes_tokenizer([("Ã", "©")]))
    assert pieces(text) == ["a", "é", "b", ""]


def test_a_token_of_parts_of_two_characters_stands_with_both():
    """ "éé" is C3 A9 C3 A9; with A9 C3 one token no token but the last ends between characters."""
    tokenizer = bytes_tokenizer([("©", "Ã")])
    assert len(tokenizer("éé")["input_ids"]) == 3
    group, (text,) = located(example("x", "aééb"), tokenizer)
    check(group, [text])
    assert pieces(text) == ["a", "éé", "", "", "b", ""]


def test_tokens_that_merge_over_the_end_of_the_prompt_begin_before_the_response():
    """ "ab" is one token in one response; in the other "a" is a token of which the response has no character."""
    group, texts = located(example("xa", "b", "cb"), bytes_tokenizer([("a", "b")]))
    check(group, texts)
    assert [text.prompt for text in texts] == ["xa", "xa"]
    assert [pieces(text) for text in texts] == [["b", ""], ["", "c", "b", ""]]


def test_a_prompt_that_borrows_its_first_token_borrows_its_text():
    group, (text,) = located(example("", "q w more"), words_tokenizer(WORDS))
    check(group, [text])
    assert (text.prompt, pieces(text)) == ("q", [" w", " more", ""])
    group, (text,) = located(example("a", "bc"), bytes_tokenizer([("a", "b")]))
    assert (text.prompt, pieces(text)) == ("ab", ["c", ""])
    _, (text,) = located(example("", "q w"), words_tokenizer(WORDS, bos="<bos>"))
    assert (text.prompt, pieces(text)) == ("", ["q", " w", ""])


@pytest.mark.parametrize("prompt", ["q w", "<bos> q w", "<bos> <bos> q w"])
def test_bos_does_not_move_the_text(prompt):
    group, (text,) = located(example(prompt, " chosen more"), words_tokenizer(WORDS, bos="<bos>"))
    check(group, [text])
    assert (text.prompt, pieces(text)) == (prompt, [" chosen", " more", ""])


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (" chosen", [" chosen", ""]),
        (" chosen <eos>", [" chosen", " <eos>"]),
        (" chosen <eos>\n", [" chosen", " <eos>"]),
        (" chosen <eos> <eos>", [" chosen", " <eos>"]),
        (" chosen  \n ", [" chosen  \n ", ""]),  # blanks that the tokenizer drops
    ],
)
def test_the_end_by_hand(response, expected):
    group, (text,) = located(example("q", response), words_tokenizer(WORDS))
    check(group, [text])
    assert pieces(text) == expected
    assert text.text == "".join(expected)


def test_a_conversation_by_hand():
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=CHATML)
    group, texts = located(example(talk(("user", "q")), talk(("assistant", "é")), talk(("assistant", "r"))), tokenizer)
    check(group, texts)
    assert {text.prompt for text in texts} == {"<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"}
    assert [pieces(text) for text in texts] == [["é", "", "<|im_end|>"], ["r", "<|im_end|>"]]


def test_an_end_of_turn_that_is_not_eos():
    tokenizer = bytes_tokenizer(bos="<bos>", chat_template=HEADERS)
    group, (text,) = located(example(talk(("user", "q")), talk(("assistant", "c"))), tokenizer)
    check(group, [text])
    assert text.prompt == "<bos>[user]q<|eot|>[assistant]"
    assert pieces(text) == ["c", "<|eot|>", ""]


TURNS = talk(("assistant", "one"), ("user", "zwéi"), ("tool", "three"), ("assistant", "four"))


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_what_the_assistant_wrote_is_found_in_a_response_of_several_turns(template):
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=template)
    group, (text,) = located(example(talk(("user", "q")), TURNS), tokenizer)
    check(group, [text])
    own = [piece for piece, written in zip(pieces(text), group.responses[0].mask, strict=True) if written]
    assert "".join(own) == "one<|im_end|>four<|im_end|>"
    assert "zwéi" in text.text


def test_responses_to_one_prompt_have_one_prompt_even_where_the_template_rewrites_it():
    """The header opens thoughts, which one response has and the other has not: the prompt ends before them."""
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=THINKING)
    row = example(talk(("user", "q")), talk(("assistant", "c")), talk(("assistant", "<think>hm</think>r")))
    group, texts = located(row, tokenizer)
    check(group, texts)
    assert {text.prompt for text in texts} == {"<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"}
    assert [text.text for text in texts] == ["c<|im_end|>", "<think>hm</think>r<|im_end|>"]
    assert pieces(texts[1]) == ["<think>", "h", "m", "</think>", "r", "<|im_end|>"]


@pytest.mark.parametrize(("room", "cut"), [(6, "aébbc"), (3, "aé"), (2, "aé"), (1, "a")])
def test_a_response_that_is_cut_has_the_text_of_its_tokens(room, cut):
    """Tokens are x | a, C3, A9, b, b, c; cut amid a character, the text holds all of it."""
    group, texts = located(
        example("x", "aébbc", "b"), bytes_tokenizer(), max_length=1 + room, truncation="response_right"
    )
    check(group, texts)
    assert texts[0].text == cut
    assert group.responses[0].terminal is False
    assert texts[1].text == "b"


def test_a_prompt_that_is_cut_does_not_move_the_response():
    row = example("q w q w q w", " chosen more")
    group, (text,) = located(row, words_tokenizer(WORDS), max_length=5, truncation="prompt_left")
    check(group, [text])
    assert len(group.prompt_ids) == 2
    assert pieces(text) == [" chosen", " more", ""]
    assert text.prompt == "q w q w q w"


def test_a_tokenizer_that_cannot_say_where_its_tokens_stand_is_an_error():
    inner = words_tokenizer(WORDS)

    class Slow:
        bos_token_id, eos_token_id, eos_token, chat_template = None, inner.eos_token_id, inner.eos_token, None

        def __call__(self, text, **options):
            if options.get("return_offsets_mapping"):
                raise NotImplementedError
            return inner(text, **options)

    assert tokenize([example("q", " w")], Slow(), max_length=None).groups
    with pytest.raises(UserError, match="where its tokens stand") as caught:
        located(example("q", " w"), Slow())
    assert "tokenizer.json" in caught.value.hint


def test_a_token_without_a_place_stands_where_the_one_before_it_ends():
    """Some tokenizers give (0, 0) to what they made up."""
    inner = words_tokenizer(WORDS)

    class Vague:
        bos_token_id, eos_token_id, eos_token, chat_template = None, inner.eos_token_id, inner.eos_token, None

        def __call__(self, text, **options):
            found = inner(text, **options)
            unknown = inner.convert_tokens_to_ids("?")
            for ids, places in zip(found["input_ids"], found.get("offset_mapping", []), strict=False):
                places[:] = [(0, 0) if one == unknown else place for one, place in zip(ids, places, strict=True)]
            return found

    group, (text,) = located(example("q", " w strange more"), Vague())
    check(group, [text])
    assert pieces(text) == [" w", "", " strange more", ""]


# For any text --------------------------------------------------------------------------------------------------------

MERGES = [("a", "b"), ("Ġ", "a"), ("Ġa", "b"), ("b", "Ġ"), ("Ċ", "Ċ"), (":", "Ġ"), ("ab", "ab"), ("Ã", "©"), ("Ċ", "a")]
BREAKING = [*MERGES, ("©", "Ã"), ("ð", "Ł"), ("Ģ", "a"), ("ðŁ", "ĺ"), ("Ģ", "ð"), ("b", "Ã")]
"""Some of these make tokens of parts of two characters."""

BYTES = {
    "merges": bytes_tokenizer(MERGES),
    "bos": bytes_tokenizer(MERGES, bos="<bos>"),
    "breaking": bytes_tokenizer(BREAKING),
    "breaking-bos": bytes_tokenizer(BREAKING, bos="<bos>"),
    "tiny-bytes": tiny_tokenizer("bytes"),
    "tiny-bpe": tiny_tokenizer("bpe", bos="absent"),
}


def pieces_tokenizer(*, legacy):
    """Return a tokenizer in the manner of SentencePiece: blanks are ▁, unknown characters are bytes.

    Args:
        legacy: whether a ▁ is put in front of every text, as by Llama 2 (and not by Gemma).
    """
    merges = [("▁", "a"), ("▁a", "b"), ("a", "b"), ("▁", "▁"), ("ab", "▁")]
    specials = ["<unk>", "<bos>", "<eos>"]
    alphabet = [chr(code) for code in range(33, 127)] + ["▁", "\n", "é", "я"]
    vocabulary = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet, *(a + b for a, b in merges)]
    core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocabulary)}, merges, byte_fallback=True))
    blanks = normalizers.Replace(" ", "▁")
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blanks]) if legacy else blanks
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens(specials)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")


OTHERS = {
    "sentencepiece": pieces_tokenizer(legacy=False),
    "sentencepiece-legacy": pieces_tokenizer(legacy=True),
    "words": words_tokenizer(WORDS),
    "tiny-words": tiny_tokenizer("words"),
}

some_text = st.lists(
    st.sampled_from(
        [
            "a",
            "b",
            "ab",
            " ",
            "  ",
            "\n",
            "\n\n",
            "\t",
            "é",
            "e\u0301",
            "ß",
            "я",
            "😀",
            "👩\u200d👧",
            "🇩🇪",
            "שלום",
            "مرحبا",
            "中",
            "文。",
            "def f(x):\n    return x[0]",
            "</script>",
            "<b>",
            "\r\n",
            "\u00a0",
            "\u3000",
            "q",
            "a:",
            "\u202e",
        ]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    min_size=1,
    max_size=6,
).map("".join)
spoken = some_text.filter(str.strip)


def byte_borders(tokenizer, ids, full):
    """Return one past the last character of every token, counted in bytes: a token has as many as its name has signs.

    A token that ends amid a character ends where the next one does that does not.
    """
    names = [tokenizer.convert_ids_to_tokens(int(number)) for number in ids]
    sizes = [0 if name in ("<bos>", "<eos>") else len(name) for name in names]
    borders = {len(full[:end].encode()): end for end in range(len(full) + 1)}
    ends, later = [], len(full)
    for reached in reversed(list(accumulate(sizes))):
        later = borders.get(reached, later)
        ends.append(later)
    return ends[::-1]


@pytest.mark.parametrize("name", BYTES)
@given(prompt=spoken, responses=st.lists(spoken, min_size=2, max_size=2, unique=True))
@settings(max_examples=share_of(120), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_tokens_of_bytes_stand_where_their_bytes_do(name, prompt, responses):
    tokenizer = BYTES[name]
    data = tokenize([example(prompt, *responses), example("q", "r")], tokenizer, max_length=None, with_texts=True)
    group, texts = data.groups[0], data.texts[0]
    if not group.is_pair:
        assert "bos" not in name  # nothing but a prompt that is no token of its own is left out
        return
    check(group, texts)
    for text, response, given_response in zip(texts, group.responses, responses, strict=True):
        assert text.prompt + text.text == prompt + given_response
        assert text.prompt == prompt or len(group.prompt_ids) == 1
        ids = [*group.prompt_ids, *response.ids]
        borders = byte_borders(tokenizer, ids, prompt + given_response)[len(group.prompt_ids) :]
        assert text.ends.tolist() == [max(0, end - len(text.prompt)) for end in borders]


@pytest.mark.parametrize("name", OTHERS)
@given(prompt=spoken, response=spoken)
@settings(max_examples=share_of(120), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_pieces_are_the_text_whatever_the_tokenizer_makes_of_it(name, prompt, response):
    tokenizer = OTHERS[name]
    row = example(f"q {prompt}", response)
    data = tokenize([row, example("q", " w more")], tokenizer, max_length=None, with_texts=True)
    group, (text,) = data.groups[0], data.texts[0]
    check(group, [text])
    if len(data.groups) == 1:  # a response of blanks to this tokenizer
        assert data.summary.dropped == {"response without tokens": 1}
        return
    assert text.prompt + text.text == f"q {prompt}{response}"
    if "sentencepiece" in name and "▁" not in text.text:
        said = [tokenizer.convert_ids_to_tokens(int(number)) for number in group.responses[0].ids]
        # The first with a character in the response may begin in the prompt; the last is EOS.
        first = 1 + int((text.ends == 0).sum())
        for token, piece in zip(said[first:-1], pieces(text)[first:-1], strict=True):
            if not token.startswith("<0x"):
                assert piece == token.replace("▁", " ")


CHATS = {
    "chatml": bytes_tokenizer(BREAKING, eos="<|im_end|>", chat_template=CHATML),
    "headers": bytes_tokenizer(MERGES, bos="<bos>", chat_template=HEADERS),
    "marked": bytes_tokenizer(MERGES, eos="<|im_end|>", chat_template=MARKED),
    "thinking": bytes_tokenizer(BREAKING, eos="<|im_end|>", chat_template=THINKING),
    "sentencepiece": pieces_tokenizer(legacy=False),
}
CHATS["sentencepiece"].chat_template = HEADERS


@pytest.mark.parametrize("name", CHATS)
@given(said=st.lists(spoken, min_size=4, max_size=4), length=st.sampled_from([1, 3]))
@settings(max_examples=share_of(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_pieces_of_a_conversation_are_its_text(name, said, length):
    tokenizer = CHATS[name]
    answers = [
        talk(*zip(("assistant", "user", "assistant")[:length], (first, *said[2:]), strict=False))
        for first in (said[1], f"{said[1]}!")
    ]
    prompt = talk(("user", said[0]))
    group, texts = located(example(prompt, *answers), tokenizer)
    check(group, texts)
    assert len({text.prompt for text in texts}) == 1
    for text, answer in zip(texts, answers, strict=True):
        conversation = [{"role": turn.role, "content": turn.content} for turn in (*prompt, *answer)]
        assert text.prompt + text.text == tokenizer.apply_chat_template(conversation, tokenize=False).rstrip()
