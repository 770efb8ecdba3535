"""Weights of tokens in losses of pairs: numbers by hand, gradients, and weights of 1 that change no bit."""

import math

import numpy as np
import pytest
import torch
from small_runs import groups_for

from tokenq.core.losses import LOSSES, find_sum
from tokenq.core.losses.inputs import Scene
from tokenq.core.packing import pack
from tokenq.core.tensors import Actions, Outputs, TokenLogps
from tokenq.core.token_weights import COLUMN, LIVE, least_confident
from tokenq.jobs.training.token_weights import ESTIMATORS
from tokenq.training.objective import Objective

LOG_2 = math.log(2)

# One pair: chosen of 2 tokens with log-ratios 1 and 1, rejected of 4 with −¼ each (as in tests/core/test_losses.py).
POLICY = [-1.0, -2.0, -1.5, -1.5, -1.5, -1.5]
REFERENCE = [-2.0, -3.0, -1.25, -1.25, -1.25, -1.25]


def softplus(x):
    return math.log(1 + math.exp(x))


def actions(weights):
    return Actions(
        responses=torch.tensor([0, 0, 1, 1, 1, 1]),
        places=torch.tensor([0, 1, 0, 1, 2, 3]),
        shape=(2, 4),
        roles=("chosen", "rejected"),
        pairs=torch.tensor([[0, 1]]),
        members=((0, 0), (0, 1)),
        origins=("here", "here"),
        token_columns={COLUMN: torch.tensor(weights)},
        response_columns={},
    )


def judged(loss, weights, parameters=None, source=COLUMN):
    policy = torch.tensor(POLICY, dtype=torch.float64, requires_grad=True)
    losses = find_sum(loss, parameters if parameters is not None else {"beta": 0.5})
    objective = Objective(losses, losses.beta, token_weights=source)
    return objective.judge(Outputs(policy, torch.tensor(REFERENCE, dtype=torch.float64)), actions(weights)), policy


def test_the_loss_is_that_of_weighted_log_ratios():
    """Chosen tokens weigh 1 and 2: 1 + 2; rejected ½ each: −½; β h = 1.75. What TIS-DPO's own loss gave."""
    result, _ = judged("dpo", [1.0, 2.0, 0.5, 0.5, 0.5, 0.5])
    assert result.losses[0].item() == pytest.approx(softplus(-1.75), abs=1e-12)


def test_gradients_are_in_proportion_to_weights():
    """dL/d log π_t = −σ(−β h) β w_t of the chosen, + of the rejected response."""
    result, policy = judged("dpo", [1.0, 2.0, 0.5, 0.5, 0.0, 0.5])
    result.losses[0].sum().backward()
    slope = 0.5 / (1 + math.exp(0.5 * (3 + 0.375)))
    assert policy.grad.tolist() == pytest.approx([-slope, -2 * slope, *(0.5 * slope,) * 2, 0.0, 0.5 * slope])


def test_gradients_are_true_ones():
    for loss in ("dpo", "simpo", "ipo", "orpo", "r_dpo"):

        def value(policy, loss=loss):
            found = find_sum(loss)
            outputs = Outputs(policy, torch.tensor(REFERENCE, dtype=torch.float64))
            weights = actions([0.5, 2.0, 0.0, 1.0, 3.0, 0.5])
            return Objective(found, found.beta, token_weights=COLUMN).judge(outputs, weights).losses[0]

        assert torch.autograd.gradcheck(value, torch.tensor(POLICY, dtype=torch.float64, requires_grad=True))


def test_a_token_of_weight_0_is_no_part_of_a_mean():
    """SimPO, β 2 and γ ½: chosen −1 alone; rejected −1.5: 2 (−1 + 1.5) − 0.5 = 0.5."""
    result, _ = judged("simpo", [1.0, 0.0, 1.0, 1.0, 0.0, 0.0], {"beta": 2.0, "gamma": 0.5})
    assert result.losses[0].item() == pytest.approx(softplus(-0.5), abs=1e-12)


def test_rewards_and_lengths_are_reported_unweighted():
    result, _ = judged("dpo", [0.0, 2.0, 0.5, 0.5, 0.0, 0.5])
    sums = {name: float(total) / count for name, (total, count) in result.sums.items()}
    assert (sums["rewards/chosen"], sums["rewards/rejected"]) == pytest.approx((1.0, -0.5))
    assert (sums["response_length/chosen"], sums["response_length/rejected"]) == (2, 4)


WEIGHED = [name for name, row in LOSSES.items() if row.has_weights and not {"ref_kls", "overlaps"} & set(row.inputs)]


