"""The two kinds of judges: one gives each response a number, the other says which of two is better.

Online rounds need a number for each response, a win rate needs a preference for each comparison. Either kind gives
both: of numbers, the larger one is preferred; of preferences, a response is worth the share of comparisons it wins.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple

from tokenq.judge.judging import Comparison, Judgement, ScoreJudge, Verdict, shares
from tokenq.records.examples import Text


class Response(NamedTuple):
    """A response that is judged by its text.

    Attributes:
        id: of its prompt.
        prompt: as given, text or turns.
        response: its text.
        finish: "stop" for one that has come to its end.
    """

    id: str
    prompt: Text
    response: str
    finish: str = "stop"


@dataclass(frozen=True)
class Pointwise:
    """A judge that gives each response a number.

    Attributes:
        score: (round, responses) → one number each, in their order. Responses have what `Response` has; those of a
            round are rollouts. The round is 0 outside of online runs.
        reads: whether it reads their texts, as `Response` has them, or the tokens of rollouts.
    """

    score: Callable[[int, Sequence[Any]], Sequence[float]]
    reads: Literal["texts", "tokens"] = "texts"


@dataclass(frozen=True)
class Pairwise:
    """A judge that says which of two responses is better.

    Attributes:
        compare: (round, comparisons) → one judgement each, in their order.
        whole: whether it is to see all comparisons of a round at once, and not a batch of prompts at a time.
    """

    compare: Callable[[int, Sequence[Comparison]], list[Judgement]]
    whole: bool = False


Judge = Pointwise | Pairwise


def compared(judge: Judge, comparisons: Sequence[Comparison]) -> list[Judgement]:
    """Return the judgements of a judge of either kind."""
    if isinstance(judge, Pairwise):
        return judge.compare(0, comparisons)
    ids = [one.id for one in comparisons] * 2

    def score(prompts: Sequence[Text], responses: Sequence[str]) -> Sequence[float]:
        return judge.score(0, [Response(*each) for each in zip(ids, prompts, responses, strict=True)])

    return ScoreJudge(score)(comparisons)


def ranked(
    log_odds: Callable[[Sequence[str], Sequence[str], Sequence[str]], Sequence[float]],
    comparisons: Sequence[Comparison],
) -> list[Judgement]:
    """Return the judgements of a model that gives (prompts, firsts, seconds) the log-odds that the first is better.

    A conversation of one turn is its text. Log-odds of 0 are a tie, and so are two responses that read the same.
    """
    texts = [
        one.prompt_text if isinstance(one.prompt, str) or len(one.prompt) > 1 else one.prompt[0].content
        for one in comparisons
    ]
    found = log_odds(texts, [one.first for one in comparisons], [one.second for one in comparisons])
    return [_ranked(one, float(odds)) for one, odds in zip(comparisons, found, strict=True)]


def _ranked(one: Comparison, odds: float) -> Judgement:
    if not math.isfinite(odds):
        return Judgement(one.id, None, "log-odds that are not finite")
    better: Verdict = "first" if odds > 0 else "second"
    return Judgement(one.id, "tie" if odds == 0 or one.first == one.second else better)


def won(judge: Pairwise, number: int, prompts: Sequence[Sequence[Any]]) -> list[list[float]]:
    """Return the share of the other responses to its prompt that each one beats, a tie being half a win.

    A comparison that could not be used counts for neither side; NaN is the worth of a response that is in no other.

    Args:
        judge: compares every two responses to a prompt, once.
        number: of the round.
        prompts: the responses to each prompt: what `Response` has, and `number`, which of them it is.
    """
    matches = [pair for some in prompts for pair in combinations(range(len(some)), 2)]
    owners = [some for some in prompts for _ in combinations(some, 2)]
    made = [_comparison(number, some[i], some[j]) for some, (i, j) in zip(owners, matches, strict=True)]
    said = iter(shares(judge.compare(number, made)).tolist())
    return [_shares_won(len(some), said) for some in prompts]


def judgements(judge: Judge, prompts: Sequence[Sequence[Any]]) -> int:
    """Return how many judgements the responses to some prompts take, which is what a budget of labels counts.

    A judgement is a response that is given a number, or two responses of different texts that are compared (whatever
    the number of questions that takes). Two responses that read the same are a tie without one.
    """
    if isinstance(judge, Pointwise):
        return sum(map(len, prompts))
    return sum(one.response != two.response for some in prompts for one, two in combinations(some, 2))


def most_judgements(responses: int, *, pairwise: bool) -> int:
    """Return how many judgements so many responses to a prompt take at most."""
    return math.comb(responses, 2) if pairwise else responses


def _comparison(number: int, one: Any, two: Any) -> Comparison:
    name = f"round {number}, prompt {one.id}, responses {one.number} and {two.number}"
    return Comparison(name, one.prompt, one.response, two.response)


def _shares_won(count: int, said: Iterator[float]) -> list[float]:
    found: list[list[float]] = [[] for _ in range(count)]
    for i, j in combinations(range(count), 2):
        share = next(said)
        if math.isfinite(share):
            found[i].append(share)
            found[j].append(1 - share)
    return [sum(some) / len(some) if some else math.nan for some in found]
