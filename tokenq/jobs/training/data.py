"""The data of a training run: read, tokenised, parted from what is held out, with what its loss reads beside it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokenq.core.losses import LossSum
from tokenq.core.losses.inputs import INPUTS
from tokenq.data.bad_rows import BadRowsError, first_named
from tokenq.data.checks import refuse_equal
from tokenq.data.digest import data_digest, group_key
from tokenq.data.examples import read_examples
from tokenq.data.files.source_language import is_standard_input
from tokenq.data.signals import SIGNALS, SignalOptions, rated_attributes
from tokenq.data.sources import hold_out, load_examples
from tokenq.data.tokenize import TokenizedData, refuse_bad, tokenize
from tokenq.errors import UserError, unknown_name
from tokenq.listener import Listener
from tokenq.records.examples import Example, TokenGroup
from tokenq.training.config import TrainConfig


def load_data(
    config: TrainConfig, loss: LossSum, tokenizer: Any, listener: Listener
) -> tuple[TokenizedData, TokenizedData]:
    """Return training and held-out data in token space.

    Args:
        config: names them.
        loss: says what is asked of a row.
        tokenizer: of the policy.
        listener: told what was found, and what is held out though it is trained on.
    """
    if any(map(is_standard_input, (*config.data, *config.eval_data))):
        if config.resume:
            raise UserError(
                "--resume reads the data again, and what came on standard input is gone.",
                "Write the data to a file, and train on it from the beginning.",
            )
        listener.say("note: data come on standard input, so that this run cannot be resumed")
    read = partial(read_examples, selection=loss.selection, pairing=config.pairing, style=config.style)
    read = partial(read, columns=config.columns, bad_rows=config.bad_rows)
    encode = partial(_encode, config=config, loss=loss, tokenizer=tokenizer)
    with first_named(encode):
        found = load_examples(config.data, read, seed=config.seed)
    for note in found.notes:
        listener.say(f"data: {note}")
    kept, held_out = found.examples, found.examples[:0]
    if config.eval_data:
        with first_named(encode):
            held_out = load_examples(config.eval_data, read, seed=config.seed).examples
    elif config.eval_size:
        kept, held_out = hold_out(kept, config.eval_size, seed=config.seed)
    try:
        data = encode(kept, rows=found.rows, dropped=found.dropped)
        evaluation = encode(held_out) if held_out else TokenizedData([], data.summary)
    except BadRowsError:
        encode(found.examples)  # names the first of both parts
        raise
    listener.say(f"data: {data.summary.line()}")
    if not held_out:
        return data, evaluation
    listener.say(f"held out: {evaluation.summary.line()}")
    if shared := shared_rows(data, evaluation):
        listener.say(f"warning: {shared} of {len(evaluation.groups)} held-out rows are trained on as well")
    return data, evaluation


def _encode(
    examples: Sequence[Example], config: TrainConfig, loss: LossSum, tokenizer: Any, **account: Any
) -> TokenizedData:
    """Return examples in token space; a bad row is an error unless the configuration leaves such rows out."""
    data = tokenize(
        examples,
        tokenizer,
        max_length=config.max_length,
        max_prompt_length=config.max_prompt_length,
        truncation=config.truncation,
        with_texts=any(SIGNALS[name].needs_texts for name in loss.inputs if name in SIGNALS),
        **account,
    )
    if config.bad_rows == "error":
        refuse_bad(data)
    return data


def shared_rows(data: TokenizedData, evaluation: TokenizedData) -> int:
    """Return the number of rows of the evaluation data that the training data holds too."""
    trained = {group_key(group) for group in data.groups}
    return sum(group_key(group) in trained for group in evaluation.groups)


def check_inputs(config: TrainConfig, loss: LossSum) -> None:
    """Refuse a loss without what it reads from elsewhere, and what no loss reads.

    Raises:
        UserError: names the flag.
    """
    if "contrast" in loss.inputs and config.contrast is None:
        raise UserError(f"Loss {config.loss!r} needs token weights, and there are none.", INPUTS["contrast"].hint)
    if config.contrast is not None and "contrast" not in loss.inputs:
        raise UserError(f"--contrast is given, and loss {config.loss!r} does not read it.", "Take --loss tis_dpo.")
    if config.reference is not None and not loss.reference:
        says = "A reward model has" if loss.output == "rewards" else f"Loss {config.loss!r} has"
        raise UserError(f"--reference is given. {says} no reference.", "Leave it out, or take a loss with one (dpo).")
    for name in loss.inputs:
        if name not in INPUTS and name not in SIGNALS:
            raise UserError(f"Loss {config.loss!r} reads {name}, and nothing adds it.", "Add a row for it to SIGNALS.")
    if config.attributes and "ratings" not in loss.inputs:
        raise UserError(f"--attributes is given, and loss {config.loss!r} reads none.", "Take --loss regression.")


def with_inputs(
    parts: Sequence[TokenizedData], config: TrainConfig, loss: LossSum, attributes: Sequence[str], listener: Listener
) -> list[list[TokenGroup]]:
    """Return training and held-out data with what the loss reads beside them.

    Args:
        parts: training and held-out data.
        config: names what is read from files.
        loss: says what it reads.
        attributes: the outputs of a reward model.
        listener: told what was left out.

    Raises:
        UserError: nothing is left, or what the loss tells apart is all the same.
    """
    contrast = None if config.contrast is None else Path(config.contrast)
    options = SignalOptions(parts[0].groups, config.max_length, contrast, attributes)
    names = [name for name, source in loss.inputs.items() if name in SIGNALS and source == "data"]
    found = [_with_signals(part, names, options, listener) for part in parts]
    refuse_equal(found[0], *(difference for name in names for difference in SIGNALS[name].differences))
    return found


def _with_signals(
    data: TokenizedData, names: Sequence[str], options: SignalOptions, listener: Listener
) -> list[TokenGroup]:
    for name in names if data.groups else ():
        groups = SIGNALS[name].add(data, options)
        lost = sum(len(group.responses) for group in data.groups) - sum(len(group.responses) for group in groups)
        why, hint = SIGNALS[name].left_out(options)
        if not groups:
            raise UserError(f"Nothing is left of {lost} responses {why}.", hint)
        if lost > 0:
            listener.say(f"left out: {lost} responses {why}")
        data = replace(data, groups=groups)
    return data.groups


def output_names(data: TokenizedData, config: TrainConfig, loss: LossSum) -> list[str]:
    """Return the names of the outputs of the reward model that the loss trains.

    Raises:
        UserError: the data is not rated on an attribute that was asked for.
    """
    if "ratings" not in loss.inputs:
        return ["reward"]
    found = rated_attributes(data.groups)
    for name in config.attributes:
        if name not in found:
            raise unknown_name("attribute", name, found)
    return list(config.attributes) or found


def data_identity(sources: Sequence[str], data: TokenizedData) -> dict[str, Any]:
    """Return the identity of data for provenance: sources, a digest of all that is learnt from, and their account."""
    return {"sources": list(sources), "sha256": data_digest(data.groups), "summary": data.summary.to_dict()}
