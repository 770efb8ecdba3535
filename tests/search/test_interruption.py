"""Stopped at any moment, by the user or by a budget, a search gives what there is: complete answers first."""

from itertools import pairwise

import pytest
from examples import cases

from tokenq.search.branches import Limits, Walk
from tokenq.search.config import SearchConfig
from tokenq.search.methods import METHODS, Aids, needs_reference, search
from tokenq.search.proxy import ProxyStepper, Term
from tokenq.worlds import draws
from tokenq.worlds.mdp import EOS
from tokenq.worlds.soft_q import solve
from tokenq.worlds.tabular import TabularLM, TabularStepper

BUDGETS = (None, 2, 3, 4, 6, 9, 15, 30)


class Counted:
    """A stepper that counts its steps."""

    def __init__(self, stepper):
        self.stepper, self.steps = stepper, 0
        self.start, self.gather = stepper.start, stepper.gather

    def step(self, *branches):
        self.steps += 1
        return self.stepper.step(*branches)


def stepper_of(world, kind):
    logps = solve(world).logps
    alone, pair = TabularStepper(world, logps), TabularStepper(world, logps, world.reference_logps)
    if kind == "proxy":
        return ProxyStepper(TabularStepper(world, world.reference_logps), [Term(pair, 0.5)])
    return pair if kind == "beside" else alone


def judge(branches):
    return [float(sum(branch.tokens) % 5) - len(branch.tokens) for branch in branches]


def found_after(steps, config, kind, aids, limits, prompts, world):
    stepper = Counted(stepper_of(world, kind))
    ends = Limits(*limits, interrupted=lambda: steps is not None and stepper.steps >= steps)
    walk = Walk(stepper, prompts, ends)
    return search(walk, config, aids), stepper.steps, walk


KINDS = [(kind, judged) for kind in ("alone", "read afterwards", "beside", "proxy") for judged in (False, True)]
EACH_KIND = [("alone", False), ("read afterwards", True), ("beside", False), ("beside", True), ("proxy", False)]


@pytest.mark.parametrize(("kind", "judged"), cases(KINDS, EACH_KIND))
@pytest.mark.parametrize("method", METHODS)
def test_what_there_is_comes_back(method, kind, judged):
    """After every number of steps, under every budget: no error, something for every prompt, complete answers first.

    By default with a judge and without where both models are read at once, and every other kind in one of the two.
    """
    world = draws.dense(3)
    prompts = [world.prompt_ids(prompt) for prompt in range(world.n_prompts)]
    ranking = "value" if judged else "mean_likelihood"
    config = SearchConfig(method=method, simulations=8, children=3, n=3, ranking=ranking)
    aids = Aids(
        value=judge if judged else None,
        answer=lambda branch: str(branch.tokens[-1] % 2),
        reference=TabularLM(world, world.reference_logps) if kind == "read afterwards" else None,
    )
    if kind in ("alone", "read afterwards") and needs_reference(config, aids):
        pytest.skip("this method reads the reference at every token")
    for budget in BUDGETS:
        limits = ((EOS,), world.horizon, budget)
        _, every, _ = found_after(None, config, kind, aids, limits, prompts, world)
        for steps in range(every + 1):
            found, taken, walk = found_after(steps, config, kind, aids, limits, prompts, world)
            assert taken <= steps
            for prompt, one in enumerate(found):
                assert one.candidates
                assert all(branch.tokens for branch in one.candidates)
                over = [branch.tokens[-1] == EOS or len(branch.tokens) == world.horizon for branch in one.candidates]
                assert over == sorted(over, reverse=True)
                assert all(over) or walk.stopped[prompt] in ("interrupted", "budget")
                assert budget is None or walk.spent[prompt] <= budget


@pytest.mark.parametrize("budget", range(3, 60))
def test_a_cut_rollout_never_stands_before_a_complete_answer(budget):
    """By likelihood the shorter is the likelier, so what a budget cut would always come first."""
    world = draws.dense(0)
    stepper = TabularStepper(world, world.reference_logps)
    walk = Walk(stepper, [world.prompt_ids(0)], Limits((EOS,), world.horizon, budget))
    candidates = search(walk, SearchConfig(method="mcts", simulations=20, rollouts=2))[0].candidates
    over = [walk.over(branch) for branch in candidates]
    assert over == sorted(over, reverse=True)
    for complete in (True, False):
        scores = [branch.score for branch, one in zip(candidates, over, strict=True) if one == complete]
        assert all(first >= second for first, second in pairwise(scores))


def test_before_its_first_step_a_tree_gives_the_likeliest_token():
    """With a reference that reads what was written, which once met a response without tokens."""
    world = draws.dense(0)
    stepper = TabularStepper(world, world.reference_logps)
    walk = Walk(stepper, [world.prompt_ids(0)], Limits((EOS,), world.horizon, interrupted=lambda: True))
    aids = Aids(reference=TabularLM(world, world.reference_logps))
    (only,) = search(walk, SearchConfig(method="mcts"), aids)[0].candidates
    assert only.tokens == (int(walk.frontier.logps[0].argmax()),)
    assert len(only.ref_logps) == 1
    assert walk.stopped == ["interrupted"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("room", [1, 2])
def test_responses_end_with_the_context(method, room):
    """Context of prompt + room tokens: no response is longer, and the search says that it stopped there."""
    world = draws.dense(1)
    prompt = world.prompt_ids(0)
    stepper = TabularStepper(world, solve(world).logps, world.reference_logps)
    walk = Walk(stepper, [prompt], Limits((EOS,), world.horizon, context=len(prompt) + room))
    config = SearchConfig(method=method, simulations=10)
    candidates = search(walk, config, Aids(answer=lambda branch: "same"))[0].candidates
    assert max(len(branch.tokens) for branch in candidates) <= room
    full = any(len(branch.tokens) == room and branch.tokens[-1] != EOS for branch in candidates)
    assert walk.stopped == ["context" if full else None]
    assert all(map(walk.over, candidates))


def test_a_context_without_room_is_refused_and_a_wide_one_says_nothing():
    from tokenq.errors import UserError

    world = draws.dense(1)
    prompt = world.prompt_ids(0)
    stepper = TabularStepper(world, solve(world).logps)
    with pytest.raises(UserError, match=r"A prompt of 1 tokens leaves no room in the model's context of 1 tokens"):
        Walk(stepper, [prompt], Limits((EOS,), 3, context=len(prompt)))
    walk = Walk(stepper, [prompt], Limits((EOS,), 2, context=100))
    assert all(len(branch.tokens) <= 2 for branch in search(walk, SearchConfig(method="sample"))[0].candidates)
    assert walk.stopped == [None]
