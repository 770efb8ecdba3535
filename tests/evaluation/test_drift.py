"""How far held-out pairs went: sums worked out by hand, and what the figure says of them."""

from dataclasses import replace

import numpy as np
import pytest
from scored_traces import BETA, make_trace

from tokenq.errors import UserError
from tokenq.figures.drift import Training, drift, likelihood


def pair(name, chosen, rejected):
    """Return the two traces of a pair from (log π, log π_ref) of a token with a vocabulary of two."""
    traces = []
    for side, (logp, ref_logp) in (("chosen", chosen), ("rejected", rejected)):
        logits = [np.array([[p, np.log1p(-np.exp(p))]]) for p in (logp, ref_logp)]
        trace = make_trace(f"{name}/{side}", ["word"], logits=logits, kept=1)
        traces.append(replace(trace, side=side))
    return traces


def shifted(by_chosen, by_rejected, ref=-1.0):
    return [trace for n in range(4) for trace in pair(n, (ref + by_chosen, ref), (ref + by_rejected, ref))]


def test_rewards_shifts_and_the_prediction_by_hand():
    """log π_ref = ln ½ and log π = ln ¼ or ln ⅛: rewards −β ln 2 and −β ln 4.

    KL(π_ref‖π) at the chosen token is ½ ln(½/¼) + ½ ln(½/¾) = ½ ln(4/3), at the rejected one ½ ln 4 + ½ ln(4/7).
    """
    traces = pair("a", (np.log(1 / 4), np.log(1 / 2)), (np.log(1 / 8), np.log(1 / 2)))
    found = drift(traces)
    assert found.chosen.value == pytest.approx(-BETA * np.log(2))
    assert found.rejected.value == pytest.approx(-BETA * np.log(4))
    assert found.both.value == pytest.approx(-BETA * np.log(8) / 2)
    assert found.chosen_logp.value == pytest.approx(-np.log(2))
    assert found.rejected_logp.value == pytest.approx(-np.log(4))
    assert found.accuracy.value == 1
    kl = [np.log(4 / 3) / 2, (np.log(4) + np.log(4 / 7)) / 2]
    assert found.predicted.value == pytest.approx(-BETA * sum(kl) / 2)


def test_lone_responses_are_no_pairs():
    with pytest.raises(UserError, match="one response of its pair only"):
        drift(shifted(-1, -2)[:3])


def training(name, chosen, rejected, drawn=False):
    evals = [
        {"step": step, "eval_rewards/chosen": -step, "eval_rewards/rejected": -2.0 * step}
        | {"eval_logps/chosen": -10.0 - step, "eval_logps/rejected": -11.0}
        for step in (0, 5)
    ]
    return Training(name, evals, shifted(chosen, rejected), drawn)


@pytest.mark.parametrize(
    ("without", "after", "verdict", "said"),
    [
        ((0.3, -0.9), (-0.4, -1.0), "reproduced", "reward stays above 0, as in the paper"),
        ((-0.3, -0.9), (-0.4, -1.0), "in part", "against the paper; the reference drew both responses here"),
        ((-0.3, -0.9), (0.4, -1.0), "not reproduced", "against the paper"),
        ((0.4, -0.1), (-0.4, -1.0), "not reproduced", "reward stays above 0"),
    ],
)
def test_the_verdict_follows_the_signs(without, after, verdict, said):
    section = likelihood(training("plain", *without, drawn=True), training("later", *after))
    assert section.verdict == verdict
    assert said in section.reading
    gap = BETA * (after[0] - without[0])
    assert f"β ln 2 = {BETA * np.log(2):.2f}" in section.reading
    assert f"a difference of {gap:+.2f}" in section.reading


def test_the_curves_are_those_of_the_evaluations():
    section = likelihood(training("plain", -0.3, -0.9), training("later", -0.4, -1.0))
    rewards, logps = section.charts
    assert [curve.name for curve in rewards.curves] == [
        "chosen, plain",
        "rejected, plain",
        "chosen, later",
        "rejected, later",
    ]
    assert (list(rewards.curves[1].x), list(rewards.curves[1].y)) == ([0, 5], [0.0, -10.0])
    assert list(logps.curves[0].y) == [-10.0, -15.0]
    assert [row[0] for row in section.tables[0].rows][:2] == ["implicit reward, chosen", "implicit reward, rejected"]
