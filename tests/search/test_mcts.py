"""Tree search in a world whose best response is known."""

from collections import Counter
from math import exp, log

import pytest

from tokenq.errors import UserError
from tokenq.search.branches import Branch, Limits, Walk
from tokenq.search.guidance import OBJECTIVES, find_objective
from tokenq.search.mcts import Aim, mcts
from tokenq.search.sampling import Dice, greedy
from tokenq.search.settings import Sampling, Tree
from tokenq.search.tree import RULES, Halving, Node, completed, improved, puct, towards_improved
from tokenq.worlds import draws
from tokenq.worlds.mdp import EOS
from tokenq.worlds.soft_q import log_ratios, solve
from tokenq.worlds.tabular import TabularStepper

REWARDED = Aim(OBJECTIVES["reward"])


def setting(seed):
    world = draws.dense(seed)
    logps = solve(world).logps
    return world, logps, TabularStepper(world, logps, world.reference_logps), Limits((EOS,), world.horizon)


def search(world, stepper, limits, tree, objective="reward", prompts=None, **aim):
    prompts = [world.prompt_ids(0)] if prompts is None else prompts
    aim = {"sampling": Sampling(temperature=0.0), **aim}
    return mcts(Walk(stepper, prompts, limits), tree, Aim(find_objective(objective), world.beta, **aim))


