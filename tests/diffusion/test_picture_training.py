"""Pictures as the training loop sees them: noise that a pair shares, and losses by formulas of other hands."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tokenq.core.losses import find_sum
from tokenq.core.tensors import Outputs
from tokenq.diffusion.batch import Packer, error_term, trajectory_term
from tokenq.diffusion.model import reference_of
from tokenq.diffusion.rows import PictureGroup, PictureResponse
from tokenq.diffusion.sampling import draw, spaced_steps
from tokenq.diffusion.scorer import HybridScorer, PictureScorer, encoder_of, hybrid_reference, picture_reference
from tokenq.diffusion.tiny import tiny_image_model
from tokenq.records.examples import TokenResponse
from tokenq.training.objective import Objective
from tokenq.training.source import Part

SHAPE = (3, 2, 2)
WORDS = ("red", "blue")


@pytest.fixture(scope="module")
def model():
    """A tiny model of 2×2 pictures in float64."""
    found = tiny_image_model(WORDS, shape=SHAPE)
    found.denoiser.double()
    return found


@pytest.fixture
def moved(model):
    """The same after some training, with the model as its reference."""
    reference = reference_of(model)
    own = replace(model, denoiser=reference_of(model).denoiser)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for weight in own.denoiser.parameters():
            weight.requires_grad_().add_(0.02 * torch.randn_like(weight))
    return own, reference


def parts(count, latents, steps, words=False):
    """Return pairs of random pictures, or of trajectories, as a step sees them; the first side has more words."""
    rng = np.random.default_rng(3)

    def response(role, place):
        ids = rng.integers(0, 7, 3 if role == "chosen" else 2).astype(np.int32)
        written = TokenResponse(ids, np.ones(len(ids), bool), True, role) if words else None
        held = latents(2 * place + (role == "rejected"))
        return PictureResponse(held, WORDS[place % 2], steps, role, written)

    def group(place):
        sides = tuple(response(role, place) for role in ("chosen", "rejected"))
        return PictureGroup(WORDS[place % 2], sides, True, f"row {place + 1}", np.array([1, 2], np.int32))

    return [Part(group(place), place, (0, 1)) for place in range(count)]


def pictures(number):
    return np.random.default_rng(number).uniform(-1, 1, (1, *SHAPE))


def test_levels_and_noise_are_shared_in_a_pair_and_are_those_of_the_row_and_the_step(model):
    packer = Packer(model.schedule, error_term(4, "log_snr"), seed=1)
    whole = packer.pictures(parts(3, pictures, 4), 7)
    for pair in range(3):
        assert torch.equal(whole.levels[2 * pair], whole.levels[2 * pair + 1])
        assert torch.equal(whole.noise[2 * pair], whole.noise[2 * pair + 1])
    assert not torch.equal(whole.noise[0], whole.noise[2])
    alone = packer.pictures(parts(3, pictures, 4)[2:], 7)  # in another micro-batch
    assert torch.equal(alone.noise, whole.noise[4:])
    assert torch.equal(alone.levels, whole.levels[4:])
    assert not torch.equal(packer.pictures(parts(3, pictures, 4), 8).noise, whole.noise)
    held_out = [packer.pictures(parts(3, pictures, 4), None).noise for _ in range(2)]
    assert torch.equal(*held_out)
    assert not torch.equal(held_out[0], packer.pictures(parts(3, pictures, 4), 0).noise)
    other = Packer(model.schedule, error_term(4, "log_snr"), seed=2).pictures(parts(3, pictures, 4), 7)
    assert not torch.equal(other.noise, whole.noise)
    assert whole.actions.pairs.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert whole.actions.members[3] == (1, 1)


def judged(policy, reference, batch, loss="dpo", beta=0.1, segments=None):
    found = find_sum(loss, {"beta": beta})
    objective = Objective(found, found.beta, (), segments or {})
    return objective(policy, reference, batch).losses[0]


def errors_of(model, batch, response, draw_):
    """‖x_0 − x̂_0‖² of one drawn level, by the network itself."""
    level, noise = batch.levels[response, draw_], batch.noise[response, draw_].double()
    alpha, sigma = model.schedule.alphas[level], model.schedule.sigmas[level]
    x0 = batch.latents[response, 0].double()
    bags = torch.zeros(1, 3, dtype=torch.float64)
    bags[0, 1 + sorted(WORDS).index(batch.prompts[response])] = 1
    said = model.denoiser((alpha * x0 + sigma * noise)[None], level[None], bags)[0]
    return ((said - x0) ** 2).sum()


def test_dpo_by_errors_is_the_formula_on_paper(moved):
    """−log σ(β (d_w − d_l)), d = Σ_k ½ L |Δλ| (α/σ)² (‖x_0 − x̂_ref‖² − ‖x_0 − x̂‖²) / K at drawn levels.

    |Δλ| is half of the distance between the neighbours of a level; λ is infinite at level 0, which counts nothing.
    """
    own, ref = moved
    term = error_term(2, "log_snr")
    batch = Packer(own.schedule, term, seed=1).pictures(parts(2, pictures, 2), 0)
    batch = replace(batch, latents=batch.latents.double())
    scorer = PictureScorer(own, term, encoder_of(own))
    losses = judged(scorer, picture_reference(ref, term, encoder_of(ref)), batch)
    alphas, sigmas = own.schedule.alphas, own.schedule.sigmas
    lam = [math.inf, *(2 * math.log(a / s) for a, s in zip(alphas[1:].tolist(), sigmas[1:].tolist(), strict=True))]
    last = len(lam) - 1
    for pair in range(2):
        ratios = []
        for response in (2 * pair, 2 * pair + 1):
            total = 0.0
            for k in range(2):
                level = int(batch.levels[response, k])
                low, high = lam[max(level - 1, 1)], lam[min(level + 1, last)]
                weight = 0.5 * last * (low - high) / 2 * float(alphas[level] / sigmas[level]) ** 2
                gained = errors_of(ref, batch, response, k) - errors_of(own, batch, response, k)
                total += weight * gained.item() / 2
            ratios.append(total)
        assert losses[pair].item() == pytest.approx(math.log1p(math.exp(-0.1 * (ratios[0] - ratios[1]))), rel=1e-5)


def test_constant_weights_are_diffusion_dpo_as_its_example_has_it(moved):
    """−log σ(−½ β_mean [(e_w − e_l) − (e_w,ref − e_l,ref)]), e averaged over dimensions: β is β_mean / dimensions."""
    own, ref = moved
    term = error_term(1, "constant")
    batch = Packer(own.schedule, term, seed=1).pictures(parts(2, pictures, 1), 0)
    batch = replace(batch, latents=batch.latents.double())
    reference = picture_reference(ref, term, encoder_of(ref))
    losses = judged(PictureScorer(own, term, encoder_of(own)), reference, batch, beta=50.0 / 12)
    for pair in range(2):
        means = [[errors_of(m, batch, 2 * pair + side, 0) / 12 for side in (0, 1)] for m in (own, ref)]
        inside = -0.5 * 50.0 * ((means[0][0] - means[0][1]) - (means[1][0] - means[1][1]))
        assert losses[pair].item() == pytest.approx(-torch.nn.functional.logsigmoid(inside).item(), rel=1e-6)


class Refiner(nn.Module):
    """A refiner that knows no context: log-probs of 7 tokens."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))

    def forward(self, batch):
        return Outputs(logps=self.scores.log_softmax(0)[batch.targets])


