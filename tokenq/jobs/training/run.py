"""Training: joins data, models and the loop. No arithmetic here."""

import atexit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType

from tokenq.core.losses import LossSum, find_sum
from tokenq.data.conditioning.control import checked_control, marked
from tokenq.data.signals import reward_scale
from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.jobs.training.absolute import with_absolute_paths
from tokenq.jobs.training.coverage import watch_episodes
from tokenq.jobs.training.data import TrainingRows, check_inputs, data_identity, load_data
from tokenq.jobs.training.merging import merges, refuse_merge_in_shards
from tokenq.jobs.training.moving_reference import moving_reference, with_reference
from tokenq.jobs.training.opening import opened
from tokenq.jobs.training.output import record_run
from tokenq.jobs.training.policy_files import PolicyWriter, ResultWriter, policy_writer
from tokenq.jobs.training.prepared import Prepared, prepare
from tokenq.jobs.training.recipes import find
from tokenq.jobs.training.reference import NO_REFERENCE, Reference, find_reference, with_logits
from tokenq.listener import Listener
from tokenq.models.forward.networks import PolicyNetworks
from tokenq.models.forward.packed_lm import PackedLM, bare
from tokenq.models.forward.reward_lm import RewardLM
from tokenq.models.identity import ModelIdentity, identify
from tokenq.models.limits import named_limits, refuse_beyond
from tokenq.models.load import ModelSpec, for_training
from tokenq.models.tokenizer import load_tokenizer
from tokenq.records.examples import TokenGroup
from tokenq.records.lazy_groups import LazyGroups, count_responses
from tokenq.rundir import RunDir, provenance, record_best
from tokenq.training.checkpoint import gathered_policy
from tokenq.training.checks import together
from tokenq.training.config import TrainConfig
from tokenq.training.defaults import adapts, kind_of, with_defaults
from tokenq.training.job import Job, Summary
from tokenq.training.loop import fit
from tokenq.training.precision import Precision, precision_of
from tokenq.training.recorded import Changes
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
    with opened(config, listener, writes) as (run_dir, changed, accelerator, listener):
        spec = model_to_train(config, loss, accelerator)
        tokenizer = marked(load_tokenizer(spec, read_template(config.chat_template)), control)
        rows = load_data(config, loss, tokenizer, listener, stream)
        prepared = prepare(config, loss, spec, tokenizer, rows, listener)
        prepared = _keep_limits(prepared, listener)
        identity = identify(prepared.policy.model, config.model)
        reference = _reference(prepared, identity, config, loss, tokenizer, accelerator, listener)
        networks = networks_of(prepared.policy, loss)
        choose_gradients(prepared.policy, networks, config, accelerator)
        precision = precision_of(networks or prepared.policy, config, reference.model)
        identities = _identities(config, (identity, reference.identity), rows, loss, precision, accelerator)
        record_run(run_dir, config, provenance(asdict(config), config.seed, identities), changed, accelerator)
        writer = policy_writer(prepared.policy, tokenizer, config, loss, run_dir)
        job = _job(prepared, networks, reference, writer, _places(run_dir, identities, accelerator), listener)
        if chosen.learning_rate is None:
            listener.say(f"learning rate: {config.learning_rate:g}, the default for {_kind(config, loss)}")
        listener.say(precision.line(config.optimizer))
        _say_start(prepared, config, loss, changed, listener)
        summary = fit(job, accelerator)
        if isinstance(prepared.policy, PackedLM):
            watch_episodes(job, prepared.policy, summary.steps, accelerator)
        finish(writer, summary, accelerator)
        _say_end(prepared, summary, writer, listener)


def _say_end(prepared: Prepared, summary: Summary, writer: PolicyWriter, listener: Listener) -> None:
    """Say what was left out of a stream, which checkpoint is best, and where the result is."""
    if prepared.stream is not None and prepared.stream.left_out:
        reasons = ", ".join(f"{count:,} {why}" for why, count in prepared.stream.left_out.most_common())
        listener.say(f"data: left out of the stream: {reasons}")
    if (best := summary.best) is not None:
        place = writer.run.checkpoint(best["step"])
        listener.say(f"best {best['metric']}: {best['value']:.4g} at step {best['step']}, kept in {place}")
    what = "policy" if isinstance(prepared.policy, PackedLM) else "reward model"
    listener.say(f"done: the {what} is in {writer.place}, every step's numbers in {writer.run.metrics}")


