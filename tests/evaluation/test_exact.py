"""What a perfect policy shows in worlds that are solved exactly: by hand, and by other ways to the same numbers."""

from math import log

import numpy as np
import pytest
import torch

from tokenq.figures.exact import _corrupted, _searches, drift_of, exact_credit, exact_drift, exact_search
from tokenq.worlds.draws import dense
from tokenq.worlds.soft_q import response_logps, solve


def test_the_drift_of_two_responses_by_hand():
    """R = (ln 3, 0), π_ref = (1/2, 1/2), β = 1: P(first chosen over second) = 3/4.

    A pair of two draws has the first response chosen with 1/4 + 2 · 1/4 · 3/4 = 5/8. Z = 2, so that the implicit
    rewards are ln 3 − ln 2 and −ln 2. After SFT on chosen responses π_ref = (5/8, 3/8) and Z = 9/4.
    """
    found = drift_of(torch.tensor([log(3), 0.0]), torch.tensor([0.5, 0.5]), 1.0)
    assert found == pytest.approx(
        {
            "chosen, without SFT on chosen": 5 / 8 * log(3) - log(2),
            "rejected, without SFT on chosen": 3 / 8 * log(3) - log(2),
            "both, without SFT on chosen": log(3) / 2 - log(2),
            "−β KL(π_ref‖π), without SFT on chosen": log(3) / 2 - log(2),
            "chosen, after SFT on chosen": 5 / 8 * log(3) - log(9 / 4),
            "rejected, after SFT on chosen": 3 / 8 * log(3) - log(9 / 4),
            "both, after SFT on chosen": log(3) / 2 - log(9 / 4),
            "−β KL(π_ref‖π), after SFT on chosen": 5 / 8 * log(3) - log(9 / 4),
        },
        abs=1e-6,
    )


def test_the_mean_over_worlds_keeps_the_identity_and_falls_more_after_sft_on_chosen():
    rows = {label: estimate.value for label, estimate in exact_drift(range(10)).rows}
    assert rows["both, without SFT on chosen"] == pytest.approx(rows["−β KL(π_ref‖π), without SFT on chosen"])
    assert rows["chosen, after SFT on chosen"] == pytest.approx(rows["−β KL(π_ref‖π), after SFT on chosen"])
    assert rows["chosen, after SFT on chosen"] < rows["chosen, without SFT on chosen"] < 0


@pytest.mark.parametrize("seed", range(5))
def test_sft_on_chosen_lowers_chosen_rewards_by_at_most_beta_ln_2(seed):
    rows = {label: estimate.value for label, estimate in exact_drift([seed]).rows}
    gap = rows["chosen, after SFT on chosen"] - rows["chosen, without SFT on chosen"]
    assert rows["its bound, −β ln 2"] == pytest.approx(-dense(seed).beta * log(2))
    assert rows["its bound, −β ln 2"] < gap < 0
    assert rows["chosen, after − without"] == pytest.approx(gap)


def test_a_corrupted_response_is_the_greedy_one_with_a_worse_token():
    world = dense(1)
    optimum, sequences = solve(world), dense(1).sequences()
    found = _corrupted(world)
    by_response = {}
    for prompt, _ in enumerate(range(world.n_prompts)):
        for row in sequences.of_prompt(prompt).tolist():
            steps = sequences.valid[row]
            own = optimum.logps[sequences.states[row], sequences.tokens[row]][steps]
            by_response[tuple(own.tolist())] = row
    for one in found:
        row = by_response[tuple((-one.scores[:, 2]).tolist())]  # a response of the world, by its log π* at every token
        steps = sequences.valid[row]
        states, tokens = sequences.states[row][steps], sequences.tokens[row][steps]
        ref = world.reference_logps[states, tokens]
        np.testing.assert_allclose(one.scores[:, 3], -ref.numpy())
        np.testing.assert_allclose(one.scores[:, 0], (ref - optimum.logps[states, tokens]).numpy())
        place = int(np.flatnonzero(one.wrong)[0])
        greedy = optimum.logps[states].argmax(-1)
        assert (greedy == tokens).tolist() == [number != place for number in range(len(tokens))]
        q = optimum.optimal_q_values - world.beta * world.reference_logps
        assert q[states[place], tokens[place]] < q[states[place], greedy[place]]
    assert len(found) > 4


def test_credit_is_between_nothing_and_all():
    rows = {label: estimate.value for label, estimate in exact_credit(range(5)).rows}
    assert rows["AUROC, chance"] == 0.5
    assert rows["AUROC, implicit reward"] > rows["AUROC, reference surprisal"]


@pytest.mark.parametrize("seed", range(5))
def test_a_sample_of_the_optimum_earns_its_value_less_its_entropy(seed):
    """E_π*[R + β log π_ref] = V*(s_1) − β H(π*), with the entropy over whole responses."""
    world = dense(seed)
    sequences, optimum = world.sequences(), solve(world)
    logps = response_logps(sequences, optimum.logps)
    expected = [
        float(optimum.values[prompt] + world.beta * (logps[rows].exp() * logps[rows]).sum())
        for prompt in range(world.n_prompts)
        for rows in [sequences.of_prompt(prompt)]
    ]
    found = _searches(world)
    assert found["a sample of π*"][1] == pytest.approx(np.mean(expected))
    assert found["as many beams as responses"][1] == pytest.approx(found["the best response of each"][1])
    assert found["as many beams as responses"][0] <= found["the best response of each"][0] + 1e-12


def test_the_table_of_searches_has_a_row_for_every_width():
    table = exact_search(range(3))
    assert [row[0] for row in table.rows] == [
        "a sample of π*",
        *(f"beams, width {width}" for width in (1, 2, 3, 5)),
        "as many beams as responses",
        "the best response of each",
    ]
    assert "3 random worlds" in table.note
