"""DRO-V as it is trained, both networks at once by Adam, on responses drawn from neither policy nor reference."""

import pytest
import torch

from tokenq.core.losses.dro import dro
from tokenq.core.tensors import PrefixValues
from tokenq.verify.claim import Case, largest
from tokenq.verify.learning import divergence
from tokenq.verify.values import behaviour, every_prefix, prompts_alone
from tokenq.worlds.draws import small
from tokenq.worlds.soft_q import token_logps
from tokenq.worlds.tabular import TabularLM

DRAWS = 3000


def trained(case, mask, noise=0.0, *, valued=True):
    """Return policy and values after 500 steps on 3,000 drawn (prompt, response, reward)."""
    dice = torch.Generator().manual_seed(1)
    chances = behaviour(case)
    rows = torch.multinomial(chances / chances.sum(), DRAWS, replacement=True, generator=dice)
    assert len(rows.unique()) == len(case.sequences)  # the support is covered
    rewards = case.returns[rows] + noise * torch.randn(DRAWS, generator=dice, dtype=torch.float64)
    model = TabularLM(case.world)
    values = torch.zeros(case.world.n_states, dtype=torch.float64, requires_grad=valued)
    parameters = [*model.parameters(), *([values] if valued else [])]
    optimizer = torch.optim.Adam(parameters, lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    states = case.sequences.states[rows]
    reference = case.reference.select(rows)
    for _ in range(500):
        policy = token_logps(case.sequences, model.table()).select(rows)
        held = PrefixValues(values[states], mask[rows])
        optimizer.zero_grad()
        dro(policy, reference, rewards, held, beta=case.world.beta).mean().backward()
        optimizer.step()
        schedule.step()
    return model.table().detach(), values.detach()


@pytest.mark.integration
@pytest.mark.parametrize("mask_of", [prompts_alone, every_prefix])
def test_policy_and_value_are_recovered_from_drawn_responses(mask_of):
    case = Case.of(small(2), 2)  # V* = 1.23 and 3.81 nats
    assert case.start_values.unique().tolist() == pytest.approx([1.2326, 3.8105], abs=1e-3)
    logps, values = trained(case, mask_of(case))
    assert divergence(case, logps) < 1e-4
    starts = torch.arange(case.world.n_prompts)
    assert largest(values[starts] - case.optimum.values[starts]) < 0.01


@pytest.mark.integration
def test_without_a_value_they_are_not():
    case = Case.of(small(2), 2)
    logps, _ = trained(case, prompts_alone(case), valued=False)
    assert divergence(case, logps) > 0.25


@pytest.mark.integration
def test_noise_in_the_rewards_averages_out():
    """Of mean 0, it moves neither optimum: 3,000 rewards with a standard deviation of 0.5 leave little of it."""
    case = Case.of(small(2), 2)
    logps, values = trained(case, prompts_alone(case), noise=0.5)
    assert divergence(case, logps) < 0.01
    starts = torch.arange(case.world.n_prompts)
    assert largest(values[starts] - case.optimum.values[starts]) < 0.02
