"""Policy gradients: numbers and slopes by hand, what padding, holes and order change (nothing), and their metrics."""

import math

import numpy as np
import pytest
import torch
from loss_builders import random_pairs, rows
from torch.autograd import gradcheck

from tokenq.core.losses import LOSSES, alone, find_loss, find_sum
from tokenq.core.losses.inputs import Scene
from tokenq.core.losses.metrics.values import with_explained_variance
from tokenq.core.packing import pack
from tokenq.core.tensors import Outputs, PrefixValues, TokenLogps
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.training.objective import Objective, averages

WRITTEN = [name for name, row in LOSSES.items() if row.inputs == ("old_logps", "advantages")]
ROLLOUTS = [name for name, row in LOSSES.items() if row.unit in ("rollouts", "actions")]
LOG_2 = math.log(2)

# Two tokens, each of probability e^-1 when written: ratios 1.5 and 0.5, advantages 2 and −4.
OLD = rows([-1.0, -1.0])
POLICY = rows([-1.0 + math.log(1.5), -1.0 - LOG_2])
ADVANTAGES = rows([2.0, -4.0]).logps

GOLDEN = {
    # 1.5 · 2 is cut to 1.2 · 2, and 0.5 · −4 to 0.8 · −4: −(2.4 − 3.2).
    "ppo": ({}, 0.8),
    "grpo": ({}, 0.4),
    "dr_grpo": ({"length": 4.0}, 0.2),
    # 1.28 · 2 − 3.2.
    "dapo": ({}, 0.64),
    # ρ = 0.75 and A = −1, cut to 0.8 · −1.
    "rloo": ({}, 0.8),
    # s = √0.75: √0.75 · 2 lies within, √0.75 · −4 is cut to 0.9 · −4; their mean.
    "gspo": ({"clip_low": 0.1, "clip_high": 0.1}, (3.6 - math.sqrt(3)) / 2),
    # Weights 1.2 (cut) and 0.5.
    "cispo": ({"cap": 1.2}, -(1.2 * 2 * (-1 + math.log(1.5)) + 0.5 * -4 * (-1 - LOG_2))),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_by_hand(name):
    parameters, value = GOLDEN[name]
    got = find_loss(name, parameters).function(POLICY, OLD.logps, ADVANTAGES)
    assert got.tolist() == pytest.approx([value], abs=1e-12)


def test_the_others_by_hand():
    got = LOSSES["reinforce"].function(POLICY, ADVANTAGES)
    assert got.tolist() == pytest.approx([-(2 * (-1 + math.log(1.5)) - 4 * (-1 - LOG_2))], abs=1e-12)
    values, returns = PrefixValues(rows([0.5, 1.0]).logps, OLD.mask), rows([1.0, -1.0]).logps
    assert LOSSES["value"].function(OLD, values, returns).tolist() == pytest.approx([(0.25 + 4) / 2], abs=1e-12)
    # V may be 0.2 away from 0 and 0.9: 0.2 is further from 1 than 0.5 is, and 1.0 is where it was.
    got = LOSSES["clipped_value"].function(OLD, values, returns, rows([0.0, 0.9]).logps)
    assert got.tolist() == pytest.approx([(0.64 + 4) / 2], abs=1e-12)
    # d = log 2 and −log 2.
    policy, reference = rows([-1.0 + LOG_2, -1.0]), rows([-1.0, -1.0 + LOG_2])
    for name, value in (("kl_k1", 0.0), ("kl_k2", LOG_2**2), ("kl_k3", (0.5 - 1 + LOG_2) + (2 - 1 - LOG_2))):
        assert LOSSES[name].function(policy, reference).tolist() == pytest.approx([value], abs=1e-12)


def slopes(name, ratios, advantages, **parameters):
    """Return the gradient of a loss at the log-probs of one response."""
    logps = rows([-1.0 + math.log(ratio) for ratio in ratios]).logps.clone().requires_grad_()
    mask = torch.arange(4)[None] < len(ratios)
    old = torch.where(mask, -1.0, 0.0).double()
    find_loss(name, parameters).function(TokenLogps(logps, mask), old, rows(advantages).logps).sum().backward()
    return logps.grad[0, : len(ratios)].tolist()


def test_slopes_by_hand():
    """−ρ A of a token, 0 where it is cut: above the range and to be raised, below it and to be lowered."""
    ratios, advantages = [1.1, 1.5, 1.5, 0.5], [2.0, 2.0, -4.0, -4.0]
    by_token = [-2.2, 0.0, 6.0, 0.0]
    assert slopes("ppo", ratios, advantages) == pytest.approx(by_token, abs=1e-12)
    assert slopes("grpo", ratios, advantages) == pytest.approx([one / 4 for one in by_token], abs=1e-12)
    assert slopes("dr_grpo", ratios, advantages, length=8.0) == pytest.approx([one / 8 for one in by_token], abs=1e-12)
    # The weight is no longer than 1.2, and no token is left out.
    assert slopes("cispo", ratios, advantages, cap=1.2) == pytest.approx([-2.2, -2.4, 4.8, 2.0], abs=1e-12)
    # ρ = 1.1 · 0.9 and A = −1, the same for every token of the response.
    assert slopes("rloo", [1.1, 0.9], [1.0, -3.0]) == pytest.approx([0.99, 0.99], abs=1e-12)
    assert slopes("rloo", [1.5, 1.0], [2.0, 2.0]) == [0.0, 0.0]
    # s = √0.99: −s A of each token, over 2; and 0 for the token that is to be raised where s is above its range.
    s = math.sqrt(0.99)
    got = slopes("gspo", [1.1, 0.9], [1.0, -3.0], clip_low=0.1, clip_high=0.1)
    assert got == pytest.approx([-s / 2, 3 * s / 2], abs=1e-12)
    got = slopes("gspo", [2.0, 1.0], [1.0, -3.0], clip_low=0.1, clip_high=0.1)
    assert got == pytest.approx([0.0, 3 * math.sqrt(2) / 2], abs=1e-12)


@pytest.mark.parametrize("name", WRITTEN)
def test_at_the_old_policy_all_are_the_policy_gradient(name):
    """−A of each token by its average: over the step's tokens 1, over the response's ½, over 8 tokens."""
    (first, second) = slopes(name, [1.0, 1.0], [2.0, 2.0], **({"length": 8.0} if name == "dr_grpo" else {}))
    share = {"grpo": 0.5, "gspo": 0.5, "dr_grpo": 0.125}.get(name, 1.0)
    assert (first, second) == (pytest.approx(-2 * share), pytest.approx(-2 * share))
    policy = TokenLogps(OLD.logps.clone().requires_grad_(), OLD.mask)
    LOSSES["reinforce"].function(policy, ADVANTAGES).sum().backward()
    torch.testing.assert_close(policy.logps.grad, -ADVANTAGES)


def case(seed):
    """Return responses of several lengths with holes, what they were written with, and numbers of their tokens."""
    policy, reference = (pairs.chosen for pairs in random_pairs(seed))
    generator = torch.Generator().manual_seed(seed)

    def numbers():
        return torch.randn(5, 6, generator=generator, dtype=torch.float64) * policy.mask

    near = TokenLogps(policy.logps + 0.3 * numbers(), policy.mask)
    columns = {"old_logps": policy.logps} | {name: numbers() for name in ("advantages", "returns", "old_values")}
    return near, reference, columns, PrefixValues(numbers(), policy.mask)


def called(name, policy, reference, columns, values):
    """Return a loss of the table, given all that any of them takes."""
    row = LOSSES[name]
    given = [values if one == "values" else columns[one] for one in row.inputs]
    return row.function(policy, *([reference] if row.reference else []), *given)


@pytest.mark.parametrize("name", ROLLOUTS)
def test_order_padding_and_holes_change_nothing(name):
    near, reference, columns, values = case(1)
    want = called(name, near, reference, columns, values)
    assert want.shape == (5,)
    order = torch.tensor([3, 0, 4, 2, 1])
    moved = {key: column[order] for key, column in columns.items()}
    got = called(name, near.select(order), reference.select(order), moved, values.select(order))
    torch.testing.assert_close(got, want[order], rtol=0, atol=1e-13)

    def wide(numbers, mask=near.mask):
        more = torch.full((5, 3), 3.0, dtype=torch.float64)
        return torch.cat((torch.where(mask, numbers, -5.0), more), 1)

    mask = torch.cat((near.mask, torch.zeros(5, 3, dtype=torch.bool)), 1)
    two = (TokenLogps(wide(side.logps), mask) for side in (near, reference))
    padded = {key: wide(column) for key, column in columns.items()}
    got = called(name, *two, padded, PrefixValues(wide(values.values), mask))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in ROLLOUTS if name not in ("value", "clipped_value", "cispo")])
