"""From ids back to text, over tokenizers of all kinds: what was generated, and nothing else."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
from examples import share_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import tokenq
from tokenq.data.encoding import piece_of, pieces_of, text_of, whole_text

TEXTS = (
    "The cat sat on the mat , and the dog ran . What did you say ? I can 't , we 've not",
    "price : 3.50 €, naïve café – “quoted” … don't you 're it 's by , well",
    "日本語 の テキスト 😀 🎉 été\n\nnew line\ttab  two blanks",
)
SPECIALS = ["<unk>", "<s>", "</s>", "<|mark|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level():
    """GPT-2, Llama 3, Qwen: every byte is a token, blanks are part of words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False),
    )
    return core


def sentencepiece():
    """Llama 2, Mistral, Gemma: words begin with ▁, unknown characters fall back to bytes, decoding strips one blank."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*SPECIALS, *BYTES], show_progress=False)
    core.train_from_iterator(TEXTS, trainer)
    merges = [tuple(pair) for pair in json.loads(core.to_str())["model"]["merges"]]
    vocab = core.get_vocab()
    # Without the characters beyond Latin, so that these are written in bytes.
    few = {piece: number for piece, number in vocab.items() if all(ord(c) < 0x250 or c == "▁" for c in piece)}
    kept = [(a, b) for a, b in merges if {a, b, a + b} <= set(few)]
    numbered = {piece: number for number, piece in enumerate(sorted(few, key=few.__getitem__))}
    bare = Tokenizer(models.BPE(numbered, kept, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bare.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bare.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return bare


def metaspace():
    """T5, XGLM: the blank is a mark before words, and the first is taken away."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    core.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    core.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIALS, show_progress=False))
    return core


def wordpiece():
    """BERT: words are joined by blanks, ## goes on with one."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIALS, show_progress=False)
    core.train_from_iterator(TEXTS, trainer)
    return core


def words():
    """Whole words, without a decoder: joined by blanks."""
    pieces = dict.fromkeys(piece for text in TEXTS for piece in text.split())
    core = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate([*SPECIALS, *pieces])}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return core


KINDS = {one.__name__: one for one in (byte_level, sentencepiece, metaspace, wordpiece, words)}


@cache
def tokenizer_of(kind):
    """Return a tokenizer that would tidy spaces away where it is left to."""
    core = KINDS[kind]()
    core.add_special_tokens(SPECIALS)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|mark|>"],
        clean_up_tokenization_spaces=True,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True,
    )


def plainly(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def as_bytes(kind, tokenizer, ids):
    """Return the bytes that tokens of a byte-level or sentencepiece vocabulary stand for, by its definition."""
    alphabet = {char: byte for byte, char in _bytes_to_unicode().items()}
    said = b""
    for piece in tokenizer.convert_ids_to_tokens([one for one in ids if one >= len(SPECIALS)]):
        if kind == "byte_level":
            said += bytes(alphabet[char] for char in piece)
        elif re.fullmatch("<0x[0-9A-F]{2}>", piece):
            said += bytes([int(piece[3:5], 16)])
        else:
            said += piece.replace("▁", " ").encode()
    return said


def _bytes_to_unicode():
    """Return GPT-2's table: printable bytes stand for themselves, the others for characters from 256 on."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def short_runs(text):
    """Return text in which bytes that are no character count once: decoders write a mark for one, or for several."""
    return re.sub("\ufffd+", "\ufffd", text)


ids = st.lists(st.integers(0, 10_000), max_size=24)


def of(tokenizer, numbers):
    return [number % len(tokenizer) for number in numbers]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=share_of(150), deadline=None)
@given(before=ids, after=ids)
@example(before=[160], after=[98])  # byte_level: two bytes that are no character, one mark for both
@example(before=[], after=[1265])  # metaspace: a blank at the beginning, which decoding takes away
@example(before=[], after=[8068, 8403, 781])  # sentencepiece: the same, and text after it
def test_pieces_join_to_the_text(kind, before, after):
    """Of any tokens, sense or none; and where all bytes are characters, prompt and response are the whole."""
    tokenizer = tokenizer_of(kind)
    prompt, response = of(tokenizer, before), of(tokenizer, after)
    text, pieces = text_of(tokenizer, prompt, response), pieces_of(tokenizer, prompt, response)
    assert len(pieces) == len(response)
    assert "".join(pieces) == text
    whole = plainly(tokenizer, [*prompt, *response])
    if "\ufffd" not in whole + plainly(tokenizer, prompt):
        assert plainly(tokenizer, prompt) + text == whole
    specials = [piece for piece, token in zip(pieces, response, strict=True) if token in (1, 2, 3)]
    assert not any(specials)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@settings(max_examples=share_of(150), deadline=None)
@given(before=st.sampled_from(TEXTS), after=ids)
def test_text_is_that_of_the_bytes(kind, before, after):
    """By the bytes that each token stands for; those that are no character are U+FFFD, and harm no others."""
    tokenizer = tokenizer_of(kind)
    prompt = tokenizer.encode(before, add_special_tokens=False)
    response = [one for one in of(tokenizer, after) if one != 0]
    expected = as_bytes(kind, tokenizer, response).decode("utf-8", "replace")
    assert short_runs(text_of(tokenizer, prompt, response)) == short_runs(expected)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "metaspace"])
