"""The models of a play: the policy that acts, here or behind a server, and the reference that it is read against."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tokenq.data.dialogue import Dialogue, open_dialogue
from tokenq.errors import UserError
from tokenq.jobs.rollout.served import PATIENCE, HeldWriter, trainer_of
from tokenq.listener import Listener
from tokenq.models.adapters import is_adapter_folder
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import ReferencedPolicy
from tokenq.models.forward.stepper import ModelStepper, remembering
from tokenq.models.limits import ModelLimits, least_context
from tokenq.models.load import ModelSpec
from tokenq.models.loaded import Loaded
from tokenq.models.open import open_model, open_pair
from tokenq.models.run_models import RunModels, model_spec
from tokenq.models.stamps import Stamp
from tokenq.models.tokenizer import ends_of, open_tokenizer
from tokenq.rollout.episodes.config import PlayConfig
from tokenq.rollout.episodes.game import Game, Player, action_pieces
from tokenq.rollout.remote import RemoteWriter, find_server
from tokenq.rollout.sync import LOCAL
from tokenq.rollout.writer import LocalWriter
from tokenq.runs.places import home_of, models_of_run
from tokenq.search.branches import Limits


@dataclass(frozen=True)
class PlayModels:
    """Models that play, and read what was played.

    Attributes:
        lm: the policy.
        tokenizer: goes with it.
        pair: the policy and its reference; None where there is none.
        beta: of implicit rewards.
        identities: by role, as provenance has them.
        files: stamps of the files that the weights are mapped from.
        context: most tokens that all of them read; None for no limit.
    """

    lm: PackedLM
    tokenizer: Any
    pair: ReferencedPolicy | None
    beta: float
    identities: Mapping[str, Mapping[str, Any]]
    files: tuple[Stamp, ...]
    context: int | None


def _named(config: PlayConfig, in_memory: Mapping[str, Loaded]) -> RunModels:
    """Return the models that a configuration names, or its run; an adapter needs no reference.

    Raises:
        UserError: there is no such run.
    """
    given = {
        role: None if path is None else replace(model_spec(config, path), loaded=in_memory.get(role))
        for role, path in (("policy", config.policy), ("reference", config.reference))
    }
    policy, reference = given["policy"], given["reference"]
    run = config.policy if config.run is None and "policy" not in in_memory and home_of(config.policy) else config.run
    if run is not None:
        made = models_of_run(run, model_spec(config, run))
        return replace(made, reference=reference or made.reference)
    assert policy is not None  # one of the two is given
    return RunModels(policy, reference, None)


def _adapts(policy: ModelSpec) -> bool:
    return policy.loaded.has_adapter if policy.loaded is not None else is_adapter_folder(policy.path)


def open_models(
    config: PlayConfig, max_new_tokens: int, listener: Listener, in_memory: Mapping[str, Loaded] = {}
) -> PlayModels:
    """Return the models of a configuration.

    Args:
        config: what is asked for.
        max_new_tokens: most tokens of an action.
        listener: told what could not be done as asked.
        in_memory: models by their role, instead of files of that name.

    Raises:
        UserError: a model is missing, or the reference reads other tokens.
    """
    models = _named(config, in_memory)
    beta = config.beta or models.beta or 0.1
    longest = config.max_length or max_new_tokens + 1024

    def warn(text: str) -> None:
        listener.say(f"warning: {text}")

    if models.reference is None and not _adapts(models.policy):
        opened = open_model(models.policy, config.attention, longest, warn)
        identities = {"policy": opened.identity.to_dict()}
        found = (opened.lm, open_tokenizer(models.policy), None)
        return PlayModels(*found, beta, identities, opened.files, _context(config, [opened.lm]))
    pair = open_pair(models.policy, models.reference, config.attention, longest, warn)
    if pair.other_tokenizer is not None:
        hint = "Name the model that the policy was trained from."
        raise UserError(f"{pair.identities[1]['path']} reads other tokens than the policy.", hint)
    lms = [one for one in (pair.models.policy, pair.models.reference) if one is not None]
    identities = dict(zip(("policy", "reference"), pair.identities, strict=True))
    return PlayModels(lms[0], pair.tokenizer, pair.models, beta, identities, pair.files, _context(config, lms))


def _context(config: PlayConfig, models: Sequence[PackedLM]) -> int | None:
    known = (config.max_length, least_context(lm.model for lm in models))
    return min((one for one in known if one is not None), default=None)


def player_of(
    config: PlayConfig, models: PlayModels, game: Game, max_new_tokens: int, listener: Listener
) -> tuple[Player, int | None]:
    """Return who plays, and the most tokens of an episode.

    Args:
        config: what is asked for.
        models: the models.
        game: what is played.
        max_new_tokens: most tokens of an action.
        listener: told who writes.

    Raises:
        UserError: the game's tools cannot be written, or nobody answers at the writer's address.
    """
    dialogue: Dialogue = open_dialogue(models.tokenizer, game.instructions, game.tools)
    ends = ends_of(models.lm, models.tokenizer, config.eos)
    limits = Limits(ends, max_new_tokens, context=models.context)
    pieces = action_pieces(models.tokenizer, ends)
    if config.writer != LOCAL:
        held, limits = _remote(config, models, limits, listener)
        return Player(held, dialogue, pieces), limits.context
    lm = models.lm
    engine = f"tokenq {next(lm.parameters()).dtype}".replace("torch.", "")
    writer = LocalWriter(lambda: ModelStepper(lm), limits, engine, dialogues=partial(remembering, lm))
    return Player(writer, dialogue, pieces), limits.context


def _remote(config: PlayConfig, models: PlayModels, limits: Limits, listener: Listener) -> tuple[HeldWriter, Limits]:
    """Return the writer behind a server, held to the policy in this process, and the limits of both."""
    server = find_server(config.writer, config.writer_model, PATIENCE)
    listener.say(f"writer: {server.engine} at {server.endpoint.shown}")
    known = (limits.context, server.longest)
    limits = replace(limits, context=min((one for one in known if one is not None), default=None))
    remote = RemoteWriter(server, limits, ModelLimits.of(models.lm.model).tokens, server.endpoint.model)
    trainer = trainer_of(models.lm, models.tokenizer, contextlib.nullcontext, next(models.lm.parameters()).dtype)
    return HeldWriter(remote, trainer, listener), limits
