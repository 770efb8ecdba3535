"""How much of what a policy plays its pairs show, by hand; runs that fell below their reference, and sound ones."""

from dataclasses import replace
from math import log

import pytest
from hand_made_runs import write_rounds
from recorded_runs import found, healthy_dpo

from tokenq.runs.record import read_run
from tokenq.stats.coverage import Shown, coverage_of


def shown(prompt, response, probability, before):
    return Shown(prompt, response, log(probability), log(before))


def test_each_different_episode_counts_once():
    """Of a: .2 + .1 against .3 + .3; of b: .5 against .5. Means .4 and .55; (log ½ + 0)/2 of their ratios."""
    twice = [shown("a", 1, 0.2, 0.3), shown("a", 2, 0.1, 0.3), shown("a", 1, 0.2, 0.3), shown("b", 1, 0.5, 0.5)]
    one = coverage_of(twice)
    assert (one.episodes, one.policy, one.reference) == (3, pytest.approx(0.4), pytest.approx(0.55))
    assert one.change.value == pytest.approx(log(0.5) / 2)
    assert not one.lost  # the interval of log ½ and 0 reaches 0


@pytest.mark.parametrize(("after", "lost"), [(0.02, True), (0.16, False), (0.17, False), (0.6, False)])
def test_one_beginning_is_judged_by_its_number(after, lost):
    """0.17 before: 0.16 is less by log(16/17) = −.06 nats, which is no move."""
    assert coverage_of([shown(0, 1, after, 0.17)]).lost == lost


def test_certain_loss_over_many_beginnings():
    fell = [shown(seed, 1, 0.05 + 0.01 * (seed % 3), 0.2) for seed in range(12)]
    assert coverage_of(fell).lost
    mixed = [shown(seed, 1, (0.05, 0.8)[seed % 2], 0.2) for seed in range(12)]  # log ¼ and log 4 as often
    assert not coverage_of(mixed).lost


FLAT = [{"reward": 0.4, "success": 0.5}] * 3
FLAT_EVALS = [{}, {}, {}, {"reward": 0.38, "accuracy": 0.4}]
LEFT = {"step": 6, "covered/episodes": 80.0, "covered/policy": 0.02, "covered/reference": 0.17}
LEFT |= {"covered/change": -2.1, "covered/change_low": -2.4, "covered/change_high": -1.8}


def below(folder, rounds, evaluations, coverage=(), **config):
    """Return the finding of a run of episodes, None where there is none."""
    run = write_rounds(folder / "run", rounds, evaluations, **{"environment": "gridworld", "judge": "return"} | config)
    record = replace(read_run(run), coverage=coverage)
    return found(record).get("below-its-reference")


def test_returns_that_fell_for_certain_are_an_error(tmp_path):
    """Held-out return .4 ± .05 at the start and .2 ± .05 at the end; 40 pairs in each of three rounds."""
    one = below(tmp_path, FLAT, [{}, {}, {}, {"reward": 0.2}], [LEFT])
    assert one.severity == "error"
    assert {evidence.what: (evidence.value, evidence.step) for evidence in one.evidence} == {
        "eval/reward, first [0.35, 0.45]": (0.4, 0),
        "eval/reward, last [0.15, 0.25]": (0.2, 6),
        "pairs of all rounds": (120, None),
        "different episodes in the pairs": (80.0, 6),
        "probability that the policy plays one of them": (0.02, 6),
        "probability that its reference does": (0.17, 6),
        "log of their ratio, mean over beginnings, nats": (-2.1, 6),
    }


def test_seeds_of_rounds_speak_where_none_is_held_out(tmp_path):
    one = below(tmp_path, [{"reward": 0.6, "success": 0.7}, {}, {"reward": 0.3, "success": 0.2}], [])
    assert one.severity == "error"
    told = {evidence.what: evidence.value for evidence in one.evidence}
    assert (told["round/success, first"], told["round/success, last"]) == (0.7, 0.2)


@pytest.mark.parametrize(
    ("rounds", "evaluations", "coverage"),
    [
        (FLAT, [{}, {"reward": 0.32}], []),  # .35 to .45 and .27 to .37 overlap
        (FLAT, FLAT_EVALS, []),
        (FLAT, FLAT_EVALS, [LEFT | {"covered/change_high": -0.05}]),
        (FLAT, FLAT_EVALS, [LEFT, LEFT | {"covered/change_high": 0.3}]),  # the last one counts
        ([{"reward": 0.4}, {"reward": 0.6}], [], [LEFT]),  # it left its pairs, and is better for certain
    ],
)
def test_sound_runs_are_not_named(rounds, evaluations, coverage, tmp_path):
    assert below(tmp_path, rounds, evaluations, coverage) is None


@pytest.mark.parametrize("ends", [{}, {"covered/change_low": None, "covered/change_high": None}])
def test_a_policy_that_has_left_its_pairs_is_looked_at(ends, tmp_path):
    one = below(tmp_path, FLAT, FLAT_EVALS, [LEFT | ends])
    assert one.severity == "warning"
    assert "eval/reward, last [0.33, 0.43]" in {evidence.what for evidence in one.evidence}


def test_responses_to_prompts_and_judges_that_move_have_no_returns(tmp_path):
    falls = [{}, {"reward": 0.1}]
    assert below(tmp_path / "prompts", FLAT, falls, environment=None) is None
    assert below(tmp_path / "implicit", FLAT, falls, judge="implicit") is None


def test_stored_episodes_have_no_rounds():
    assert "below-its-reference" not in found(healthy_dpo())
    one = found(replace(healthy_dpo(), coverage=[LEFT]))["below-its-reference"]
    assert one.severity == "warning"
    assert one.evidence[0].what == "different episodes in the pairs"
