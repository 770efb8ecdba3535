"""The data of a training run: read, tokenised, parted from what is held out, with what its loss reads beside it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from tokenq.core.losses import LossSum
from tokenq.core.losses.inputs import INPUTS
from tokenq.core.token_weights import COLUMN as WEIGHTS
from tokenq.data.bad_rows import BadRowsError, first_named
from tokenq.data.checks import refuse_equal
from tokenq.data.conditioning.asked import conditioned_examples
from tokenq.data.conditioning.control import checked_control
from tokenq.data.digest import data_digest, group_key
from tokenq.data.encoding import ResponseText
from tokenq.data.examples import ReadResult, read_examples
from tokenq.data.files.local import Row
from tokenq.data.files.source_language import is_standard_input
from tokenq.data.signals import SIGNALS, SignalOptions, rated_attributes
from tokenq.data.sources import hold_out, load_examples
from tokenq.data.streams.groups import EVALUATED_ROWS, FIRST_ROWS, SourceStream, TokenStream, first_of_streams
from tokenq.data.stretches.segments import COLUMN, Segments, refuse_absent
from tokenq.data.tokenize import Tokenization, TokenizedData, refuse_bad, tokenize
from tokenq.errors import UserError, unknown_name
from tokenq.jobs.training.stored import found_pieces, is_large, reading, stored_rows
from tokenq.jobs.training.token_weights import Weighting
from tokenq.listener import Listener
from tokenq.records.examples import Example, TokenGroup
from tokenq.training.config import TrainConfig
from tokenq.training.defaults import refuse_segments


class TrainingRows(NamedTuple):
    """The rows of a run in token space.

    Attributes:
        data: what is trained on; of a stream its first rows.
        held_out: what it is evaluated on.
        stream: what is trained on, where that is a stream.
    """

    data: TokenizedData
    held_out: TokenizedData
    stream: TokenStream | None = None


def load_data(
    config: TrainConfig, loss: LossSum, tokenizer: Any, listener: Listener, given: Any = None
) -> TrainingRows:
    """Return training and held-out data in token space.

    Args:
        config: names them.
        loss: says what is asked of a row.
        tokenizer: of the policy.
        listener: told what was found, and what is held out though it is trained on.
        given: the stream that Python gives, None where the data are named.
    """
    if any(map(is_standard_input, (*config.data, *config.eval_data))):
        if config.resume:
            raise UserError(
                "--resume reads the data again, and what came on standard input is gone.",
                "Write the data to a file, and train on it from the beginning.",
            )
        listener.say("note: data come on standard input, so that this run cannot be resumed")
    read = Weighting(config).read(partial(read_examples, bad_rows=config.bad_rows, **reading(config, loss)))
    encode = partial(_encode, config=config, loss=loss, tokenizer=tokenizer)
    pieces = {} if config.streaming else found_pieces(config)
    stream = None
    if is_large(pieces, config, loss):
        data, held_out = stored_rows(pieces, config, loss, tokenizer, listener)
        held_out = _evaluation(config, read, encode) if config.eval_data else held_out
    else:
        sources: tuple[SourceStream, ...] = ()
        with first_named(encode):
            if config.streaming:
                ahead = EVALUATED_ROWS if config.eval_size else FIRST_ROWS
                sources, found = first_of_streams(config.data, loss.selection, config.columns, read, ahead, given=given)
            else:
                found = load_examples(config.data, read, seed=config.seed, pieces=pieces)
        for note in found.notes:
            listener.say(f"data: {note}")
        data, held_out = _parted(found, config, read, encode)
        stream = _stream(sources, config, loss, tokenizer, listener) if sources else None
    listener.say(f"data: {'' if stream is None else 'the first rows of a stream: '}{data.summary.line()}")
    if not held_out.groups:
        return TrainingRows(data, held_out, stream)
    listener.say(f"held out: {held_out.summary.line()}")
    if shared := shared_rows(data, held_out):
        listener.say(f"warning: {shared} of {len(held_out.groups)} held-out rows are trained on as well")
    return TrainingRows(data, held_out, stream)


def _parted(
    found: ReadResult,
    config: TrainConfig,
    read: Callable[[Sequence[Row]], ReadResult],
    encode: Callable[..., TokenizedData],
) -> tuple[TokenizedData, TokenizedData]:
    """Return examples in token space, what is trained on and what is held out; a bad row of either is the first."""
    kept, held_out = found.examples, found.examples[:0]
    if config.eval_size:
        kept, held_out = hold_out(kept, config.eval_size, seed=config.seed)
    elif config.eval_data:
        with first_named(encode):
            held_out = load_examples(config.eval_data, read, seed=config.seed).examples
    try:
        data = encode(kept, rows=found.rows, dropped=found.dropped)
        return data, encode(held_out) if held_out else TokenizedData([], data.summary)
    except BadRowsError:
        encode(found.examples)  # names the first of both parts
        raise


def _evaluation(
    config: TrainConfig, read: Callable[[Sequence[Row]], ReadResult], encode: Callable[..., TokenizedData]
) -> TokenizedData:
    with first_named(encode):
        return encode(load_examples(config.eval_data, read, seed=config.seed).examples)


def _stream(
    sources: tuple[SourceStream, ...], config: TrainConfig, loss: LossSum, tokenizer: Any, listener: Listener
) -> TokenStream:
    limits = tokenizer, config.max_length, config.max_prompt_length, config.truncation
    work = partial(Tokenization.of, *limits, with_texts=_needs_texts(config, loss))
    drops = config.bad_rows == "drop"
    return TokenStream(sources, reading(config, loss), work, drops, config.eval_size, config.seed, listener.say)


def _needs_texts(config: TrainConfig, loss: LossSum) -> bool:
    return config.token_weights is not None or any(SIGNALS[one].needs_texts for one in loss.inputs if one in SIGNALS)


def _encode(
    examples: Sequence[Example], config: TrainConfig, loss: LossSum, tokenizer: Any, **account: Any
) -> TokenizedData:
    """Return examples in token space; a bad row is an error unless the configuration leaves such rows out."""
    control = checked_control(config.condition_on, config.condition_scale)
    examples, unrated = conditioned_examples(examples, control, {}, config.bad_rows)
    if unrated:
        account["dropped"] = Counter(account.get("dropped") or {}) + unrated
    data = tokenize(
        examples,
        tokenizer,
        max_length=config.max_length,
        max_prompt_length=config.max_prompt_length,
        truncation=config.truncation,
        with_texts=_needs_texts(config, loss),
        **account,
    )
    if config.bad_rows == "error":
        refuse_bad(data)
    return data


def shared_rows(data: TokenizedData, evaluation: TokenizedData) -> int:
    """Return the number of rows of the evaluation data that the training data holds too."""
    trained = data.keys() if data.keys else map(group_key, data.groups)
    held = Counter(map(group_key, evaluation.groups))
    return sum(held.pop(key, 0) for key in trained)


def check_inputs(config: TrainConfig, loss: LossSum) -> None:
    """Refuse a loss without what it reads from elsewhere, and what no loss reads.

    Raises:
        UserError: names the flag.
    """
    Weighting(config).check(loss, config.loss)
    if config.reference is not None and not loss.reference:
        says = "A reward model has" if loss.output == "rewards" else f"Loss {config.loss!r} has"
        raise UserError(f"--reference is given. {says} no reference.", "Leave it out, or take a loss with one (dpo).")
    if config.reference_sync_steps is not None and not loss.reference:
        hint = "Leave --reference-sync-steps out, or take a loss with one (dpo)."
        raise UserError(f"Loss {config.loss!r} has no reference that could move.", hint)
    refuse_segments(config, loss)
    for name in loss.inputs:
        if name not in INPUTS and name not in SIGNALS:
            raise UserError(f"Loss {config.loss!r} reads {name}, and nothing adds it.", "Add a row for it to SIGNALS.")
    if config.condition_on and loss.selection != "responses":
        raise UserError(
            f"--condition-on puts every response behind its own ratings, and loss {config.loss!r} learns from "
            f"{loss.unit.words}.",
            "Take --loss sft; rounds of steerlm (tokenq online) go on from there.",
        )
    if config.condition_on and config.streaming:
        raise UserError("--condition-on is given, and the data are a stream.", "Read them without --streaming.")
    if config.attributes and "ratings" not in loss.inputs:
        raise UserError(f"--attributes is given, and loss {config.loss!r} reads none.", "Take --loss regression.")


class Inputs(NamedTuple):
    """Data with all that a loss reads beside them; the attributes are those of `TrainingRows`."""

    data: Sequence[TokenGroup]
    held_out: Sequence[TokenGroup]
    stream: TokenStream | None


def with_inputs(
    rows: TrainingRows,
    config: TrainConfig,
    loss: LossSum,
    attributes: Sequence[str],
    tokenizer: Any,
    listener: Listener,
) -> Inputs:
    """Return training and held-out data with what the loss reads beside them.

    Args:
        rows: training and held-out data.
        config: names what is read from files.
        loss: says what it reads.
        attributes: the outputs of a reward model.
        tokenizer: of the policy.
        listener: told what was left out.

    Raises:
        UserError: nothing is left, or what the loss tells apart is all the same.
    """
    segments = Segments.of([*config.segments], config.segment_starts, tokenizer)
    weigh = Weighting(config).weigh
    options = SignalOptions(rows.data.groups, config.max_length, attributes, segments, weigh)
    names = [WEIGHTS] if Weighting(config).source == WEIGHTS else []  # the first: texts are those of the pairs
    names += [name for name, source in loss.inputs.items() if name in SIGNALS and source == "data"]
    names += [COLUMN] if config.segments else []  # the last: other responses may join a group before
    for name in names if rows.stream is not None else ():
        if SIGNALS[name].needs_all:
            raise UserError(
                f"Loss {config.loss!r} reads {name}, which is found from all of the data, and a stream has no end.",
                "Read the data without --streaming, or choose another loss (docs/methods.md says what each reads).",
            )
    data, held_out = (_with_signals(part, names, options, listener) for part in (rows.data, rows.held_out))
    if config.segments:
        refuse_absent(data, segments.names, listener.say)
    if rows.stream is not None:
        return Inputs(data, held_out, rows.stream.then(partial(_with_one, names, options, rows.data)))
    refuse_equal(data, *(difference for name in names for difference in SIGNALS[name].differences))
    return Inputs(data, held_out, None)


def _with_one(
    names: Sequence[str],
    options: SignalOptions,
    data: TokenizedData,
    group: TokenGroup,
    texts: tuple[ResponseText, ...],
) -> TokenGroup | None:
    """Return a group with what the loss reads beside it, None where nothing is left of it."""
    part = replace(data, groups=[group], texts=(texts,))
    for name in names:
        groups = SIGNALS[name].add(part, options)
        if not groups:
            return None
        part = replace(part, groups=groups)
    return part.groups[0]


def _with_signals(
    data: TokenizedData, names: Sequence[str], options: SignalOptions, listener: Listener
) -> Sequence[TokenGroup]:
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
    digest = data.digest or data_digest(data.groups)
    return {"sources": list(sources), "sha256": digest, "summary": data.summary.to_dict()}
