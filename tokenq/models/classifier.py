"""Load reward models: sequence classifiers of transformers, or language models with a new head.

A classifier of transformers reads its head at the last token of a row; here the same head is read wherever a batch has
a target: at the last token of each response, at the end of each step, at every token. The saved model is that of
transformers, so that anybody can load it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from tokenq.errors import UserError
from tokenq.models.adapters import adapter_config, adapter_folder, base_name, is_adapter_folder, with_adapter
from tokenq.models.checkpoint import check_complete, from_pretrained, locate
from tokenq.models.forward.packed_lm import bare
from tokenq.models.forward.reward_lm import outputs_of
from tokenq.models.load import DTYPES, ModelSpec, base_spec, device_of, load_whole, make_deterministic, twin_of
from tokenq.models.merging import merged, merged_or_beside

ENDS_IN_EOS = "tokenq_ends_in_eos"
"""Key of a saved configuration that says: responses were read at their EOS, so judge them with one."""


def load_classifier(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, names: Sequence[str], seed: int) -> nn.Module:
    """Return a classifier to be trained, with one output per name, and set its padding and the tokenizer's.

    From a checkpoint of a classifier, that classifier; from a causal language model, its layers below a new head, whose
    weights have a standard deviation of 1/(d + 1): rewards begin near 0, whatever the size of the model's states (as
    OpenRLHF reads arXiv 2009.01325; read as a variance, the rewards of a Gemma begin nats apart).

    Args:
        spec: what to load.
        tokenizer: goes with it.
        names: what the outputs are called.
        seed: of the new head.

    Raises:
        UserError: nothing is there; transformers has no classifier for it; it has other outputs.
    """
    if spec.adapter is not None:
        raise UserError("--adapter does not go with a reward model.", "Give the adapter's folder as --model.")
    pad = padding_of(tokenizer)
    if _is_classifier(spec):
        model = _whole_classifier(spec)
        if outputs_of(model) != list(names) and not (len(names) == 1 == model.config.num_labels):
            raise UserError(
                f"{spec.path} has the outputs {', '.join(outputs_of(model))}, and the data {', '.join(names)}.",
                "Start from the language model, or choose --attributes.",
            )
    else:
        model = _on_top_of(load_whole(spec), len(names), seed, spec.path)
    config = model.config
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    config.pad_token_id = config.get_text_config().pad_token_id = pad
    config.update({ENDS_IN_EOS: True})
    make_deterministic(model)
    loaded: nn.Module = model
    return loaded


class NoTokenHead(UserError):
    """A classifier without a linear head that could be read at every token."""


def read_classifier(spec: ModelSpec) -> nn.Module:
    """Load a classifier of any kind, without dropout: a checkpoint, a model in memory, an adapter with its base.

    Raises:
        UserError: it is incomplete, or no classifier.
    """
    if spec.loaded is not None:
        return twin_of(spec, spec.loaded)
    adapter = is_adapter_folder(spec.path)
    model = merged_or_beside(lambda: _below_adapter(spec), spec.path) if adapter else _stored(spec)
    make_deterministic(model)
    return model


def open_classifier(spec: ModelSpec) -> nn.Module:
    """Load a classifier that can be read at every token, without dropout.

    Raises:
        NoTokenHead: its head is more than a linear layer.
        UserError: as `read_classifier`.
    """
    model = read_classifier(spec)
    _head(bare(model))
    return model


def _stored(spec: ModelSpec, head: Mapping[str, Tensor] = {}) -> PreTrainedModel:
    """Load the classifier of a checkpoint; `head` holds weights that an adapter will bring."""
    folder, gguf = locate(spec.path)
    options: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code} | gguf
    options |= {"dtype": DTYPES.get(spec.dtype, "auto"), "output_loading_info": True}
    options |= {"num_labels": len(head["score.weight"])} if "score.weight" in head else {}
    load = AutoModelForSequenceClassification.from_pretrained
    found, info = from_pretrained(load, folder, options, spec.path, "a reward model")
    check_complete(spec.path, {*info["missing_keys"]} - head.keys(), "a reward model")
    model: PreTrainedModel = found.to(device_of(spec.device))
    return model


def _below_adapter(spec: ModelSpec) -> PreTrainedModel:
    """Load the base of a reward model's adapter, with as many outputs as the adapter's head."""
    from peft.utils import load_peft_weights

    if _task(spec) != "SEQ_CLS":
        raise UserError(
            f"The adapter {spec.path} cannot be loaded as a reward model: it was made for {_task(spec)}.",
            "Adapters of reward models have the task type SEQ_CLS.",
        )
    weights = load_peft_weights(str(adapter_folder(spec.path)), device="cpu")
    return _stored(base_spec(spec), {base_name(name): tensor for name, tensor in weights.items()})


def padding_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Choose the padding token, set it on the tokenizer and return its id.

    A classifier of transformers finds the last token of a row as the last one that is not padding. Where EOS pads, it
    would read one token too early; so another special token takes its place, one that never ends a text.

    Raises:
        UserError: the tokenizer has no special token but EOS.
    """
    eos = tokenizer.eos_token_id
    named = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids)
    pad = next((number for number in named if number is not None and number != eos), None)
    if pad is None:
        raise UserError(
            "The tokenizer has no token to pad with but EOS, at which a reward is read.",
            'Add one: tokenizer.add_special_tokens({"pad_token": "<pad>"}), resize the embeddings, save both.',
        )
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return int(pad)


