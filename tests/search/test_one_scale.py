"""A tree is searched for one thing: a judge's word, or the objective's sum, in every number of it."""

import pytest

from tokenq.search.branches import Limits, Walk
from tokenq.search.config import SearchConfig
from tokenq.search.guidance import OBJECTIVES
from tokenq.search.mcts import Aim, mcts
from tokenq.search.methods import METHODS, Aids, search
from tokenq.search.settings import PARTS, Sampling, Tree, part
from tokenq.search.tree import RULES
from tokenq.worlds import draws
from tokenq.worlds.mdp import EOS
from tokenq.worlds.soft_q import solve
from tokenq.worlds.tabular import TabularStepper

GREEDY = Sampling(temperature=0.0)


def setting(seed, **limits):
    world = draws.dense(seed)
    stepper = TabularStepper(world, solve(world).logps, world.reference_logps)
    return world, stepper, [world.prompt_ids(0)], Limits((EOS,), world.horizon, **limits)


def word(tokens):
    """Return what the judge says: between 100 and 101, without any likeness to log-probs or rewards."""
    return 100 + hash((7, *tokens)) % 997 / 997


def judge(branches):
    return [word(branch.tokens) for branch in branches]


def responses(world):
    sequences = world.sequences()
    rows = sequences.of_prompt(0).tolist()
    return [tuple(sequences.tokens[row][sequences.valid[row]].tolist()) for row in rows]


@pytest.mark.parametrize("seed", range(4))
def test_a_judge_changes_the_choice_at_the_defaults(seed):
    """The first candidate is the one that the judge likes best of all that were found, and not the likeliest."""
    _, stepper, prompts, limits = setting(seed)
    plain = search(Walk(stepper, prompts, limits), SearchConfig(method="mcts"))[0].candidates
    judged = search(Walk(stepper, prompts, limits), SearchConfig(method="mcts"), Aids(value=judge))[0].candidates
    assert [one.score for one in judged] == [word(one.tokens) for one in judged]
    assert judged[0].score == max(one.score for one in judged)
    assert judged[0].score > word(plain[0].tokens)
    assert judged[0].tokens != plain[0].tokens


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("backup", ["mean", "max"])
@pytest.mark.parametrize("rollouts", [0, 1, 2])
def test_enough_simulations_find_what_the_judge_likes_best(rollouts, backup, rule):
    world, stepper, prompts, limits = setting(1)
    tree = Tree(simulations=2000, children=0, tree_rule=rule, backup=backup, rollouts=rollouts)
    branches, nodes = mcts(Walk(stepper, prompts, limits), tree, Aim(value=judge))[0]
    best = max(responses(world), key=word)
    assert branches[0].tokens == best
    assert branches[0].score == word(best)
    assert nodes[0].value >= word(best) or backup == "mean" or rollouts == 0


@pytest.mark.parametrize("commit", ["never", "token"])
@pytest.mark.parametrize("rollouts", [0, 1, 3])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("budget", [None, 2, 3, 5, 9, 14, 30])
@pytest.mark.parametrize("steps", [0, 1, 4, 1000])
def test_every_number_of_a_judged_tree_is_the_judges(steps, budget, rule, rollouts, commit):
    """Scores and values of visited and unvisited nodes, of leaves, ends and the prompt: all between 100 and 101."""
    _, stepper, prompts, limits = setting(2, budget=budget, interrupted=lambda: walk.spent[0] > steps)
    tree = Tree(simulations=12, children=3, tree_rule=rule, rollouts=rollouts, commit=commit)
    walk = Walk(stepper, prompts, limits)
    branches, nodes = mcts(walk, tree, Aim(value=judge))[0]
    assert branches
    assert all(100 <= node.value <= 101 for node in nodes)
    assert all(100 <= node.score <= 101 for node in nodes)
    for branch in branches:
        assert branch.score == word(branch.tokens)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(4))
def test_without_a_judge_values_are_those_of_complete_responses(seed, objective):
    """With rollouts a tree is worth the best response that was written: nothing is worth more, no prefix counts."""
    world, stepper, prompts, limits = setting(seed)
    tree = Tree(simulations=9, children=3)
    aim = Aim(OBJECTIVES[objective], world.beta, sampling=GREEDY)
    branches, nodes = mcts(Walk(stepper, prompts, limits), tree, aim)[0]
    scores = {branch.score for branch in branches}
    assert nodes[0].value == max(scores)
    assert nodes[0].visits == 9
    assert {node.value for node in nodes if node.visits} <= scores
    worth = {node.value for node in nodes}
    ends = {node.score for node in nodes if node.ends}
    assert worth <= scores | ends


def test_a_root_without_its_own_value_is_worth_what_first_came_through():
    """One greedy rollout: the prompt and the leaf are worth the score of that response."""
    _, stepper, prompts, limits = setting(0)
    branches, nodes = mcts(Walk(stepper, prompts, limits), Tree(simulations=1), Aim(sampling=GREEDY))[0]
    assert len(branches) == 1
    assert [node.value for node in nodes if node.visits] == [branches[0].score] * 2


def test_a_judge_needs_no_reference_in_a_tree():
    rewarded = SearchConfig(method="mcts", objective="reward")
    assert METHODS["mcts"].steps_reference(rewarded, Aids())
    assert not METHODS["mcts"].steps_reference(rewarded, Aids(value=judge))


@pytest.mark.parametrize("kind", PARTS)
def test_there_is_one_default_for_everything(kind):
    """What a command takes by default is what Python takes."""
    assert part(kind, SearchConfig()) == kind()
