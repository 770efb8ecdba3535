"""Beams whose continuations are drawn: as often as they should be, and beam search where nothing is left to chance."""

from collections import Counter
from itertools import permutations

import pytest
import torch

from tokenq.core.tensors import Frontier
from tokenq.search.beam import beam_search
from tokenq.search.beam_sampling import beam_sample, drawn
from tokenq.search.branches import Branch, Limits, Walk
from tokenq.search.sampling import Dice, kept
from tokenq.search.settings import Beams, Sampling
from tokenq.worlds import draws
from tokenq.worlds.mdp import EOS
from tokenq.worlds.soft_q import solve
from tokenq.worlds.tabular import TabularStepper

NEXT = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3], [0.2, 0.2, 0.6]], dtype=torch.float64)
"""p(next token | last token)."""

MANY = 6000


class Chain:
    """A stepper in which the last token alone decides what comes next."""

    def start(self, prompts):
        return self._at(torch.tensor([prompt[-1] for prompt in prompts]))

    def step(self, state, parents, tokens):
        return self._at(tokens)

    def gather(self, places):
        return torch.stack([state[row] for state, row in places])

    def _at(self, last):
        return Frontier(NEXT[last].log(), None, last)


def assert_frequencies(found, chances):
    """Within five standard deviations."""
    assert sum(chances.values()) == pytest.approx(1)
    hits, count = Counter(found), len(found)
    assert set(hits) <= set(chances)
    for what, p in chances.items():
        assert abs(hits[what] / count - p) < 5 * (p * (1 - p) / count) ** 0.5 + 1e-9, what


def in_turn(weights):
    """Return the chance of every order in which two things are drawn without replacement."""
    total = sum(weights.values())
    return {(a, b): weights[a] / total * weights[b] / (total - weights[a]) for a, b in permutations(weights, 2)}


def searched(width, length, **filters):
    """Return what is found behind many prompts that end in the token 0 and are different otherwise."""
    prompts = [(number, 0) for number in range(MANY)]
    return beam_sample(Walk(Chain(), prompts, Limits((), length)), Beams(width), Sampling(**filters))


def test_draws_are_without_replacement_and_in_proportion():
    """The two largest of log p + noise, in their order: p(a) · p(b) / (1 − p(a)); in tempered proportions too."""
    for scale in (1.0, 2.0):
        logps = scale * NEXT[:1].log().expand(MANY, 3)
        keys = drawn([Dice(seed) for seed in range(MANY)])(logps, [Branch(prompt=row) for row in range(MANY)])
        assert_frequencies(
            list(map(tuple, keys.topk(2).indices.tolist())), in_turn(dict(enumerate((NEXT[0] ** scale).tolist())))
        )


def test_one_beam_goes_on_from_the_better_of_two_draws():
    """Two tokens are drawn, and the likelier goes on: 1 − p(pair {1, 2}) of the pairs hold token 0.

    The last token is the first that is drawn behind it.
    """
    pairs = in_turn(dict(enumerate(NEXT[0].tolist())))
    better = {0: 0.0, 1: 0.0}
    for pair, p in pairs.items():
        better[min(pair)] += p  # tokens stand in the order of their chances
    chances = {(x, y): better[x] * float(NEXT[x, y]) for x in better for y in range(3)}
    assert_frequencies([branches[0].tokens for branches in searched(1, 2)], chances)


def test_two_beams_are_drawn_from_together():
    """Of three tokens all are drawn, 0 and 1 go on; of the six continuations two are drawn, by their whole chances."""
    whole = {(x, y): float(NEXT[0, x] * NEXT[x, y]) for x in (0, 1) for y in range(3)}
    chances = Counter()
    for pair, p in in_turn(whole).items():
        chances[frozenset(pair)] += p
    found = searched(2, 2)
    assert_frequencies([frozenset(branch.tokens for branch in branches) for branches in found], chances)
    for branches in found[:50]:
        expected = [float(torch.tensor(whole[branch.tokens]).log()) / 2 for branch in branches]
        assert [branch.score for branch in branches] == pytest.approx(expected)
        assert expected == sorted(expected, reverse=True)


def test_scores_are_of_tempered_tokens_that_are_not_normalised_again():
    """T = 0.5 doubles Σ log p, and a filter does not change what is left."""
    for branches in searched(2, 2, temperature=0.5, top_k=2)[:50]:
        for branch in branches:
            assert branch.score == pytest.approx(2 * sum(branch.logps) / 2)
            assert 2 not in branch.tokens[:1]  # the least likely behind 0


def setting(seed):
    world = draws.dense(seed)
    stepper = TabularStepper(world, solve(world).logps)
    return stepper, [world.prompt_ids(prompt) for prompt in range(world.n_prompts)], Limits((EOS,), world.horizon)


def both(found):
    return [[(branch.tokens, pytest.approx(branch.score)) for branch in branches] for branches in found]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_without_temperature_it_is_beam_search(width, length_penalty):
    stepper, prompts, limits = setting(0)
    beams = Beams(width, length_penalty)
    cold = beam_sample(Walk(stepper, prompts, limits), beams, Sampling(temperature=0.0), seed=7)
    assert both(beam_search(Walk(stepper, prompts, limits), beams)) == [
        [(branch.tokens, branch.score) for branch in branches] for branches in cold
    ]
    # A low temperature leaves as little to chance; its scores are Σ log π / T.
    cool = beam_sample(Walk(stepper, prompts, limits), beams, Sampling(temperature=1e-4), seed=7)
    assert [[branch.tokens for branch in branches] for branches in cool] == [
        [branch.tokens for branch in branches] for branches in cold
    ]


def test_the_best_of_few_is_greedy():
    """One token and an end: one beam of top_k = 1, which leaves two tokens, goes on with the likelier."""
    prompts = [(number, 0) for number in range(20)]
    limits = Limits((), 3)
    found = beam_sample(Walk(Chain(), prompts, limits), Beams(1), Sampling(top_k=1, temperature=0.01))
    assert {branches[0].tokens for branches in found} == {(0, 0, 0)}


def test_filters_leave_as_many_as_there_are_ends_and_one():
    logps = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    for filters in ({"top_k": 1}, {"top_p": 0.1}, {"min_p": 0.9}):
        assert kept(logps, Sampling(**filters)).isfinite().tolist() == [[True, False, False, False]]
        assert kept(logps, Sampling(**filters), 2).isfinite().tolist() == [[True, True, False, False]]
        assert kept(logps, Sampling(**filters), 9).isfinite().tolist() == [[True, True, True, True]]
    torch.testing.assert_close(kept(logps, Sampling(temperature=0.5)), 2 * logps)


def test_a_draw_does_not_depend_on_what_is_searched_beside_it():
    stepper, prompts, limits = setting(1)
    beams = Beams(3)
    together = beam_sample(Walk(stepper, prompts, limits), beams, seed=3)
    alone = [beam_sample(Walk(stepper, [prompt], limits), beams, seed=3)[0] for prompt in prompts]
    tokens = [[branch.tokens for branch in branches] for branches in together]
    assert tokens == [[branch.tokens for branch in branches] for branches in alone]
    others = [beam_sample(Walk(stepper, prompts, limits), beams, seed=seed) for seed in range(4, 9)]
    assert any(tokens != [[branch.tokens for branch in branches] for branches in other] for other in others)
