"""reasoning-gym: one turn, the verifier's own score, and data sets that have no answers."""

import pytest
import reasoning_gym

from tokenq.envs.guarded import guarded
from tokenq.envs.table import find_environment
from tokenq.errors import UserError


def made(**options):
    return guarded(find_environment("reasoning_gym").make(options))


def test_a_question_is_asked_by_seed_and_scored_by_the_verifier():
    world, data = made(size="5"), reasoning_gym.create_dataset("chain_sum", size=5, seed=0)
    for seed in (0, 3, 8):
        entry = data[seed % 5]
        assert world.reset(seed) == entry["question"]
        assert world.step(f"It is <answer>{entry['answer']}</answer>.")[1:] == (1.0, True, False, {"success": True})
        wrong = world.step("<answer>none</answer>")
        assert wrong.reward == data.score_answer("none", entry) < 1
        assert wrong.info == {"success": False}


def test_an_answer_that_the_verifier_cannot_read_is_wrong():
    """The verifier of this data set takes whole numbers with × between them, and raises for anything else."""
    world = made(dataset="prime_factorization", size="5")
    world.reset(0)
    assert world.step("<answer>primes</answer>")[1:] == (0.0, True, False, {"success": False, "invalid": True})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "rubiks_cube"}, "rubiks_cube of reasoning-gym has no answers"),
        ({"dataset": "chainsum"}, "Did you mean 'chain_sum'"),
        ({"size": "0"}, "makes no questions of chain_sum"),
    ],
)
def test_data_sets_that_cannot_be_scored_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        made(**options)
