"""The prompts of an online run: those that rounds write to, those that are held out, and their true answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tokenq.data.bad_rows import first_named
from tokenq.data.prompts import (
    LoadedPrompts,
    Prompt,
    encode_prompts,
    hold_out_prompts,
    load_prompts,
    usable_prompts,
)
from tokenq.errors import UserError
from tokenq.jobs.rollout.judges import verified_task
from tokenq.judge.tasks import AnswerTask
from tokenq.listener import Listener
from tokenq.records.examples import TokenGroup
from tokenq.rollout.config import OnlineConfig


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


def without_prompts(groups: Sequence[TokenGroup], held_out: Sequence[Prompt], tokenizer: Any) -> Sequence[TokenGroup]:
    """Return the pairs whose prompts are not held out."""
    if not held_out:
        return groups
    ids = set(encode_prompts(held_out, tokenizer))
    return [group for group in groups if tuple(group.prompt_ids.tolist()) not in ids]


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
    return usable_prompts(loaded, tokenizer, config.bad_rows), task
