"""Policy gradients by enumeration: every group of responses of a small world, through the losses that ship.

What is held against them is autograd through `evaluate`, or sums over responses that are written here.
"""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch

from tokenq.core.credit import (
    by_turn,
    gae,
    group_relative,
    implicit_baseline,
    importance_weights,
    kl_estimates,
    leave_one_out,
    outcome_rewards,
    returns_to_go,
)
from tokenq.core.losses import LOSSES
from tokenq.core.tensors import PrefixValues
from tokenq.verify.claim import Case
from tokenq.verify.gradients import stage
from tokenq.worlds.draws import generator, normal, random_policy
from tokenq.worlds.gradients import exact_gradient, moments
from tokenq.worlds.mdp import build, log_softmax
from tokenq.worlds.soft_q import evaluate, response_logps, softmax_policy, solve, token_logps


def small(seed=0, beta=0.5, vocab_size=3, horizon=2):
    """Return a case of one prompt with 7 responses, and a policy that is neither reference nor optimum."""
    tree, dice = build(vocab_size=vocab_size, horizon=horizon, beta=beta), generator(seed)
    shape = tuple(tree.next_states.shape)
    possible = tree.next_states >= 0
    world = replace(
        tree,
        rewards=torch.where(possible, normal(shape, dice), 0.0),
        reference_logps=log_softmax(normal(shape, dice), tree),
    )
    return Case.of(world, seed), random_policy(world, dice)


class Groups:
    """All groups of K responses, each as one batch's worth of rows, with the probability of each."""

    def __init__(self, case, table, size):
        self.case, self.size, self.table = case, size, table
        every = list(itertools.product(range(len(case.sequences)), repeat=size))
        self.rows = torch.tensor(every).flatten()
        self.groups = torch.arange(len(every)).repeat_interleave(size)
        chances = response_logps(case.sequences, table).exp()
        self.chances = chances[torch.tensor(every)].prod(1)
        self.mask = case.sequences.mask[self.rows]
        own = token_logps(case.sequences, table).logps - case.reference.logps
        self.paid = (case.world.beta * own)[self.rows]
        self.tokens = case.sequences.taken(case.world.rewards)[self.rows]

    def gradient(self, loss, per=None):
        """Return −d/d logits of the expected mean loss of a group; `per` groups are divided by instead of K."""
        logits = torch.where(torch.isinf(self.table), 0.0, self.table).requires_grad_()
        live = token_logps(self.case.sequences, softmax_policy(logits, self.case.world)).select(self.rows)
        sums = torch.zeros(len(self.chances), dtype=torch.float64).index_add(0, self.groups, loss(live))
        value = (sums / (self.size if per is None else per) * self.chances).sum()
        return -torch.autograd.grad(value, logits)[0]

    def of(self, name, advantages, per=None):
        """Return the ascent direction of a row of the table at π = π_old, for advantages [M, T]."""
        old = token_logps(self.case.sequences, self.table).select(self.rows)
        row = LOSSES[name]
        given = {"old_logps": old.logps, "advantages": advantages}
        return self.gradient(lambda live: row.function(live, *(given[one] for one in row.inputs)), per)

    def spread(self, per_response):
        return per_response[:, None] * self.mask


def close(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["reinforce", "rloo"])
def test_leave_one_out_is_the_gradient_of_reward_less_kl(name, size):
    case, table = small()
    groups = Groups(case, table, size)
    whole = leave_one_out((groups.tokens - groups.paid).sum(-1), groups.groups)
    true = exact_gradient(case.world, table)
    close(groups.of(name, groups.spread(whole)), true)
    close(groups.of("dr_grpo", groups.spread(whole) * 1024), true)
    raw = groups.spread((groups.tokens - groups.paid).sum(-1))
    close(groups.of("reinforce", raw), true)  # and without a baseline
    relative = group_relative((groups.tokens - groups.paid).sum(-1), groups.groups, scaled=False)
    close(groups.of(name, groups.spread(relative)), true * (size - 1) / size)


