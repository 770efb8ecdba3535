"""Chunk beams, and every method behind one signature, in a world whose responses are all known."""

from dataclasses import replace

import pytest
import torch

from tokenq.errors import UserError
from tokenq.search.branches import Limits, Walk
from tokenq.search.chunks import chunk_search
from tokenq.search.config import SearchConfig
from tokenq.search.guidance import implicit_reward
from tokenq.search.lookahead import lookahead_search
from tokenq.search.methods import METHODS, Aids, find_method, needs_reference, search
from tokenq.search.settings import Beams, Chunks, Lookahead
from tokenq.worlds import draws
from tokenq.worlds.mdp import EOS
from tokenq.worlds.soft_q import log_ratios, solve
from tokenq.worlds.tabular import TabularLM, TabularStepper


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
    chunks = Chunks(width=3, chunk_samples=3000, chunk_length=world.horizon, chunk_from=source)
    prompts = [world.prompt_ids(prompt) for prompt in range(world.n_prompts)]
    for prompt, branches in enumerate(chunk_search(Walk(stepper, prompts, limits), chunks, beta=world.beta, seed=seed)):
        assert 1 <= len({branch.tokens for branch in branches}) == len(branches) <= 3
        for branch in branches:
            assert branch.score == pytest.approx(reward_of(world, rewards, prompt, branch.tokens))
        assert branches[0].score == pytest.approx(float(rewards[world.sequences().of_prompt(prompt)].max()))


def test_chunks_go_on_from_the_best_only():
    """A chunk of one token, W = 1, K large: greedy by reward, one token after the other."""
    world, _, stepper, limits = setting(1)
    found = chunk_search(Walk(stepper, [world.prompt_ids(0)], limits), Chunks(1, 4000, 1), beta=world.beta)[0][0]
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
    found = [chunk_search(Walk(stepper, prompt, limits), Chunks(2, 2, 2), seed=seed)[0] for seed in (1, 1, 2, 3, 4, 5)]
    one, again, *others = ([branch.tokens for branch in branches] for branches in found)
    assert one == again
    assert any(other != one for other in others)
    cut = chunk_search(Walk(stepper, prompt, Limits(limits.eos, limits.max_new_tokens, budget=3)), Chunks(2, 2, 2))[0]
    assert max(len(branch.tokens) for branch in cut) <= 2


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_one_signature(name):
    """Candidates best first, with log-probs under both models, for every prompt; trees where there is one."""
    world, _, stepper, limits = setting(0)
    walk = Walk(stepper, [world.prompt_ids(prompt) for prompt in range(world.n_prompts)], limits)
    config = SearchConfig(method=name, beta=world.beta, simulations=20, children=0)
    aids, told = Aids(answer=lambda branch: str(branch.tokens[-1])), []
    found = search(walk, config, aids, lambda done, total: told.append((done, total)))
    assert len(found) == world.n_prompts
    assert told
    assert all(done <= total for done, total in told)
    for one in found:
        assert one.candidates
        assert all(len(b.tokens) == len(b.logps) == len(b.ref_logps) for b in one.candidates)
        if name != "sample":
            scores = [branch.score for branch in one.candidates]
            assert scores == sorted(scores, reverse=True)
        assert bool(one.tree) == (name in ("beam", "beam_sample", "chunk_beam", "lookahead", "mcts"))


@pytest.mark.parametrize("name", ["best_of_n", "weighted_vote"])
def test_a_reference_that_did_not_run_reads_what_was_written(name):
    """One forward behind shared prompts: the same log-probs and ranks as with a reference at every step."""
    world, _, stepper, limits = setting(1)
    prompts = [world.prompt_ids(prompt) for prompt in range(world.n_prompts)]
    config = SearchConfig(method=name, beta=world.beta, tokens_per_batch=12)
    aids = Aids(answer=lambda branch: str(branch.tokens[0]))
    stepped = search(Walk(stepper, prompts, limits), config, aids)
    alone = TabularStepper(world, stepper.logps)
    read = search(
        Walk(alone, prompts, limits), config, replace(aids, reference=TabularLM(world, world.reference_logps))
    )
    for one, other in zip(stepped, read, strict=True):
        assert [branch.tokens for branch in one.candidates] == [branch.tokens for branch in other.candidates]
        for first, second in zip(one.candidates, other.candidates, strict=True):
            assert first.ref_logps == pytest.approx(second.ref_logps)
            assert first.score == pytest.approx(second.score)
    with pytest.raises(UserError, match="needs a reference"):
        search(Walk(alone, prompts, limits), config, aids)


