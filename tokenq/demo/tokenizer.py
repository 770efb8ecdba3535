"""The word tokenizer of the demonstration's world: every piece of its texts is a token."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from tokenq.demo.wording import ATTRIBUTES, FILLERS, POST, QUESTIONS, REMARKS, TOPICS

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PIECES: Final = r"\n| ?\w+| ?[^\w\s]| +"
"""How text is cut: a word or a mark takes the one space before it, so that pieces join to the text."""

SPECIALS: Final = ("<pad>", "<bos>", "<eos>", "<unk>")
"""Tokens 0 to 3."""


def demo_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the word tokenizer of the world: every piece of its texts is a token; no BOS is added."""
    from transformers import PreTrainedTokenizerFast

    texts = [POST, *(f" {part}" for topic in TOPICS for part in (*topic.opening, f"{topic.title}:"))]
    texts += [f" {part}" for part in (*FILLERS, *QUESTIONS, *REMARKS)]
    for attribute in ATTRIBUTES.values():
        templates = (*attribute.stated, *attribute.asides, *attribute.noted)
        texts += [f" {template.replace('{}', value)}," for template in templates for value in attribute.values]
    inner = word_tokenizer((text.replace("{}", "") for text in texts), SPECIALS)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def word_tokenizer(texts: Iterable[str], specials: Sequence[str]) -> "Tokenizer":
    """Return a tokenizer that knows the pieces of some texts, in alphabetical order behind the special tokens.

    Decoding joins the pieces and adds nothing: whatever has no unknown piece comes back as the same text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    pieces = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    vocabulary = {piece: i for i, piece in enumerate([*specials, *sorted(pieces)])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = split
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens(list(specials))
    return inner
