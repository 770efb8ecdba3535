"""The tabular world: its states, its sequences, and what is refused."""

import pytest
import torch

from tokenq.errors import UserError
from tokenq.worlds import draws
from tokenq.worlds.mdp import EOS, HANDOVER, NO_STATE, build, prune


def written(world):
    """Return {response tokens: (policy's own?)} of every sequence of the first prompt."""
    sequences = world.sequences()
    rows = sequences.of_prompt(0).tolist()
    return {
        tuple(sequences.tokens[row][sequences.valid[row]].tolist()): sequences.mask[row][sequences.valid[row]].tolist()
        for row in rows
    }


def test_all_responses_by_hand():
    """Two tokens and two steps: stop at once, write and stop, write twice."""
    world = build(vocab_size=2, horizon=2)
    assert set(written(world)) == {(EOS,), (1, EOS), (1, 1)}
    assert world.n_states == 1 + 2 + 2
    assert world.terminal.sum() == 3


@pytest.mark.parametrize(("vocab_size", "horizon", "prompts"), [(2, 5, 1), (3, 4, 2), (4, 3, 3)])
def test_numbers_of_states_and_responses(vocab_size, horizon, prompts):
    """Σ_{d<T} (V−1)^d stop with EOS, (V−1)^T reach the horizon."""
    world = build(vocab_size=vocab_size, horizon=horizon, n_prompts=prompts)
    stopped = sum((vocab_size - 1) ** d for d in range(horizon))
    assert len(world.sequences()) == prompts * (stopped + (vocab_size - 1) ** horizon)
    assert world.n_states == prompts * (2 * stopped + (vocab_size - 1) ** horizon)


def test_the_environment_answers_a_handover_and_never_ends_the_episode():
    world = build(vocab_size=3, horizon=3, environment=True)
    own = written(world)
    assert own[(HANDOVER, 2, EOS)] == [True, False, True]
    assert own[(2, HANDOVER, 2)] == [True, True, False]
    assert own[(HANDOVER, HANDOVER, HANDOVER)] == [True, False, True]  # an answer is one token, whatever it is
    assert (HANDOVER, EOS) not in own
    assert world.reference_logps[world.environment].exp().sum(-1).tolist() == pytest.approx([1.0] * 2)


def test_a_walk_leads_where_the_sequence_ends():
    world = draws.stochastic_environment(1)
    sequences = world.sequences()
    for row in range(0, len(sequences), 7):
        tokens = sequences.tokens[row][sequences.valid[row]].tolist()
        assert world.walk((*world.prompt_ids(int(sequences.prompts[row])), *tokens)) == sequences.ends[row]


@pytest.mark.parametrize("tokens", [(), (0,), (5,), (3, 3), (3, 0, 1), (3, -1)])
def test_a_walk_outside_the_world_is_refused(tokens):
    with pytest.raises(UserError):
        build(vocab_size=3, horizon=2).walk(tokens)


def test_pruning_leaves_no_state_that_cannot_be_reached():
    world = build(vocab_size=3, horizon=2)
    possible = torch.ones_like(world.next_states, dtype=torch.bool)
    possible[0, 1] = False
    pruned = prune(world, possible)
    assert set(written(pruned)) == {(0,), (2, 0), (2, 1), (2, 2)}
    assert pruned.n_states == 1 + 2 + 3
    assert pruned.reference_logps[0].exp().tolist() == pytest.approx([0.5, 0.0, 0.5])
    assert pruned.next_states.max() == pruned.n_states - 1
    assert (pruned.next_states[pruned.terminal] == NO_STATE).all()


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 1, "horizon": 2},
        {"vocab_size": 2, "horizon": 0},
        {"vocab_size": 2, "horizon": 1, "n_prompts": 0},
        {"vocab_size": 2, "horizon": 1, "beta": 0.0},
        {"vocab_size": 2, "horizon": 2, "environment": True},
    ],
)
def test_sizes_that_make_no_world_are_refused(sizes):
    with pytest.raises(UserError, match="make no world"):
        build(**sizes)


def test_a_world_too_large_is_refused_with_its_size_and_the_limit():
    with pytest.raises(UserError, match=r"up to 2,929,687 states, and 200,000 are enumerated"):
        build(vocab_size=6, horizon=9)


def test_too_many_responses_for_pairs_are_refused_with_their_number_and_the_limit():
    with pytest.raises(UserError, match=r"4,095 responses, and pairs are enumerated up to 2,000"):
        build(vocab_size=3, horizon=11).sequences()


@pytest.mark.parametrize("kind", draws.KINDS)
def test_random_worlds_are_the_same_for_the_same_seed(kind):
    one, again, other = (draws.KINDS[kind](seed) for seed in (3, 3, 8))
    assert torch.equal(one.rewards, again.rewards)
    assert torch.equal(one.reference_logps, again.reference_logps)
    both = ("rewards", "reference_logps")  # a world may have no rewards, or a uniform reference
    assert not all(torch.equal(getattr(one, name), getattr(other, name)) for name in both)


def test_the_kinds_are_what_they_say():
    last = draws.terminal_only(0)
    rewarded = last.next_states[last.rewards != 0]
    assert last.terminal[rewarded].all()
    assert draws.stochastic_environment(0).environment.any()
    assert not draws.dense(0).environment.any()
    certain = draws.deterministic_environment(0)
    assert (certain.reference_logps[certain.environment].exp().max(-1).values == 1).all()