@pytest.fixture
def hybrid(moved):
    """(policy, reference, batch) of two pairs: three and two words, then four steps each."""
    own, ref = moved
    steps = spaced_steps(own.schedule, 4)
    way = draw(ref, ref.encode(["red"] * 4), [1, 1, 2, 2], steps, torch.Generator().manual_seed(0))
    held = way.latents.double().numpy()
    term = trajectory_term(steps)
    batch = Packer(own.schedule, term, 0).hybrid(parts(2, lambda number: held[number], 4, words=True), 0)
    words = Refiner()
    with torch.no_grad():
        words.scores[2] += 0.5
    policy = HybridScorer(words, PictureScorer(own, term, encoder_of(own)))
    start = Refiner().requires_grad_(False)
    images = picture_reference(ref, term, encoder_of(ref))
    return policy, hybrid_reference(lambda some: start(some).logps, images), images, start, batch


def gradients(policy, loss):
    policy.zero_grad()
    loss.sum().backward()
    return [None if one.grad is None else one.grad.clone() for one in policy.parameters()]


def test_words_and_steps_are_one_sequence_in_the_order_of_the_actions(hybrid):
    policy, _, _, _, batch = hybrid
    assert batch.actions.responses.tolist() == [0] * 7 + [1] * 6 + [2] * 7 + [3] * 6
    assert batch.actions.places.tolist() == [*range(7), *range(6), *range(7), *range(6)]
    assert batch.actions.token_columns["segments"].tolist() == ([0] * 3 + [1] * 4 + [0] * 2 + [1] * 4) * 2
    assert batch.actions.shape == (4, 7)
    logps = policy(batch).logps
    words, steps = policy.policy(batch.words).logps, policy.image(batch.pictures).logps
    assert torch.equal(logps[:3], words[:3])
    assert torch.equal(logps[3:7], steps[:4])
    assert torch.equal(logps[7:9], words[3:5])
    assert torch.equal(logps[22:], steps[12:])