def scores_of_all(world, logps, objective):
    table = logps if objective == "likelihood" else world.beta * log_ratios(logps, world.reference_logps)
    return world.sequences().taken(table).sum(-1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("backup", ["mean", "max"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(4))
def test_enough_simulations_find_the_exact_best(seed, objective, backup, rule):
    """All children, until everything is known: the best response and its score are those of the enumeration."""
    world, logps, stepper, limits = setting(seed)
    sequences, exact = world.sequences(), scores_of_all(world, logps, objective)
    prompts = [world.prompt_ids(prompt) for prompt in range(world.n_prompts)]
    tree = Tree(simulations=1000, children=0, backup=backup, tree_rule=rule, rollouts=0)
    for prompt, (branches, nodes) in enumerate(search(world, stepper, limits, tree, objective, prompts)):
        rows = sequences.of_prompt(prompt)
        best = rows[exact[rows].argmax()]
        assert list(branches[0].tokens) == sequences.tokens[best][sequences.valid[best]].tolist()
        assert branches[0].score == pytest.approx(float(exact[best]))
        assert len(branches) == len(rows)
        assert nodes[0].value >= float(exact[best]) - 1e-12


@pytest.mark.parametrize("rule", RULES)
def test_more_simulations_find_no_less(rule):
    """Over many worlds: what 4, 12 and 60 simulations with greedy rollouts find, and the exact best at the end."""
    means = []
    for count in (4, 12, 1000):
        tree = Tree(simulations=count, children=0, tree_rule=rule, rollouts=1)
        found = []
        for seed in range(12):
            world, _, stepper, limits = setting(seed)
            found.append(search(world, stepper, limits, tree)[0][0][0].score)
        means.append(sum(found) / len(found))
    assert means[0] < means[1] <= means[2]
    exact = []
    for seed in range(12):
        world, logps, _, _ = setting(seed)
        exact.append(float(scores_of_all(world, logps, "reward")[world.sequences().of_prompt(0)].max()))
    assert means[2] == pytest.approx(sum(exact) / len(exact))


def test_trees_do_not_touch_each_other():
    """Side by side or alone: the same tree, and the same dice for rollouts."""
    world, _, stepper, limits = setting(2)
    prompts = [world.prompt_ids(prompt) for prompt in range(world.n_prompts)]
    for rule in RULES:
        tree = Tree(simulations=9, children=3, tree_rule=rule, rollouts=2)
        aim = {"sampling": Sampling(), "seed": 5}
        together = search(world, stepper, limits, tree, prompts=prompts, **aim)
        for (branches, nodes), prompt in zip(together, prompts, strict=True):
            own, own_nodes = search(world, stepper, limits, tree, prompts=[prompt], **aim)[0]
            assert nodes == own_nodes
            assert [(one.tokens, one.score) for one in branches] == [(one.tokens, one.score) for one in own]


def test_the_tree_is_what_was_searched():
    """Three simulations of two children: the root is expanded at once, then up to three prefixes."""
    world, _, stepper, limits = setting(0)
    walk = Walk(stepper, [world.prompt_ids(0)], limits)
    branches, nodes = mcts(walk, Tree(simulations=3, children=2, rollouts=0), REWARDED)[0]
    children = Counter(node.parent for node in nodes)
    stepped = [number for number in children if number > 0]
    assert walk.spent == [1 + len(stepped)]
    assert all(children[number] == 2 for number in [0, *stepped])
    assert nodes[0].visits == 4
    assert all(
        node.visits == 1 + sum(nodes[c].visits for c in range(len(nodes)) if nodes[c].parent == n)
        for n, node in enumerate(nodes)
        if node.visits and not node.ends and children[n]
    )
    assert {len(branch.tokens) for branch in branches} <= {1, 2, 3, 4}


def test_a_committed_search_comes_to_the_end_of_a_long_response():
    """With one simulation a token and one child the search is greedy; unlimited ones would have stayed at the root."""
    world, _, stepper, limits = setting(3)
    walked = greedy(Walk(stepper, [world.prompt_ids(0)], limits))[0][0]
    for rule in RULES:
        tree = Tree(simulations=1, children=1, commit="token", tree_rule=rule, rollouts=0)
        assert search(world, stepper, limits, tree)[0][0][0].tokens == walked.tokens
    exact = search(world, stepper, limits, Tree(simulations=1000, children=0, rollouts=0))[0][0][0]
    committed = search(world, stepper, limits, Tree(simulations=200, children=0, commit="token", rollouts=0))[0][0][0]
    assert committed.tokens == exact.tokens


def test_a_budget_ends_the_search_with_what_there_is():
    """One token of prompt, and three that may be stepped."""
    world, _, stepper, _ = setting(0)
    walk = Walk(stepper, [world.prompt_ids(0)], Limits((), world.horizon, budget=4))
    branches, _ = mcts(walk, Tree(children=0, rollouts=0), REWARDED)[0]
    assert branches
    assert walk.spent == [4]
    assert walk.stopped == ["budget"]


def node(prior, visits=0, value=0.0):
    return Node(Branch(), 0, log(prior), False, visits=visits, total=visits * value, best=value)


def test_rules_by_hand():
    """Parent 1.0; children Q 3.0 (2 visits, P ½), 2.0 (1, ¼), unvisited (P ¼).

    Mixed value: (1 + 3 (½ · 3 + ¼ · 2) / ¾) / 4 = 2.25; rescaled over [1, 3]: 1, 0.5, 0.625.
    """
    parent = Node(Branch(), -1, 0.0, False, value=1.0, visits=4)
    children = [node(0.5, 2, 3.0), node(0.25, 1, 2.0), node(0.25)]
    assert completed(parent, children, "mean") == pytest.approx([1.0, 0.5, 0.625])
    tree = Tree(exploration=1.0, backup="mean")
    assert puct(parent, children, tree) == pytest.approx([1 + 0.5 * 2 / 3, 0.5 + 0.25 * 2 / 2, 0.625 + 0.25 * 2])
    logits = [log(0.5) + 5.2, log(0.25) + 2.6, log(0.25) + 3.25]
    assert improved(parent, children, tree) == pytest.approx(logits)
    total = sum(map(exp, logits))
    expected = [exp(logits[0]) / total - 2 / 4, exp(logits[1]) / total - 1 / 4, exp(logits[2]) / total]
    assert towards_improved(parent, children, tree) == pytest.approx(expected)


def test_values_that_differ_by_rounding_are_the_same():
    """Rescaled, a last bit would be all the difference there is, and lead where it points: priors alone decide."""
    parent = Node(Branch(), -1, 0.0, False, value=-4.7802155, visits=3)
    children = [node(0.25, 1, -4.7802155), node(0.5, 1, -4.7802158), node(0.25)]
    assert completed(parent, children, "max") == [0.0, 0.0, 0.0]
    assert max(range(3), key=puct(parent, children, Tree()).__getitem__) == 1
    children[2] = node(0.25, 1, -4.78)
    assert completed(parent, children, "max") == pytest.approx([0.0, 0.0, 1.0], abs=0.01)


def test_halving_visits_half_as_many_twice_as_often():
    """16 simulations over 4 children: each twice, then two of them four times each; the best is one of the two."""
    parent = Node(Branch(), -1, 0.0, False, value=0.0, visits=1)
    children = [node(0.25) for _ in range(4)]
    halving = Halving([log(0.25)] * 4, 16, Dice(0))
    values = [0.0, 10.0, 0.0, 10.0]
    for _ in range(16):
        chosen = halving.next(parent, children, Tree(tree_rule="gumbel", backup="mean"))
        one = children[chosen]
        one.visits, one.total = one.visits + 1, one.total + values[chosen]
    assert [child.visits for child in children] == [2, 6, 2, 6]
    assert halving.best(parent, children, Tree(backup="mean")) in (1, 3)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Tree(simulations=0), "simulations must be"),
        (lambda: Tree(tree_rule="puckt"), "Did you mean 'puct'"),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(UserError, match=says):
        make()
