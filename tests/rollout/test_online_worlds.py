"""Rounds in worlds whose answer is known: the package's own writer, pairing and loss, labels by Bradley-Terry."""

from collections import Counter

import numpy as np
import pytest
import torch

from tokenq.rollout.pairing import PAIRINGS, Candidates
from tokenq.rollout.writer import LocalWriter
from tokenq.search.branches import Limits
from tokenq.search.settings import Sampling
from tokenq.worlds.draws import small
from tokenq.worlds.mdp import EOS
from tokenq.worlds.soft_q import kl, returns, solve
from tokenq.worlds.tabular import TabularLM, TabularStepper, fit


def comparisons(world, sequences, logps, count, seed):
    """Return how often each pair (chosen, rejected) came up, as indices of responses, among so many a prompt."""
    place = {
        (int(sequences.prompts[row]), *sequences.tokens[row][sequences.valid[row]].tolist()): row
        for row in range(len(sequences))
    }
    true, found = returns(world, sequences), Counter()
    prompts = [world.prompt_ids(prompt) for prompt in range(world.n_prompts)]
    writer = LocalWriter(lambda: TabularStepper(world, logps), Limits((EOS,), world.horizon))
    for prompt, samples in enumerate(writer.write(prompts, 2 * count, Sampling(), seed)):
        rows = [place[(prompt, *one.token_ids)] for one in samples]
        one = Candidates(true[rows].numpy(), np.ones(len(rows), int), [sample.token_ids for sample in samples])
        (pairs,) = PAIRINGS["bradley_terry"].pairs([one], np.random.default_rng([seed, prompt])).pairs
        found.update((rows[chosen], rows[rejected]) for chosen, rejected in pairs)
    return found


def learnt(world, rounds, count):
    """Return KL(π*‖π) of the worst prompt after each round of DPO on all comparisons so far, the reference fixed."""
    sequences, optimum = world.sequences(), solve(world).logps
    policy, seen, found = world.reference_logps, Counter(), []
    for number in range(rounds):
        seen.update(comparisons(world, sequences, policy, count, number))
        pairs, counts = torch.tensor(list(seen)), torch.tensor(list(seen.values()), dtype=torch.float64)
        policy = fit(TabularLM(world, policy), sequences, pairs, counts / counts.sum())
        found.append(max(float(kl(sequences, optimum, policy, prompt)) for prompt in range(world.n_prompts)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "count"), [(0, 12_000), (1, 36_000), (2, 12_000)])
def test_rounds_of_drawn_comparisons_reach_the_optimum(seed, count):
    """KL(π*‖π) < 1e-3 after 4 rounds of so many comparisons a prompt."""
    found = learnt(small(seed), rounds=4, count=count)
    assert found[-1] < 1e-3
    assert found[-1] < found[0]


@pytest.mark.integration
def test_rounds_of_drawn_comparisons_go_towards_the_optimum():
    """A tenth of it: the reference is 0.8 nats away from π*, rounds of 1,000 comparisons a prompt end within 0.02."""
    world = small(0)
    sequences, optimum = world.sequences(), solve(world).logps
    assert max(float(kl(sequences, optimum, world.reference_logps, prompt)) for prompt in (0, 1)) > 0.8
    assert learnt(world, rounds=2, count=1_000)[-1] < 0.02