def _is_classifier(spec: ModelSpec) -> bool:
    folder, gguf = locate(spec.path)
    if gguf:
        return False
    if is_adapter_folder(spec.path):
        return bool(_task(spec) == "SEQ_CLS")
    options = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    config = from_pretrained(AutoConfig.from_pretrained, folder, options, spec.path)
    return any("ForSequenceClassification" in name for name in config.architectures or ())


def _whole_classifier(spec: ModelSpec) -> PreTrainedModel:
    """Load a classifier to be trained, with an adapter merged into it."""
    if not is_adapter_folder(spec.path):
        model = _stored(spec)
        _head(model)
        return model
    return merged(with_adapter(_below_adapter(spec), spec.path, trainable=False), spec.path)


def _task(spec: ModelSpec) -> Any:
    """Return the task type of an adapter."""
    return adapter_config(str(adapter_folder(spec.path))).get("task_type")


def _on_top_of(causal: nn.Module, outputs: int, seed: int, path: str) -> PreTrainedModel:
    """Return a classifier made of the layers of a causal LM and a new head."""
    lm = bare(causal)
    lm.config.num_labels = outputs
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(lm.config)
    except ValueError:
        raise UserError(
            f"transformers has no sequence classifier for {type(lm).__name__} ({path}).",
            "Take another model: Llama, Qwen, Gemma, Mistral, GPT-NeoX, GPT-2, … have one.",
        ) from None
    head, layers = _head(model), lm.base_model
    if type(model.base_model) is not type(layers):
        raise UserError(
            f"{path}: the classifier of transformers stands on {type(model.base_model).__name__}, and this model has "
            f"{type(layers).__name__}.",
            "Take the text model of its family.",
        )
    weights = next(layers.parameters())
    drawn = torch.randn(outputs, head.in_features, generator=torch.Generator().manual_seed(seed))
    drawn = drawn / (head.in_features + 1)
    fresh = nn.Linear(head.in_features, outputs, bias=head.bias is not None, device=weights.device, dtype=weights.dtype)
    with torch.no_grad():
        fresh.weight.copy_(drawn)
        if fresh.bias is not None:
            fresh.bias.zero_()
    model.score = fresh
    setattr(model, model.base_model_prefix, layers)
    return model


def _head(model: PreTrainedModel) -> nn.Linear:
    head = dict(model.named_children()).get("score")
    own = head if head is None else dict(head.named_children()).get("original_module", head)  # peft keeps a copy
    if type(own) is not nn.Linear:
        raise NoTokenHead(
            f"{type(model).__name__} has no linear head that could be read at every token.",
            "Reward models stand on decoders: Llama, Qwen, Gemma, Mistral, GPT-NeoX, …",
        )
    return own
