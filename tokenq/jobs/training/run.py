"""Training: joins data, models and the loop. No arithmetic here."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tokenq.core.losses import find_sum
from tokenq.data.conditioning.control import Control, checked_control, marked
from tokenq.data.signals import reward_scale
from tokenq.files import JsonLines
from tokenq.jobs.training.absolute import with_absolute_paths
from tokenq.jobs.training.coverage import watch_episodes
from tokenq.jobs.training.data import TrainingRows, check_inputs, data_identity, load_data
from tokenq.jobs.training.merging import refuse_merge_in_shards
from tokenq.jobs.training.moving_reference import moving_reference, with_reference
from tokenq.jobs.training.opening import OpenRun, opened
from tokenq.jobs.training.policy_files import PolicyWriter, finish, policy_writer
from tokenq.jobs.training.prepared import Prepared, choose_gradients, networks_of, prepare, start_of
from tokenq.jobs.training.reference import NO_REFERENCE, Reference, find_reference, with_logits
from tokenq.listener import Listener
from tokenq.models.forward.networks import PolicyNetworks
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.identity import ModelIdentity, identify
from tokenq.models.limits import named_limits, refuse_beyond
from tokenq.records.examples import TokenGroup
from tokenq.records.lazy_groups import LazyGroups, count_responses
from tokenq.training.config import TrainConfig
from tokenq.training.defaults import adapts, kind_of, loss_parameters, with_defaults
from tokenq.training.job import Job, Summary
from tokenq.training.loop import fit
from tokenq.training.precision import Precision, precision_of
from tokenq.training.source import SHUFFLE_BUFFER, Offline, Places, Source, Streamed, total_steps


def run(config: TrainConfig, listener: Listener, writes: Sequence[Callable[[], None]] = (), stream: Any = None) -> None:
    """Train what `config` says, and write the run.

    Args:
        config: what is asked for.
        listener: told what is found, and how far it is.
        writes: write down what was given in memory, once the folder of the run is held.
        stream: rows that Python gives one after the other, None where the data are named.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    loss = find_sum(config.loss, loss_parameters(config))
    chosen, config = config, with_absolute_paths(with_defaults(config, loss))
    check_inputs(config, loss)
    control = checked_control(config.condition_on, config.condition_scale)
    refuse_merge_in_shards(config, loss)
    with opened(config, loss, listener, writes) as opening:
        _train(opening, control, stream, own_rate=chosen.learning_rate is not None)


def _train(run: OpenRun[TrainConfig], control: Control | None, stream: Any, *, own_rate: bool) -> None:
    """Train what an open run asks for.

    Args:
        run: says what, and where.
        control: what responses are conditioned on, None for nothing.
        stream: rows that Python gives, None where the data are named.
        own_rate: whether the learning rate was given.
    """
    spec, tokenizer = start_of(run)
    tokenizer = marked(tokenizer, control)
    rows = load_data(run.config, run.loss, tokenizer, run.listener, stream)
    prepared = _keep_limits(prepare(run, spec, tokenizer, rows), run.listener)
    identity = identify(prepared.policy.model, run.config.model)
    reference = _reference(run, prepared, identity, tokenizer)
    networks = networks_of(prepared.policy, run.loss)
    choose_gradients(run, prepared.policy, networks)
    precision = precision_of(networks or prepared.policy, run.config, reference.model)
    identities = _identities(run, (identity, reference.identity), rows, precision)
    run.record(identities)
    writer = policy_writer(run, prepared.policy, tokenizer)
    places = Places(JsonLines(run.folder.stream), identities["data"]["sha256"], run.accelerator.is_main_process)
    job = _job(run, prepared, networks, reference, writer, places)
    if not own_rate:
        run.listener.say(f"learning rate: {run.config.learning_rate:g}, the default for {_kind(run)}")
    run.listener.say(precision.line(run.config.optimizer))
    _say_start(run, prepared)
    summary = fit(job, run.accelerator)
    if isinstance(prepared.policy, PackedLM):
        watch_episodes(job, prepared.policy, summary.steps, run.accelerator)
    finish(writer, summary, run.accelerator)
    _say_end(run, prepared, summary, writer)


def _say_end(run: OpenRun[TrainConfig], prepared: Prepared, summary: Summary, writer: PolicyWriter) -> None:
    """Say what was left out of a stream, which checkpoint is best, and where the result is."""
    listener = run.listener
    if prepared.stream is not None and prepared.stream.left_out:
        reasons = ", ".join(f"{count:,} {why}" for why, count in prepared.stream.left_out.most_common())
        listener.say(f"data: left out of the stream: {reasons}")
    if (best := summary.best) is not None:
        place = run.folder.checkpoint(best["step"])
        listener.say(f"best {best['metric']}: {best['value']:.4g} at step {best['step']}, kept in {place}")
    what = "policy" if isinstance(prepared.policy, PackedLM) else "reward model"
    listener.say(f"done: the {what} is in {writer.place}, every step's numbers in {run.folder.metrics}")


