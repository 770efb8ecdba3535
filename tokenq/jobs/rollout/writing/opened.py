"""What a run writes to, opened: prompts in tokens, or an environment with whoever acts in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from tokenq.core.tensors import TokenScorer
from tokenq.data.dialogue import open_dialogue
from tokenq.data.encoding import text_of
from tokenq.data.prompts import Prompt, encode_prompts
from tokenq.envs.guarded import guarded
from tokenq.envs.table import find_environment
from tokenq.errors import UserError
from tokenq.jobs.rollout.clock import Clock
from tokenq.jobs.rollout.prompts import AskedPrompts
from tokenq.jobs.rollout.sampled import token_logps
from tokenq.jobs.rollout.writing.episodes import Stage, writing_of_episodes
from tokenq.jobs.rollout.writing.responses import GREEDY, Encoded, writing_to_prompts
from tokenq.jobs.rollout.writing.written import Writing
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.limits import named_limits, refuse_tokens
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.episodes.game import Game, Player, Rules, action_pieces
from tokenq.rollout.episodes.stored import experts_of
from tokenq.rollout.methods import OnlineMethod
from tokenq.rollout.writer import Writer
from tokenq.search.branches import Limits


class Means(NamedTuple):
    """What writing is done with.

    Attributes:
        config: the settings.
        method: says who writes.
        policy: its limits are kept to.
        tokenizer: the policy's.
        limits: where responses, or actions, end.
        scorer: log π of the policy as it is.
        device: where that computes.
        clock: measures where the time goes.
    """

    config: OnlineConfig
    method: OnlineMethod
    policy: PackedLM
    tokenizer: Any
    limits: Limits
    scorer: TokenScorer
    device: str
    clock: Clock


class Opened(NamedTuple):
    """What is written to.

    Attributes:
        beginnings: in tokens: the prompts, or what an environment says first.
        writing: (writers by their names among the method's draws) → how they write.
    """

    beginnings: Sequence[tuple[int, ...]]
    writing: Callable[[Mapping[str, Writer]], Writing]


def open_prompts(means: Means, asked: AskedPrompts) -> Opened:
    """Return prompts to write to.

    Raises:
        UserError: one leaves no room for a response, or has tokens that the model does not know.
    """
    prompts, held_out = (Encoded(some, _ids(means, some)) for some in (asked.prompts, asked.held_out))
    text = partial(text_of, means.tokenizer)

    def writing(writers: Mapping[str, Writer]) -> Writing:
        return writing_to_prompts(means.config, means.method, prompts, held_out, writers, text, means.clock)

    return Opened(prompts.ids, writing)


def _ids(means: Means, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    limits, ids = named_limits(means.policy.model), encode_prompts(prompts, means.tokenizer)
    longest = means.config.max_length
    for prompt, tokens in zip(prompts, ids, strict=True):
        refuse_tokens(limits, tokens, prompt.where)
        if len(tokens) >= longest:
            raise UserError(
                f"{prompt.where}: the prompt has {len(tokens)} tokens, and --max-length is {longest}.",
                "Raise --max-length, or leave the row out.",
            )
    return ids


def open_environment(means: Means, asked: AskedPrompts) -> Opened:
    """Return an environment to act in, and what it says first.

    Raises:
        UserError: there is no such environment, it lacks something, or what it says leaves no room for an action.
    """
    config, limits = means.config, means.limits
    name, options = str(config.environment), config.environment_options
    row = find_environment(name)
    game = Game(name, options, row.make(options), row.instructions, row.tools(options))
    seeds, held_out = range(len(asked.prompts)), range(len(asked.prompts), len(asked.prompts) + len(asked.held_out))
    dialogue = open_dialogue(means.tokenizer, game.instructions, game.tools)
    pieces = action_pieces(means.tokenizer, limits.eos)
    environment = guarded(game.make, config.step_timeout)
    beginning = dialogue.start(environment.reset(seeds[0])).ids
    environment.close()
    refuse_tokens(named_limits(means.policy.model), beginning, asked.prompts[0].id)
    if limits.context is not None and len(beginning) >= limits.context:
        raise UserError(
            f"{asked.prompts[0].id} begins with {len(beginning)} tokens, and --max-length is {limits.context}.",
            "Raise --max-length, or take an environment that says less.",
        )
    rules = Rules(GREEDY, 0, config.max_turns or row.max_turns, limits.max_new_tokens, limits.context)
    rules = replace(rules, when_full=config.when_full, step_timeout=config.step_timeout)
    experts = experts_of(config.data, game, seeds)

    def writing(writers: Mapping[str, Writer]) -> Writing:
        def player(who: str, version: int) -> Player:
            return Player(writers[who], dialogue, pieces, who, version)

        logps = partial(token_logps, means.scorer, means.device)
        return writing_of_episodes(
            Stage(config, means.method, game, rules, seeds, held_out, player, experts, logps, means.clock)
        )

    return Opened([beginning], writing)