def test_baselines_of_what_is_ahead_are_unbiased():
    """Returns to go less the mean of whole returns, the values of any pair, or any values with λ = 1."""
    case, table = small(1)
    groups = Groups(case, table, 2)
    true = exact_gradient(case.world, table)
    tokens = groups.tokens - groups.paid
    ahead, whole = returns_to_go(tokens, groups.mask), tokens.sum(-1)
    close(groups.of("reinforce", ahead - groups.spread(whole - leave_one_out(whole, groups.groups))), true)
    dense = normal(tuple(case.world.rewards.shape), generator(5))
    pair = case.sequences.taken(dense)[groups.rows]
    total = torch.zeros_like(true)
    for number in range(len(groups.chances)):  # each group a batch of its own
        some = slice(2 * number, 2 * number + 2)
        own = Groups(case, table, 2)
        own.rows, own.mask = groups.rows[some], groups.mask[some]
        own.groups, own.chances = torch.zeros(2, dtype=torch.long), groups.chances[number : number + 1]
        given = (ahead[some], pair[some], groups.tokens[some].sum(-1), own.groups, own.mask)
        total += own.of("reinforce", implicit_baseline(*given))
    close(total, true)
    wrong = PrefixValues(normal((case.world.n_states,), generator(6))[case.sequences.states][groups.rows], groups.mask)
    close(groups.of("reinforce", gae(tokens, wrong)[0]), true)


def test_generalised_advantages_against_enumeration():
    """λ = 0 with the true values is Q − V of one step; the gradient is exact for every λ, and not with other values."""
    case, table = small(2)
    groups = Groups(case, table, 2)
    true = exact_gradient(case.world, table)
    tokens, values = groups.tokens - groups.paid, evaluate(case.world, table)
    price = case.world.beta * (table - case.world.reference_logps)
    steps = case.world.rewards - price + case.world.at(values) - values[:, None]
    held = PrefixValues(values[case.sequences.states][groups.rows] * groups.mask, groups.mask)
    one, _ = gae(tokens, held, lam=0.0)
    close(one, case.sequences.taken(steps)[groups.rows] * groups.mask)
    for lam in (0.0, 0.3, 1.0):
        close(groups.of("reinforce", gae(tokens, held, lam=lam)[0]), true)
    wrong = PrefixValues(held.values + case.sequences.visited(values.square())[:, :-1][groups.rows], groups.mask)
    assert (groups.of("reinforce", gae(tokens, wrong, lam=0.3)[0]) - true).abs().max() > 0.01


def scores(case, table):
    """Return [N, T, S, V] ∇log π of each own token, from softmax's own derivative."""
    sequences, vocab = case.sequences, case.world.vocab_size
    found = torch.zeros(*sequences.states.shape, case.world.n_states, vocab, dtype=torch.float64)
    for n, t in torch.nonzero(sequences.mask).tolist():
        state, token = int(sequences.states[n, t]), int(sequences.tokens[n, t])
        found[n, t, state] = -table[state].exp()
        found[n, t, state, token] += 1
    return found


BIAS = {
    # name: cosine with the gradient of E[R], and size beside it, for GRPO's advantages in the world of seed 3
    **dict.fromkeys(("reinforce", "rloo"), (0.953, 0.824)),
    "dr_grpo": (0.953, 0.824 / 1024),
    **dict.fromkeys(("grpo", "gspo"), (0.899, 0.617)),
    **dict.fromkeys(("ppo", "dapo", "cispo"), (0.933, 0.491)),
}
AVERAGES = {
    # name: what a group's sum of token gradients is divided by, given each response's length and the group's tokens
    "grpo": lambda length, tokens: 2 * length,
    "gspo": lambda length, tokens: 2 * length,
    "dr_grpo": lambda length, tokens: 2 * 1024,
    "ppo": lambda length, tokens: tokens,
    "dapo": lambda length, tokens: tokens,
    "cispo": lambda length, tokens: tokens,
    "rloo": lambda length, tokens: 2,
    "reinforce": lambda length, tokens: 2,
}


