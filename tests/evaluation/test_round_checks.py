"""Checks of runs in rounds: each finds its fault in a run written by hand, and nothing in a sound one."""

import pytest
from hand_made_runs import write_rounds
from recorded_runs import found

from tokenq.runs.record import read_run

UP = [{"reward": 0.4}, {"reward": 0.5}, {"reward": 0.6}]


def findings(folder, rounds, evaluations=(), without=(), **config):
    """Return what is worse than a note, by name; a step without pairs is no fault of a run."""
    every = found(read_run(write_rounds(folder / "run", rounds, evaluations, without, **config)))
    assert "unfinished" not in every
    return {name: one for name, one in every.items() if one.severity != "note"}


def test_a_sound_run_has_no_fault(tmp_path):
    agree = [{}, {"reward": 0.45, "accuracy": 0.45}, {"reward": 0.5, "accuracy": 0.5}, {"reward": 0.6, "accuracy": 0.6}]
    assert findings(tmp_path, UP, agree) == {}


def test_what_is_evaluated_is_held_out(tmp_path):
    without = found(read_run(write_rounds(tmp_path / "without", UP)))
    assert "--eval-prompts" in without["nothing-held-out"].change
    assert "nothing-held-out" not in found(read_run(write_rounds(tmp_path / "with", UP, [{}, {}])))


def test_a_reward_that_rises_while_the_truth_falls_is_hacked(tmp_path):
    """Reward model up from .4 to .6, true answers down from .4 to .2, each ± .05."""
    falls = [{}, {"reward": 0.5}, {"reward": 0.6}, {"reward": 0.6, "accuracy": 0.2}]
    one = findings(tmp_path, UP, falls, judge="reward_model")["reward-hacking"]
    assert one.severity == "error"
    told = {evidence.what: (evidence.value, evidence.step) for evidence in one.evidence}
    assert told == {
        "round/reward, first round": (0.4, 0),
        "round/reward, last round": (0.6, 4),
        "eval/accuracy, start": (0.4, 0),
        "eval/accuracy, last": (0.2, 6),
    }


def test_a_judge_is_over_optimised_where_the_truth_has_risen_and_falls(tmp_path):
    """Up from .4 to .7 after the first round, and down to .5: neither end lies below the start."""
    falls = [{}, {"accuracy": 0.7}, {"accuracy": 0.6}, {"accuracy": 0.5}]
    gradients = {"judge": "reward_model", "method": "grpo", "kl": "none"}
    rounds = [{"responses": 24, **numbers} for numbers in UP]
    one = findings(tmp_path, rounds, falls, without=("pairs",), **gradients)["reward-hacking"]
    assert one.severity == "error"
    told = {evidence.what: (evidence.value, evidence.step) for evidence in one.evidence}
    assert (told["eval/accuracy, best"], told["eval/accuracy, last"]) == ((0.7, 2), (0.5, 6))
    assert one.change.startswith("Take the policy after round 1 (--rounds 1), add a KL penalty (--kl reward")
    assert "--reference-moves" not in one.change


def test_a_reward_that_rises_on_its_prompts_alone_is_looked_at(tmp_path):
    falls = [{}, {}, {}, {"reward": 0.2, "accuracy": 0.2}]
    assert findings(tmp_path, UP, falls)["reward-hacking"].severity == "warning"


@pytest.mark.parametrize(
    ("rounds", "last"),
    [
        (UP, {"accuracy": 0.32}),  # intervals .35 to .45 and .27 to .37 overlap
        ([{"reward": 0.4}, {"reward": 0.48}], {"accuracy": 0.1}),  # the reward may not have risen at all
        (UP, {"accuracy": 0.6}),
    ],
)
def test_what_may_be_chance_is_not_called_hacked(rounds, last, tmp_path):
    assert findings(tmp_path, rounds, [{}, last], judge="reward_model") == {}


def test_rounds_of_pictures_have_no_words_to_be_longer_or_the_same(tmp_path):
    words = ("length", "truncated", "entropy", "distinct", "distinct_1", "distinct_2")
    assert findings(tmp_path, [{}, {}], without=words) == {}


@pytest.mark.parametrize(
    ("last", "name"),
    [
        ({"length": 31.0}, "length-creep"),
        ({"length": 29.0}, None),
        ({"truncated": 0.25}, "length-creep"),
        ({"truncated": 0.15}, None),
        ({"entropy": 0.4}, "entropy-collapse"),
        ({"entropy": 0.6}, None),
        ({"distinct": 0.4}, "entropy-collapse"),
        ({"without_signal": 0.95, "ties": 0.97, "pairs": 2}, "everything-tied"),
        ({"without_signal": 0.85, "ties": 0.9}, None),
    ],
)
def test_faults_of_the_last_round(last, name, tmp_path):
    assert {*findings(tmp_path, [{}, last])} == ({name} if name else set())


def test_a_run_that_learnt_nothing_is_worth_nothing(tmp_path):
    nothing = {"without_signal": 1.0, "ties": None, "unusable": 1.0, "pairs": 0, "reward": 0.0}
    one = findings(tmp_path, [nothing, nothing])["everything-tied"]
    assert one.severity == "error"
    assert "no number" in one.found


def test_a_first_round_alone_has_no_trend(tmp_path):
    assert findings(tmp_path, [{"length": 500.0, "truncated": 0.9, "entropy": 0.01}]) == {}
