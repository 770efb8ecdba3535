"""An online run: joins prompts, writers, a judge and the training loop. No arithmetic here."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType

from tokenq.core.losses import LossSum, find_sum
from tokenq.data.conditioning.control import with_control
from tokenq.data.prompts import Prompt
from tokenq.data.stretches.segments import Segments, with_segments
from tokenq.errors import UserError
from tokenq.files import digest_of, plain
from tokenq.jobs.evaluation.judges import compares
from tokenq.jobs.rollout.first_reference import FirstReference, first_reference
from tokenq.jobs.rollout.judges import recalls
from tokenq.jobs.rollout.prompts import asked_seeds, known_pairs, load_asked, without_prompts
from tokenq.jobs.rollout.settings import filled_in, loss_of, refuse_loss
from tokenq.jobs.rollout.work import Asked, Material, Models, evaluation_of, round_work
from tokenq.jobs.training.absolute import absolute, absolute_source, with_absolute_paths
from tokenq.jobs.training.data import data_identity, load_data
from tokenq.jobs.training.moving_reference import moving_reference, with_reference
from tokenq.jobs.training.opening import OpenRun, opened
from tokenq.jobs.training.policy_files import finish, policy_writer
from tokenq.jobs.training.prepared import choose_gradients, load_policy, networks_of, start_of
from tokenq.jobs.training.reference import Reference, autocast
from tokenq.jobs.training.token_weights import Weighting
from tokenq.judge.kinds import most_judgements
from tokenq.listener import Listener
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import frozen_model, no_grad
from tokenq.models.identity import ModelIdentity, identify
from tokenq.options import judge_kind
from tokenq.records.examples import TokenGroup
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.methods import Learns, OnlineMethod, compared, find_method
from tokenq.rollout.pairing import PAIRINGS
from tokenq.rollout.rounds import Plan, Rounds, affordable, planned
from tokenq.training.defaults import with_defaults
from tokenq.training.job import Job
from tokenq.training.loop import fit
from tokenq.training.objective import Objective
from tokenq.training.precision import precision_of
from tokenq.training.recorded import FREE_ON_RESUME
from tokenq.training.stopping import Request


def run(config: OnlineConfig, listener: Listener, writes: Sequence[Callable[[], None]] = ()) -> None:
    """Train in rounds what `config` says, and write the run.

    Args:
        config: what is asked for.
        listener: told what is found, and how far it is.
        writes: write down what was given in memory, once the folder of the run is held.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    config, method = filled_in(config)
    loss = loss_of(config, method)
    refuse_loss(config, loss, method)
    config = _with_defaults(config, loss)
    with opened(config, loss, listener, writes, _refuse_shards) as opening:
        _train(opening, method)


def _train(run: OpenRun[OnlineConfig], method: OnlineMethod) -> None:
    """Train in rounds what an open run asks for."""
    config, loss, folder = run.config, run.loss, run.folder
    models, material, identities = _loaded(run)
    run.record(identities)
    counts = _prompts_of_rounds(config, len(material.asked.prompts))
    plan = _plan(config, method, counts, len(material.offline))
    paid = run._replace(config=replace(config, rounds=len(counts)))
    asked = Asked(paid, method, plan, counts, _key(config, identities), Request())
    work = round_work(asked, models, material)
    evaluation = evaluation_of(work, material)
    source = Rounds(plan, loss.unit, config.seed, _marked(evaluation.groups_of, config, models.tokenizer))
    every = config.save_steps or plan.starts()[1]
    writer = policy_writer(run._replace(config=_named(config)), models.policy, models.tokenizer)
    moving = None if models.moving is None else models.moving.moving
    job = Job(
        policy=models.networks or models.policy,
        source=source,
        objective=Objective(loss, loss.beta, segments=config.segments, token_weights=Weighting(config).source),
        config=replace(config, max_steps=source.total, save_steps=every),
        run=folder,
        files=writer.files() if moving is None else with_reference(writer.files(), moving),
        start_tolerance=models.reference.tolerance if loss.reference else None,
        move=(lambda step: None) if moving is None else moving.move,
        networks={} if models.networks is None else models.networks.beside(),
        work=models.policy.work,
        listener=run.listener,
        request=asked.request,
    )
    run.listener.say(_plan_line(config, loss, plan, counts))
    summary = fit(job, run.accelerator)
    evaluation.finish()
    finish(writer, summary, run.accelerator)
    if len(counts) < config.rounds:
        run.listener.say(f"the label budget ends the run after round {len(counts)} of {config.rounds}")
    run.listener.say(f"done: the policy is in {folder.policy}, every round in {folder.round(1).parent}")


