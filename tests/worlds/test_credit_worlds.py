"""What the study of dense credit is made of, against numbers by hand."""

import math

import pytest
import torch

from bench.credit_arms import ARMS, CREDIT, TOKENS
from bench.credit_kinds import BETA, KINDS, MOST, worlds
from bench.credit_worlds import course, learn, needed, pair_policy, scene_of
from bench.policy_worlds import roll_out
from tokenq.core.qfunction import implicit_rewards
from tokenq.worlds.draws import generator
from tokenq.worlds.soft_q import solve, token_logps

RIGHT = (1,) * 8


def chances(kind):
    """π_ref of the right token at each place while all was right."""
    states = [kind.world.walk((3, *RIGHT[:place])) for place in range(8)]
    return kind.world.reference_logps[states, 1].exp().tolist()


def test_a_lock_opens_for_one_response_only():
    kind = worlds(KINDS["lock"], 1, 1)
    paid = {
        tuple(row): value for row, value in zip(kind.sequences.tokens.tolist(), kind.rewards[0].tolist(), strict=True)
    }
    assert len(paid) == 256
    assert {row for row, value in paid.items() if value} == {RIGHT}
    opened = math.prod(chances(kind))
    value = BETA * math.log(1 - opened + opened * math.exp(MOST / BETA))
    assert float(solve(kind.world).values[0]) == pytest.approx(value)


def test_a_sum_pays_for_each_right_token():
    kind = worlds(KINDS["sum"], 1, 1)
    for row, value in zip(kind.sequences.tokens.tolist(), kind.rewards[0].tolist(), strict=True):
        assert value == pytest.approx(MOST * row.count(1) / 8)
    value = sum(BETA * math.log(1 - p + p * math.exp(MOST / 8 / BETA)) for p in chances(kind))
    assert float(solve(kind.world).values[0]) == pytest.approx(value)


def test_states_share_a_row_by_place_and_by_whether_all_was_right():
    kind = worlds(KINDS["lock"], 1, 2)
    right, wrong, wrong_too = (int(kind.rows[kind.world.walk((3, *text))]) for text in ((1, 1), (1, 2), (2, 1)))
    other = int(kind.rows[kind.world.walk((4, 1, 1))])
    assert wrong == wrong_too
    assert len({right, wrong, other}) == 3
    assert torch.equal(kind.rewards[0], kind.rewards[1])  # the same world, for another seed
    assert torch.equal(kind.reference[0], kind.reference[1])


@pytest.mark.parametrize(
    ("tokens", "credit"),
    [("outcome", "true step"), ("outcome", "true values"), ("outcome", "pair's values"), ("potential", "to go")],
)
def test_the_optimum_has_no_advantage_to_gain(tokens, credit):
    """What follows a prefix under π*, less its KL, is V* of the prefix in every response: nothing is left to credit."""
    kind, best = worlds(KINDS["sum"], 2, 1), pair_policy(worlds(KINDS["sum"], 2, 1), "optimum")
    table = best.table().detach()
    wrote = roll_out(kind, table, 4, generator(0))
    dense = implicit_rewards(token_logps(kind.sequences, table).select(wrote.rows), wrote.reference, BETA)
    scene = scene_of(kind, table, wrote, dense, torch.zeros(len(kind.logits), dtype=torch.float64))
    found = CREDIT[credit](TOKENS[tokens](scene) - scene.kl, scene)
    assert float(found.abs().max()) < 1e-9
    assert float(CREDIT["response"](scene.outcome, scene).abs().max()) > 0.1  # the outcome alone goes on pushing


def test_responses_until_a_share_is_had():
    """A look is every second update of four responses; the first is before any, and counts as half of one."""
    shares = torch.tensor([[0.2, 0.95, 0.1], [0.95, 0.1, 0.2], [0.99, 0.2, 0.3]])
    assert needed(shares).tolist() == [8.0, 4.0, 24.0]


def test_a_policy_has_all_of_the_gain_at_the_optimum_and_learns_towards_it():
    kind = worlds(KINDS["key"], 1, 2)
    best = course(kind, [kind.world.reference_logps, kind.world.reference_logps, solve(kind.world).logps])
    assert best.objective[:, 0].tolist() == pytest.approx([0.0, 1.0])
    found = course(kind, learn(kind, ARMS["true step"], kind.policy(), 20, 2.0))
    assert float(found.objective[-1].min()) > 0.5