def test_the_gradient_is_the_finite_difference(name):
    """GSPO-token's only where the tokens of a response have one advantage: a token's weight is that of all."""
    near, reference, columns, values = case(2)
    if name == "gspo":
        columns = columns | {"advantages": columns["advantages"][:, :1].expand(5, 6)}

    def function(logps):
        return called(name, TokenLogps(logps, near.mask), reference, columns, values)

    assert gradcheck(function, [near.logps.clone().requires_grad_()])


@pytest.mark.parametrize("name", ["value", "clipped_value"])
def test_the_gradient_of_the_values_is_theirs_alone(name):
    near, reference, columns, values = case(3)
    logps = near.logps.clone().requires_grad_()

    def function(held):
        return called(name, TokenLogps(logps, near.mask), reference, columns, PrefixValues(held, near.mask))

    held = values.values.clone().requires_grad_()
    assert gradcheck(function, [held])
    assert torch.autograd.grad(function(held).sum(), logps, allow_unused=True) == (None,)


def test_the_weight_of_cispo_has_no_gradient():
    near, _, columns, _ = case(2)
    logps = near.logps.clone().requires_grad_()
    LOSSES["cispo"].function(TokenLogps(logps, near.mask), columns["old_logps"], columns["advantages"]).sum().backward()
    weights = (near.logps - columns["old_logps"]).exp().clamp(max=5.0)
    torch.testing.assert_close(logps.grad, -weights * columns["advantages"] * near.mask)