@pytest.mark.parametrize("name", AVERAGES)
def test_every_row_is_its_enumerated_expectation(name):
    """Groups of two with GRPO's scaled advantages ±1/√2, summed response by response; and how far off that is."""
    case, table = small(3)
    groups = Groups(case, table, 2)
    whole = (case.sequences.taken(case.world.rewards)).sum(-1)
    per_token = LOSSES[name].unit == "actions"
    lengths = case.sequences.mask.sum(-1)
    tokens = lengths[groups.rows].reshape(-1, 2).sum(-1)
    relative = groups.spread(group_relative(whole[groups.rows], groups.groups))
    got = groups.of(name, relative, tokens if per_token else None)
    chances, own = response_logps(case.sequences, table).exp(), scores(case, table)
    want = torch.zeros_like(got)
    for i, j in itertools.product(range(len(whole)), repeat=2):
        gap = float(whole[i] - whole[j]) / 2
        advantage = gap / (abs(gap) * 2**0.5 + 1e-4)
        for response, sign in ((i, 1), (j, -1)):
            by = AVERAGES[name](int(lengths[response]), int(lengths[i] + lengths[j]))
            want += chances[i] * chances[j] * sign * advantage / by * own[response].sum(0)
    close(got, want)
    true = exact_gradient(replace(case.world, beta=1e-12), table)
    cosine, size = float((want * true).sum() / want.norm() / true.norm()), float(want.norm() / true.norm())
    assert (cosine, size) == (pytest.approx(BIAS[name][0], abs=5e-4), pytest.approx(BIAS[name][1], rel=1e-3))


def test_unbiased_rows_converge_to_the_optimum():
    """Population updates of REINFORCE with leave-one-out, by plain ascent, end where backward induction says."""
    case, _ = small(4, beta=1.0)
    table = case.world.reference_logps
    groups = Groups(case, table, 2)
    optimum, step = solve(case.world), 2.0
    for _ in range(400):
        groups.table = table
        groups.chances = response_logps(case.sequences, table).exp()[groups.rows].reshape(-1, 2).prod(1)
        own = token_logps(case.sequences, table).logps - case.reference.logps
        whole = (groups.tokens - case.world.beta * own[groups.rows]).sum(-1)
        slope = groups.of("reinforce", groups.spread(leave_one_out(whole, groups.groups)))
        table = softmax_policy(torch.where(torch.isinf(table), 0.0, table) + step * slope, case.world)
    regret = optimum.values[0] - evaluate(case.world, table)[0]
    assert regret < 1e-6
    assert (response_logps(case.sequences, table) - response_logps(case.sequences, optimum.logps)).abs().max() < 1e-2


def test_a_baseline_by_turn_index_is_biased():
    """Stop (p) or go; going earns c now and costs c in the second turn, so every policy is worth 0.

    A mean for each turn, over the responses that have it, says c p(1 − p) all the same.
    """
    p, c = 0.3, 0.5
    rewards = torch.tensor([[0.0, 0.0], [c, -c]], dtype=torch.float64)  # stop, go
    mask = torch.tensor([[True, False], [True, True]])
    chances = torch.tensor([p, 1 - p], dtype=torch.float64)
    score = torch.tensor([-(1 - p), p], dtype=torch.float64)  # of the logit of going
    means = (chances[:, None] * rewards * mask).sum(0) / (chances[:, None] * mask).sum(0)
    by_index = returns_to_go((rewards - means) * mask, mask)[:, 0]
    assert (chances * by_index * score).sum().item() == pytest.approx(c * p * (1 - p), abs=1e-12)
    assert returns_to_go(rewards, mask)[:, 0].tolist() == [0, 0]
    turns, groups = torch.tensor([[0, 0], [0, 1]]), torch.zeros(2, dtype=torch.long)
    assert by_turn(rewards, turns, groups, mask)[:, 0].tolist() == [0, 0]


def test_which_estimate_of_kl_is_unbiased_for_what():
    """The value by k1 and k3; the gradient by k1 in the reward, and by k2 as a loss where a response is one token.

    As losses, k1 has none and k3 has that of KL(π_ref‖π); in the reward k2 and k3 miss their own slope. Over several
    tokens k2 as a loss leaves out what a token does to the states that follow.
    """
    for horizon in (1, 2):
        case, table = small(5, beta=1.0, vocab_size=4, horizon=horizon)
        world = replace(case.world, rewards=torch.zeros_like(case.world.rewards))
        groups = Groups(case, table, 1)
        live = token_logps(case.sequences, table).select(groups.rows)
        reference = case.reference.select(groups.rows)
        divergence = -float(evaluate(world, table)[0])
        true = -exact_gradient(world, table)  # of KL, downhill for J
        value, as_loss, as_reward = {}, {}, {}
        for name in ("k1", "k2", "k3"):
            estimate = kl_estimates(live.logps, reference.logps, name) * groups.mask
            value[name] = float((estimate.sum(-1) * groups.chances).sum())
            row = LOSSES[f"kl_{name}"]
            as_loss[name] = -groups.gradient(partial(row.function, reference=reference))
            as_reward[name] = groups.of("reinforce", groups.spread(estimate.sum(-1)))
        assert (value["k1"], value["k3"]) == (pytest.approx(divergence), pytest.approx(divergence))
        assert abs(value["k2"] - divergence) > 0.01
        close(as_reward["k1"], true)
        assert min((as_reward[name] - true).abs().max() for name in ("k2", "k3")) > 0.01
        close(as_loss["k1"], torch.zeros_like(true))
        if horizon == 1:
            close(as_loss["k2"], true)
            close(as_loss["k3"][0], table[0].exp() - world.reference_logps[0].exp())  # ∇ KL(π_ref‖π)
        else:
            close(-groups.gradient(partial(_squares_of_whole_responses, reference)), true)
            assert (as_loss["k2"] - true).abs().max() > 0.01


