"""A process reward model as a read-out of first errors: its scores, its threshold, all by hand."""

from dataclasses import replace

import numpy as np
import pytest
from first_errors import predict
from scored_traces import make_trace

from tokenq.errors import UserError
from tokenq.evaluation.readouts import READOUTS, readouts_of, reward_model
from tokenq.evaluation.step_scores import STEP_SCORES, step_bounds
from tokenq.evaluation.task_first_error import first_error
from tokenq.evaluation.thresholds import RULES
from tokenq.stats.bootstrap import Resampling

FEW = Resampling(resamples=300)


def judged(name, rewards, ends, labels=None, alone=True):
    """Return a trace with the reward at each token (None: not written), in steps that end behind these tokens."""
    trace = make_trace(
        name,
        ["x"] * len(rewards),
        written=[reward is not None for reward in rewards],
        steps=list(zip([0, *ends], ends, strict=False)),
        labels=labels,
        prompt=f"{name}?",
    )
    totals = replace(trace.totals, reward=rewards[-1])
    if alone:
        totals = replace(totals, implicit_reward=None, logp=None, ref_logp=None)
    tokens = tuple(replace(token, reward=reward) for token, reward in zip(trace.tokens, rewards, strict=True))
    return replace(trace, tokens=tokens, totals=totals, reward_model={"outputs": ["reward"]})


def test_the_cumulative_score_of_a_step_is_the_reward_at_its_last_token():
    """Rewards 4 2 | 3 −1 (and one not written) | 0 5: steps 2, −1, 5; they change by 2, −3, 6; the first < 0 is 1."""
    trace = judged("a", [4.0, 2.0, 3.0, -1.0, None, 0.0, 5.0], [2, 5, 7])
    assert reward_model(trace).tolist() == [-4, 2, -1, 4, -1, -5]
    scores = {
        name: STEP_SCORES[name](-reward_model(trace), step_bounds(trace)) for name in ("cumulative", "sum", "min")
    }
    assert scores["cumulative"].tolist() == [2, -1, 5]
    assert scores["sum"].tolist() == [2, -3, 6]
    assert scores["min"].tolist() == [-2, -4, 1]
    found = [predict(RULES["threshold"], scores["cumulative"], threshold) for threshold in (-1.0, 0.0, 2.5)]
    assert found == [None, 1, 0]
    assert predict(RULES["largest_drop"], scores["cumulative"], 0.0) == 1


def solutions(alone=True):
    """Rewards 1 at good and −1 at bad ends, and one error that the model does not see."""
    rows = {
        "seen": ([1.0, -1.0, -1.0], [True, False, False]),
        "late": ([1.0, 1.0, -1.0], [True, True, False]),
        "unseen": ([1.0, 1.0, 1.0], [True, False, False]),
        "right": ([1.0, 1.0, 1.0], [True, True, True]),
        "short": ([1.0], [True]),
    }
    return [
        judged(name, rewards, list(range(1, len(rewards) + 1)), labels, alone)
        for name, (rewards, labels) in rows.items()
    ]


def test_the_usual_rule_of_a_process_reward_model():
    """A threshold of 1 from whatever folds: 2 of 3 errors found, both correct ones; F1 = 2 · ⅔ / (⅔ + 1) = .8."""
    outcome = first_error(solutions(), folds=3, how=FEW)
    results = {(one["readout"], one["step_score"], one["rule"]): one for one in outcome.numbers["results"]}
    assert {readout for readout, _, _ in results} == {"reward_model", "random"}
    found = results["reward_model", "cumulative", "threshold"]
    assert set(found["thresholds"]) == {1.0}
    assert found["erroneous"].value == pytest.approx(2 / 3)
    assert found["correct"].value == 1.0
    assert found["f1"].value == pytest.approx(0.8)
    assert found["accuracy"].value == pytest.approx(4 / 5)
    hits = {one.id: one.numbers["found"] for one in outcome.examples}
    assert hits == {"seen": 1.0, "late": 1.0, "unseen": 0.0, "right": 1.0, "short": 1.0}
    assert outcome.cost["models"] == 1.0


def test_beside_a_policy_it_is_one_more_row():
    outcome = first_error(solutions(alone=False), conventions=("cumulative",), folds=3, how=FEW)
    names = list(dict.fromkeys(one["readout"] for one in outcome.numbers["results"]))
    assert names[0] == "implicit_reward"
    assert names[-2:] == ["reward_model", "random"]
    assert len(names) == 8
    assert [*readouts_of(solutions(alone=False))] == [*READOUTS, "reward_model"]


def test_a_read_out_that_traces_do_not_have_is_refused():
    with pytest.raises(UserError, match="Unknown read-out of these traces 'policy_surprisal'") as caught:
        first_error(solutions(), readouts=("policy_surprisal",), how=FEW)
    assert "reward_model" in caught.value.hint
    plain = [make_trace("a", ["x"], steps=[(0, 1)], labels=[True])]
    assert "reward_model" not in readouts_of(plain)
    with pytest.raises(UserError, match="Unknown read-out of these traces 'reward_model'"):
        first_error(plain, readouts=("reward_model",), how=FEW)
    np.testing.assert_array_equal(readouts_of(solutions())["position"](solutions()[0]), [0, 1, 2])