@settings(max_examples=share_of(150), deadline=None)
@given(text=st.text(st.sampled_from("".join(TEXTS)), min_size=1, max_size=40), cut=st.floats(0.05, 1))
def test_prompt_and_response_are_the_text(kind, text, cut):
    """A text that is cut between two tokens, where a character ends, comes back whole, blanks and marks included."""
    tokenizer = tokenizer_of(kind)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    place = int(cut * len(tokens))
    head = plainly(tokenizer, tokens[:place])
    if "\ufffd" in head or tokenizer.unk_token_id in tokens:
        return
    assert head + text_of(tokenizer, tokens[:place], tokens[place:]) == plainly(tokenizer, tokens)
    if kind != "metaspace":
        assert plainly(tokenizer, tokens) == text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=share_of(60), deadline=None)
@given(before=st.sampled_from(TEXTS), after=st.sampled_from(TEXTS))
def test_a_long_prompt_changes_nothing(kind, before, after):
    """What is read before a response is a few tokens; the whole prompt says the same."""
    tokenizer = tokenizer_of(kind)
    prompt = tokenizer.encode(before * 9, add_special_tokens=False)
    response = tokenizer.encode(after, add_special_tokens=False)
    whole = plainly(tokenizer, [*prompt, *response])
    assert text_of(tokenizer, prompt, response) == whole[len(plainly(tokenizer, prompt)) :]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_tidied_away(kind):
    """Spaces before marks stay, and so does the blank of the first word."""
    tokenizer = tokenizer_of(kind)
    prompt = tokenizer.encode("The cat", add_special_tokens=False)
    for said in (" by , well", " What did you say ?", " don 't"):
        whole = tokenizer.encode(f"The cat{said}", add_special_tokens=False)
        if kind in ("wordpiece", "words") and "don" in said:
            continue  # these have no token for it
        assert whole[: len(prompt)] == prompt
        assert text_of(tokenizer, prompt, whole[len(prompt) :]) == said
        assert text_of(tokenizer, prompt, [*whole[len(prompt) :], 2]) == said


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_a_character_that_was_cut_harms_no_other(kind):
    """😀 and the first two bytes of 🎉; the mark stands with the last byte."""
    tokenizer = tokenizer_of(kind)
    prompt = tokenizer.encode("été", add_special_tokens=False)
    alphabet = _bytes_to_unicode()
    names = BYTES if kind == "sentencepiece" else [alphabet[byte] for byte in range(256)]
    tokens = tokenizer.convert_tokens_to_ids([names[byte] for byte in "😀".encode() + "🎉".encode()[:2]])
    assert short_runs(text_of(tokenizer, prompt, tokens)) == "😀\ufffd"
    pieces = pieces_of(tokenizer, prompt, [*tokens, 2])
    assert pieces[:5] == ["", "", "", "😀", ""]
    assert short_runs(pieces[5]) == "\ufffd"
    assert pieces[6] == ""


def test_a_token_alone_has_its_blank():
    tokenizer = tokenizer_of("sentencepiece")
    token = tokenizer.convert_tokens_to_ids("▁the")
    assert tokenizer.decode([token]) == "the"
    assert piece_of(tokenizer, token) == " the"
    assert piece_of(tokenizer, token, [5, token]) == " the"
    assert piece_of(tokenizer, 2) == "</s>"
    assert piece_of(tokenizer_of("wordpiece"), tokenizer_of("wordpiece").convert_tokens_to_ids("the")) == " the"


class Loud(PreTrainedTokenizerFast):
    """A tokenizer that decodes in a way of its own."""

    def decode(self, *args, **how):
        return super().decode(*args, **how).upper()


def test_a_tokenizer_with_a_way_of_its_own_is_asked_for_it():
    usual = tokenizer_of("byte_level")
    prompt, response = (usual.encode(text, add_special_tokens=False) for text in ("The cat", " sat on"))
    assert text_of(usual, prompt, response) == "".join(pieces_of(usual, prompt, response)) == " sat on"
    loud = Loud(tokenizer_object=usual.backend_tokenizer)
    assert text_of(loud, prompt, response) == "".join(pieces_of(loud, prompt, response)) == " SAT ON"


def test_a_whole_text_names_its_specials():
    tokenizer = tokenizer_of("wordpiece")
    assert whole_text(tokenizer, [1, *tokenizer.encode("by , well", add_special_tokens=False)]) == "<s> by , well"


@pytest.mark.integration
def test_nobody_else_decodes():
    """Tokenizers are asked for text in one module: elsewhere `.decode(` is that of bytes, or `tokenq.decode`."""
    root = Path(tokenq.__file__).parent
    found = []
    for path in root.rglob("*.py"):
        if path.name == "encoding.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("decode", "batch_decode", "convert_tokens_to_string"):
                owner = ast.unparse(node.value)
                if "tokenizer" in owner.lower():
                    found.append(f"{path.name}: {owner}.{node.attr}")
    assert not found
