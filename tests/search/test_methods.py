"""Chunk beams, and every method behind one signature, in a world whose responses are all known."""

import pytest
import torch

from tokenq.errors import UserError
from tokenq.search.branches import Limits
from tokenq.search.chunks import Chunks, chunk_search
from tokenq.search.guidance import OBJECTIVES
from tokenq.search.mcts import Tree
from tokenq.search.methods import METHODS, Plan, early_stopping, find_method, needs_reference
from tokenq.worlds import draws
from tokenq.worlds.mdp import EOS
from tokenq.worlds.soft_q import log_ratios, solve
from tokenq.worlds.tabular import TabularStepper


def setting(seed):
    world = draws.dense(seed)
    logps = solve(world).logps
    rewards = world.sequences().taken(world.beta * log_ratios(logps, world.reference_logps)).sum(-1)
    return world, rewards, TabularStepper(world, logps, world.reference_logps), Limits((EOS,), world.horizon)


def reward_of(world, rewards, prompt, tokens):
    sequences = world.sequences()
    for row in sequences.of_prompt(prompt).tolist():
        if tuple(sequences.tokens[row][sequences.valid[row]].tolist()) == tokens:
            return float(rewards[row])
    raise AssertionError(tokens)


@pytest.mark.parametrize("source", ["policy", "reference"])
@pytest.mark.parametrize("seed", range(3))
def test_many_samples_of_a_chunk_find_the_best_response(seed, source):
    """With chunks as long as responses and samples without end, the best reward of the world is among them."""
    world, rewards, stepper, limits = setting(seed)
    chunks = Chunks(width=3, samples=3000, length=world.horizon, sample_from=source)
    prompts = [world.prompt_ids(prompt) for prompt in range(world.n_prompts)]
    for prompt, branches in enumerate(chunk_search(stepper, prompts, limits, chunks, beta=world.beta, seed=seed)):
        assert len(branches) == 3
        for branch in branches:
            assert branch.score == pytest.approx(reward_of(world, rewards, prompt, branch.tokens))
        assert branches[0].score == pytest.approx(float(rewards[world.sequences().of_prompt(prompt)].max()))


def test_chunks_go_on_from_the_best_only():
    """A chunk of one token, W = 1, K large: greedy by reward, one token after the other."""
    world, _, stepper, limits = setting(1)
    found = chunk_search(stepper, [world.prompt_ids(0)], limits, Chunks(1, 4000, 1), beta=world.beta)[0][0]
    ratios = log_ratios(stepper.logps, stepper.ref_logps)
    state, expected = 0, []
    total = 0.0
    while not world.terminal[state]:
        token = int(torch.where(world.next_states[state] < 0, -torch.inf, ratios[state]).argmax())
        expected.append(token)
        total += world.beta * float(ratios[state, token])
        state = int(world.next_states[state, token])
    assert list(found.tokens) == expected
    assert found.score == pytest.approx(total)


def test_the_same_seed_gives_the_same_and_a_budget_is_kept():
    world, _, stepper, limits = setting(0)
    prompt = [world.prompt_ids(0)]
    found = [chunk_search(stepper, prompt, limits, Chunks(2, 2, 2), seed=seed)[0] for seed in (1, 1, 2, 3, 4, 5)]
    one, again, *others = ([branch.tokens for branch in branches] for branches in found)
    assert one == again
    assert any(other != one for other in others)
    cut = chunk_search(stepper, prompt, Limits(limits.eos, limits.max_new_tokens, budget=3), Chunks(2, 2, 2))[0]
    assert max(len(branch.tokens) for branch in cut) <= 2


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_one_signature(name):
    """Candidates best first, with log-probs under both models, for every prompt."""
    world, _, stepper, limits = setting(0)
    prompts = [world.prompt_ids(prompt) for prompt in range(world.n_prompts)]
    plan = Plan(OBJECTIVES["likelihood"], beta=world.beta, count=4, tree=Tree(simulations=20, children=0))
    told = []
    found = find_method(name)(stepper, prompts, limits, plan, lambda done, total: told.append((done, total)))
    assert len(found) == len(prompts)
    for one in found:
        assert one.candidates
        assert all(len(b.tokens) == len(b.logps) == len(b.ref_logps) for b in one.candidates)
        if name != "sample":
            scores = [branch.score for branch in one.candidates]
            assert scores == sorted(scores, reverse=True)
    assert bool(found[0].tree) == (name == "mcts")


def test_which_methods_need_a_reference():
    likely, rewarded = (Plan(OBJECTIVES[name], ranking="likelihood") for name in ("likelihood", "reward"))
    assert [name for name in METHODS if needs_reference(name, likely)] == ["chunk_beam"]
    assert [name for name in METHODS if needs_reference(name, rewarded)] == ["beam", "chunk_beam", "mcts"]
    assert needs_reference("best_of_n", Plan(OBJECTIVES["likelihood"], ranking="mean_reward"))


def test_words_for_early_stopping():
    assert [early_stopping(word) for word in ("true", "false", "never")] == [True, False, "never"]
    with pytest.raises(UserError, match="true, false or never"):
        early_stopping("maybe")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Chunks(width=0), "1 or more"),
        (lambda: Chunks(sample_from="base"), "policy or reference"),
        (lambda: find_method("beams"), "Did you mean 'beam'"),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_chunks_need_a_reference():
    world, _, stepper, limits = setting(0)
    with pytest.raises(UserError, match="needs a reference"):
        chunk_search(TabularStepper(world, stepper.logps), [world.prompt_ids(0)], limits)
