"""Write the trained policy as a folder that transformers (or peft) loads, with tokenizer and model card."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenq.files import folder_aside, write_text
from tokenq.models.adapters import rewritten_weights
from tokenq.models.checkpoint import processor_files
from tokenq.models.forward.packed_lm import PackedLM, bare, is_peft
from tokenq.models.forward.reward_lm import RewardLM
from tokenq.models.merging import merged

Form = Literal["as_trained", "merged"]
"""How a policy with an adapter is written: the adapter alone, or in its base."""

_CARD = """\
---
{front}---

# {name}

{base}, trained with the loss {loss} by [tokenq](https://arxiv.org/abs/2404.12358) {version}.

| | |
|---|---|
{rows}

The run's `provenance.json` and `config.yaml` say everything needed to repeat it.
"""

_ACTS = re.compile(r"([\\`*_\[\]<>#!|~&$])")
"""What acts in Markdown or HTML; a backslash before it makes it text."""

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


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
        for file in processor_files(bare(model)):
            shutil.copyfile(file, aside / file.name)
        write_text(aside / "README.md", card)


def _layout(model: Any) -> dict[str, Any]:
    """Return the options for saving an adapter: its own weights, and base weights that it replaced."""
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
    local = os.path.isabs(base) or os.path.exists(base)  # a path is no id of the hub, which the field must be
    head: dict[str, Any] = {"library_name": library, **({} if local else {"base_model": base})}
    head |= {"pipeline_tag": task, "tags": ["tokenq", loss]}
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)
    rows = "\n".join(f"| {_as_text(key)} | {_as_text(value)} |" for key, value in facts.items())
    said = {"name": name, "base": Path(base).name if local else base, "loss": loss, "version": version}
    return _CARD.format(front=front, rows=rows, **{key: _as_text(value) for key, value in said.items()})


def _as_text(value: Any) -> str:
    """Return a value as one line of Markdown with everything escaped: no table cell, tag, link or heading."""
    return _ACTS.sub(r"\\\1", _UNSEEN.sub(" ", str(value))).replace("\\<", "&lt;").replace("\\>", "&gt;")
