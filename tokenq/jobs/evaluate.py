"""`tokenq.evaluate`: what traces, answers or preferences are worth, one task at a time."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.errors import unknown_name
from tokenq.evaluation.config import TASKS
from tokenq.jobs.evaluated import Evaluated, write_evaluated
from tokenq.jobs.evaluation.answers import judge_best_of_n, judge_frontier, judge_generation
from tokenq.jobs.evaluation.density import judge_density
from tokenq.jobs.evaluation.given import Given, given_of
from tokenq.jobs.evaluation.traces import judge_first_error, judge_localisation, judge_preference, judge_turns
from tokenq.jobs.evaluation.win_rate import judge_win_rate
from tokenq.jobs.host import untouched
from tokenq.jobs.outputs import claimed
from tokenq.listener import SILENCE, Listener
from tokenq.stats.bootstrap import Resampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

JUDGES: Mapping[str, Callable[[Any, Given, Resampling, Listener], Evaluated]] = {
    "preference": judge_preference,
    "localisation": judge_localisation,
    "first-error": judge_first_error,
    "turns": judge_turns,
    "best-of-n": judge_best_of_n,
    "generation": judge_generation,
    "kl-frontier": judge_frontier,
    "win-rate": judge_win_rate,
    "density": judge_density,
}
"""What does each task: (configuration, what is in memory, how intervals are made, listener) → what it came to."""


def evaluate(
    task: str,
    /,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    listener: Listener = SILENCE,
    **settings: Any,
) -> Evaluated:
    """Evaluate, and return numbers, tables and a page.

    The settings are those of `tokenq eval TASK`, with the same names and defaults (`tokenq eval TASK --help` has a line
    each). What a setting names may be in memory too.

    Args:
        task: a key of `JUDGES`: preference, localisation, first-error, turns, best-of-n, generation, kl-frontier,
            win-rate, density.
        tokenizer: of a loaded model.
        listener: told what is found, and how far it is.
        settings: `policy` may be a run, a loaded model, (model, tokenizer), or what `tokenq.load` returned; `data`,
            `prompts` and `preferences` a `datasets.Dataset`, a pandas frame or a list of dictionaries; `traces` what
            `tokenq.score` returned; `results` a mapping of names to files or to what `tokenq.decode` returned.

    Raises:
        UserError: there is no such task or setting, or anything else that the user can mend.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    known = {one.name: one for one in fields(TASKS[task])}
    for name in settings:
        if name not in known:
            raise unknown_name(f"setting of {task}", name, known)
    named, given = given_of(settings, tokenizer)
    lists = {name for name, value in named.items() if isinstance(value, str) and isinstance(known[name].default, tuple)}
    config = TASKS[task](**named | {name: (named[name],) for name in lists})
    config.check()
    files = [Path(name) for name in (config.output, config.html) if name is not None]
    with untouched(), claimed(f"tokenq eval {task}", files, overwrite=config.overwrite):
        found = JUDGES[task](config, given, Resampling(config.resamples, seed=config.seed), listener)
        write_evaluated(found, listener)
    return found