def test_equal_strengths_are_dpo_over_the_joined_sequence(hybrid):
    """Eq. 18: −log σ(β h_words + β h_steps), summed here part by part."""
    policy, reference, images, start, batch = hybrid
    plain = judged(policy, reference, batch, beta=0.2)
    both = judged(policy, reference, batch, beta=0.2, segments={"prompt_refiner": 0.2, "image": 0.2})
    assert torch.equal(plain, both)
    words = (policy.policy(batch.words).logps - start(batch.words).logps).split([3, 2, 3, 2])
    steps = (policy.image(batch.pictures).logps - images(batch.pictures)).split([4] * 4)
    ratios = [one.sum() + two.sum() for one, two in zip(words, steps, strict=True)]
    by_hand = torch.stack([torch.log1p(torch.exp(-0.2 * (ratios[i] - ratios[i + 1]))) for i in (0, 2)])
    torch.testing.assert_close(plain, by_hand, rtol=0, atol=1e-10)
    for mine, theirs in zip(gradients(policy, plain), gradients(policy, by_hand), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_a_strength_of_zero_leaves_the_dpo_of_the_other_part_alone(hybrid):
    policy, reference, images, start, batch = hybrid
    joint = judged(policy, reference, batch, segments={"prompt_refiner": 0.1, "image": 0.0})
    alone = judged(policy.policy, lambda some: start(some).logps, batch.words)
    torch.testing.assert_close(joint, alone, rtol=0, atol=1e-12)
    mine, theirs = gradients(policy, joint), gradients(policy, alone)
    torch.testing.assert_close(mine[0], theirs[0], rtol=0, atol=1e-12)
    assert mine[0].abs().max() > 0
    assert all(one is None or not one.any() for one in mine[1:])
    joint = judged(policy, reference, batch, segments={"prompt_refiner": 0.0, "image": 0.1})
    alone = judged(policy.image, images, batch.pictures)
    torch.testing.assert_close(joint, alone, rtol=0, atol=1e-12)
    mine, theirs = gradients(policy, joint), gradients(policy, alone)
    assert not mine[0].any()
    for one, other in zip(mine[1:], theirs[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_densities_are_float32_whatever_a_run_computes_in(model):
    half = tiny_image_model(WORDS, shape=SHAPE)
    half.denoiser.bfloat16()
    steps = trajectory_term(spaced_steps(half.schedule, 2))
    for term, latents in ((error_term(1, "log_snr"), pictures), (steps, ways)):
        batch = Packer(half.schedule, term, 0).pictures(parts(1, latents, term.draws or 2), 0)
        batch = replace(batch, latents=batch.latents.float())
        with torch.autocast("cpu", torch.bfloat16):
            logps = PictureScorer(half, term, encoder_of(half))(batch).logps
        assert logps.dtype == torch.float32


def ways(number):
    return np.random.default_rng(number).normal(size=(3, *SHAPE))


def test_an_image_model_draws_nothing_at_random_in_training(model):
    scorer = PictureScorer(model, error_term(1, "log_snr"), encoder_of(model))
    scorer.denoiser.add_module("dropout", nn.Dropout(0.5))
    scorer.train()
    assert not any(module.training for module in scorer.modules())
    del scorer.denoiser.dropout
