"""Judges of numbers and judges of comparisons, each seen as the other: by hand."""

import math

import pytest

from tokenq.judge.judging import Comparison, Judgement
from tokenq.judge.kinds import Pairwise, Pointwise, Response, compared, judgements, most_judgements, won
from tokenq.records.rollouts import Rollout


def rollout(name, number, text):
    how = {"logps": (), "kept_mass": None, "finish": "stop", "writer": "policy", "version": 0, "sampling": {}}
    given = {"prompt": name, "response": text, "prompt_ids": (), "token_ids": (), "engine": "", "use": "compared"}
    return Rollout(id=name, number=number, **how, **given)


PROMPTS = [[rollout("p", n, text) for n, text in enumerate(("aaa", "a", "aa", "a"))], [rollout("q", 0, "b")]]


def longer(one):
    """Prefer the longer response, and give no verdict on one of three letters against one of two."""
    sizes = len(one.first), len(one.second)
    if {*sizes} == {2, 3}:
        return None
    return "tie" if sizes[0] == sizes[1] else "first" if sizes[0] > sizes[1] else "second"


def test_a_response_is_worth_the_share_of_comparisons_that_it_wins():
    """3 against 1, 2 (no verdict) and 1: two of two. 2: wins twice. 1: one tie in three, ½ of 3. Alone: nothing."""
    names = []

    def compare(number, some):
        names.extend(one.id for one in some)
        return [Judgement(one.id, longer(one)) for one in some]

    (first, second, third, fourth), (alone,) = won(Pairwise(compare), 7, PROMPTS)
    assert (first, third) == (1.0, 1.0)
    assert second == fourth == pytest.approx((0 + 0 + 0.5) / 3)
    assert math.isnan(alone)
    assert names[0] == "round 7, prompt p, responses 0 and 1"
    assert len(names) == 6


def test_judgements_are_numbers_given_or_different_texts_compared():
    pointwise, pairwise = Pointwise(lambda number, some: []), Pairwise(lambda number, some: [])
    assert judgements(pointwise, PROMPTS) == 5
    assert judgements(pairwise, PROMPTS) == 5  # six pairs, of which one reads the same
    assert [most_judgements(4, pairwise=one) for one in (False, True)] == [4, 6]


def test_numbers_become_preferences_and_a_verifier_knows_its_prompt():
    """Two prompts that read the same, with different true answers."""
    asked = []

    def score(number, responses):
        asked.extend(responses)
        return [float(one.id == one.response) for one in responses]

    pairs = [Comparison("1", "?", "1", "2"), Comparison("2", "?", "1", "2"), Comparison("3", "?", "1", "2")]
    assert [one.preference for one in compared(Pointwise(score), pairs)] == ["first", "second", "tie"]
    assert asked[4] == Response("2", "?", "2", "stop")
