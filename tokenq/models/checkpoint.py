"""Checkpoints of transformers: find them, choose the class that loads them, and explain what is wrong with them.

`AutoModelForCausalLM` takes the language model out of the checkpoint of a type that sees or hears as well. What is then
trained and saved has the configuration of the language model alone, and of some types (Mllama, Emu 3)
`AutoModelForCausalLM` does not know that one.
"""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import transformers
import yaml
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import cached_file

from tokenq.errors import UserError, nearest, reason
from tokenq.models.adapters import is_local
from tokenq.records.schema import refuse_no_objects

_OPTIONS = ("revision", "trust_remote_code")


def locate(path: str) -> tuple[str, dict[str, str]]:
    """Return (folder or hub id, gguf options) of a model path, or explain why nothing is there."""
    place = Path(path).expanduser()
    if place.suffix == ".gguf":
        if not place.is_file():
            raise UserError(f"No file {path}.", _neighbours(place))
        return str(place.parent), {"gguf_file": place.name}
    if place.is_dir():
        wanted = ("config.json", "adapter_config.json")
        if not any((place / name).is_file() for name in wanted):
            if (place / "model_index.json").is_file():
                hint = "Commands on image models: draw, train, score, online (docs/images.md)."
                raise UserError(f"{path} is an image model, and this needs a language model.", hint)
            inner = sorted(str(one.parent) for name in wanted for one in place.glob(f"*/{name}"))
            inner += sorted(str(one.parent) for one in place.glob("*/model_index.json"))
            hint = f"Did you mean {inner[0]}?" if inner else "A model folder holds config.json and *.safetensors."
            raise UserError(f"The folder {path} holds no model (no config.json).", hint)
        refuse_no_objects(place, (*wanted, "generation_config.json", "tokenizer.json", "tokenizer_config.json"))
        return str(place), {}
    if place.is_file():
        raise UserError(f"{path} is a file.", "Give the folder that holds config.json, or a .gguf file.")
    if is_local(path):
        raise UserError(f"No folder {path}.", _neighbours(place))
    return path, {}


def _neighbours(place: Path) -> str:
    if not place.parent.is_dir():
        return f"Its parent {place.parent} does not exist either."
    close = nearest(place.name, [p.name for p in place.parent.iterdir()])
    return f"Did you mean {place.parent / close}?" if close else "Check the spelling."


def from_pretrained(
    load: Callable[..., Any], folder: str, options: dict[str, Any], path: str, what: str = "a causal language model"
) -> Any:
    """Call a loader of transformers and return its result.

    Raises:
        UserError: says what is wrong with `path`, which was to be loaded as `what`.
    """
    try:
        return load(folder, **options)
    except ImportError as problem:
        raise UserError(f"{path} cannot be read: {reason(problem)}", _missing(problem)) from None
    except SafetensorError as problem:
        hint = "The file was perhaps not copied to its end: fetch it again."
        raise UserError(f"The weights in {path} are damaged: {problem}", hint) from None
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        if isinstance(problem, RuntimeError) and "mismatched_sizes" not in str(problem):
            raise
        first = reason(problem)
        hint = "Check the id, the network, or give a local folder."
        if "mismatched_sizes" in str(problem):
            first, hint = "config.json and the weights say different shapes.", "Fetch both from the same place."
        if "Unrecognized configuration class" in str(problem):
            hint = "It is a model of another kind: transformers has nothing that reads its type as text."
        if "trust_remote_code" in str(problem):
            hint = "It needs its own code: read that code, then pass --trust-remote-code."
        raise UserError(f"{path} cannot be loaded as {what}: {first}", hint) from None


def check_complete(path: str, missing: Collection[str], what: str = "a causal language model") -> None:
    """Refuse a checkpoint that lacks weights of the model (a bare encoder, a lost shard)."""
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} weights of {what}, such as {min(missing)}.",
            "It is incomplete, or a model of another kind (an encoder, a classifier).",
        )


def _missing(problem: ImportError) -> str:
    if "gguf" in str(problem).lower():
        return "Install what reads GGUF files: pip install 'tokenq[gguf]'"
    return "Install the package that it names."


def causal_lm(folder: str, **options: Any) -> Any:
    """Load a causal LM with `AutoModelForCausalLM`, or with the class that the checkpoint names.

    Types that transformers has only as image-text-to-text are loaded whole, and read as the language models that they
    are without an image.

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


def _named(folder: str, options: dict[str, Any]) -> Any:
    """Return the class for a checkpoint that `AutoModelForCausalLM` does not know, None if there is none.

    That is the causal LM which the configuration names, where it is made from just this kind of configuration, or the
    class for images and text.
    """
    config = AutoConfig.from_pretrained(folder, **{name: options[name] for name in _OPTIONS if name in options})
    for name in config.architectures or ():
        kind: Any = getattr(transformers, name, None) if name.endswith("ForCausalLM") else None
        if kind is not None and issubclass(kind, PreTrainedModel) and kind.config_class is type(config):
            return kind
    text = config.get_text_config()
    says = type(config) in AutoModelForImageTextToText._model_mapping and "vocab_size" in {
        **text.to_dict(),
        **text.attribute_map,
    }
    return AutoModelForImageTextToText if says else None


def train_language_weights(model: PreTrainedModel) -> None:
    """Train all weights that read or write text, and freeze those that see or hear."""
    text = {id(weight) for weight in _language_weights(model)}
    for weight in model.parameters():
        weight.requires_grad_(id(weight) in text)


def textless_modules(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules that no text goes through (vision towers, projectors)."""
    text = {id(weight) for weight in _language_weights(model)}
    found: list[str] = []
    for name, module in model.named_modules():
        own = {id(weight) for weight in module.parameters()}
        if own and not own & text and not name.startswith(tuple(f"{one}." for one in found)):
            found.append(name)
    return found


def processor_files(model: PreTrainedModel) -> list[Path]:
    """Return the checkpoint's files that say how images are preprocessed; none for a model of text alone."""
    if not textless_modules(model):
        return []
    config = model.config
    revision = config.__dict__.get("_commit_hash")
    try:
        found = [cached_file(config._name_or_path, name, revision=revision, **_IF_THERE) for name in _PROCESSORS]
    except OSError:  # its folder is gone, or the hub is: only who gives images misses them
        return []
    return [Path(file) for file in found if file is not None]


def licence_of(path: str) -> str | None:
    """Return the licence that a model's own card states, None where there is none to be had."""
    try:
        file = cached_file(path, "README.md", **_IF_THERE)
        text = "" if file is None else Path(file).read_text(encoding="utf-8")
        head = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return None
    found = head.get("license") if isinstance(head, dict) else None
    return found if isinstance(found, str) else None


_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_IF_THERE: dict[str, Any] = {
    name: False for name in ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors")
}


def _language_weights(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """Yield the weights that text goes through: all of them, or those of the decoder of a model that also sees."""
    parts: tuple[nn.Module | None, ...] = (model,)
    if type(model.config) in AutoModelForImageTextToText._model_mapping:
        parts = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    for part in parts:
        yield from () if part is None else part.parameters()
