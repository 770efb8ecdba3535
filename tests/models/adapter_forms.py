"""Every form of adapter that peft writes, on tiny models of several families, made and saved by peft alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import peft
import torch
from peft import LoraConfig
from tiny import VOCAB_SIZE, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from tokenq.records.examples import TokenGroup, TokenResponse

NEW = 5
"""Tokens by which a vocabulary grows in the forms that grow it."""


@dataclass(frozen=True)
class Names:
    """What the layers of a family are called."""

    attention: tuple[str, ...] = ("q_proj", "v_proj")
    embedding: str = "embed_tokens"
    head: str = "lm_head"


def mixture():
    """Return a tiny Qwen 3 with experts, drawn as wide as the tiny families."""
    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    size |= {"head_dim": 12, "intermediate_size": 64, "moe_intermediate_size": 32}
    config = AutoConfig.for_model(
        "qwen3_moe", vocab_size=VOCAB_SIZE, num_experts=4, num_experts_per_tok=2, eos_token_id=2, **size
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return model.eval()


FAMILIES: dict[str, tuple[Callable[[], Any], Names]] = {
    "llama": (lambda: tiny_model("llama"), Names()),
    "gpt2": (lambda: tiny_model("gpt2"), Names(("c_attn",), "wte")),
    "gemma3": (lambda: tiny_model("gemma3"), Names()),
    "qwen3": (lambda: tiny_model("qwen3"), Names()),
    "qwen3_moe": (mixture, Names()),
    "gpt_neox": (lambda: tiny_model("gpt_neox"), Names(("query_key_value",), "embed_in", "embed_out")),
}
"""Untied and tied heads, Conv1D, soft caps and windows, experts."""


def lora(names, *more, **options):
    """Return a LoRA on the attention and on what is named besides."""
    given = {"r": 2, "lora_alpha": 8, "target_modules": [*names.attention, *more], "task_type": "CAUSAL_LM"}
    return LoraConfig(**{**given, **options})


@dataclass(frozen=True)
class Form:
    """One form of adapter.

    Attributes:
        config: makes peft's configuration.
        grows: tokens by which the vocabulary grows.
        unlike: families in which peft does not have it.
    """

    config: Callable[[Names], Any]
    grows: int = 0
    unlike: tuple[str, ...] = ()


def _of(kind, **options):
    return lambda n: getattr(peft, kind)(target_modules=list(n.attention), task_type="CAUSAL_LM", **options)


FORMS: dict[str, Form] = {
    "attention": Form(lambda n: lora(n)),
    "all linear": Form(lambda n: lora(n, target_modules="all-linear")),
    "head": Form(lambda n: lora(n, n.head)),
    "embedding": Form(lambda n: lora(n, n.embedding)),
    "embedding and head": Form(lambda n: lora(n, n.embedding, n.head)),
    "embedding, tied": Form(lambda n: lora(n, n.embedding, ensure_weight_tying=True)),
    "whole head": Form(lambda n: lora(n, modules_to_save=[n.head])),
    "whole embedding": Form(lambda n: lora(n, modules_to_save=[n.embedding])),
    "whole embedding and head": Form(lambda n: lora(n, modules_to_save=[n.embedding, n.head])),
    "whole embedding, tied": Form(lambda n: lora(n, modules_to_save=[n.embedding], ensure_weight_tying=True)),
    "grown": Form(lambda n: lora(n), NEW),
    "grown, whole": Form(lambda n: lora(n, modules_to_save=[n.embedding, n.head]), NEW),
    "grown, tokens": Form(lambda n: lora(n, trainable_token_indices={n.embedding: [7, 288, 289]}), NEW),
    "tokens": Form(lambda n: lora(n, trainable_token_indices={n.embedding: [5, 7]})),
    "tokens, listed": Form(lambda n: lora(n, trainable_token_indices=[5, 7])),
    "tokens alone": Form(
        lambda n: peft.TrainableTokensConfig(token_indices=[5, 7], target_modules=[n.embedding], task_type="CAUSAL_LM")
    ),
    "DoRA": Form(lambda n: lora(n, use_dora=True)),
    "DoRA, embedding": Form(lambda n: lora(n, n.embedding, use_dora=True)),
    "DoRA, head": Form(lambda n: lora(n, n.head, use_dora=True)),
    "rsLoRA": Form(lambda n: lora(n, use_rslora=True)),
    "all biases": Form(lambda n: lora(n, bias="all")),
    "biases of LoRA": Form(lambda n: lora(n, bias="lora_only")),
    "bias in LoRA": Form(lambda n: lora(n, lora_bias=True)),
    "patterns": Form(lambda n: lora(n, rank_pattern={n.attention[0]: 4}, alpha_pattern={n.attention[-1]: 3})),
    "experts": Form(
        lambda n: lora(n, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
        unlike=("llama", "gpt2", "gemma3", "qwen3", "gpt_neox"),
    ),
    "PiSSA": Form(lambda n: lora(n, init_lora_weights="pissa")),
    "OLoRA": Form(lambda n: lora(n, init_lora_weights="olora"), unlike=("gpt2",)),
    "repeated layers": Form(
        lambda n: lora(n, layer_replication=[(0, 2), (1, 2)]), unlike=("gpt2", "gpt_neox", "qwen3")
    ),
    "IA3": Form(_of("IA3Config", feedforward_modules=[])),
    "VeRA": Form(_of("VeraConfig", r=4)),
    "LoHa": Form(_of("LoHaConfig", r=2), unlike=("gpt2",)),
    "LoKr": Form(_of("LoKrConfig", r=2), unlike=("gpt2",)),
    "AdaLoRA": Form(_of("AdaLoraConfig", target_r=2, init_r=3, total_step=10)),
    "OFT": Form(_of("OFTConfig", r=0, oft_block_size=4), unlike=("gpt2",)),
    "BOFT": Form(_of("BOFTConfig", boft_block_size=4), unlike=("gpt2",)),
    "FourierFT": Form(_of("FourierFTConfig", n_frequency=20)),
    "layer norms": Form(lambda n: peft.LNTuningConfig(task_type="CAUSAL_LM"), unlike=("qwen3_moe", "gpt_neox")),
}
"""Every form by its name."""


def make(family, form, base, folder):
    """Save an adapter of a form for the model in `base`, its weights moved, and return its numbers.

    The model that gives them is peft's, as it was before anything was saved.
    """
    one = FORMS[form]
    model = AutoModelForCausalLM.from_pretrained(base)
    if one.grows:
        model.resize_token_embeddings(VOCAB_SIZE + one.grows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, one.config(FAMILIES[family][1])).eval()
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    adapted.save_pretrained(folder)
    return logps_of(adapted, groups_of(form))


def by_peft(form, base, folder):
    """Return base and adapter as peft reads them, unmerged, in a vocabulary that has grown as far as the adapter's."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if FORMS[form].grows:
        model.resize_token_embeddings(VOCAB_SIZE + FORMS[form].grows)
    return peft.PeftModel.from_pretrained(model, folder).eval()