def _say_start(prepared: Prepared, config: TrainConfig, loss: LossSum, changed: Changes, listener: Listener) -> None:
    """Say what is about to be done."""
    if changed:
        said = ", ".join(f"{name} was {was}, now {now}" for name, (was, now) in changed.items())
        listener.say(f"resuming to another end ({said}): the schedule is stretched to it")
    listener.say(f"training: {_steps(prepared, config, loss)}, {prepared.policy.way} attention")


def _steps(prepared: Prepared, config: TrainConfig, loss: LossSum) -> str:
    """Describe a step in words: the examples that the loss counts, and the responses that go through the model."""
    if prepared.stream is not None:
        return f"{config.max_steps} steps of {config.batch_size} {loss.unit.noun}, as they come"
    source, responses = _source(prepared.data, config, loss), count_responses(prepared.data)
    each = min(config.batch_size, source.total)
    said = f"{total_steps(config, source.per_epoch)} steps of {each} {loss.unit.noun}"
    share = each * responses / source.total
    return said if share == each else f"{said} ({share:.4g} responses) each"


def _source(groups: Sequence[TokenGroup], config: TrainConfig, loss: LossSum) -> Offline:
    return Offline(groups, loss.unit, config.batch_size, config.seed)


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


def _kind(config: TrainConfig, loss: LossSum) -> str:
    return f"{'an adapter' if adapts(config) else 'all weights'}, {kind_of(loss)}"


def model_to_train(config: TrainConfig, loss: LossSum, accelerator: Accelerator) -> ModelSpec:
    """Return the model to start from, its type resolved: trained weights are held in float32."""
    spec = ModelSpec(config.model, config.dtype, str(accelerator.device), config.adapter, config.revision)
    spec = replace(spec, trust_remote_code=config.trust_remote_code, base=config.base)
    frozen = adapts(config) and not merges(config, loss)
    return for_training(spec, frozen=frozen, scaled=config.mixed_precision == "fp16")


def _reference(
    prepared: Prepared,
    identity: ModelIdentity,
    config: TrainConfig,
    loss: LossSum,
    tokenizer: Any,
    accelerator: Accelerator,
    listener: Listener,
) -> Reference:
    """Return the reference that the loss compares the policy with."""
    reference, policy = NO_REFERENCE, prepared.policy
    if isinstance(policy, PackedLM) and loss.reference:
        groups = [prepared.data, prepared.held_out]
        in_steps = prepared.stream is not None or config.reference_sync_steps is not None
        online = replace(config, reference_store="off") if in_steps else config
        reference = find_reference(policy, identity, online, accelerator, groups, tokenizer, listener)
    if isinstance(policy, PackedLM) and config.reference_sync_steps is not None:
        reference = moving_reference(reference, policy, config, loss, accelerator)
        alpha = config.reference_mixup_alpha
        listener.say(
            f"reference: moves every {config.reference_sync_steps} steps, by {alpha:g} of the way to the policy"
        )
    if isinstance(policy, PackedLM) and "ref_kls" in loss.inputs:
        reference = with_logits(reference, policy, config, accelerator, listener)
    return reference


def _job(
    prepared: Prepared,
    networks: PolicyNetworks | None,
    reference: Reference,
    writer: PolicyWriter,
    places: Places,
    listener: Listener,
) -> Job:
    """Return the job for the loop."""
    config, loss = writer.config, prepared.objective.loss
    buffer, moving = config.shuffle_buffer, reference.moving
    source: Source = _source(reference.with_logps(prepared.data), config, loss)
    if prepared.stream is not None:
        buffer = SHUFFLE_BUFFER if buffer is None else buffer
        source = Streamed(prepared.stream, loss.unit, config.batch_size, buffer=buffer, seed=config.seed, places=places)
    return Job(
        policy=networks or prepared.policy,
        source=source,
        objective=prepared.objective,
        config=writer.config,
        run=writer.run,
        files=writer.files() if moving is None else with_reference(writer.files(), moving),
        evaluation=reference.with_logps(prepared.held_out),
        reference=reference.online,
        ref_logits=reference.logits,
        start_tolerance=reference.tolerance,
        move=(lambda step: None) if moving is None else moving.move,
        networks={} if networks is None else networks.beside(),
        work=prepared.policy.work,
        listener=listener,
    )


