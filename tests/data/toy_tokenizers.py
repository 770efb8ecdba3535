"""Tokenizers and chat templates small enough to know by heart, built in code: no download, no file."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<|eot|>", "<think>", "</think>"]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""End of turn is EOS, followed by a line break that belongs to no turn."""

HEADERS = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']' + m.content | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
"""BOS in the template, and an end of turn that is not EOS."""

MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The text of CHATML, with the assistant's part marked by the template."""

MARKED_WORDS = MARKED.replace(
    "m.content + '<|im_end|>' }}{% endgeneration %}{{ '", "m.content }}{% endgeneration %}{{ '<|im_end|>"
)
"""The same text, with the assistant's words marked and not the end of its turns."""

THINKING = (
    "{% for m in messages %}{% set text = m.content %}"
    "{% if m.role == 'assistant' and not loop.last %}{% set text = text.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + text + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>' }}{% endif %}"
)
"""Thoughts are opened by the header, and taken out of every turn but the last."""


def bytes_tokenizer(
    merges: Sequence[tuple[str, str]] = (),
    *,
    bos: str | None = None,
    eos: str | None = "<eos>",
    chat_template: str | None = None,
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the given merges, which may cross words, lines and the end of a prompt."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIAL, *alphabet, *dict.fromkeys(a + b for a, b in merges)]
    core = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    return _finished(core, bos, eos, chat_template)


def words_tokenizer(
    words: str, *, bos: str | None = None, eos: str | None = "<eos>", chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """One id a word: the special tokens are 0 to 6, the words of `words` 7 and on, "?" for any other."""
    pieces = [*SPECIAL, *words.split(), "?"]
    core = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, "?"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(SPECIAL)
    return _finished(core, bos, eos, chat_template)


def _finished(core: Tokenizer, bos: str | None, eos: str | None, chat_template: str | None) -> PreTrainedTokenizerFast:
    if bos is not None:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = chat_template
    return tokenizer
