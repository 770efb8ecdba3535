"""Searches in a world whose best response is known: full width is exact, and every search keeps its limits."""

import pytest
import torch

from tokenq.errors import UserError
from tokenq.search.beam import beam_search
from tokenq.search.branches import Branch, Limits, Walk
from tokenq.search.guidance import OBJECTIVES, find_objective
from tokenq.search.proxy import ProxyStepper, Term
from tokenq.search.rerank import best_of, find_ranking, tilt, vote
from tokenq.search.sampling import filtered, greedy, sample
from tokenq.search.settings import Beams, Sampling
from tokenq.worlds import draws
from tokenq.worlds.mdp import EOS
from tokenq.worlds.soft_q import log_ratios, response_logps, returns, solve
from tokenq.worlds.tabular import TabularStepper

SEEDS = range(4)


def setting(seed, kind=draws.dense):
    """Return a world with its sequences, π*, a stepper over it, and its limits."""
    world = kind(seed)
    logps = solve(world).logps
    stepper = TabularStepper(world, logps, world.reference_logps)
    return world, world.sequences(), logps, stepper, Limits((EOS,), world.horizon)


def texts(world, sequences, prompt):
    rows = sequences.of_prompt(prompt).tolist()
    return {tuple(sequences.tokens[row][sequences.valid[row]].tolist()): row for row in rows}


