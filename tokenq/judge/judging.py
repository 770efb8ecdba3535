"""Who is the better of two responses: comparisons, judgements, and how far a judge can be relied on.

A judge is anything that turns comparisons into judgements, one each, in their order. Judges that score responses one by
one (a task's verifier, a reward model) stand here; one that is asked in words stands in `tokenq.judge.chat`.
What cannot be used is counted and named; it is never a tie.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenq.data.chat.messages import text_of_turn
from tokenq.errors import UserError
from tokenq.records.examples import Text

Verdict = Literal["first", "second", "tie"]
Order = Literal["given", "swapped"]

SHARES: Mapping[Verdict | None, float] = {"first": 1.0, "second": 0.0, "tie": 0.5, None: math.nan}
"""Share of the first response, a verdict."""

_SWAPPED: Mapping[Verdict | None, Verdict | None] = {"first": "second", "second": "first", "tie": "tie", None: None}


@dataclass(frozen=True)
class Comparison:
    """Two responses to one prompt.

    Attributes:
        id: name of the comparison, for reports.
        prompt: as given, text or turns: a reward model has a template of its own for turns.
        first: response of the system in question.
        second: response of the other one (the baseline).
    """

    id: str
    prompt: Text
    first: str
    second: str

    @property
    def prompt_text(self) -> str:
        """Return the prompt as a reader sees it, the turns of a dialogue written out."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n\n".join(f"{turn.role}: {text_of_turn(turn)}" for turn in self.prompt)


@dataclass(frozen=True)
class Answer:
    """The answer of a judge that was asked once.

    Attributes:
        order: "given" when it was shown the first response first, "swapped" when second.
        text: its words; empty when it gave none.
        verdict: which response of the comparison it named (the order undone), or None.
        problem: why there is no verdict; empty where there is one.
        prompt_tokens: tokens read, 0 where the endpoint does not tell.
        response_tokens: tokens written, 0 where the endpoint does not tell.
        shown: characters that it was shown of each text, where it refused the whole; None where it saw all.
    """

    order: Order
    text: str
    verdict: Verdict | None
    problem: str = ""
    prompt_tokens: int = 0
    response_tokens: int = 0
    shown: int | None = None


@dataclass(frozen=True)
class Judgement:
    """The judgement of a comparison.

    Attributes:
        id: the comparison's.
        preference: the better response, or None where the judge's answers could not be used.
        problem: why they could not; empty where they could.
        answers: what it said, in both orders; empty when nobody was asked.
        scores: of the first and of the second response, from a judge that scores.
    """

    id: str
    preference: Verdict | None
    problem: str = ""
    answers: tuple[Answer, ...] = ()
    scores: tuple[float, float] | None = None


Judge = Callable[[Sequence[Comparison]], list[Judgement]]
"""(comparisons) → one judgement for each, in their order."""


@dataclass(frozen=True)
class ScoreJudge:
    """Prefers the response with the higher score: a task's verifier, a reward model, any function.

    Attributes:
        score: (prompts, responses) → one number each; called once, with all first responses before all second ones.
        tie: scores that differ by this much or less are a tie.
    """

    score: Callable[[Sequence[Text], Sequence[str]], Sequence[float]]
    tie: float = 0.0

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Judgement]:
        """Return one judgement a comparison; a score that is not finite makes it unusable.

        Raises:
            UserError: the function gives another number of scores than it was given responses.
        """
        prompts = [comparison.prompt for comparison in comparisons] * 2
        responses = [one.first for one in comparisons] + [one.second for one in comparisons]
        scores = [float(score) for score in self.score(prompts, responses)]
        if len(scores) != len(responses):
            raise UserError(
                f"The judge's score function gave {len(scores)} scores for {len(responses)} responses.",
                "It must return one number for each response, in their order.",
            )
        n = len(comparisons)
        return [self._judged(*row) for row in zip(comparisons, scores[:n], scores[n:], strict=True)]

    def _judged(self, comparison: Comparison, first: float, second: float) -> Judgement:
        if not (math.isfinite(first) and math.isfinite(second)):
            return Judgement(comparison.id, None, "a score that is not finite", scores=(first, second))
        better: Verdict = "first" if first > second else "second"
        return Judgement(comparison.id, "tie" if abs(first - second) <= self.tie else better, scores=(first, second))


@dataclass(frozen=True)
class Reliability:
    """How far the judgements can be relied on, and what they cost.

    Attributes:
        n: judgements.
        unusable: how many have no preference.
        problems: why, and how often.
        both_orders: judgements from usable answers in both orders.
        inconsistent: of them, those whose two answers differ; each counts as a tie.
        named_first_shown: of them, those where the judge named whatever it was shown first, both times.
        named_second_shown: the same for what it was shown second.
        position_bias: share of `both_orders` in which it named the same place both times; None where there are none.
        prompt_tokens: tokens the judge read.
        response_tokens: tokens the judge wrote.
        shortened: judgements of which the judge saw the beginning of the texts only, since it refused the whole.
    """

    n: int
    unusable: int
    problems: Mapping[str, int]
    both_orders: int
    inconsistent: int
    named_first_shown: int
    named_second_shown: int
    position_bias: float | None
    prompt_tokens: int
    response_tokens: int
    shortened: int = 0


def combined(comparison_id: str, given: Answer, swapped: Answer) -> Judgement:
    """Return the judgement of two answers, one an order: what both say, or a tie where they disagree.

    One answer that cannot be used makes the judgement unusable: half of it would bring the bias of position back.
    """
    problem = given.problem or swapped.problem
    agreed: Verdict | None = given.verdict if given.verdict == swapped.verdict else "tie"
    return Judgement(comparison_id, None if problem else agreed, problem, (given, swapped))


def undone(verdict: Verdict | None, order: Order) -> Verdict | None:
    """Return which response of the comparison a verdict on the responses as shown means."""
    return verdict if order == "given" else _SWAPPED[verdict]


def shares(judgements: Sequence[Judgement]) -> NDArray[np.float64]:
    """Return each judgement's share of the first response: 1, 0, ½ for a tie, NaN where it is unusable."""
    return np.array([SHARES[judgement.preference] for judgement in judgements])


def reliability(judgements: Sequence[Judgement]) -> Reliability:
    """Return how often a judge could be used, agreed with itself, and went by position."""
    pairs = [one.answers for one in judgements if one.preference is not None and len(one.answers) == 2]
    # The order undone, naming the same place twice is naming each response once.
    places = Counter(
        given.verdict for given, swapped in pairs if {given.verdict, swapped.verdict} == {"first", "second"}
    )
    answers = [answer for judgement in judgements for answer in judgement.answers]
    return Reliability(
        n=len(judgements),
        unusable=sum(judgement.preference is None for judgement in judgements),
        problems=dict(Counter(one.problem for one in judgements if one.preference is None).most_common()),
        both_orders=len(pairs),
        inconsistent=sum(given.verdict != swapped.verdict for given, swapped in pairs),
        named_first_shown=places["first"],
        named_second_shown=places["second"],
        position_bias=places.total() / len(pairs) if pairs else None,
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        response_tokens=sum(answer.response_tokens for answer in answers),
        shortened=sum(any(one.shown is not None for one in judgement.answers) for judgement in judgements),
    )