def _places(run_dir: RunDir, identities: Mapping[str, Any], accelerator: Accelerator) -> Places:
    return Places(JsonLines(run_dir.stream), identities["data"]["sha256"], accelerator.is_main_process)


def networks_of(policy: PackedLM | RewardLM, loss: LossSum) -> PolicyNetworks | None:
    """Return the policy with the networks that a loss trains beside it, None where it trains none."""
    return PolicyNetworks(policy, loss.networks) if isinstance(policy, PackedLM) and loss.networks else None


def choose_gradients(
    policy: PackedLM | RewardLM, networks: PolicyNetworks | None, config: TrainConfig, accelerator: Accelerator
) -> None:
    """Choose how gradients are computed."""
    beside: Sequence[Any] = [] if networks is None else [*networks.beside().values()]
    if config.gradient_checkpointing:
        if policy.way not in ("plain", "full") and policy.limit is not None and policy.limit < config.max_length:
            raise UserError(
                f"--gradient-checkpointing: this model reads rows beyond {policy.limit} tokens by another attention.",
                f"Add --attention plain, or --max-length {policy.limit}.",
            )
        for model in (bare(policy.model), *(one.lm for one in beside)):
            model.gradient_checkpointing_enable({"use_reentrant": False})
    alone = accelerator.distributed_type == DistributedType.NO and config.mixed_precision == "no"
    for one in (policy, *beside) if alone else ():
        if isinstance(one, PackedLM):
            one.accumulate_in_place()


def _identities(
    config: TrainConfig,
    models: tuple[ModelIdentity, ModelIdentity | None],
    rows: TrainingRows,
    loss: LossSum,
    precision: Precision,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Return the identities of models and data for provenance."""
    (identity, reference), (data, held_out, _) = models, rows
    return {
        "model": identity.to_dict(),
        "reference": None if reference is None else reference.to_dict(),
        "data": data_identity(config.data, data),
        "eval_data": data_identity(config.eval_data, held_out) if held_out.groups else None,
        "beta": loss.beta if loss.reference else None,
        "rewards": reward_scale(data.groups)._asdict() if "rewards" in loss.inputs else None,
        "precision": asdict(precision),
        "device": f"{accelerator.device} x {accelerator.num_processes}",
    }


def finish(writer: ResultWriter, summary: Summary, accelerator: Accelerator) -> None:
    """Write the policy, or the reward model.

    The group of processes is left at exit, and not here: its last owner ends its threads, and a model over several
    processes would do so while it holds the interpreter, for which one of these threads may be waiting.
    """
    state = gathered_policy(accelerator, summary.policy) if accelerator.num_processes > 1 else None

    def write() -> None:
        if accelerator.is_main_process:
            writer.finish(state, summary.steps, summary.after)
            if summary.best is not None:
                record_best(writer.run, summary.best)

    together(write, accelerator)
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    atexit.register(accelerator.state.destroy_process_group)


def loss_parameters(config: TrainConfig) -> dict[str, float | str]:
    """Return the parameters of the loss that were given; β is a segment's where nothing else gives it."""
    if config.beta is not None and "beta" in config.loss_options:
        raise UserError("beta is given twice: --beta and --loss-options beta.", "Give one of them.")
    beta = config.beta
    if beta is None and config.segments and find_sum(config.loss).has_strengths:
        beta = config.segment_beta()
    return {**({} if beta is None else {"beta": beta}), **config.loss_options}


def read_template(path: str | None) -> str | None:
    """Return the chat template of a file, None where none is named."""
    if path is None:
        return None
    try:
        return find(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"The chat template {path} cannot be read: {problem}", "Give a Jinja file.") from None
