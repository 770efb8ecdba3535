"""The tabular model behind the protocols: packing, losses, stepping, fitting."""

import numpy as np
import pytest
import torch

from tokenq.core.packing import pack
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.worlds import draws
from tokenq.worlds.mdp import EOS
from tokenq.worlds.soft_q import kl, response_logps, returns, sample_pairs, solve, token_logps
from tokenq.worlds.tabular import TabularLM, TabularStepper, fit


def token_pairs(world, sequences, pairs):
    """Return (chosen, rejected) responses as token groups."""

    def response(row, role):
        kept = sequences.valid[row]
        ids = sequences.tokens[row][kept].numpy().astype(np.int32)
        return TokenResponse(ids, sequences.mask[row][kept].numpy(), bool(ids[-1] == EOS), role)

    return [
        TokenGroup(
            np.array(world.prompt_ids(int(sequences.prompts[chosen])), dtype=np.int32),
            (response(chosen, "chosen"), response(rejected, "rejected")),
            is_pair=True,
            where=f"world, pair {number}",
        )
        for number, (chosen, rejected) in enumerate(pairs.tolist(), 1)
    ]


KINDS = ["dense reward", "stochastic environment", "deterministic environment", "reward by step"]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_are_scored_as_the_table_says(kind):
    """Through `pack`, as a network is: log-probs and masks of both responses, the environment's tokens left out."""
    world = draws.KINDS[kind](1)
    sequences = world.sequences()
    model = TabularLM(world, draws.random_policy(world, draws.generator(2)))
    pairs = sample_pairs(world, sequences, 40, draws.generator(3))
    batch = pack(token_pairs(world, sequences, pairs))
    scored = batch.actions.pad(model(batch)).pairs(batch.actions.pairs)
    expected = token_logps(sequences, model.table()).pairs(pairs)
    for ours, theirs in ((scored.chosen, expected.chosen), (scored.rejected, expected.rejected)):
        width = ours.logps.shape[1]
        assert torch.equal(ours.mask, theirs.mask[:, :width])
        assert torch.equal(ours.logps, theirs.logps[:, :width])
        assert not theirs.mask[:, width:].any()


def test_rows_of_another_world_are_refused():
    world, other = draws.dense(0), draws.dense(1)
    sequences = other.sequences()
    batch = pack(token_pairs(other, sequences, sample_pairs(other, sequences, 40, draws.generator(0))))
    with pytest.raises(UserError, match=r"prompt of this world|No state of this world"):
        TabularLM(world)(batch)


@pytest.mark.parametrize("kind", ["dense reward", "reward by step"])
def test_stepping_along_all_branches_gives_every_response_its_log_prob(kind):
    """Full width: every branch is followed to its end; sums of steps are the log-probs of whole responses."""
    world = draws.KINDS[kind](0)
    sequences, logps = world.sequences(), solve(world).logps
    stepper = TabularStepper(world, logps, world.reference_logps)
    frontier = stepper.start([world.prompt_ids(0)])
    totals, texts, ended = torch.zeros(1, dtype=torch.float64), [()], {}
    for _ in range(world.horizon):
        parents, tokens = torch.nonzero(torch.isfinite(frontier.logps), as_tuple=True)
        totals = totals[parents] + frontier.logps[parents, tokens]
        texts = [(*texts[p], t) for p, t in zip(parents.tolist(), tokens.tolist(), strict=True)]
        frontier = stepper.step(frontier.state, parents, tokens)
        over = [t[-1] == EOS or len(t) == world.horizon for t in texts]
        ended |= {t: float(total) for t, total, end in zip(texts, totals, over, strict=True) if end}
    expected = response_logps(sequences, logps)
    rows = sequences.of_prompt(0).tolist()
    assert len(ended) == len(rows)
    for row in rows:
        tokens = tuple(sequences.tokens[row][sequences.valid[row]].tolist())
        assert ended[tokens] == pytest.approx(float(expected[row]), abs=1e-14)


def test_a_stepper_without_reference_gives_none():
    world = draws.dense(0)
    assert TabularStepper(world, world.reference_logps).start([world.prompt_ids(1)]).ref_logps is None


def test_reference_and_policy_stand_in_the_same_state():
    world = draws.dense(0)
    stepper = TabularStepper(world, solve(world).logps, world.reference_logps)
    frontier = stepper.step(
        stepper.start([world.prompt_ids(p) for p in (0, 1)]).state, torch.tensor([1, 1]), torch.tensor([1, 2])
    )
    states = [world.walk((*world.prompt_ids(1), token)) for token in (1, 2)]
    assert torch.equal(frontier.ref_logps, world.reference_logps[states])
    assert torch.equal(frontier.logps, solve(world).logps[states])


@pytest.mark.parametrize("start", [0, 1])
def test_fitting_finds_the_optimum_from_anywhere(start):
    """One pair of responses (stop at once, or not) in a world of one step: π(a)/π(b) = π_ref(a)/π_ref(b) exp(ΔR/β)."""
    world = draws.small(1)
    sequences = world.sequences()
    scores = returns(world, sequences)
    pairs = torch.tensor([[0, 1], [1, 0]])
    weights = torch.sigmoid((scores[0] - scores[1]) * torch.tensor([1.0, -1.0]))
    model = TabularLM(world, draws.random_policy(world, draws.generator(start)))
    learnt = response_logps(sequences, fit(model, sequences, pairs, weights))
    ratio = response_logps(sequences, world.reference_logps)
    found = world.beta * ((learnt - ratio)[0] - (learnt - ratio)[1])
    assert float(found) == pytest.approx(float(scores[0] - scores[1]), abs=1e-6)


def test_the_table_starts_at_the_reference():
    world = draws.stochastic_environment(0)
    sequences = world.sequences()
    table = TabularLM(world).table().detach()
    assert float(kl(sequences, world.reference_logps, table, 0)) == pytest.approx(0.0, abs=1e-15)
