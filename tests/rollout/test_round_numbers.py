"""The numbers of a round, by hand."""

import math

import pytest

from tokenq.records.rollouts import Rollout
from tokenq.rollout.summary import Judged, distinct, evaluation_numbers, preference, read_for_kl, round_numbers


def rollout(name, number, tokens, reward, *, finish="stop", writer="policy", use="compared"):
    return Rollout(
        id=name,
        number=number,
        prompt="?",
        response="",
        prompt_ids=(1,),
        token_ids=tuple(tokens),
        logps=(-0.5,) * len(tokens),
        kept_mass=None,
        finish=finish,
        writer=writer,
        version=0,
        sampling={},
        engine="",
        use=use,
        reward=reward,
    )


def test_the_numbers_by_hand():
    """Two prompts of two compared responses, one of which nobody could judge, and a calibration of the reference."""
    rows = [
        rollout("a", 0, [5, 6, 2], 1.0),
        rollout("a", 1, [5], 1.0, finish="length"),
        rollout("a", 2, [7] * 9, None, writer="reference", use="calibration"),
        rollout("b", 0, [5, 2], 0.0),
        rollout("b", 1, [5, 2], None),
    ]
    found = round_numbers(rows, [-2.0, -1.0, -9.0, -1.5, -1.0], [0, 0], seed=0)
    expected = {
        "reward": 2 / 3,
        "unusable": 1 / 4,
        "prompts": 2,
        "pairs": 0,
        "without_signal": 1.0,
        "ties": 1.0,  # the one comparison of two judged responses
        "length": 2.0,  # (3 + 1 + 2 + 2) / 4
        "truncated": 1 / 4,
        "entropy": 0.5,
        "kl": 0.375,  # (−1.5 + 2 − 0.5 + 1 − 1 + 1.5 − 1 + 1) / 4
        "distinct": 3 / 4,
        "distinct_1": 3 / 8,  # 5, 6 and 2 of eight tokens
        "distinct_2": 3 / 4,  # 56, 62, 52 and 52 again
        "written_tokens": 17,
        "judged_tokens": 8,
    }
    for name, value in expected.items():
        assert found[f"round/{name}"] == pytest.approx(value, abs=1e-12), name
    assert found["round/reward_low"] <= 2 / 3 <= found["round/reward_high"]


def test_what_was_there_before_is_not_written():
    rows = [rollout("a", 0, [5, 2], 1.0), rollout("a", 1, [6, 7, 2], 0.0, writer="data")]
    found = round_numbers(rows, [0.0] * 2, [1], seed=0)
    assert (found["round/written_tokens"], found["round/judged_tokens"]) == (2, 5)


def judged(name, reward, start, last, correct, finish="stop"):
    return Judged(rollout(name, 0, [5, 2], reward, finish=finish), start, last, correct)


def test_the_numbers_of_an_evaluation_by_hand():
    rows = [
        judged("a", 2.0, 1.0, 0.5, 1.0),
        judged("b", 1.0, 1.0, 0.5, 0.0),
        judged("c", None, None, 0.0, 0.0, "length"),
    ]
    found = evaluation_numbers(rows, seed=0)
    expected = {"reward": 1.5, "accuracy": 1 / 3, "won_start": 1.0, "won_last": 1 / 3, "ties_last": 2 / 3}
    expected |= {"ties_start": 0.0, "truncated": 1 / 3, "length": 2.0, "prompts": 3, "written_tokens": 6}
    for name, value in expected.items():
        assert found[f"eval/{name}"] == pytest.approx(value), name
    assert found["eval/won_start_high"] == 1.0
    assert found["eval/won_start_low"] == pytest.approx(2 / (2 + 1.959964**2))  # Wilson's of two wins out of two


def test_preferences_by_rewards():
    assert [preference(*each) for each in ((2.0, 1.0), (1.0, 2.0), (1.0, 1.0), (None, 1.0))] == [1.0, 0.0, 0.5, None]


def test_distinct_n_grams_by_hand():
    """a b a b and a b: two of six tokens, ab and ba of four pairs; no pair of tokens at all is no share."""
    assert [distinct([[1, 2, 1, 2], [1, 2]], n) for n in (1, 2)] == [1 / 3, 0.5]
    assert math.isnan(distinct([[1], [2]], 2))


def test_the_reward_is_that_of_the_policy():
    """What the reference wrote is compared with it, and no part of its mean."""
    rows = [rollout("a", 0, [5, 2], 1.0), rollout("a", 1, [6, 2], 0.0, writer="reference", use="both")]
    found = round_numbers(rows, [0.0] * 2, [1], seed=0)
    assert (found["round/reward"], found["round/ties"], found["round/judged_tokens"]) == (1.0, 0.0, 4)


def test_ties_are_counted_among_comparisons():
    """Rewards 1, 1, 0: one of three; 0, 0: one of one."""
    rows = [rollout("a", n, [n, 2], reward) for n, reward in enumerate((1.0, 1.0, 0.0))]
    rows += [rollout("b", n, [n, 2], 0.0) for n in range(2)]
    assert round_numbers(rows, [0.0] * 5, [1, 0], seed=0)["round/ties"] == pytest.approx(0.5)


def test_kl_is_read_from_the_first_own_response_to_a_prompt():
    """Of three prompts: the reference's first, one to calibrate on first, the reference's alone."""
    rows = [
        rollout("a", 0, [5], 1.0, writer="reference"),
        rollout("a", 1, [5], 0.0),
        rollout("a", 2, [5], 0.0),
        rollout("b", 0, [5], None, use="calibration"),
        rollout("b", 1, [5], 0.0),
        rollout("c", 0, [5], 0.0, writer="reference"),
    ]
    assert read_for_kl(rows) == [1, 4]
    # The ratios of these two alone: −0.5 − (−2) and −0.5 − (−1).
    ref_logps = [None, -2.0, None, None, -1.0, None]
    assert round_numbers(rows, ref_logps, [1, 1, 0], seed=0)["round/kl"] == pytest.approx((1.5 + 0.5) / 2)
