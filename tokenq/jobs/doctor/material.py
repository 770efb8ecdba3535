"""The material of an examination: a run's record, its rows tokenised again, its weights, and what its policy writes.

Whatever is no longer there is left out of the record and named, so that a finding is missed openly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tokenq.data.digest import data_digest
from tokenq.data.prompts import load_prompts
from tokenq.data.sources import Data
from tokenq.data.tokenize import TokenizedData, tokenize
from tokenq.doctor.config import DoctorConfig
from tokenq.doctor.data_checks import data_facts
from tokenq.errors import UserError
from tokenq.jobs.doctor.responses import score_pairs, write_samples
from tokenq.jobs.doctor.rollouts import read_again, rollout_facts
from tokenq.jobs.doctor.weights import models_today, movement_since, start_of
from tokenq.jobs.training.stored import first_examples, found_pieces, is_large, stored_rows
from tokenq.listener import Listener
from tokenq.models.load import ModelSpec
from tokenq.models.loaded import Loaded
from tokenq.models.run_models import against_base, model_spec, named_models
from tokenq.models.tokenizer import load_tokenizer
from tokenq.records.examples import Example
from tokenq.rundir import RunDir
from tokenq.runs.data import data_of_run
from tokenq.runs.facts import DataFacts, Moved
from tokenq.runs.places import models_of_run
from tokenq.runs.record import RunRecord, read_run
from tokenq.training.config import TrainConfig


@dataclass(frozen=True)
class Material:
    """The material of an examination.

    Attributes:
        record: the run with what was measured beside it.
        unseen: what could not be looked at, and why.
        identities: models and data by role, for provenance.
    """

    record: RunRecord
    unseen: tuple[str, ...] = ()
    identities: Mapping[str, Any] = field(default_factory=dict)


def material_of(config: DoctorConfig, in_memory: Mapping[str, Loaded], data: Data, listener: Listener) -> Material:
    """Return the material of an examination.

    Args:
        config: what was asked for, checked.
        in_memory: models by their role, instead of files of that name.
        data: rows of a policy without a run.
        listener: told what is being done.

    Raises:
        UserError: there is no run; or, without a run, a model or the data cannot be read.
    """
    return _of_run(config, listener) if config.run is not None else _of_policy(config, in_memory, data, listener)


def _of_run(config: DoctorConfig, listener: Listener) -> Material:
    """Return the record of a run directory, with its rows, weights and samples where they exist."""
    folder = RunDir(Path(str(config.run)))
    record = read_run(folder.path)
    if config.beta is not None:
        record = replace(record, config={**record.config, "beta": config.beta})
    identities = {name: record.provenance.get(name) for name in ("model", "reference", "data", "eval_data")}
    if config.depth == "record":
        return Material(record, (), identities)
    unseen: list[str] = []
    examples: Sequence[Example] = ()
    try:
        listener.say("reading the rows again")
        tokenizer = _tokenizer_of(record, folder, model_spec(config, str(folder.path)))
        if record.rounds:
            examples, record = _rounds(record, folder, config, tokenizer, unseen)
            config = replace(config, max_new_tokens=config.max_new_tokens or int(record.config["max_new_tokens"]))
        else:
            examples, data, held_out = _stored_rows(record, tokenizer, listener) or _rows(record, tokenizer)
            record = replace(record, data=data, held_out=held_out)
    except UserError as problem:
        unseen.append(f"the rows ({problem.message})")
    if config.depth == "models":
        listener.say("hashing the weights")
        found, missed = models_today(record, model_spec(config, str(folder.path)))
        unseen += missed
        record = replace(record, models=found, moved=_moved(record, folder, config, unseen))
    if config.answer_prompts:
        if record.loss.output == "rewards":
            raise UserError("A reward model writes nothing.", "Leave out --answer-prompts.")
        if not examples:
            raise UserError("There are no prompts to answer: the rows cannot be read.", "Leave out --answer-prompts.")
        models = models_of_run(str(config.run), model_spec(config, str(config.run)))
        # What demonstrations were learnt from is no reference: to write otherwise is what they are for.
        models = against_base(models) if record.loss.reference else replace(models, reference=None)
        record = replace(record, samples=write_samples(config, models, examples, record.summary, listener))
    return Material(record, tuple(unseen), identities)


def _rounds(
    record: RunRecord, folder: RunDir, config: DoctorConfig, tokenizer: Any, unseen: list[str]
) -> tuple[Sequence[Example], RunRecord]:
    """Return the prompts of a run in rounds, none of episodes, and its record with what its last responses say."""
    settings = record.config
    read = (settings.get("columns"), settings.get("style", "as_given"), "drop")
    prompts = load_prompts(settings["prompts"], *read).prompts if settings["prompts"] else ()
    facts = rollout_facts(record, folder, prompts, tokenizer)
    if config.depth == "models":
        try:
            start = start_of(record, model_spec(config, str(folder.path)))
            facts = read_again(facts, record, folder, start, (config.attention, int(settings.get("max_length", 1024))))
        except UserError as problem:
            unseen.append(f"log-probs of responses ({problem.message})")
    examples = [Example(one.text, (), False, one.where, dict(one.context)) for one in prompts]
    return examples, replace(record, rollouts=facts)


def _moved(record: RunRecord, folder: RunDir, config: DoctorConfig, unseen: list[str]) -> Moved | None:
    """Return how the policy's weights compare with those of the start, where both are there."""
    if not folder.policy.exists():
        return None
    try:
        return movement_since(record, folder.policy, model_spec(config, str(folder.path)))
    except UserError as problem:
        unseen.append(f"how far the weights moved ({problem.message})")
        return None