def _marked(
    groups_of: Callable[[int, bool], Sequence[TokenGroup]], config: OnlineConfig, tokenizer: Any
) -> Callable[[int, bool], Sequence[TokenGroup]]:
    """Return what a round learns from with the segment of every token, where segments have strengths."""
    if not config.segments:
        return groups_of
    segments = Segments.of([*config.segments], config.segment_starts, tokenizer)
    return lambda number, at_start: with_segments(groups_of(number, at_start), segments)


def _loaded(run: OpenRun[OnlineConfig]) -> tuple[Models, Material, dict[str, Any]]:
    """Return models, prompts and earlier pairs of a run, and the identities of all of them for provenance."""
    config, loss, listener = run.config, run.loss, run.listener
    spec, tokenizer = start_of(run)
    played = config.environment is not None
    asked_for = asked_seeds(config, listener) if played else load_asked(config, tokenizer, listener)
    asked = loss if config.replayed_share else find_sum("dpo")  # what nobody learns from is pairs and nothing more
    pairs = config.data and not played  # an environment's are episodes
    data, held_out = load_data(config, asked, tokenizer, listener)[:2] if pairs else (None, None)
    known = known_pairs(config, held_out.groups if held_out else (), tokenizer)
    policy = load_policy(run, spec, tokenizer)
    identity = identify(policy.model, config.model)
    reference = first_reference(run, policy, identity, tokenizer)
    _refuse_itself(config, policy, reference.identity)
    moving = None if config.reference_sync_steps is None else _moving(run, policy, reference)
    networks = networks_of(policy, loss)
    choose_gradients(run, policy, networks)
    precision = precision_of(networks or policy, config, reference.lm if config.reference else None)
    listener.say(precision.line(config.optimizer))
    identities = {
        "model": identity.to_dict(),
        "reference": reference.identity.to_dict(),
        "data": _files(config.data) if played else None if data is None else data_identity(config.data, data),
        "eval_data": None,
        "prompts": {"sources": list(config.prompts), "sha256": _digest(asked_for.prompts)},
        "eval_prompts": {"sources": list(config.eval_prompts), "sha256": _digest(asked_for.held_out)},
        "beta": config.beta if loss.unit.asks == "rollouts" else loss.beta if loss.reference else None,
        "rewards": None,
        "precision": asdict(precision),
    }
    offline = [] if data is None else without_prompts(data.groups, asked_for.held_out, tokenizer)
    models = Models(policy, tokenizer, reference, networks, moving)
    return models, Material(asked_for, offline, known), identities


def _moving(run: OpenRun[OnlineConfig], policy: PackedLM, first: FirstReference) -> Reference:
    """Return a reference that begins as the first one and moves; KL of the numbers is measured from the first."""
    own = run.config.lora_rank > 0 and run.config.reference is None  # it is an adapter itself
    model = None if own else frozen_model(first.lm)
    online = first.scorer if model is None else autocast(no_grad(model), run.accelerator)
    return moving_reference(run, Reference(first.identity, None, online, first.tolerance, model), policy)


def _with_defaults(config: OnlineConfig, loss: LossSum) -> OnlineConfig:
    found = with_absolute_paths(with_defaults(config, loss))
    assert isinstance(found, OnlineConfig)  # both change fields and keep the rest
    judges = {name: getattr(config, name) for name in ("reward_model", "judge_run", "credit_run")}
    named: dict[str, Any] = {name: None if value is None else absolute(value) for name, value in judges.items()}
    named |= {name: list(map(absolute_source, getattr(config, name))) for name in ("prompts", "eval_prompts")}
    if judge_kind(str(config.judge)) == "function":
        named["judge"] = _member(str(config.judge))
    if config.environment is not None and ":" in config.environment:
        named["environment"] = _member(config.environment)
    return replace(found, **named)


