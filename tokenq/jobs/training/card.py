"""The model card of what a training made: what it is, of what it was made, how it is loaded. Nothing in it acts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from tokenq.data.files.source_language import parse_source
from tokenq.models.adapters import is_local

Kind = Literal["policy", "adapter", "reward model", "image model"]

UNKNOWN = "not known"
"""A licence that nobody states."""


class _Use(NamedTuple):
    """How a kind of model is used.

    Attributes:
        library: whose format it has.
        task: as the hub names it.
        relation: to its base, as the hub names it.
        code: loads it and uses it once.
    """

    library: str
    task: str
    relation: str
    code: str


_WRITE = """\
text = tokenizer("Once upon a time", return_tensors="pt")
written = model.generate(text.input_ids, attention_mask=text.attention_mask, max_new_tokens=20)
print(tokenizer.decode(written[0]))
"""

_JUDGE = """\
text = tokenizer("A question? An answer." + tokenizer.eos_token, return_tensors="pt")
print(model(text.input_ids, attention_mask=text.attention_mask).logits)
"""

USES: Mapping[Kind, _Use] = {
    "policy": _Use(
        "transformers",
        "text-generation",
        "finetune",
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "name = {name}\nmodel = AutoModelForCausalLM.from_pretrained(name)\n"
        f"tokenizer = AutoTokenizer.from_pretrained(name)\n{_WRITE}",
    ),
    "adapter": _Use(
        "peft",
        "text-generation",
        "adapter",
        "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
        "name = {name}\nmodel = AutoPeftModelForCausalLM.from_pretrained(name)  # fetches its base too\n"
        f"tokenizer = AutoTokenizer.from_pretrained(name)\n{_WRITE}",
    ),
    "reward model": _Use(
        "transformers",
        "text-classification",
        "finetune",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        "name = {name}\nmodel = AutoModelForSequenceClassification.from_pretrained(name)\n"
        f"tokenizer = AutoTokenizer.from_pretrained(name)\n{_JUDGE}",
    ),
    "image model": _Use(
        "diffusers",
        "text-to-image",
        "finetune",
        "from diffusers import DiffusionPipeline\n\n"
        'pipeline = DiffusionPipeline.from_pretrained({name})\npipeline("a lighthouse at dusk").images[0]\n',
    ),
}
"""How each kind of model is used."""


@dataclass(frozen=True)
class Card:
    """What a model card says.

    Attributes:
        kind: of model.
        name: title.
        model: what loads it: a hub id, or a folder.
        base: what was trained: a path, or a hub id.
        loss: name of the loss.
        data: sources of the data, as `--data` has them.
        facts: settings, by their name.
        found: held-out numbers.
        versions: of packages.
        licence: of the base, UNKNOWN where nobody says; None where nobody has looked.
    """

    kind: Kind
    name: str
    model: str
    base: str
    loss: str
    data: Sequence[str]
    facts: Mapping[str, Any]
    found: Mapping[str, float]
    versions: Mapping[str, str]
    licence: str | None = None

    def text(self) -> str:
        """Return the card."""
        use, base = USES[self.kind], hub_id(self.base)
        places = [parse_source(one).location for one in self.data]
        names = [hub_id(place) or Path(place).name for place in places]
        sets = [one for one in map(hub_id, places) if one]
        head: dict[str, Any] = {"library_name": use.library, "pipeline_tag": use.task}
        head |= {"base_model": base, "base_model_relation": use.relation} if base else {}
        head |= {"license": self.licence} if self.licence not in (None, UNKNOWN) else {}
        head |= {"datasets": sets} if sets else {}
        head["tags"] = ["tokenq", self.loss]
        facts = {"data": ", ".join(names), "loss": self.loss, **self.facts}
        facts |= {name: f"{value:.4g}" for name, value in self.found.items()}
        facts |= {} if self.licence is None else {"licence of the base": self.licence}
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return _CARD.format(
            front=yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000),
            name=_as_text(self.name),
            base=_as_text(base or Path(self.base).name),
            kind=self.kind,
            rows="\n".join(f"| {_as_text(name)} | {_as_text(value)} |" for name, value in facts.items()),
            code=use.code.format(name=repr(self.model)),
        )


_CARD = """\
---
{front}---

# {name}

{base}, trained to be this {kind} by [tokenq](https://arxiv.org/abs/2404.12358).

```python
{code}```

| | |
|---|---|
{rows}
"""

_ACTS = re.compile(r"([\\`*_\[\]<>#!|~&$])")
"""What acts in Markdown or HTML; a backslash before it makes it text."""

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+")

_CACHED = re.compile(r"models--([^/\\]+)[/\\]snapshots[/\\]")

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
"""The form of the id of a model, or of data, on the hub."""


def hub_id(name: str) -> str | None:
    """Return the id that the hub has for a model, or for data, None for what is a file or a folder here."""
    cached = _CACHED.search(name)
    if cached is not None:
        return cached[1].replace("--", "/")
    return name if HUB_ID.fullmatch(name) and not is_local(name) and not Path(name).exists() else None


def _as_text(value: Any) -> str:
    """Return a value as one line of Markdown with everything escaped: no table cell, tag, link or heading."""
    return _ACTS.sub(r"\\\1", _UNSEEN.sub(" ", str(value))).replace("\\<", "&lt;").replace("\\>", "&gt;")