def prompts(world):
    return [world.prompt_ids(prompt) for prompt in range(world.n_prompts)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_beams_of_full_width_find_every_response_in_order(seed, objective):
    """Σ log π*, or Σ β log π*/π_ref, of every response of the world, best first."""
    world, sequences, logps, stepper, limits = setting(seed)
    table = logps if objective == "likelihood" else world.beta * log_ratios(logps, world.reference_logps)
    exact = sequences.taken(table).sum(-1)
    width = len(sequences.of_prompt(0))
    beams = Beams(width, length_penalty=0.0, early_stopping="never")
    found = beam_search(Walk(stepper, prompts(world), limits), beams, find_objective(objective), world.beta)
    for prompt, branches in enumerate(found):
        rows = texts(world, sequences, prompt)
        assert {branch.tokens for branch in branches} == set(rows)
        scores = [branch.score for branch in branches]
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx([float(exact[rows[branch.tokens]]) for branch in branches], abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_likelihood_search_of_the_optimum_ranks_as_value_search(seed):
    """By Σ r + β Σ log π_ref (V* = 0 at ends) as by Σ log π*: one order."""
    world, sequences, _, stepper, limits = setting(seed)
    conservative = returns(world, sequences) + world.beta * response_logps(sequences, world.reference_logps)
    beams = Beams(len(sequences.of_prompt(0)), length_penalty=0.0, early_stopping="never")
    for prompt, branches in enumerate(beam_search(Walk(stepper, prompts(world), limits), beams)):
        rows = texts(world, sequences, prompt)
        values = [float(conservative[rows[branch.tokens]]) for branch in branches]
        assert values == sorted(values, reverse=True)


def test_one_beam_is_greedy():
    world, _, _, stepper, limits = setting(0)
    beams = beam_search(Walk(stepper, prompts(world), limits), Beams(1, early_stopping="true"))
    walked = greedy(Walk(stepper, prompts(world), limits))
    assert [b[0].tokens for b in beams] == [g[0].tokens for g in walked]


def test_branches_carry_both_models_log_probs():
    world, sequences, logps, stepper, limits = setting(1)
    own, other = response_logps(sequences, logps), response_logps(sequences, world.reference_logps)
    for prompt, branches in enumerate(beam_search(Walk(stepper, prompts(world), limits), Beams(3))):
        for branch in branches:
            row = texts(world, sequences, prompt)[branch.tokens]
            assert sum(branch.logps) == pytest.approx(float(own[row]))
            assert sum(branch.ref_logps) == pytest.approx(float(other[row]))


def test_prompts_do_not_touch_each_other():
    world, _, _, stepper, limits = setting(0)
    together = beam_search(Walk(stepper, prompts(world), limits), Beams(2))
    alone = [beam_search(Walk(stepper, [prompt], limits), Beams(2))[0] for prompt in prompts(world)]
    assert [[b.tokens for b in one] for one in together] == [[b.tokens for b in one] for one in alone]


def test_groups_that_pay_for_the_same_tokens_differ():
    world, _, _, stepper, limits = setting(0)
    same = beam_search(Walk(stepper, prompts(world), limits), Beams(2, groups=2))[0]
    apart = beam_search(Walk(stepper, prompts(world), limits), Beams(2, groups=2, diversity_penalty=50.0))[0]
    assert same[0].tokens == same[1].tokens
    assert apart[0].tokens[0] != apart[1].tokens[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_come_as_often_as_they_should(seed):
    world, sequences, logps, stepper, limits = setting(seed, draws.small)
    count = 4000
    drawn = sample(Walk(stepper, [world.prompt_ids(0)], limits), count=count, seed=seed)[0]
    chances = response_logps(sequences, logps).exp()
    for tokens, row in texts(world, sequences, 0).items():
        p = float(chances[row])
        hits = sum(branch.tokens == tokens for branch in drawn)
        assert abs(hits / count - p) < 5 * (p * (1 - p) / count) ** 0.5 + 1e-9


def test_a_sample_does_not_depend_on_what_is_drawn_beside_it():
    world, _, _, stepper, limits = setting(0)
    together = sample(Walk(stepper, prompts(world), limits), count=8, seed=3)
    few = sample(Walk(stepper, [world.prompt_ids(1)], limits), count=3, seed=3)[0]
    assert [branch.tokens for branch in few] == [branch.tokens for branch in together[1][:3]]
    other = sample(Walk(stepper, prompts(world), limits), count=8, seed=4)
    assert [b.tokens for b in other[0]] != [b.tokens for b in together[0]]


def test_filters_by_hand():
    """p = ½, ¼, ⅛, ⅛."""
    logps = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()

    def kept(**options):
        return filtered(logps, Sampling(**options)).exp()[0].tolist()

    assert kept() == pytest.approx([0.5, 0.25, 0.125, 0.125])
    assert kept(top_k=2) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert kept(top_p=0.5) == pytest.approx([1, 0, 0, 0])
    assert kept(top_p=0.6) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert kept(min_p=0.3) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert kept(temperature=0) == [1, 0, 0, 0]
    assert kept(temperature=0.5) == pytest.approx([16 / 22, 4 / 22, 1 / 22, 1 / 22])


def test_ranking_and_voting_by_hand():
    """Rewards β (Σ log π − Σ log π_ref): 1.0, 0.5, 1.5; per token 1.0, 0.25, 0.5."""
    branches = [
        Branch((5,), (-1.0,), (-3.0,)),
        Branch((6, 7), (-1.0, -1.0), (-1.5, -1.5)),
        Branch((5, 8, 9), (-1.0, -1.0, -1.0), (-2.0, -2.0, -2.0)),
    ]

    def order(name):
        return [one.tokens[0] for one in best_of(branches, find_ranking(name, 0.5)(branches))]

    assert [round(one.score, 3) for one in best_of(branches, find_ranking("reward", 0.5)(branches))] == [
        1.5,
        1.0,
        0.5,
    ]
    assert order("mean_reward") == [5, 5, 6]
    assert order("likelihood") == [5, 6, 5]
    ranked = vote(branches, ["yes", "no", "yes"], find_ranking("reward", 0.5)(branches))
    assert [(len(b.tokens), round(b.score, 3)) for b in ranked] == [(3, 0.833), (1, 0.833), (2, 0.167)]
    assert tilt([1.0, 0.0, 1.0]) == pytest.approx([1.0, 0.36788, 1.0], abs=1e-5)
    none = vote(branches, [None, "no", "no"])
    assert [(len(b.tokens), b.score) for b in none] == [(2, 1.0), (3, 1.0), (1, 0.0)]


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_a_proxy_combines_log_probs(weight):
    world, _, logps, _, _ = setting(0)
    tuned, untuned = (draws.random_policy(world, draws.generator(seed)) for seed in (1, 2))
    proxy = ProxyStepper(TabularStepper(world, logps), [Term(TabularStepper(world, tuned, untuned), weight)])
    frontier = proxy.start(prompts(world))
    expected = (logps + weight * log_ratios(tuned, untuned))[: world.n_prompts].log_softmax(-1)
    torch.testing.assert_close(frontier.logps, expected, rtol=0, atol=1e-14)
    after = proxy.step(frontier.state, torch.tensor([1]), torch.tensor([2]))
    state = world.walk((*world.prompt_ids(1), 2))
    expected = (logps + weight * log_ratios(tuned, untuned))[state].log_softmax(-1)
    torch.testing.assert_close(after.logps[0], expected, rtol=0, atol=1e-14)


def test_a_budget_is_each_prompts_own():
    """One token of prompt, then 2 and 2 rows: a budget of 4 allows one step, of 5 two, whatever is searched beside."""
    world, _, _, stepper, _ = setting(0)
    for budget, steps in ((4, 1), (5, 2)):
        limits = Limits((), world.horizon, budget=budget)
        walk = Walk(stepper, prompts(world), limits)
        found = beam_search(walk, Beams(2))
        assert walk.spent == [1 + 2 * steps] * world.n_prompts
        assert walk.stopped == ["budget"] * world.n_prompts
        assert {len(branch.tokens) for branches in found for branch in branches} == {steps + 1}
        alone = Walk(stepper, prompts(world)[:1], limits)
        assert [b.tokens for b in beam_search(alone, Beams(2))[0]] == [b.tokens for b in found[0]]


def test_a_search_that_is_interrupted_returns_what_it_has():
    world, _, _, stepper, _ = setting(0)
    asked = []

    def interrupted():
        asked.append(None)
        return len(asked) > world.n_prompts  # after one step of every prompt

    walk = Walk(stepper, prompts(world), Limits((), world.horizon, interrupted=interrupted))
    found = beam_search(walk, Beams(2))
    assert walk.stopped == ["interrupted"] * world.n_prompts
    assert {len(branch.tokens) for branches in found for branch in branches} == {2}


def test_the_lattice_is_what_the_beams_kept():
    """Every candidate is a path of the lattice, its scores Σ log π along it; two rows per step at most."""
    world, _, _, stepper, limits = setting(1)
    walk = Walk(stepper, prompts(world), limits)
    found = beam_search(walk, Beams(2, length_penalty=0.0))
    for branches, lattice in zip(found, walk.lattices, strict=True):
        paths = {}
        for number, node in enumerate(lattice):
            before, total = paths.get(node.parent, ((), 0.0))
            paths[number] = ((*before, node.token), total + node.logp) if number else ((), 0.0)
            assert node.score == pytest.approx(paths[number][1])
        complete = {paths[number][0] for number, node in enumerate(lattice) if node.ends}
        assert {branch.tokens for branch in branches} <= complete


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s, p: beam_search(Walk(s, p, Limits((EOS,), 4)), Beams(0)), "searches nothing"),
        (lambda s, p: beam_search(Walk(s, p, Limits((EOS,), 4)), Beams(4, groups=3)), "cannot be parted"),
        (lambda s, p: beam_search(Walk(s, p, Limits((EOS,), 0))), "max_new_tokens"),
        (lambda s, p: beam_search(Walk(s, p, Limits((EOS,), 4, budget=1))), "does not allow one step"),
        (lambda s, p: sample(Walk(s, p, Limits((EOS,), 4)), count=0), "samples are none"),
        (lambda s, p: sample(Walk(s, p, Limits((EOS,), 4)), Sampling(top_p=0.0)), "leaves nothing"),
        (lambda s, p: find_objective("likelyhood"), "Did you mean 'likelihood'"),
    ],
)
def test_bad_input(call, says):
    world, _, _, stepper, _ = setting(0)
    with pytest.raises(UserError, match=says):
        call(stepper, prompts(world))


def test_a_reward_objective_needs_a_reference():
    world, _, logps, _, limits = setting(0)
    with pytest.raises(UserError, match="needs a reference"):
        beam_search(Walk(TabularStepper(world, logps), prompts(world), limits), objective=find_objective("reward"))
