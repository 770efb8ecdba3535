"""Losses and metrics of a micro-batch by hand, and their sums over any partition."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small_runs import random_pairs

from tokenq.core.losses import find_sum
from tokenq.core.packing import pack
from tokenq.core.tensors import Actions, Outputs
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.training.objective import Objective, add_sums, averages

# Two pairs: responses of 2 and 1 tokens, and of 1 and 3.
POLICY = [-1.0, -2.0, -4.0, -2.5, -1.5, -1.0, -1.0]
REFERENCE = [-2.0, -2.0, -3.0, -2.0, -1.5, -2.0, -1.5]


@pytest.fixture
def batch():
    def response(n, role):
        return TokenResponse(np.arange(n, dtype=np.int32), np.ones(n, dtype=bool), True, role)

    def pair(chosen, rejected):
        return TokenGroup(
            np.array([1], dtype=np.int32), (response(chosen, "chosen"), response(rejected, "rejected")), True, "here"
        )

    return pack([pair(2, 1), pair(1, 3)])


def run(loss, batch, reference=REFERENCE):
    objective = Objective(find_sum(loss), beta=0.5)
    policy = torch.tensor(POLICY, dtype=torch.float64, requires_grad=True)
    scorer = None if reference is None else lambda _: torch.tensor(reference)  # float32, as stored
    return objective(lambda _: Outputs(policy), scorer, batch), policy


def means(result):
    totals = {}
    add_sums(totals, result.sums)
    return averages(totals)


def test_the_metrics_of_pairs(batch):
    """Responses and their log-ratios: chosen (−1, −2) : (1, 0), rejected (−4) : (−1); chosen (−2.5) : (−0.5), rejected
    (−1.5, −1, −1) : (0, 1, 0.5). With β = 0.5 the rewards are 0.5, −0.5 and −0.25, 0.75.
    """
    result, _ = run("dpo", batch)
    got = means(result)
    assert got["rewards/chosen"] == pytest.approx((0.5 - 0.25) / 2)
    assert got["rewards/rejected"] == pytest.approx((-0.5 + 0.75) / 2)
    assert got["rewards/margins"] == pytest.approx((1.0 - 1.0) / 2)
    assert got["rewards/accuracies"] == 0.5
    assert got["logps/chosen"] == pytest.approx((-3 - 2.5) / 2)
    assert got["logps/rejected"] == pytest.approx((-4 - 3.5) / 2)
    # −3 > −4 and −2.5 > −3.5. Per token −1.5 > −4, but −2.5 < −3.5 / 3.
    assert got["logps/accuracies"] == 1.0
    assert got["logps/mean_accuracies"] == 0.5
    assert got["response_length/chosen"] == 1.5
    assert got["response_length/rejected"] == 2.0
    # The mean of Σ log π_ref/π over the four responses: −(1 − 1 − 0.5 + 1.5) / 4.
    assert got["kl"] == pytest.approx(-0.25)
    # β of the loss is its own, 0.1: log(1 + e^−0.2) and log(1 + e^0.2).
    assert got["loss"] == pytest.approx((0.5981388693815918 + 0.7981388693815918) / 2)


def test_losses_carry_the_gradient_and_nothing_else_does(batch):
    result, policy = run("dpo", batch)
    assert result.losses[0].shape == (2,)
    assert not result.outputs.logps.requires_grad
    assert not any(value.requires_grad for value, _ in result.sums.values())
    result.losses[0][1].backward()
    assert policy.grad[:3].tolist() == [0, 0, 0]
    assert policy.grad[3].item() < 0 < policy.grad[4].item()
    assert torch.equal(result.outputs.ref_logps.double(), torch.tensor(REFERENCE, dtype=torch.float64))


def test_the_metrics_of_demonstrations(batch):
    result, _ = run("sft", batch, reference=None)
    got = means(result)
    assert result.losses[0].tolist() == [3.0, 4.0, 2.5, 3.5]
    assert got["loss"] == pytest.approx(13.0 / 7)
    assert got["logps/responses"] == pytest.approx(-3.25)
    assert got["response_length"] == pytest.approx(7 / 4)
    assert result.outputs.ref_logps is None


def test_the_weight_of_a_batch(batch):
    assert Objective(find_sum("dpo"), 0.1).weights(batch.actions) == [2]
    assert Objective(find_sum("sft"), 0.1).weights(batch.actions) == [7]


@dataclass(frozen=True)
class Pictures:
    """What a scorer of pictures might be fed: no row of tokens, one action a picture."""

    pixels: torch.Tensor
    actions: Actions


def test_a_batch_of_anything_is_judged():
    """Log-ratios 1 and ½ of the first pair, −1 and −½ of the second: h = ½ and −½, times β = ½."""
    actions = Actions(
        responses=torch.arange(4),
        places=torch.zeros(4, dtype=torch.long),
        shape=(4, 1),
        roles=("chosen", "rejected") * 2,
        pairs=torch.tensor([[0, 1], [2, 3]]),
        members=((0, 0), (0, 1), (1, 0), (1, 1)),
        origins=("first", "first", "second", "second"),
        token_columns={"ref_logps": torch.tensor([-2.0, -3.0, -1.0, -1.0])},
        response_columns={},
    )
    pixels = torch.tensor([[-0.5, -0.5], [-2.0, -0.5], [-1.0, -1.0], [-1.0, -0.5]], requires_grad=True)
    objective = Objective(find_sum("dpo", {"beta": 0.5}), 0.5)
    result = objective(lambda batch: Outputs(batch.pixels.sum(1)), None, Pictures(pixels, actions))
    wanted = [math.log1p(math.exp(-0.25)), math.log1p(math.exp(0.25))]
    assert result.losses[0].tolist() == pytest.approx(wanted, abs=1e-6)
    assert means(result)["rewards/margins"] == 0.0
    objective.share(result, objective.weights(actions)).backward()
    # ∂/∂log π_w of the first pair: −β σ(−¼)/2.
    assert pixels.grad[0].tolist() == pytest.approx([-0.25 / (1 + math.exp(0.25))] * 2, abs=1e-6)


def test_sums_over_a_partition_are_the_averages_of_the_whole():
    parts = {}
    add_sums(parts, {"loss": (torch.tensor(3.0), 2), "kl": (torch.tensor(5), 4)})
    add_sums(parts, {"loss": (torch.tensor(1.5, dtype=torch.float64), 1), "kl": (torch.tensor(-1), 2)})
    assert parts == {"loss": [4.5, 3], "kl": [4.0, 6]}
    assert averages(parts) == {"loss": 1.5, "kl": pytest.approx(2 / 3)}
    assert averages({"x": [0.0, 0]})["x"] != averages({"x": [0.0, 0]})["x"]  # NaN: nothing was counted


def test_double_precision_is_not_rounded_on_the_way():
    totals = {}
    value = 1 + 1e-12
    add_sums(totals, {"a": (torch.tensor(value, dtype=torch.float64), 1), "n": (torch.tensor(3), 1)})
    assert totals["a"][0] == value


def test_the_reference_is_summed_in_the_type_of_the_policy():
    """A stored reference is float32; its sum over a long response must not depend on how far the batch is padded."""
    groups = random_pairs(40, seed=2)
    objective = Objective(find_sum("dpo"), beta=0.5)

    def score(dtype):
        return lambda batch: (-batch.targets.to(torch.float64) * 0.0123457).to(dtype)

    def losses(groups):
        policy, reference = score(torch.float64), score(torch.float32)
        return objective(lambda batch: Outputs(policy(batch)), reference, pack(groups)).losses[0]

    together = losses(groups)
    apart = [losses([group]) for group in groups]
    torch.testing.assert_close(torch.cat(apart), together, rtol=0, atol=1e-13)