def test_a_response_without_own_tokens_does_not_divide_by_zero():
    nothing = TokenLogps(torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.bool))
    for name in WRITTEN:
        assert LOSSES[name].function(nothing, nothing.logps, nothing.logps).tolist() == [0.0]


def batch_of(*responses, prompts=2):
    """Return a packed batch of responses, each given by its token columns."""
    made = [
        TokenResponse(
            np.arange(len(columns["old_logps"]), dtype=np.int32),
            np.ones(len(columns["old_logps"]), np.bool_),
            True,
            token_columns={name: np.array(numbers, np.float32) for name, numbers in columns.items()},
        )
        for columns in responses
    ]
    return pack([TokenGroup(np.array([7, 8], np.int32), tuple(made), False, "row 1")])


BATCH = batch_of(
    {"old_logps": [-1.0, -1.0], "advantages": [2.0, -4.0], "returns": [1.0, -1.0]},
    {"old_logps": [-1.0], "advantages": [1.0], "returns": [3.0]},
)
RATIOS = [1.5, 0.5, 1.1]
LOGPS = torch.tensor([-1.0 + math.log(ratio) for ratio in RATIOS], dtype=torch.float64)
REF_LOGPS = LOGPS - torch.tensor([LOG_2, -LOG_2, 0.0], dtype=torch.float64)


def judged(loss, parameters=None, **outputs):
    """Return the value of a loss on `BATCH`, and its metrics."""
    objective = Objective(find_sum(loss, parameters))
    result = objective.judge(Outputs(LOGPS, **outputs), BATCH.actions)
    totals = {name: [float(total), count] for name, (total, count) in result.sums.items()}
    share = objective.share(result, objective.weights(BATCH.actions))
    return share.item(), objective.means(totals)


def test_averages_over_tokens_responses_and_one_length():
    """Losses 0.8 of two tokens and −1.1 of one."""
    assert judged("ppo")[0] == pytest.approx((0.8 - 1.1) / 3)
    assert judged("grpo")[0] == pytest.approx((0.4 - 1.1) / 2)
    assert judged("dr_grpo", {"length": 4.0})[0] == pytest.approx((0.8 - 1.1) / 4 / 2)
    both, means = judged("grpo+0.04*kl_k3", ref_logps=REF_LOGPS)
    assert both == pytest.approx((0.4 - 1.1) / 2 + 0.04 * 0.5 / 3)
    assert (means["loss"], means["loss/kl_k3"]) == (pytest.approx(both), pytest.approx(0.5 / 3))