def groups_of(form):
    """Return two pairs of random tokens, those whose embedding an adapter changes and new ones among them."""
    rng = np.random.default_rng(0)
    size = VOCAB_SIZE + FORMS[form].grows

    def draw(length):
        tokens = rng.integers(3, size, length).astype(np.int32)
        tokens[::4] = rng.choice([5, 7, *range(VOCAB_SIZE, size)], len(tokens[::4]))
        return tokens

    def response(length, role):
        return TokenResponse(draw(length), np.ones(length, dtype=bool), True, role)

    shapes = ((9, (6, 1)), (4, (12, 5)))
    return [
        TokenGroup(draw(m), tuple(map(response, ns, ("chosen", "rejected"))), True, f"row {i}")
        for i, (m, ns) in enumerate(shapes)
    ]


def logps_of(model, groups):
    """Return the log-probs of all responses, one row at a time by the forward of the wrapper that peft has made."""
    found = []
    with torch.no_grad():
        for group in groups:
            for response in group.responses:
                row = torch.from_numpy(np.concatenate((group.prompt_ids, response.ids)).astype(np.int64))
                logps = model(input_ids=row[None], use_cache=False).logits[0].log_softmax(-1)
                places = torch.arange(len(group.prompt_ids), len(row))
                found.append(logps[places - 1, row[places]])
    return torch.cat(found)