def test_which_methods_need_a_reference():
    def needing(objective):
        asked = [SearchConfig(method=name, objective=objective, ranking="likelihood") for name in METHODS]
        return [config.method for config in asked if needs_reference(config, Aids())]

    assert needing("likelihood") == ["chunk_beam", "lookahead"]
    assert needing("reward") == ["beam", "chunk_beam", "lookahead", "mcts"]
    assert needs_reference(SearchConfig(method="best_of_n", ranking="mean_reward"), Aids())
    judged = Aids(value=lambda branches: [0.0] * len(branches))
    assert not needs_reference(SearchConfig(method="lookahead"), judged)


def test_a_value_ranks_and_a_vote_needs_answers():
    world, _, stepper, limits = setting(0)
    prompt = [world.prompt_ids(0)]
    best = SearchConfig(method="best_of_n", ranking="value")
    aids = Aids(value=lambda branches: [float(-len(branch.tokens)) for branch in branches])
    lengths = [len(branch.tokens) for branch in search(Walk(stepper, prompt, limits), best, aids)[0].candidates]
    assert lengths == sorted(lengths)
    with pytest.raises(UserError, match="something that judges"):
        search(Walk(stepper, prompt, limits), best)
    with pytest.raises(UserError, match="needs answers"):
        search(Walk(stepper, prompt, limits), SearchConfig(method="majority"))
    with pytest.raises(UserError, match="Did you mean 'mean_reward'"):
        search(Walk(stepper, prompt, limits), replace(best, ranking="mean_rewards"))


@pytest.mark.parametrize("seed", range(3))
def test_a_lookahead_without_weight_is_greedy_and_with_much_is_greedy_by_reward(seed):
    """k over the whole vocabulary: argmax of log π, or of the value so far plus Σ β log π/π_ref of the token."""
    world, _, stepper, limits = setting(seed)
    value = implicit_reward(world.beta)

    def found(weight):
        walk = Walk(stepper, [world.prompt_ids(0)], limits)
        return lookahead_search(walk, value, Lookahead(1, 100, weight))[0][0].tokens

    def walked(table):
        state, tokens = 0, []
        while not world.terminal[state]:
            tokens.append(int(torch.where(world.next_states[state] < 0, -torch.inf, table[state]).argmax()))
            state = int(world.next_states[state, tokens[-1]])
        return tuple(tokens)

    assert found(0.0) == walked(stepper.logps)
    assert found(1e9) == walked(log_ratios(stepper.logps, stepper.ref_logps))


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_lookahead_finds_the_best_sum(seed):
    """With beams for every response: argmax of Σ log π + w Σ β log π/π_ref over the whole world."""
    world, rewards, stepper, limits = setting(seed)
    sequences = world.sequences()
    total = sequences.taken(stepper.logps).sum(-1) + 0.7 * rewards
    walk = Walk(stepper, [world.prompt_ids(0)], limits)
    width = len(sequences.of_prompt(0))
    found = lookahead_search(walk, implicit_reward(world.beta), Lookahead(width, 100, 0.7))[0]
    expected = sorted(total[sequences.of_prompt(0)].tolist(), reverse=True)
    assert [branch.score for branch in found] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Chunks(width=0), "1 or more"),
        (lambda: Lookahead(width=0), "1 or more"),
        (lambda: Beams(early_stopping="maybe"), "true, false or never"),
        (lambda: Chunks(chunk_from="base"), "policy or reference"),
        (lambda: find_method("beams"), "Did you mean 'beam'"),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_chunks_need_a_reference():
    world, _, stepper, limits = setting(0)
    with pytest.raises(UserError, match="needs a reference"):
        chunk_search(Walk(TabularStepper(world, stepper.logps), [world.prompt_ids(0)], limits))