def _squares_of_whole_responses(reference, own):
    return (own.sums() - reference.sums()).square() / 2


def test_support_that_a_writer_cuts_is_lost_whatever_the_weights():
    """A bandit of 8, top-p 0.9 as writer: population updates end a tenth of the gain short; uncut they do not."""
    case, _ = small(6, beta=0.3, vocab_size=8, horizon=1)
    gain = float(solve(case.world).values[0] - evaluate(case.world, case.world.reference_logps)[0])
    assert _regret(case, 1.0, "none") / gain < 3e-3
    lost = [_regret(case, 0.9, kind) / gain for kind in ("none", "token")]
    assert lost == pytest.approx([0.100, 0.109], abs=1e-3)


def _regret(case, top_p, kind):
    world, sequences = case.world, case.sequences
    table = world.reference_logps
    for _ in range(200):
        logps = token_logps(sequences, table)
        sums = logps.sums()
        order = sums.argsort(descending=True)
        kept = torch.zeros(len(sums), dtype=torch.bool)
        kept[order[sums[order].exp().cumsum(0) - sums[order].exp() < top_p]] = True
        writer = torch.where(kept, sums - sums[kept].logsumexp(0), -torch.inf)
        rows = torch.nonzero(kept).squeeze(1)
        own = logps.select(rows)
        weights = torch.ones_like(own.logps)
        if kind != "none":
            weights = importance_weights(own.logps, writer[rows, None], own.mask, kind, 10.0)
        worth = case.returns[rows] - world.beta * (own.sums() - case.reference.sums()[rows])
        baseline = (writer[rows].exp() * worth).sum()
        logits = torch.where(torch.isinf(table), 0.0, table).requires_grad_()
        live = token_logps(sequences, softmax_policy(logits, world)).select(rows)
        losses = LOSSES["reinforce"].function(live, weights * (worth - baseline)[:, None])
        (slope,) = torch.autograd.grad((writer[rows].exp() * losses).sum(), logits)
        table = softmax_policy(logits.detach() - 5.0 * slope, world)
    return float(solve(world).values[0] - evaluate(world, table)[0])


def test_noise_in_closed_form_is_that_of_all_groups():
    """Variance of the mean of K = 3 responses: every group, weighted, against the sums over pairs."""
    case, table = small(7)
    groups = Groups(case, table, 3)
    whole = case.returns - case.world.beta * (token_logps(case.sequences, table).sums() - case.reference.sums())
    own = scores(case, table)
    held = groups.spread(leave_one_out(whole[groups.rows], groups.groups))
    each = (held[:, :, None, None] * own[groups.rows]).sum(1).reshape(len(groups.chances), 3, -1).mean(1)
    mean = groups.chances @ each
    variance = float(groups.chances @ (each - mean).square().sum(-1))
    got = moments(
        case.sequences,
        table,
        lambda rows, places: leave_one_out(whole[rows], places)[:, None] * case.sequences.mask[rows],
        3,
    )
    close(got.mean.flatten(), mean)
    assert got.noise == pytest.approx(variance**0.5, rel=1e-10)


def test_a_stage_has_the_reward_less_the_price_of_kl():
    case, _ = small(8)
    at = stage(case, 0.5)
    value = (response_logps(case.sequences, at.logps).exp() * at.tokens.sum(-1)).sum()
    assert value.item() == pytest.approx(evaluate(case.world, at.logps)[0].item(), abs=1e-12)
    assert torch.equal(outcome_rewards(case.returns, at.mask).sum(-1), case.returns)
