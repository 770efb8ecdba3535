"""Training data that are tokenised once and stay on the disk: which these are, and what decides their tokens."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from tokenq.cache import TOKENS, cache_folder
from tokenq.core.losses import LossSum
from tokenq.data.examples import read_examples
from tokenq.data.files.local import STANDARD_INPUT
from tokenq.data.files.slices import resolved
from tokenq.data.files.source_language import SourceName, parse_source
from tokenq.data.layouts.message_trees import is_flat
from tokenq.data.signals import SIGNALS
from tokenq.data.sources import WHOLE, Pieces, is_held_out, pieces_of
from tokenq.data.stored.selected import select
from tokenq.data.stored.store import Recipe, stored
from tokenq.data.tokenize import Tokenization, TokenizedData
from tokenq.errors import UserError
from tokenq.listener import Listener
from tokenq.records.examples import Example
from tokenq.rundir import RunDir
from tokenq.training.config import TrainConfig

MOST_IN_MEMORY = 2**24
"""Bytes of files, or of a table of `datasets`, up to which data are read and held in memory."""


def found_pieces(config: TrainConfig) -> Mapping[str, Pieces]:
    """Return the files and tables of the training data by source, none where one cannot be found."""
    named = [parse_source(text) for text in config.data]
    if any(one.location in STANDARD_INPUT for one in named):
        return {}
    try:
        return {one.text: pieces_of(one) for one in named}
    except UserError:
        return {}  # told in the order of the sources by what reads them


def is_large(found: Mapping[str, Pieces], config: TrainConfig, loss: LossSum) -> bool:
    """Return whether data are tokenised onto the disk and not held in memory.

    Such data are larger than `MOST_IN_MEMORY`, whole splits, and of a loss that reads nothing beside their tokens and
    a reference.
    """
    contents = [piece.content for pieces in found.values() for some in pieces.values() for piece in some]
    size = sum(one.stat().st_size if isinstance(one, Path) else one.data.nbytes for one in contents)
    if (
        size <= MOST_IN_MEMORY
        or any(name in SIGNALS for name in loss.inputs)
        or config.segments
        or config.token_weights
        or config.condition_on
    ):
        return False
    sliced = any("[" in (parse_source(text).split or "") and WHOLE not in found[text] for text in found)
    return not sliced and not any(_is_tree(pieces) for pieces in found.values())


def _is_tree(pieces: Pieces) -> bool:
    first = next(next(iter(pieces.values()))[0].rows(), None)
    return first is not None and is_flat(first.values)


def stored_rows(
    found: Mapping[str, Pieces], config: TrainConfig, loss: LossSum, tokenizer: Any, listener: Listener
) -> tuple[TokenizedData, TokenizedData]:
    """Return training and held-out data that stay on the disk, tokenised now if no run has done so.

    Args:
        found: files and tables by source.
        config: what is asked of them.
        loss: says what is learnt.
        tokenizer: of the policy.
        listener: told what was decided, and what is tokenised.

    Raises:
        UserError: a row cannot be used and is not to be left out, or nothing is left.
    """
    limits = config.max_length, config.max_prompt_length, config.truncation
    recipe = Recipe(
        reading(config, loss),
        partial(Tokenization.of, tokenizer, *limits, with_texts=False),
        {"limits": limits, "tokenizer": identity_of(tokenizer)},
        loss.unit,
        config.bad_rows == "drop",
    )
    folder = cache_folder()
    root = RunDir(Path(config.output)).inputs / TOKENS if folder is None else folder / TOKENS
    sources = []
    for text, pieces in found.items():
        named = parse_source(text)
        source = stored(text, _in_order(named, pieces), recipe, root, config.dataset_num_proc, listener.say)
        if source.note:
            listener.say(f"data: {source.note}")
        sources.append((named, source))
    return select(sources, config.eval_size, config.seed)


def reading(config: TrainConfig, loss: LossSum) -> dict[str, Any]:
    """Return how rows become examples: settings of `read_examples` by their names."""
    names = ("pairing", "same_length", "columns", "style")
    selection = CONDITIONED if config.condition_on else loss.selection
    return {"selection": selection, **{name: getattr(config, name) for name in names}}


CONDITIONED = "rated"
"""What is asked of a row whose responses are learnt behind their ratings."""


def first_examples(
    found: Mapping[str, Pieces], config: TrainConfig, loss: LossSum, count: int = 1000
) -> Sequence[Example]:
    """Return examples of the first rows, held-out ones where a share of the prompts is held out and some are there.

    Args:
        found: files and tables by source.
        config: what is asked of them.
        loss: says what is learnt.
        count: rows that are read of each source.
    """
    examples: list[Example] = []
    for text, pieces in found.items():
        rows = itertools.chain.from_iterable(piece.rows() for piece in _in_order(parse_source(text), pieces))
        begin = list(itertools.islice(rows, count))
        examples += read_examples(begin, bad_rows="drop", **reading(config, loss)).examples
    held_out = [
        one for one in examples if config.eval_size < 1 and is_held_out(one.prompt, config.eval_size, config.seed)
    ]
    return held_out or examples


def _in_order(source: SourceName, pieces: Pieces) -> list[Any]:
    splits = [WHOLE] if WHOLE in pieces else [name for name, _ in resolved(source, list(pieces))]
    return [piece for split in splits for piece in pieces[split]]


def identity_of(tokenizer: Any) -> str:
    """Return a hash of all that decides what a tokenizer of `transformers` makes of a text."""
    inner = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab())
    told = [type(tokenizer).__name__, str(tokenizer.chat_template), repr(tokenizer.init_kwargs), inner]
    told += [repr(tokenizer.special_tokens_map), transformers.__version__, tokenizers.__version__]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
