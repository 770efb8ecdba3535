"""Quality against cost, by hand: what a pool of samples pays for, what a method makes of it, and what is compared."""

import numpy as np
import pytest

from tokenq.evaluation.sweep import Beats, Point, Rival, affordable, beats, first_samples, point, rivals_of
from tokenq.records.results import Candidate, Cost, SearchResult
from tokenq.report.sweep import SHARES, sweep_table
from tokenq.search.config import SearchConfig
from tokenq.stats.bootstrap import Estimate


def candidate(text, length, logp=-1.0, ref_logp=-1.0, answer=None):
    tokens = tuple(range(100 + ord(text[0]), 100 + ord(text[0]) + length))
    return Candidate(text, tokens, 0.0, (logp,) * length, (ref_logp,) * length, True, answer)


def result(candidates, method="sample", prompt=10, name="1"):
    spent = prompt + sum(len(one.token_ids) - 1 for one in candidates)
    return SearchResult(name, "?", method, "likelihood", tuple(candidates), Cost(spent, spent, 0, 8.0, 1))


POOL = result(
    [
        candidate("a", 4, -1.0, -1.0, "7"),  # reward 0, 3 tokens through the policy
        candidate("b", 5, -1.0, -2.0, "9"),  # reward 0.1 · 5
        candidate("c", 3, -1.0, -3.0, "7"),  # reward 0.1 · 6
        candidate("d", 2, -1.0, -1.0, None),
    ]
)


@pytest.mark.parametrize(("tokens", "count"), [(1, 1), (13, 1), (16, 1), (17, 2), (18, 2), (19, 3), (20, 4), (99, 4)])
def test_how_many_samples_are_paid_for(tokens, count):
    """10 of prompt, then 3, 4, 2 and 1; one sample is always had."""
    assert affordable(POOL, tokens) == count


def test_the_first_samples_are_ranked_and_cost_what_they_cost():
    best = first_samples(POOL, 3, SearchConfig(method="best_of_n", ranking="reward"))
    assert [one.text for one in best.candidates] == ["c", "b", "a"]
    assert [one.score for one in best.candidates] == pytest.approx([0.6, 0.5, 0.0])
    assert (best.cost.policy_tokens, best.cost.reference_tokens, best.cost.seconds) == (19, 19, 6.0)
    vote = first_samples(POOL, 4, SearchConfig(method="majority"))
    assert [one.text for one in vote.candidates] == ["a", "c", "b", "d"]
    assert [one.score for one in vote.candidates] == pytest.approx([2 / 3, 2 / 3, 1 / 3, 0])
    assert [one.text for one in first_samples(POOL, 2, SearchConfig(method="sample")).candidates] == ["a", "b"]


def test_a_point_by_hand():
    """Quality is the length of the answer's text; greedy finds 3 letters on both prompts, the search 5 and 4."""
    quality = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 0.0, "greedy": 3.0, "x": 5.0, "y": 4.0}
    pool = [POOL, result(POOL.candidates, name="2")]
    found = [result([candidate("x", 8)], "beam"), result([candidate("y", 11)], "beam", name="2")]
    greedy = [result([candidate("greedy", 3)], "greedy"), result([candidate("greedy", 3)], "greedy", name="2")]
    rivals = rivals_of(found, pool, [SearchConfig(method="sample"), SearchConfig(method="best_of_n", ranking="reward")])
    assert [len(one.candidates) for one in rivals["sample"]] == [2, 4]  # 17 and 20 tokens
    one = point("beam width=2", found, lambda _, c: quality[c.text], greedy, rivals)
    assert one.quality.value == 4.5
    assert one.gain is not None
    assert one.gain.value == 1.5
    sample, best = one.rivals
    assert sample.quality.value == pytest.approx((1.5 + 1.75) / 2)
    assert best.quality.value == pytest.approx((2 + 4) / 2)
    assert best.gain.value == pytest.approx(1.5)
    assert (one.policy_tokens, one.length.value, one.terminal) == (18.5, 9.5, 1.0)
    assert one.length.low < 9.5 < one.length.high
    assert one.beats_greedy is not None
    assert shares(one.beats_greedy) == (1.0, 0.0, 0.0)
    # Wilson: n / (n + z²) for n of n.
    assert one.beats_greedy.wins.low == pytest.approx(2 / (2 + 1.959964**2))
    # 5 beats 1 and 2; 4 beats 1, 2 and 0 and equals 4: against single samples, not against their mean.
    assert shares(sample.beats) == (0.875, 0.125, 0.0)
    assert shares(best.beats) == (0.5, 0.5, 0.0)