def _of_policy(config: DoctorConfig, in_memory: Mapping[str, Loaded], given: Data, listener: Listener) -> Material:
    """Return the data in the policy's tokens and, with a reference, the log-probs of both models."""
    models, pairs = named_models(config, None, in_memory), config.unit == "pairs"
    settings = {name: getattr(config, name) for name in ("columns", "style", "max_length", "seed")} | {"data": given}
    settings |= {"loss": "dpo", "beta": config.beta} if pairs else {"loss": "sft"}
    record = RunRecord(str(config.policy), settings)
    tokenizer = load_tokenizer(models.policy)
    listener.say("reading the rows")
    examples, data, _ = _rows(record, tokenizer)
    record = replace(record, data=data)
    identities: dict[str, Any] = {"data": {"sources": list(config.data), "sha256": data.sha256}}
    unseen: tuple[str, ...] = ()
    if config.depth == "models" and pairs and models.reference:
        pair = models.policy, None if config.reference is None else models.reference  # None: an adapter is switched off
        scored, own, other = score_pairs(config, pair, examples[: config.rows], listener)
        record = replace(record, scored=scored)
        identities |= {"policy": own, "reference": other}
    elif config.depth == "models" and pairs:
        unseen = ("what policy and reference say of the pairs (no --reference)",)
    if config.answer_prompts:
        samples = write_samples(config, models, examples, data.summary, listener)
        record = replace(record, samples=samples)
    return Material(record, unseen, identities)


def _tokenizer_of(record: RunRecord, folder: RunDir, spec: ModelSpec) -> Any:
    """Return the tokenizer of a run: with its policy where that was written, else that of the model it began from."""
    trained = folder.policy if folder.policy.exists() else folder.reward_model
    begun = replace(spec, path=str(record.config["model"]), adapter=record.config.get("adapter"))
    spec = replace(spec, path=str(trained)) if record.finished else begun
    template = record.config.get("chat_template")
    text = Path(template).read_text(encoding="utf-8") if template and Path(template).is_file() else None
    return load_tokenizer(spec, text)


def _rows(record: RunRecord, tokenizer: Any) -> tuple[Sequence[Example], DataFacts, DataFacts | None]:
    """Return examples to show the models (held-out ones, if there are any), and counts of both parts of the data."""
    settings = record.config
    found, kept, held_out = data_of_run(record)
    limits = {name: settings[name] for name in ("max_length", "max_prompt_length", "truncation") if name in settings}
    data = tokenize(kept, tokenizer, rows=found.rows, dropped=found.dropped, **limits)
    facts = _facts(data, tokenizer)
    if not held_out:
        return kept, facts, None
    return held_out, facts, _facts(tokenize(held_out, tokenizer, **limits), tokenizer, data)


def _stored_rows(
    record: RunRecord, tokenizer: Any, listener: Listener
) -> tuple[Sequence[Example], DataFacts, DataFacts | None] | None:
    """Return the same of a run whose tokens stay on the disk, with examples of the first rows; None of any other."""
    known = {one.name for one in fields(TrainConfig)}
    config = TrainConfig(**{name: value for name, value in record.config.items() if name in known})
    pieces = {} if config.streaming else found_pieces(config)
    if not is_large(pieces, config, record.loss) or config.eval_data:
        return None
    data, held_out = stored_rows(pieces, config, record.loss, tokenizer, listener)
    facts = _facts(data, tokenizer)
    examples = first_examples(pieces, config, record.loss)
    return examples, facts, _facts(held_out, tokenizer, data) if held_out.groups else None


def _facts(data: TokenizedData, tokenizer: Any, trained_on: TokenizedData | None = None) -> DataFacts:
    digest = data.digest or data_digest(data.groups)
    groups = trained_on.groups if trained_on else ()
    return data_facts(data.groups, data.summary.to_dict(), digest, tokenizer, groups)