def _member(name: str) -> str:
    """Return FILE.py:NAME with the whole path of the file: a run may be resumed from elsewhere."""
    file, _, member = name.rpartition(":")
    return f"{absolute(file)}:{member}"


def _refuse_itself(config: OnlineConfig, policy: PackedLM, reference: ModelIdentity) -> None:
    """Refuse a judge of log-ratios whose reference is the policy itself, or what lies below a new adapter."""
    if not recalls(config):
        return
    if identify(policy.model, config.model, adapter="off" if config.lora_rank else "on").weights == reference.weights:
        raise UserError(
            "--reference is the model itself: its implicit rewards are all 0.",
            "Name the model that --model was trained from.",
        )


def _refuse_shards(accelerator: Accelerator) -> None:
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise UserError(
            "A policy in shards (FSDP, DeepSpeed) cannot write here.", "Launch with data parallelism alone (DDP)."
        )


def _named(config: OnlineConfig) -> OnlineConfig:
    """Return the settings with the prompts among the data, as the card of the policy names them."""
    return replace(config, data=[*config.prompts, *config.data])


def _compared(config: OnlineConfig) -> int:
    return compared(find_method(config.method), config.samples_of_prompt, stored=bool(config.data))


def _prompts_of_rounds(config: OnlineConfig, prompts: int) -> list[int]:
    """Return how many prompts each round has, for the rounds that the label budget pays for.

    Raises:
        UserError: it pays for no prompt.
    """
    count = min(prompts, config.prompts_per_round or prompts)
    if config.label_budget is None:
        return [count] * config.rounds
    most = most_judgements(_compared(config), pairwise=compares(config, str(config.judge)))
    found = affordable(config.rounds, count, most, config.label_budget)
    if not found:
        raise UserError(
            f"--label-budget {config.label_budget}: the responses to one prompt take up to {most} judgements.",
            "Raise it, or lower --samples.",
        )
    return found


def _plan(config: OnlineConfig, method: OnlineMethod, counts: Sequence[int], offline: int) -> Plan:
    fresh = [count * EXAMPLES[method.learns](config) for count in counts]
    return planned(fresh, offline, config.replayed_share, config.examples_of_step, config.epochs)


EXAMPLES: Mapping[Learns, Callable[[OnlineConfig], int]] = {
    "pairs": lambda config: PAIRINGS[config.pairs].most(_compared(config)),
    "advantages": lambda config: config.samples_of_prompt,
    "weights": lambda config: 1,
}
"""How many examples a prompt gives at most, by what the method learns from."""


def _plan_line(config: OnlineConfig, loss: LossSum, plan: Plan, counts: Sequence[int]) -> str:
    last = f" (the last of {counts[-1]})" if counts[-1] < counts[0] else ""
    budget = "" if config.label_budget is None else f" within {config.label_budget} judgements"
    return (
        f"online: {len(counts)} rounds of {counts[0]} prompts{last} × {config.samples_of_prompt} responses, judged by "
        f"{config.judge}{budget}, at most {plan.starts()[-1]} steps of {config.examples_of_step} {loss.unit.noun} with "
        f"{config.loss}"
    )


_HELD = ("model", "reference", "prompts", "data", "eval_prompts")
"""Settings that stand in the key by what they hold."""


def _key(config: OnlineConfig, identities: Mapping[str, Any]) -> str:
    """Return a key of all that rounds depend on."""
    settings = {k: v for k, v in asdict(config).items() if k not in FREE_ON_RESUME and k not in _HELD}
    held = [(identities[name] or {}).get(key) for name, key in _IDENTITY]
    said = json.dumps([plain(settings), held], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


_IDENTITY = (
    *(("model", "weights"), ("reference", "weights")),
    *(("data", "sha256"), ("prompts", "sha256"), ("eval_prompts", "sha256")),
)


def _files(paths: Sequence[str]) -> dict[str, Any] | None:
    """Return the identity of files of episodes."""
    if not paths:
        return None
    return {"sources": list(paths), "sha256": " ".join(digest_of(Path(path)) for path in paths)}


def _digest(prompts: Sequence[Prompt]) -> str:
    said = "\n".join(f"{prompt.id}:{with_control(prompt.text, prompt.condition)!r}" for prompt in prompts)
    return hashlib.sha256(said.encode()).hexdigest()