def test_samples_are_judged_by_their_mean_and_nothing_found_is_worth_nothing():
    quality = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 0.0}
    one = point("sample n=4", [POOL, result([], name="2")], lambda _, c: quality[c.text], None, {})
    assert one.quality.value == pytest.approx((7 / 4 + 0) / 2)
    assert (one.gain, one.beats_greedy) == (None, None)
    # All four samples count, of 4, 5, 3 and 2 tokens; where nothing was found there is no length.
    assert (one.length.value, one.length.n, one.terminal) == (3.5, 1, 1.0)


def shares(found):
    return found.wins.value, found.ties.value, found.losses.value


def test_who_beats_whom_by_hand():
    """1 and 3 against 2 and 2: half and half. 0.1 + 0.2 is 0.3 but for rounding. 0 against 1 and 0: half a tie."""
    ours = [np.array([1.0, 3.0]), np.array([0.1 + 0.2]), np.array([0.0])]
    theirs = [np.array([2.0, 2.0]), np.array([0.3]), np.array([1.0, 0.0])]
    assert shares(beats(ours, theirs)) == pytest.approx((0.5 / 3, 1.5 / 3, 1.0 / 3))
    assert shares(beats(theirs, ours)) == pytest.approx((1.0 / 3, 1.5 / 3, 0.5 / 3))


def test_samples_beat_greedy_one_by_one():
    """Qualities 1, 2, 4, 0 against 1: better twice, equal once, worse once."""
    quality = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 0.0, "greedy": 1.0}
    greedy = [result([candidate("greedy", 3)], "greedy")]
    one = point("sample n=4", [POOL], lambda _, c: quality[c.text], greedy, {})
    assert one.beats_greedy is not None
    assert shares(one.beats_greedy) == (0.5, 0.25, 0.25)


def test_the_table_shows_gains_with_how_often():
    def estimate(value):
        return Estimate(value, value - 0.25, value + 0.25, 4)

    always, half = (Beats(estimate(wins), estimate(ties), estimate(0.25)) for wins, ties in ((0.75, 0.0), (0.25, 0.5)))
    rival = Rival("sample", estimate(1.0), estimate(0.5), half)
    greedy = Point("greedy", "greedy", estimate(2.0), None, None, (), 9.6, 0.0, 0.0, 0.125, estimate(7.0), 1.0)
    beams = Point(
        "beam", "beam", estimate(3.0), estimate(1.0), always, (rival,), 20.0, 30.0, 0.0, 0.5, estimate(9.0), 0.25
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in sweep_table([greedy, beams]).splitlines()]
    head, _, first, second = rows
    assert {len(row) for row in rows} == {11}
    assert head[:6] == ["search", "quality", "− greedy", SHARES, "− sample at its cost", SHARES]
    assert first == ["greedy", "2.000 [1.750, 2.250]", "", "", "", "", "10", "0", "0.12", "7.0 [6.8, 7.2]", "100 %"]
    assert second[2:6] == [
        "+1.000 [+0.750, +1.250]",
        "75 [50, 100] / 0 [-25, 25]",
        "+0.500 [+0.250, +0.750]",
        "25 [0, 50] / 50 [25, 75]",
    ]
    assert second[6:] == ["20", "30", "0.50", "9.0 [8.8, 9.2]", "25 %"]
