"""Tiny language models and tokenizers, built in code and the same for the same seed.

They stand in for real models wherever the architecture matters and the weights do not: tests, dry runs of a recipe, a
first look at a command. Nothing here is downloaded, nothing is trained, and no file is read. The weights are drawn
wide on purpose: log-probs are far from uniform, so that a wrong mask or a wrong position shows up as a wrong number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import torch

from tokenq.demo.tokenizer import word_tokenizer
from tokenq.errors import unknown_name

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

VOCAB_SIZE: Final = 288
"""Default vocabulary: more than every tokenizer below needs by default, as padded embeddings of real models are."""

WINDOW: Final = 8
"""Sliding window of the families that have one, in tokens: shorter than any test's sequence."""


@dataclass(frozen=True)
class Family:
    """One architecture at toy size.

    Attributes:
        model_type: the name by which transformers knows the architecture.
        options: what differs from that architecture's default configuration.
        shares_prefix: whether responses can share one computed prompt through an attention mask and positions. False
            for layers that carry a state along the row, and for positions that the model derives from the row itself.
        note: what this family is here to exercise.
    """

    model_type: str
    options: Mapping[str, Any]
    shares_prefix: bool
    note: str


_BASE: Final = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
_GATED: Final = {**_BASE, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 12}

FAMILIES: Final[dict[str, Family]] = {
    "gpt_neox": Family(
        "gpt_neox",
        {**_BASE, "intermediate_size": 96, "rotary_pct": 0.5, "use_parallel_residual": True},
        True,
        "Pythia: partial rotary positions, parallel residual, untied head",
    ),
    "gpt2": Family(
        "gpt2",
        {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 256}
        | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        True,
        "learned absolute positions, tied head",
    ),
    "llama": Family("llama", {**_GATED, "tie_word_embeddings": False}, True, "grouped queries, untied head"),
    "qwen2": Family(
        "qwen2",
        {name: value for name, value in _GATED.items() if name != "head_dim"} | {"tie_word_embeddings": True},
        True,
        "biases on queries, keys and values, tied head",
    ),
    "qwen3": Family("qwen3", {**_GATED, "tie_word_embeddings": True}, True, "normalised queries and keys, tied head"),
    "mistral": Family("mistral", {**_GATED, "sliding_window": WINDOW}, True, "a sliding window in every layer"),
    "gemma3": Family(
        "gemma3_text",
        {**_GATED, "num_hidden_layers": 3, "num_key_value_heads": 1, "query_pre_attn_scalar": 12}
        | {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        True,
        "window and full layers in turn with two rotary bases, scaled embeddings, tied head",
    ),
    "gemma2": Family(
        "gemma2",
        {**_GATED, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}
        | {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
        True,
        "soft-capped attention scores and logits, window and full layers in turn",
    ),
    "phi": Family("phi", {**_BASE, "intermediate_size": 96}, True, "a bias in the head, partial rotary positions"),
    "olmo2": Family(
        "olmo2", {**_BASE, "intermediate_size": 64, "num_key_value_heads": 2}, True, "norms after the sublayers"
    ),
    "opt": Family(
        "opt",
        {**_BASE, "ffn_dim": 96, "word_embed_proj_dim": 48, "dropout": 0.0},
        True,
        "learned absolute positions that begin at an offset of 2",
    ),
    "bloom": Family(
        "bloom",
        {"hidden_size": 48, "n_layer": 2, "n_head": 4},
        False,
        "ALiBi: distances are taken from the attention mask, no position can be given",
    ),
    "mamba": Family(
        "mamba",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4},
        False,
        "a state-space model: no attention, a state runs along the row",
    ),
    "lfm2": Family(
        "lfm2",
        {name: value for name, value in _GATED.items() if name != "head_dim"}
        | {
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
        },
        False,
        "short convolutions between attention layers: the row's neighbours mix",
    ),
}
"""Every family by the name that `tiny_model` takes."""


def tiny_model(
    family: str,
    *,
    seed: int = 0,
    vocab_size: int = VOCAB_SIZE,
    layers: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> "PreTrainedModel":
    """Return a causal language model of one family with seeded random weights, in evaluation mode.

    The weights depend on `family`, `seed`, `vocab_size` and `layers` only: they are drawn in float32 and converted, so
    that the float64 model is the float32 model exactly. Token ids 0, 1, 2 are padding, BOS and EOS, as in
    `tiny_tokenizer`.

    Args:
        family: a key of `FAMILIES`.
        seed: of the weights; the global random state is left as it was.
        vocab_size: rows of the embedding.
        layers: how many, where one is enough for what is tested: a quarter of a training's time; None for the row's.
        dtype: of the weights.

    Raises:
        UserError: for an unknown family.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if family not in FAMILIES:
        raise unknown_name("model family", family, FAMILIES)
    row = FAMILIES[family]
    options = dict(row.options)
    if layers is not None:
        options["n_layer" if "n_layer" in options else "num_hidden_layers"] = layers
        if "layer_types" in options:
            options["layer_types"] = options["layer_types"][:layers]
    config = AutoConfig.for_model(
        row.model_type, vocab_size=vocab_size, pad_token_id=0, bos_token_id=1, eos_token_id=2, **options
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _widen(model, torch.Generator().manual_seed(seed))
    return model.to(dtype=dtype).eval()


def _widen(model: "PreTrainedModel", generator: torch.Generator) -> None:
    """Add seeded noise to every parameter: 0.2 to matrices, 0.15 to norms, biases and filters, which begin flat.

    Noise is added and not written over, because some parameters (a norm's ones, a state-space model's decays) must
    stay near where their architecture puts them.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            std = 0.2 if parameter.dim() == 2 else 0.15
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=std)


SAMPLE: Final = (
    "The cat sat on the mat, and the dog ran to the old red house by the sea.",
    "the cat saw a bird; it is one that sang a song at night.\nnow what? What did you say? I said: no, not now!",
    "Question: how many are there? Answer: 1 2 3 4 5 6 7 8 9 0.\nYes, we can (and will) do it well.",
)
"""Text whose pieces make the default vocabulary."""

CHATML: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A ChatML-like template; its two markers become special tokens of a tokenizer that is given a template."""

Kind = Literal["words", "bytes", "bpe"]
"""Tokenizers of `tiny_tokenizer`: whole words, single bytes, or byte pairs merged as the texts suggest."""


def tiny_tokenizer(
    kind: Kind = "words",
    *,
    texts: Sequence[str] = SAMPLE,
    bos: Literal["added", "known", "absent"] = "added",
    eos: str | None = "<eos>",
    chat_template: str | None = None,
) -> "PreTrainedTokenizerFast":
    """Return a fast tokenizer whose ids 0, 1, 2, 3 are padding, BOS, EOS and unknown, in this order.

    Decoding joins the pieces and adds nothing: whatever has no unknown piece comes back as the same text.

    Args:
        kind: "words" knows the pieces of `texts`; "bytes" knows every byte, as byte-level models do
            without merges; "bpe" adds the 24 most frequent merges of `texts`, some across a space before a word.
        texts: what the vocabulary is made from.
        bos: "added" before every text (as Llama and Gemma do), "known" but not added (as Pythia), or "absent" (Qwen).
        eos: the EOS token's text, "<|im_end|>" for a chat model of that kind; None for a tokenizer without EOS.
        chat_template: a Jinja template such as `CHATML`.

    Raises:
        UserError: for an unknown kind.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    markers = ["<|im_start|>", "<|im_end|>"] if chat_template is not None else []
    specials = list(dict.fromkeys(["<pad>", "<bos>", eos or "<eos>", "<unk>", *markers]))
    inner = _inner(kind, texts, specials)
    if bos == "added":
        inner.post_processor = TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos> $B:1", special_tokens=[("<bos>", 1)]
        )
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token=None if bos == "absent" else "<bos>",
        eos_token=eos,
        unk_token="<unk>",
        additional_special_tokens=[marker for marker in markers if marker != eos],
        clean_up_tokenization_spaces=False,
    )
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def _inner(kind: str, texts: Sequence[str], specials: list[str]) -> "Tokenizer":
    """Return the tokenizers object of one kind, its special tokens first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if kind == "words":
        return word_tokenizer(texts, specials)
    if kind in ("bytes", "bpe"):
        inner = Tokenizer(models.BPE(unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        size = len(specials) + len(alphabet) + (24 if kind == "bpe" else 0)
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        )
        inner.train_from_iterator(texts, trainer)
    else:
        raise unknown_name("tokenizer kind", kind, ("words", "bytes", "bpe"))
    inner.add_special_tokens(specials)
    return inner
