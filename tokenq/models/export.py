"""The trained policy as a folder that transformers (or peft) loads, with tokenizer and model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenq.files import folder_aside, write_text
from tokenq.models.adapters import rewritten_weights
from tokenq.models.classifier import RewardLM
from tokenq.models.forward import PackedLM, is_peft
from tokenq.models.merging import merged

Form = Literal["as_trained", "merged"]
"""How a policy with an adapter is written: the adapter alone, or in its base."""

_CARD = """\
---
library_name: {library}
{front}pipeline_tag: {task}
tags: [tokenq, {loss}]
---

# {name}

{base}, trained with the loss `{loss}` by [tokenq](https://arxiv.org/abs/2404.12358) {version}.

| | |
|---|---|
{rows}

The run's `provenance.json` and `config.yaml` say everything needed to repeat it.
"""


def export_policy(
    lm: PackedLM | RewardLM,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: str,
    state: Mapping[str, Tensor] | None = None,
    form: Form = "as_trained",
) -> None:
    """Write the policy to `folder`, which appears when it is complete.

    A model with an adapter is written as an adapter (peft's layout) with form "as_trained", any other in full
    (safetensors).

    Args:
        lm: the trained policy, or reward model.
        tokenizer: goes with it.
        folder: target.
        card: text of README.md.
        state: the gathered weights under `lm`'s names, when they are spread over processes.
        form: "merged" merges an adapter into its base, for a base that is on no disk (itself the result of a merge).
    """
    model: Any = lm.release()
    if form == "merged" and is_peft(model):
        model = merged(model, "of this run")
        state = None  # named as before the merge, and every process has all of it
    weights = None if state is None else {_bare_name(name): value for name, value in state.items()}
    with folder_aside(folder) as aside:
        model.save_pretrained(aside, state_dict=weights, **_layout(model))
        tokenizer.save_pretrained(aside)
        write_text(aside / "README.md", card)


def _layout(model: Any) -> dict[str, Any]:
    """Return how an adapter is written: its own weights alone, and those of the base that it brought along."""
    return {"save_embedding_layers": bool(rewritten_weights(model))} if is_peft(model) else {}


def _bare_name(name: str) -> str:
    return name.removeprefix("packed.").removeprefix("model.")


def model_card(lm: PackedLM | RewardLM, name: str, base: str, loss: str, facts: Mapping[str, Any], version: str) -> str:
    """Return the model card of a trained policy or reward model.

    Args:
        lm: the policy.
        name: title.
        base: what was trained.
        loss: name of the loss.
        facts: rows of the card's table (settings and results).
        version: of tokenq.
    """
    policy = isinstance(lm, PackedLM)
    library = "peft" if policy and is_peft(lm.model) else "transformers"
    task = "text-generation" if policy else "text-classification"
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    local = Path(base).is_absolute() or Path(base).exists()  # a path is no id of the hub, which the field must be
    front, base = ("", Path(base).name) if local else (f"base_model: {base}\n", base)
    return _CARD.format(
        library=library, front=front, base=base, task=task, loss=loss, name=name, version=version, rows=rows
    )