@pytest.mark.parametrize("loss", WEIGHED)
def test_weights_of_1_change_no_bit(loss):
    groups = [
        group.map(lambda one: one.with_token_column(COLUMN, np.ones(len(one.ids), np.float32)))
        for group in groups_for(loss, 5)
    ]
    batch, generator = pack(groups).actions, torch.Generator().manual_seed(0)
    own, other = (-torch.rand(len(batch.responses), generator=generator) * 3 for _ in range(2))
    found = find_sum(loss)
    outputs = Outputs(own, other if found.reference else None)
    plain, weighted = (
        Objective(found, found.beta, token_weights=source).judge(outputs, batch).losses for source in ("", COLUMN)
    )
    for one, with_weights in zip(plain, weighted, strict=True):
        assert torch.equal(one, with_weights)
    half = {name: numbers / 2 if name == COLUMN else numbers for name, numbers in batch.token_columns.items()}
    halved = Objective(found, found.beta, token_weights=COLUMN).judge(
        outputs, Actions(**{**vars(batch), "token_columns": half})
    )
    assert not torch.equal(plain[0], halved.losses[0])


def test_a_term_of_demonstrations_has_no_weights():
    result, _ = judged("dpo+sft", [0.5, 0.0, 1.0, 1.0, 1.0, 1.0], {})
    assert result.losses[1].sum().item() == pytest.approx(3.0)


def test_which_losses_have_weights():
    assert {name for name, row in LOSSES.items() if row.unit == "pairs" and not row.has_weights} == {
        *("dmpo", "d3po", "bradley_terry", "margin_bradley_terry", "scaled_bradley_terry")
    }


def test_the_least_confident_tokens_count():
    """Probabilities ½, ¼, ¼ of mean ⅓; and of equal ones all."""
    logps = torch.tensor([[-LOG_2, -2 * LOG_2, -2 * LOG_2], [-1.0, -1.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert least_confident(TokenLogps(logps, mask)).tolist() == [[0, 1, 1], [1, 1, 0]]


def test_weights_of_the_policy_itself_have_no_gradient_and_follow_it():
    """Of the chosen tokens e⁻² alone is below the mean: 2 (−2 + 1.5) − 0.5; rejected ones are equal and all count."""
    assert set(LIVE) == {"confidence"}
    result, policy = judged("simpo", [1.0] * 6, {"beta": 2.0, "gamma": 0.5}, "confidence")
    assert result.losses[0].item() == pytest.approx(softplus(1.5), abs=1e-12)
    result.losses[0].sum().backward()
    assert policy.grad[0] == 0
    assert policy.grad[1] < 0


def test_a_scene_without_weights_is_left_alone():
    scene = Scene(actions([1.0] * 6), Outputs(torch.tensor(POLICY), torch.tensor(REFERENCE)))
    assert scene.weighted() is scene


class Totals:
    @staticmethod
    def given(name):
        return 0.0


class FakeTrace:
    """Columns of a trace whose second token the policy did not write."""

    totals = Totals()
    beta = 1.0
    id = "here"

    def __init__(self, logps, references, written):
        columns = {
            "logp": np.array(logps),
            "ref_logp": np.array(references),
            "implicit_reward": np.array(logps) - np.array(references),
        }
        self.tokens = type(
            "Columns",
            (),
            {
                "columns": columns,
                "written": np.array(written),
                "numbers": lambda self, name: columns[name][np.array(written)],
            },
        )()


def test_weights_of_a_contrastive_pair():
    """k exp(±μ clamp(c, −½, 1½)) at μ = 2 and k = 3: e^−1, 1 and e^3 times 3, and turned round in rejected ones."""
    trace = FakeTrace([-9.0, 0.0, 9.0], [0.0, 0.0, 0.0], [True] * 3)
    options = {"mu": 2.0, "scale": 3.0, "low": -0.5, "high": 1.5}
    weigh = ESTIMATORS["contrast"].weigh
    assert weigh(trace, "chosen", options).tolist() == pytest.approx([3 / math.e, 3.0, 3 * math.e**3])
    assert weigh(trace, "rejected", options).tolist() == pytest.approx([3 * math.e, 3.0, 3 / math.e**3])


def test_the_best_tokens_of_chosen_and_the_worst_of_rejected_responses():
    """Rewards 2, (0,) 1, 3, −1: half of four are two; what the policy did not write never counts."""
    trace = FakeTrace([2.0, 0.0, 1.0, 3.0, -1.0], [0.0] * 5, [True, False, True, True, True])
    weigh = ESTIMATORS["implicit_reward"].weigh
    assert weigh(trace, "chosen", {"fraction": 0.5}).tolist() == [1, 0, 0, 1, 0]
    assert weigh(trace, "rejected", {"fraction": 0.5}).tolist() == [0, 0, 1, 0, 1]
    assert weigh(trace, "rejected", {"fraction": 0.01}).tolist() == [0, 0, 0, 0, 1]
