"""Tasks of reasoning-gym as episodes of one turn: a question, an answer, and what its verifier gives for that."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from tokenq.envs.environment import Environment, Step
from tokenq.envs.options import read_options
from tokenq.errors import UserError, reason
from tokenq.judge.tasks import ReasoningGymTask

DEFAULTS: Mapping[str, Any] = {"dataset": "chain_sum", "size": 500, "dataset_seed": 0}
"""Options: the data set; how many questions, over which the seeds of episodes are spread; the seed of the questions."""


def make(given: Mapping[str, str]) -> Callable[[], Environment]:
    """Return a function that makes environments of these options.

    Raises:
        UserError: the package is missing, has no such data set, or one whose own answers its verifier refuses.
    """
    options = read_options("reasoning_gym", given, DEFAULTS)
    task = _task(options["dataset"], options["size"], options["dataset_seed"])
    return lambda: Question(task)


@cache
def _task(name: str, size: int, seed: int) -> ReasoningGymTask:
    task = ReasoningGymTask(name, size, seed)
    try:
        some = [task.example(number) for number in range(1, min(max(size, 1), 3) + 1)]
        known = all(task.correct(one.id, str(one.values["answer"])) == 1 for one in some)
    except UserError:
        raise
    except Exception as problem:
        raise UserError(
            f"reasoning-gym makes no questions of {name}: {type(problem).__name__}: {reason(problem)}.",
            "Take another dataset, or a size of 1 or more.",
        ) from problem
    if not known:
        raise UserError(
            f"The data set {name} of reasoning-gym has no answers that its own verifier accepts.",
            "Nothing says then what is right: take another dataset, such as chain_sum.",
        )
    return task


class Question:
    """One question; see `DEFAULTS` for the options.

    Args:
        task: its questions and their verifier.
    """

    def __init__(self, task: ReasoningGymTask) -> None:
        self._task, self._number = task, "1"

    def reset(self, seed: int) -> str:
        """Ask the question of the seed."""
        example = self._task.example(seed % self._task.size + 1)
        self._number = example.id
        return str(example.values["question"])

    def step(self, action: str) -> Step:
        """Score what stands in <answer>…</answer>, else the whole answer."""
        try:
            score = self._task.correct(self._number, action)
        except Exception:  # some verifiers cannot read what has not their form
            return Step("", 0.0, True, info={"success": False, "invalid": True})
        return Step("", score, True, info={"success": score >= 1})

    def close(self) -> None:
        """Let go of nothing."""
