"""The prompts of an online run: those that rounds write to, those that are held out, and their true answers."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from tokenq.data.bad_rows import first_named
from tokenq.data.conditioning.asked import asked_levels, conditioned_prompts
from tokenq.data.encoding import text_of
from tokenq.data.examples import read_examples
from tokenq.data.prompts import (
    LoadedPrompts,
    Prompt,
    encode_prompts,
    hold_out_prompts,
    load_prompts,
    usable_prompts,
)
from tokenq.data.sources import load_examples
from tokenq.errors import UserError
from tokenq.jobs.rollout.judges import verified_task
from tokenq.jobs.rollout.stages import rollout_of
from tokenq.judge.tasks import AnswerTask
from tokenq.listener import Listener
from tokenq.records.examples import TokenGroup
from tokenq.records.rollouts import Rollout
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.writer import Sample
from tokenq.search.settings import Sampling


class AskedPrompts(NamedTuple):
    """The prompts of a run.

    Attributes:
        prompts: those that rounds write to.
        held_out: those that the policy is evaluated on.
        task: true answers of all of them, None where these do not judge.
        answers: true answers of the held-out ones, None where no column holds any.
    """

    prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    task: AnswerTask | None
    answers: AnswerTask | None


def load_asked(config: OnlineConfig, tokenizer: Any, listener: Listener) -> AskedPrompts:
    """Return the prompts of a run.

    Raises:
        UserError: a prompt cannot be read, or has no true answer, and is not to be left out.
    """
    verified = config.judge == "verifier"
    loaded, task = _usable(config, config.prompts, tokenizer, verified=verified)
    listener.say(f"prompts: {loaded.line()}")
    prompts, held_out, answers = loaded.prompts, list[Prompt](), None
    known = config.answer is not None and config.gold is not None
    if config.eval_size:
        prompts, held_out = hold_out_prompts(prompts, config.eval_size, seed=config.seed)
        answers = verified_task(config, replace(loaded, prompts=held_out))[0] if known else None
        listener.say(f"held out: {len(held_out):,} of them")
    elif config.eval_prompts:
        found, answers = _usable(config, config.eval_prompts, tokenizer, verified=known, prefix="eval ")
        held_out = found.prompts
        if same := {prompt.id for prompt in prompts} & {prompt.id for prompt in held_out}:
            raise UserError(f"A prompt of --prompts is called {min(same)!r}, as one of --eval-prompts.", "Rename it.")
        listener.say(f"eval prompts: {found.line()}")
        asked = {prompt.text for prompt in prompts}
        if both := sum(prompt.text in asked for prompt in held_out):
            listener.say(f"warning: {both} of {len(held_out)} prompts of --eval-prompts are among --prompts as well")
    if task is not None:
        task = replace(task, prompts=[*prompts, *held_out])
    return AskedPrompts(prompts, held_out, task, answers)


def asked_seeds(config: OnlineConfig, listener: Listener) -> AskedPrompts:
    """Return the seeds of an environment as prompts: a prompt's number is its seed, and held-out ones come last."""
    count, size = config.environment_seeds, config.eval_size
    held_out = round(size * count) if size < 1 else int(size)
    every = [Prompt(f"{config.environment} seed {seed}", "", f"seed {seed}") for seed in range(count + held_out)]
    more = f"; held out: seeds {count} to {count + held_out - 1}" if held_out else ""
    listener.say(f"environment: {config.environment}, seeds 0 to {count - 1}{more}")
    return AskedPrompts(every[:count], every[count:], None, None)


def without_prompts(groups: Sequence[TokenGroup], held_out: Sequence[Prompt], tokenizer: Any) -> Sequence[TokenGroup]:
    """Return the pairs whose prompts are not held out."""
    if not held_out:
        return groups
    ids = set(encode_prompts([replace(prompt, condition={}) for prompt in held_out], tokenizer))
    return [group for group in groups if tuple(group.prompt_ids.tolist()) not in ids]


def known_pairs(config: OnlineConfig, groups: Sequence[TokenGroup], tokenizer: Any) -> list[tuple[Rollout, Rollout]]:
    """Return pairs of `--data` that are held out as responses to be judged: (chosen, rejected) of each.

    Args:
        config: names the data.
        groups: the held-out pairs.
        tokenizer: of the policy.
    """
    if not groups or config.judge == "verifier":  # nobody knows true answers to these prompts
        return []
    read = partial(read_examples, columns=config.columns, style=config.style, bad_rows="drop")
    read = partial(read, pairing=config.pairing, same_length=config.same_length)
    prompts = {one.where: one.prompt for one in load_examples(config.data, read, seed=config.seed).examples}
    found = []
    for number, group in enumerate(groups, 1):
        ids = tuple(group.prompt_ids.tolist())
        sides = {one.role: one for one in group.responses}
        both = []
        for place, side in enumerate((sides["chosen"], sides["rejected"])):
            tokens = tuple(side.ids.tolist())
            sample = Sample(tokens, (), None, "stop" if side.terminal else "length")
            prompt = Prompt(f"pair {number}", prompts[group.where], group.where)
            text = partial(text_of, tokenizer)
            told = {"number": place, "writer": "data", "version": 0}
            both.append(rollout_of(prompt, ids, sample, text, "data", Sampling(), **told))
        found.append((both[0], both[1]))
    return found


def _usable(
    config: OnlineConfig, sources: Sequence[str], tokenizer: Any, *, verified: bool, prefix: str = ""
) -> tuple[LoadedPrompts, AnswerTask | None]:
    """Return the prompts of sources that can be written to, and their true answers where these are asked for."""
    with first_named(lambda before: encode_prompts(before, tokenizer)):
        loaded = load_prompts(sources, config.columns, config.style, config.bad_rows)
    named = [replace(prompt, id=f"{prefix}{prompt.id}") for prompt in loaded.prompts]
    loaded, task = replace(loaded, prompts=named), None
    if verified:
        task, loaded = verified_task(config, loaded)
    control, fixed = asked_levels(tokenizer, config.condition, config.model)
    asked = conditioned_prompts(loaded, control, fixed, config.bad_rows)
    return usable_prompts(asked, tokenizer, config.bad_rows), task
