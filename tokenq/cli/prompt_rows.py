"""The prompts of a search: rows that cannot be used are named, or left out and counted, before anything is searched."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from tokenq.data.prompts import LoadedPrompts, Prompt
    from tokenq.decoding import Searcher
    from tokenq.search.config import SearchConfig


def read_prompts(config: "SearchConfig", sources: "tuple[str, ...]") -> "LoadedPrompts":
    """Return the prompts of files, before any model is read.

    Args:
        config: says how rows are read, and by which policy.
        sources: the files.

    Raises:
        UserError: a row cannot be used and is not to be left out; the first in the order of the data is named.
    """
    from tokenq.data.bad_rows import first_named
    from tokenq.data.prompts import encode_prompts, load_prompts

    with first_named(lambda before: encode_prompts(before, _tokenizer_of(config))):
        return load_prompts(sources, config.columns, config.style, config.bad_rows)


def _tokenizer_of(config: "SearchConfig") -> Any:
    from tokenq.models.load import ModelSpec, load_tokenizer
    from tokenq.session import models_of_run

    spec = ModelSpec(str(config.policy or config.run), trust_remote_code=config.trust_remote_code)
    return load_tokenizer(spec if config.policy is not None else models_of_run(spec.path, spec).policy)


def usable(loaded: "LoadedPrompts", searcher: "Searcher", say: "Console") -> "list[Prompt]":
    """Return the prompts that the policy can read, and say what was left out.

    Raises:
        UserError: one cannot be read, and is not to be left out.
    """
    from tokenq.data.prompts import usable_prompts

    found = usable_prompts(loaded, searcher.tokenizer, searcher.config.bad_rows)
    if found.dropped:
        say.print(f"prompts: {found.line()}")
    return found.prompts
