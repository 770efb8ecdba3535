"""The language model of a type that sees or hears as well, in a folder of its own.

`AutoModelForCausalLM` takes it out of the whole checkpoint. What is then trained and saved has the configuration of the
language model alone, and of some types (Mllama, Emu 3) `AutoModelForCausalLM` does not know that one.
"""

from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

_OPTIONS = ("revision", "trust_remote_code")


def causal_lm(folder: str, **options: Any) -> Any:
    """Return what `AutoModelForCausalLM.from_pretrained` gives, or the class of transformers that the folder names.

    Args:
        folder: folder or hub id.
        **options: as `from_pretrained` takes them.

    Raises:
        ValueError: the folder holds no causal LM.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(folder, **options)
    except ValueError as problem:
        kind = _named(folder, options) if "Unrecognized configuration class" in str(problem) else None
        if kind is None:
            raise
        return kind.from_pretrained(folder, **options)


def _named(folder: str, options: dict[str, Any]) -> type[PreTrainedModel] | None:
    """Return the causal LM that a configuration names and that is made from just this kind of configuration."""
    config = AutoConfig.from_pretrained(folder, **{name: options[name] for name in _OPTIONS if name in options})
    for name in config.architectures or ():
        kind: Any = getattr(transformers, name, None) if name.endswith("ForCausalLM") else None
        if kind is not None and issubclass(kind, PreTrainedModel) and kind.config_class is type(config):
            found: type[PreTrainedModel] = kind
            return found
    return None
