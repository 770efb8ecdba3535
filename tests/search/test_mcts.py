"""Tree search in a world whose best response is known."""

import pytest

from tokenq.errors import UserError
from tokenq.search.branches import Limits
from tokenq.search.guidance import OBJECTIVES, find_objective
from tokenq.search.mcts import Tree, mcts
from tokenq.worlds import draws
from tokenq.worlds.mdp import EOS
from tokenq.worlds.soft_q import log_ratios, solve
from tokenq.worlds.tabular import TabularStepper


def setting(seed):
    world = draws.dense(seed)
    logps = solve(world).logps
    return world, logps, TabularStepper(world, logps, world.reference_logps), Limits((EOS,), world.horizon)


@pytest.mark.parametrize("backup", ["mean", "max"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(4))
def test_enough_simulations_find_the_exact_best(seed, objective, backup):
    """All children, until everything is known: the best response and its score are those of the enumeration."""
    world, logps, stepper, limits = setting(seed)
    sequences = world.sequences()
    table = logps if objective == "likelihood" else world.beta * log_ratios(logps, world.reference_logps)
    exact = sequences.taken(table).sum(-1)
    prompts = [world.prompt_ids(prompt) for prompt in range(world.n_prompts)]
    tree = Tree(simulations=1000, children=0, backup=backup)
    for prompt, (branches, nodes) in enumerate(
        mcts(stepper, prompts, limits, tree, find_objective(objective), world.beta)
    ):
        rows = sequences.of_prompt(prompt)
        best = rows[exact[rows].argmax()]
        assert list(branches[0].tokens) == sequences.tokens[best][sequences.valid[best]].tolist()
        assert branches[0].score == pytest.approx(float(exact[best]))
        assert len(branches) == len(rows)
        assert nodes[0].solved
        assert nodes[0].best == pytest.approx(float(exact[best]))


def test_few_simulations_find_more_than_the_prior_alone():
    """Over many worlds, 6 expansions reach a better response on average than 3."""
    gains = []
    for seed in range(20):
        world, _, stepper, limits = setting(seed)
        found = [
            mcts(stepper, [world.prompt_ids(0)], limits, Tree(simulations=count, children=0), beta=world.beta)[0][0][0]
            for count in (3, 6)
        ]
        gains.append(found[1].score - found[0].score)
    assert min(gains) >= -1e-12
    assert sum(gains) > 0


def test_the_tree_is_what_was_searched():
    world, _, stepper, limits = setting(0)
    branches, nodes = mcts(stepper, [world.prompt_ids(0)], limits, Tree(simulations=3, children=2), beta=world.beta)[0]
    expanded = [node for node in nodes if node.children]
    assert len(expanded) == 3
    assert all(len(node.children) == 2 for node in expanded)
    assert nodes[0].visits == len(nodes) - 1
    for place, node in enumerate(nodes):
        for child in node.children:
            assert nodes[child].parent == place
            assert nodes[child].branch.tokens[:-1] == node.branch.tokens
    assert {branch.tokens for branch in branches} == {node.branch.tokens for node in nodes if node.ends}


def test_a_budget_ends_the_search_with_what_there_is():
    world, _, stepper, limits = setting(0)
    limits = Limits(limits.eos, limits.max_new_tokens, budget=4)
    branches, nodes = mcts(stepper, [world.prompt_ids(0)], limits, Tree(children=0), beta=world.beta)[0]
    assert branches
    assert len([node for node in nodes if node.children]) == 1


def test_bad_input():
    with pytest.raises(UserError, match="simulations must be"):
        Tree(simulations=0)
