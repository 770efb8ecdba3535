"""Tasks whose answers can be verified: what to ask, and one definition of correct.

A task is a small class with `examples` and `correct`; sweeps, evaluations of stored answers and training that asks for
rewards share it. To add one, write such a class; nothing else has to know it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tokenq.data.prompts import LoadedPrompts, Prompt
from tokenq.errors import UserError, unknown_name
from tokenq.judge.answers import Equality, Extract, equal, true_answer
from tokenq.records.examples import Message


@dataclass(frozen=True)
class AnswerTask:
    """Prompts with true answers in a column: a response is right when it says the same.

    Attributes:
        prompts: what is asked.
        column: column of the true answer: a whole solution, which is read as responses are, or the answer alone.
        extract: finds the answer of a text.
        same: whether two answers are the same.
    """

    prompts: Sequence[Prompt]
    column: str
    extract: Extract
    same: Equality = equal

    def examples(self) -> Sequence[Prompt]:
        """Return the prompts."""
        return self.prompts

    def correct(self, name: str, response: str) -> float:
        """Return 1 for the true answer, 0 for another or none.

        Raises:
            UserError: a row has no true answer.
        """
        if name not in self.answers:
            raise UserError(f"There is no prompt {name!r} among those with true answers.", "Are these the same rows?")
        answer = self.extract(response)
        return float(answer is not None and self.same(self.answers[name], answer))

    @cached_property
    def answers(self) -> Mapping[str, str]:
        """The true answers by id.

        Raises:
            UserError: a row has none.
        """
        answers = {}
        for prompt in self.prompts:
            if self.column not in prompt.values:
                raise UserError(f"{prompt.where} has no column {self.column!r}.", "Name the column of true answers.")
            answer = true_answer(str(prompt.values[self.column]), self.extract)
            if answer is None:
                raise UserError(
                    f"{prompt.where}: no answer is found in {self.column!r}.", "Check --answer, or mend the row."
                )
            answers[prompt.id] = answer
        return answers


def with_answers(loaded: LoadedPrompts, task: AnswerTask, bad_rows: str) -> LoadedPrompts:
    """Return the prompts that have a true answer; the others are an error, or left out and counted.

    Args:
        loaded: the prompts.
        task: says where true answers stand and how they are read.
        bad_rows: "error" or "drop".

    Raises:
        UserError: a row has no true answer and is not to be left out, or none has one.
    """
    kept, lost = [], 0
    for prompt in loaded.prompts:
        try:
            kept += [prompt] if replace(task, prompts=[prompt]).answers else []
        except UserError:
            if bad_rows == "error":
                raise
            lost += 1
    if not kept:
        task.answers  # noqa: B018  (says what is wrong with the first)
    return LoadedPrompts(kept, loaded.rows, loaded.dropped + Counter({"no true answer": lost}))


@dataclass(frozen=True)
class ReasoningGymTask:
    """A procedural task of the package reasoning-gym, with its own verifier.

    Attributes:
        name: of the task there, such as "chain_sum".
        size: how many examples.
        seed: of the examples.
    """

    name: str
    size: int = 100
    seed: int = 0

    def examples(self) -> Sequence[Prompt]:
        """Return the questions as users' turns.

        Raises:
            UserError: the package is missing, or has no such task.
        """
        return [self.example(number) for number in range(1, len(self._dataset) + 1)]

    def example(self, number: int) -> Prompt:
        """Return the question of a number, from 1; others need not be made for it.

        Raises:
            UserError: as `examples`.
        """
        entry = self._dataset[number - 1]
        where = f"reasoning-gym {self.name}, example {number}"
        return Prompt(str(number), (Message("user", entry["question"]),), where, values=entry)

    def correct(self, name: str, response: str) -> float:
        """Return the score of the task's own verifier for what stands in <answer>…</answer>, else for the response."""
        answer = response.rpartition("<answer>")[2].partition("</answer>")[0].strip()
        return float(self._dataset.score_answer(answer=answer, entry=self._dataset[int(name) - 1]))

    @cached_property
    def _dataset(self) -> Any:
        try:
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
        except ImportError as problem:
            raise UserError("Tasks of reasoning-gym need that package.", "pip install 'tokenq[reasoning]'") from problem
        if self.name not in DATASETS:
            raise unknown_name("task of reasoning-gym", self.name, DATASETS)
        return reasoning_gym.create_dataset(self.name, size=self.size, seed=self.seed)
