"""Select pairs, rankings, labelled, rated or single responses from examples: one row each in `SELECTIONS`.

A row that cannot give it raises `BadRow`; ratings that decide nothing are counted.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

from tokenq.data.turns import BadRow
from tokenq.density.text import close
from tokenq.records.examples import Example, Response, Role


class LacksSelected(BadRow):
    """A readable row without the data that was asked for."""


LENGTHS = "lengths that differ"
"""What a pair is left out for that is not of one length, where that is asked for."""


def _rated(example: Example) -> list[tuple[float, Response]]:
    """Return the responses that have a rating, or a label, which counts as 1 or 0."""
    rated = []
    for response in example.responses:
        rating = response.score if response.score is not None else response.label
        if rating is not None:
            rated.append((float(rating), response))
    return rated


def _best_worst(rated: list[tuple[float, Response]]) -> Iterator[tuple[Response, Response]]:
    best, worst = max(rated, key=lambda item: item[0]), min(rated, key=lambda item: item[0])
    yield best[1], worst[1]


def _every_two(rated: list[tuple[float, Response]]) -> Iterator[tuple[Response, Response]]:
    for high, chosen in rated:
        for low, rejected in rated:
            if high > low:
                yield chosen, rejected


def _neighbours(rated: list[tuple[float, Response]]) -> Iterator[tuple[Response, Response]]:
    ordered = sorted(rated, key=lambda item: item[0])
    for (low, rejected), (high, chosen) in pairwise(ordered):
        if high > low:
            yield chosen, rejected


def _voted(example: Example) -> list[tuple[float, Response]]:
    """Return the responses with the votes that each has got."""
    if not any("votes" in response.ratings for response in example.responses):
        raise LacksSelected(
            "no votes", "the row has no column 'votes' or 'annotations' with the steps that people chose"
        )
    return [(response.ratings["votes"], response) for response in example.responses if "votes" in response.ratings]


class Pairing(NamedTuple):
    """A way to make pairs of rated responses.

    Attributes:
        choose: yields (better, worse) of responses with their ratings.
        rated: gives the ratings that count.
        same_length: by what share of the shorter one's tokens the two may differ in length; None for any.
    """

    choose: Callable[[list[tuple[float, Response]]], Iterator[tuple[Response, Response]]]
    rated: Callable[[Example], list[tuple[float, Response]]] = _rated
    same_length: float | None = None

    def takes(self, pair: Sequence[Response]) -> bool:
        """Return whether two responses are of one length, where that is asked for."""
        return self.same_length is None or close(_said(pair[0]), _said(pair[1]), self.same_length)


def _said(response: Response) -> str:
    content = response.content
    return content if isinstance(content, str) else "\n".join(turn.content for turn in content)


def _pairs(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    if example.is_pair:
        if pairing.takes(example.responses):
            yield replace(example, responses=_with_roles(example.responses[:2]))
        else:
            dropped[LENGTHS] += 1
        return
    rated = pairing.rated(example)
    if len(rated) < 2:
        dropped["fewer than two rated responses"] += 1
    elif len({rating for rating, _ in rated}) == 1:
        dropped["tied ratings"] += 1
    else:
        for pair in pairing.choose(rated):
            if not pairing.takes(pair):
                dropped[LENGTHS] += 1
                continue
            margin = _margin(example, rated, pair)
            yield replace(example, responses=_with_roles(pair), is_pair=True, margin=margin)


def _with_roles(responses: Sequence[Response]) -> tuple[Response, ...]:
    """Return the responses of a pair, and one to calibrate on, with the parts that they play."""
    roles: tuple[Role, ...] = ("chosen", "rejected", "calibration")
    return tuple(replace(response, role=role) for response, role in zip(responses, roles, strict=False))


def _margin(example: Example, rated: Sequence[tuple[float, Response]], pair: tuple[Response, Response]) -> float:
    """Return the margin between two responses: as the data states it, or the difference of the ratings."""
    if example.margin is not None:
        return example.margin
    ratings = {id(response): rating for rating, response in rated}
    return ratings[id(pair[0])] - ratings[id(pair[1])]


def _margins(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    """Yield pairs with a margin."""
    for pair in _pairs(example, pairing, dropped):
        if pair.margin is None:
            raise LacksSelected(
                "no margin", "the pair has no number in column 'margin', nor in score_chosen and score_rejected"
            )
        if not 0 <= pair.margin < math.inf:
            raise BadRow("a margin below zero", f"the chosen response is rated {pair.margin:g} above the rejected one")
        yield pair


def _with_ratings(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    """Yield the responses with their ratings by attribute; a rating without a name is called "score"."""
    named = [
        response
        if response.ratings or response.score is None
        else replace(response, ratings={"score": response.score}, scale=None)
        for response in example.responses
    ]
    for response in named:
        _check_ratings(response)
    taken = tuple(response for response in named if response.ratings)
    if not taken:
        raise LacksSelected("no rating", "no response of the row has a rating")
    dropped["response without a rating"] += len(named) - len(taken)
    yield replace(example, responses=taken, is_pair=False)


def _check_ratings(response: Response) -> None:
    low, high = response.scale or (-math.inf, math.inf)
    for name, rating in response.ratings.items():
        if not low <= rating <= high or math.isinf(rating):
            scale = f"its scale is {low:g} to {high:g}" if response.scale else "a rating is finite"
            raise BadRow("a rating outside its scale", f"{name} is {rating:g}, and {scale}")


def _steps(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    """Yield responses in labelled steps."""
    taken = tuple(response for response in example.responses if response.step_labels)
    if not taken:
        raise LacksSelected("no labels of steps", "no response of the row comes in steps with a label each")
    yield replace(example, responses=taken, is_pair=False)


def _responses(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    """Yield the responses to imitate: the chosen one, every one labelled as right, or the one of the best rating."""
    rated = [] if example.is_pair else pairing.rated(example)
    if example.is_pair or not rated:
        taken = example.responses[:1]
    elif any(response.label is not None for response in example.responses):
        taken = tuple(response for response in example.responses if response.label)
        dropped["undesirable response"] += sum(response.label is False for response in example.responses)
    else:
        taken = (max(rated, key=lambda item: item[0])[1],)
    for response in taken:
        yield replace(example, responses=(response,), is_pair=False)


def _calibrated(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    """Yield the pair with its calibration response."""
    if not example.is_pair or len(example.responses) < 3:
        raise LacksSelected("no calibration response", "the row has no pair with a text in column 'calibration'")
    yield replace(example, responses=_with_roles(example.responses))


def _labelled(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    """Yield the responses with a label; of a pair the chosen one is desirable, the rejected one not."""
    if example.is_pair:
        chosen, rejected = example.responses[:2]
        taken = [replace(chosen, label=True), replace(rejected, label=False)]
    else:
        taken = [response for response in example.responses if response.label is not None]
    if not taken:
        raise LacksSelected("no label", "no response of the row has a label, and they are no pair")
    labelled = (replace(response, role="chosen" if response.label else "rejected") for response in taken)
    yield replace(example, responses=tuple(labelled), is_pair=False)


def _ranked(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    """Yield the responses, best first; of those with one rating the first."""
    if len(example.responses) < 2:
        raise LacksSelected("one response to rank", "there is one response, and a ranking takes two or more")
    rated = [] if example.is_pair else pairing.rated(example)
    if example.is_pair:
        kept = list(example.responses[:2])
    else:
        best = {rating: response for rating, response in reversed(rated)}
        kept = [best[rating] for rating in sorted(best, reverse=True)]
    if len(kept) < 2:
        dropped["tied ratings" if len(rated) > 1 else "fewer than two rated responses"] += 1
        return
    dropped["response with the rating of another"] += 0 if example.is_pair else len(rated) - len(kept)
    kept[0], kept[-1] = replace(kept[0], role="chosen"), replace(kept[-1], role="rejected")
    yield replace(example, responses=tuple(kept), is_pair=False)


def _rewarded(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    """Yield the responses with a rating as their score; a label counts as 1 or 0, and so do the sides of a pair."""
    responses = example.responses
    if example.is_pair:
        sides = responses[:2]
        rated = all(side.score is not None for side in sides)
        responses = sides if rated else tuple(replace(s, score=v) for s, v in zip(sides, (1.0, 0.0), strict=True))
    taken = _rated(replace(example, responses=responses))
    if not taken:
        raise LacksSelected(
            "no reward", "no response of the row has a reward, a rating or a label, and they are no pair"
        )
    dropped["response without a reward"] += len(responses) - len(taken)
    kept = tuple(replace(response, score=reward) for reward, response in taken)
    yield replace(example, responses=kept, is_pair=False)


def _rollouts(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    """Yield the responses with numbers of their tokens."""
    taken = tuple(response for response in example.responses if response.token_numbers)
    if not taken:
        raise LacksSelected("no advantages", "no response of the row has advantages")
    yield replace(example, responses=taken, is_pair=False)


def _weighted(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    """Yield the responses with a weight, all of a prompt together."""
    taken = tuple(response for response in example.responses if response.token_numbers.get("target_weights"))
    if not taken:
        raise LacksSelected("no weight", "no response of the row has a weight")
    low = min(number for one in taken for number in one.token_numbers["target_weights"])
    if low < 0:
        raise BadRow("a weight below zero", f"a weight is {low:g}, and the least is 0")
    yield replace(example, responses=taken, is_pair=False)


def _all(example: Example, pairing: Pairing, dropped: Counter[str]) -> Iterator[Example]:
    yield replace(example, responses=_with_roles(example.responses[:2])) if example.is_pair else example


class Selection(NamedTuple):
    """One kind of data that a loss can ask for.

    Attributes:
        select: yields what an example gives of it.
        learnt: what is learnt of a response or of its pair beside the text; None: everything.
        missing: what data of single responses is not, and how it is given; None where such data will do.
    """

    select: Callable[[Example, Pairing, Counter[str]], Iterator[Example]]
    learnt: tuple[str, ...] | None = ()
    missing: tuple[str, str] | None = None


SELECTIONS: dict[str, Selection] = {
    "all": Selection(_all, None),
    "calibrated": Selection(_calibrated, missing=("pairs", "chosen and rejected responses and a column calibration")),
    "labelled": Selection(_labelled, ("label",), ("labelled ones", "a column label, or chosen and rejected responses")),
    "margins": Selection(_margins, ("margin",), ("pairs", "chosen and rejected responses and a column margin")),
    "pairs": Selection(_pairs, missing=("pairs", "chosen and rejected responses")),
    "ranked": Selection(_ranked, missing=("rankings", "several rated responses to each prompt")),
    "rated": Selection(
        _with_ratings,
        ("ratings", "scale"),
        ("rated ones", "a column for each rating (helpfulness, …), or ratings"),
    ),
    "rewarded": Selection(
        _rewarded, ("score", "label"), ("ones with a reward", "a column reward or label, or ratings")
    ),
    "responses": Selection(_responses),
    "rollouts": Selection(
        _rollouts, ("token_ids", "token_numbers"), ("ones with advantages", "a column advantages (docs/data.md)")
    ),
    "weighted": Selection(
        _weighted,
        ("token_ids", "token_numbers"),
        ("ones with a weight", "columns target_weights and old_logps (docs/data.md)"),
    ),
    "steps": Selection(_steps, ("steps", "step_labels"), ("ones in steps", "columns completions and labels")),
}
"""Every selection by name: a key of `UNITS`, or pairs with something beside them."""

_NOTHING: dict[str, Any] = {"label": None, "score": None, "steps": (), "step_labels": (), "ratings": {}, "scale": None}
_NOTHING |= {"token_ids": (), "token_numbers": {}}


def only_learnt(example: Example, learnt: Sequence[str] | None) -> Example:
    """Return an example without numbers that were not asked for."""
    if learnt is None:
        return example
    without = {name: empty for name, empty in _NOTHING.items() if name not in learnt}
    responses = tuple(replace(response, **without) for response in example.responses)
    return replace(example, responses=responses, margin=example.margin if "margin" in learnt else None)


PAIRINGS: dict[str, Pairing] = {
    "all": Pairing(_every_two),
    "best_worst": Pairing(_best_worst),
    "adjacent": Pairing(_neighbours),
    "votes": Pairing(_every_two, _voted),
}
"""Ways to make pairs of rated responses."""