def _say_start(run: OpenRun[TrainConfig], prepared: Prepared) -> None:
    """Say what is about to be done."""
    if run.changed:
        said = ", ".join(f"{name} was {was}, now {now}" for name, (was, now) in run.changed.items())
        run.listener.say(f"resuming to another end ({said}): the schedule is stretched to it")
    run.listener.say(f"training: {_steps(run, prepared)}, {prepared.policy.way} attention")


def _steps(run: OpenRun[TrainConfig], prepared: Prepared) -> str:
    """Describe a step in words: the examples that the loss counts, and the responses that go through the model."""
    config, loss = run.config, run.loss
    if prepared.stream is not None:
        return f"{config.max_steps} steps of {config.batch_size} {loss.unit.noun}, as they come"
    source, responses = _source(run, prepared.data), count_responses(prepared.data)
    each = min(config.batch_size, source.total)
    said = f"{total_steps(config, source.per_epoch)} steps of {each} {loss.unit.noun}"
    share = each * responses / source.total
    return said if share == each else f"{said} ({share:.4g} responses) each"


def _source(run: OpenRun[TrainConfig], groups: Sequence[TokenGroup]) -> Offline:
    return Offline(groups, run.loss.unit, run.config.batch_size, run.config.seed)


def _keep_limits(prepared: Prepared, listener: Listener) -> Prepared:
    """Refuse rows that the model cannot read, before anything is computed; those of a stream as they come."""
    limits, name = named_limits(prepared.policy.model)
    data = prepared.data
    extremes = data.extremes() if isinstance(data, LazyGroups) else data
    said = refuse_beyond(limits, [*extremes, *prepared.held_out], name)
    if said is not None:
        listener.say(f"warning: {said}")
    if prepared.stream is None:
        return prepared

    def within(group: TokenGroup, texts: Any) -> TokenGroup:
        refuse_beyond(limits, [group], name)
        return group

    return prepared._replace(stream=prepared.stream.then(within))


def _kind(run: OpenRun[TrainConfig]) -> str:
    return f"{'an adapter' if adapts(run.config) else 'all weights'}, {kind_of(run.loss)}"


def _reference(run: OpenRun[TrainConfig], prepared: Prepared, identity: ModelIdentity, tokenizer: Any) -> Reference:
    """Return the reference that the loss compares the policy with."""
    reference, policy, every = NO_REFERENCE, prepared.policy, run.config.reference_sync_steps
    if not isinstance(policy, PackedLM):
        return reference
    if run.loss.reference:
        in_steps = prepared.stream is not None or every is not None
        stored = None if in_steps else [prepared.data, prepared.held_out]
        reference = find_reference(run, policy, identity, tokenizer, stored)
    if every is not None:
        reference = moving_reference(run, reference, policy)
        alpha = run.config.reference_mixup_alpha
        run.listener.say(f"reference: moves every {every} steps, by {alpha:g} of the way to the policy")
    return with_logits(run, reference, policy) if "ref_kls" in run.loss.inputs else reference


def _job(
    run: OpenRun[TrainConfig],
    prepared: Prepared,
    networks: PolicyNetworks | None,
    reference: Reference,
    writer: PolicyWriter,
    places: Places,
) -> Job:
    """Return the job for the loop."""
    config, loss = run.config, run.loss
    buffer, moving = config.shuffle_buffer, reference.moving
    source: Source = _source(run, reference.with_logps(prepared.data))
    if prepared.stream is not None:
        buffer = SHUFFLE_BUFFER if buffer is None else buffer
        source = Streamed(prepared.stream, loss.unit, config.batch_size, buffer=buffer, seed=config.seed, places=places)
    return Job(
        policy=networks or prepared.policy,
        source=source,
        objective=prepared.objective,
        config=config,
        run=run.folder,
        files=writer.files() if moving is None else with_reference(writer.files(), moving),
        evaluation=reference.with_logps(prepared.held_out),
        reference=reference.online,
        ref_logits=reference.logits,
        start_tolerance=reference.tolerance,
        move=(lambda step: None) if moving is None else moving.move,
        networks={} if networks is None else networks.beside(),
        work=prepared.policy.work,
        listener=run.listener,
    )


def _identities(
    run: OpenRun[TrainConfig],
    models: tuple[ModelIdentity, ModelIdentity | None],
    rows: TrainingRows,
    precision: Precision,
) -> dict[str, Any]:
    """Return the identities of models and data for provenance."""
    config, loss = run.config, run.loss
    (identity, reference), (data, held_out, _) = models, rows
    return {
        "model": identity.to_dict(),
        "reference": None if reference is None else reference.to_dict(),
        "data": data_identity(config.data, data),
        "eval_data": data_identity(config.eval_data, held_out) if held_out.groups else None,
        "beta": loss.beta if loss.reference else None,
        "rewards": reward_scale(data.groups)._asdict() if "rewards" in loss.inputs else None,
        "precision": asdict(precision),
    }
