"""A judge that is asked in words, through any OpenAI-compatible endpoint: both orders, each question once.

Every comparison is asked twice, with the responses swapped the second time; only what is said both times is a
preference. Answers go to a file as they come, so that a run that is broken off (or whose endpoint is) goes on where it
stopped. Two responses that read the same are a tie, and nobody is asked.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenq.errors import UserError
from tokenq.judge.cache import AnswerCache
from tokenq.judge.endpoint import Connection, Down, Endpoint, Refused, Stopped
from tokenq.judge.judging import Answer, Comparison, Judgement, Order, combined, undone
from tokenq.judge.prompt import Template, read_verdict
from tokenq.listener import Progress, silent

ORDERS: tuple[Order, Order] = ("given", "swapped")

PARAMETERS: Mapping[str, Any] = {"temperature": 0, "max_tokens": 1024}
"""Fields of a request besides model and messages, unless others are given."""

QUESTION = Template()
"""The question, unless another template is given."""

BYTES_A_TOKEN = 4
"""Roughly, for English; what an estimate of tokens goes by."""

HOPELESS = 20
"""Questions that may be refused before any is answered; then no more are asked."""

SHORTER = (48_000, 12_000, 3_000)
"""Characters that are shown of each text when an endpoint refuses the whole: a response that is too long for the judge
is judged by its beginning, and does not leave the sample."""


@dataclass(frozen=True)
class CostEstimate:
    """The cost of judging, before it starts.

    Attributes:
        comparisons: how many there are.
        identical: of them, those whose responses read the same: ties, without asking.
        answered: questions whose answer is in the file already.
        requests: questions still to ask.
        prompt_tokens: tokens that these hold, roughly.
        response_tokens: tokens that the judge may write at most; None where the request sets no limit.
    """

    comparisons: int
    identical: int
    answered: int
    requests: int
    prompt_tokens: int
    response_tokens: int | None


@dataclass(frozen=True)
class ChatJudge:
    """Asks a language model which response is better.

    Attributes:
        endpoint: where, and how patiently.
        answers: file of the answers; made by the first one.
        template: the question.
        parameters: further fields of a request.
        concurrency: questions under way at once.
        progress: told (answers there are, answers needed) before the first question and after each answer.
    """

    endpoint: Endpoint
    answers: Path
    template: Template = QUESTION
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict(PARAMETERS))
    concurrency: int = 8
    progress: Progress = silent

    def estimate(self, comparisons: Sequence[Comparison]) -> CostEstimate:
        """Return how many questions are still to ask, and roughly how many tokens that takes; asks nothing.

        Raises:
            UserError: the file of answers is broken.
        """
        cache, questions = AnswerCache(self.answers), self._questions(comparisons)
        left = [question for key, question in questions.items() if key not in cache]
        read = sum(len(self.template.filled(*question).encode("utf-8", "replace")) for question in left)
        limits = [self.parameters[name] for name in ("max_tokens", "max_completion_tokens") if name in self.parameters]
        return CostEstimate(
            comparisons=len(comparisons),
            identical=sum(map(_same, comparisons)),
            answered=len(questions) - len(left),
            requests=len(left),
            prompt_tokens=round(read / BYTES_A_TOKEN),
            response_tokens=limits[0] * len(left) if limits else None,
        )

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Judgement]:
        """Return one judgement a comparison, asking what the file of answers does not hold.

        A question that the endpoint refuses makes its judgement unusable, and is asked again the next time.

        Raises:
            UserError: the client is not installed, there is no key, or the endpoint is down or answers nobody. Answers
                that came before are in the file, and the same call goes on from there.
        """
        cache, questions = AnswerCache(self.answers), self._questions(comparisons)
        left = {key: question for key, question in questions.items() if key not in cache}
        refused = self._asked(left, cache, len(questions)) if left else {}
        judgements = []
        for comparison in comparisons:
            if _same(comparison):
                judgements.append(Judgement(comparison.id, "tie"))
                continue
            given, swapped = (self._answer(comparison, order, cache, refused) for order in ORDERS)
            judgements.append(combined(comparison.id, given, swapped))
        return judgements

    def _questions(self, comparisons: Sequence[Comparison]) -> dict[str, tuple[Comparison, Order]]:
        return {
            self._key(comparison, order): (comparison, order)
            for comparison in comparisons
            if not _same(comparison)
            for order in ORDERS
        }

    def _key(self, comparison: Comparison, order: Order) -> str:
        """Return the hash of all that an answer depends on."""
        shown = comparison.prompt_text, comparison.first, comparison.second
        parts = [self.endpoint.model, self.template.text, *shown, order, dict(self.parameters)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _answer(self, comparison: Comparison, order: Order, cache: AnswerCache, refused: Mapping[str, str]) -> Answer:
        key = self._key(comparison, order)
        if key in refused:
            return Answer(order, "", None, refused[key])
        reply = cache[key]
        verdict, problem = read_verdict(reply.text, cut=reply.cut, code=self.template.code(comparison, order))
        tokens = reply.prompt_tokens, reply.response_tokens
        return Answer(order, reply.text, undone(verdict, order), problem, *tokens, reply.shown)

    def _asked(
        self, questions: Mapping[str, tuple[Comparison, Order]], cache: AnswerCache, total: int
    ) -> dict[str, str]:
        """Put answers into the cache, and return why questions were refused, by their keys."""
        refused: dict[str, str] = {}
        done = total - len(questions)
        self.progress(done, total)
        with Connection(self.endpoint) as connection, ThreadPoolExecutor(max(1, self.concurrency)) as pool:
            tasks = {
                pool.submit(self._ask, connection, cache, key, *question): key for key, question in questions.items()
            }
            try:
                for task in as_completed(tasks):
                    try:
                        task.result()
                    except Refused as problem:
                        refused[tasks[task]] = str(problem)
                        if not done and len(refused) >= min(HOPELESS, len(questions)):
                            raise self._hopeless(str(problem), len(refused)) from None
                        continue
                    except Stopped:
                        continue  # the question that ended it all is still to come
                    done += 1
                    self.progress(done, total)
            except BaseException as problem:
                # Also when a person breaks it off: what is under way is waited for and kept, nothing new is begun.
                connection.stop()
                pool.shutdown(cancel_futures=True)
                if isinstance(problem, Down):
                    raise self._broken_off(tasks, cache, total) from None
                raise
        return refused

    def _ask(self, connection: Connection, cache: AnswerCache, key: str, comparison: Comparison, order: Order) -> None:
        longest = max(map(len, (comparison.prompt_text, comparison.first, comparison.second)))
        for most in (None, *(size for size in SHORTER if size < longest)):
            try:
                reply = connection.ask(self.template.filled(comparison, order, most), self.parameters)
            except Refused as problem:
                refusal = problem
                continue
            cache.add(key, self.endpoint.model, comparison, order, replace(reply, shown=most))
            return
        raise refusal

    def _broken_off(self, tasks: Mapping[Future[None], str], cache: AnswerCache, total: int) -> UserError:
        reasons = (task.exception() for task in tasks if task.done() and not task.cancelled())
        reason = next(str(reason) for reason in reasons if isinstance(reason, Down))
        answered = total - sum(key not in cache for key in tasks.values())
        return UserError(
            f"The judge at {self.endpoint.shown} does not answer: {reason}. {answered} of {total} answers are kept in "
            f"{self.answers}.",
            "Give the same command again when it is up: it goes on from there.",
        )

    def _hopeless(self, problem: str, refused: int) -> UserError:
        return UserError(
            f"The judge at {self.endpoint.shown} refused all of the first {refused} questions; the last: {problem}.",
            "Check the model's name and the fields of the request: some models take max_completion_tokens instead of "
            "max_tokens, or no temperature.",
        )


def _same(comparison: Comparison) -> bool:
    return comparison.first == comparison.second