def test_metrics_by_hand():
    """Ratios 1.5 and 0.5 are cut of three tokens; k3 of old to new: e^d − 1 − d with d = log ρ."""
    _, means = judged("ppo", ref_logps=REF_LOGPS)
    logs = [math.log(ratio) for ratio in RATIOS]
    want = {
        "entropy": 1 - sum(logs) / 3,
        "ratio": 3.1 / 3,
        "kl_old/k1": -sum(logs) / 3,
        "kl_old/k2": sum(one**2 / 2 for one in logs) / 3,
        "kl_old/k3": (3.1 - 3 - sum(logs)) / 3,
        "clip_ratio/low_mean": 1 / 3,
        "clip_ratio/high_mean": 1 / 3,
        "clip_ratio/region_mean": 2 / 3,
        "response_length": 1.5,
    }
    assert {name: means[name] for name in want} == pytest.approx(want)
    assert (means["kl"], means["kl/k1"], means["kl/k2"], means["kl/k3"]) == pytest.approx((0, 0, LOG_2**2 / 3, 0.5 / 3))
    wide = judged("ppo", {"clip_low": 0.6, "clip_high": 0.45})[1]
    assert (wide["clip_ratio/low_mean"], wide["clip_ratio/high_mean"]) == pytest.approx((0, 1 / 3))
    # Whole responses: 0.75 with A −1 is cut, 1.1 with A 1 is not; by the token √0.75 cuts one of two tokens.
    assert judged("rloo")[1]["clip_ratio/low_mean"] == pytest.approx(0.5)
    gspo = judged("gspo", {"clip_low": 0.1, "clip_high": 0.05})[1]
    assert (gspo["clip_ratio/low_mean"], gspo["clip_ratio/high_mean"]) == pytest.approx((0.25, 0.5))
    assert judged("cispo", {"cap": 1.2})[1]["cispo_clip_ratio"] == pytest.approx(1 / 3)
    assert "clip_ratio/low_mean" not in judged("reinforce")[1]


def test_metrics_of_the_values():
    """V 0, 0 and 1 for returns 1, −1 and 3: errors 1, −1 and 2, of variance 14/9; the returns' own is 24/9."""
    values = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    both, means = judged("ppo+0.5*value", values=values)
    assert both == pytest.approx((0.8 - 1.1) / 3 + 0.5 * 3 / 3)
    assert (means["values/loss"], means["values/mean"]) == pytest.approx((1.0, 1 / 3))
    assert means["values/explained_variance"] == pytest.approx(1 - 14 / 24)
    assert with_explained_variance({"loss": 1.0}) == {"loss": 1.0}


def test_rows_and_sums():
    found = find_sum("ppo+0.5*value+0.04*kl_k3", {"clip_high": 0.3, "values": "prompt"})
    assert (found.unit.name, found.selection, found.reference, found.networks) == (
        "actions",
        "rollouts",
        True,
        ("values",),
    )
    assert found.parameters() == {"ppo.clip_low": 0.2, "ppo.clip_high": 0.3, "value.values": "prompt"}
    assert find_sum("grpo+0.04*kl_k3").unit.name == "rollouts"
    assert find_sum("grpo").networks == ()
    assert find_sum("value").inputs == {"values": "tokens", "returns": "data"}
    assert find_loss("bnpo") == LOSSES["ppo"]
    assert alone(LOSSES["grpo"]).unit.words == "responses with advantages"
    with pytest.raises(UserError, match="adds losses of pairs and of responses with advantages"):
        find_sum("dpo+grpo")
    with pytest.raises(UserError, match="clip_low = 2, but in loss 'ppo' it must be above 0 and at most 1"):
        find_loss("ppo", {"clip_low": 2.0})


def test_demonstrations_beside_rollouts_are_those_above_the_baseline():
    objective = Objective(find_sum("grpo+sft"))
    assert objective.weights(BATCH.actions) == [2, 1]  # the second response, of one token
    scene = Scene(BATCH.actions, Outputs(LOGPS))
    assert objective.loss.unit.imitated(scene.actions).tolist() == [1]
    assert averages({"loss": [3.0, 2]}) == {"loss": 1.5}
