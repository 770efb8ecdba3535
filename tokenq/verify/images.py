"""Claims about words and pictures as one decision process: the reward that log-ratios hold, and what DPO finds.

Hybrid worlds stand behind the words of a case, Gaussian worlds and mixtures beside it; all are drawn by its seed.
"""

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from tokenq.diffusion.errors import level_weights
from tokenq.diffusion.schedule import Schedule
from tokenq.verify.claim import PAPER, Case, Claim, broken, largest
from tokenq.worlds import gaussian, hybrid, mixture
from tokenq.worlds import hybrid_learning as learning
from tokenq.worlds.draws import normal
from tokenq.worlds.hybrid import Drawings, HybridOptimum, HybridWorld

CHAINS = ((1, 1.0), (2, 0.7), (4, 1.0), (4, 0.3))
"""Steps, and the share of a step that moves: with few steps, or steps that stay, more is left of the noise."""

GAMMA = 0.3


def noise(states: int) -> Tensor:
    """Return the probability of each noise: all alike."""
    return torch.full((states,), 1 / states, dtype=torch.float64)


def _chains(case: Case, states: int = 5, steps: int = 2, share: float = 0.7) -> HybridWorld:
    return hybrid.random_chains(case.world, case.dice(), noise(states), steps, gamma=GAMMA, share=share)


def _unexplained(world: HybridWorld, optimum: HybridOptimum, drawings: Drawings) -> Tensor:
    """[D] r − (β Σ log π*/π_ref + γ Σ log p*/p_ref + V(x)) of each episode: what Eq. 17 as printed leaves over."""
    best = learning.action_logps(world, drawings, optimum.words.logps, optimum.step_logps)
    before = learning.action_logps(world, drawings, world.words.reference_logps, world.step_logps)
    explained = world.words.beta * (best.sums() - before.sums())
    starts = optimum.words.values[world.sequences.prompts[drawings.responses]]
    return world.rewards[drawings.responses, drawings.path[:, -1]] - explained - starts


def _enumerated_luck(world: HybridWorld) -> Tensor:
    """[N, K] V_y(y_T, z) − E V_y(·, z) with V_y = γ log E_ref[exp(r/γ) | y_T, z], by products of matrices."""
    through = world.step_logps.exp()
    whole = through[:, 0]
    for step in range(1, world.n_steps):
        whole = whole @ through[:, step]
    values = world.gamma * (whole @ (world.rewards / world.gamma).exp()[..., None]).squeeze(-1).log()
    return values - (values @ world.noise_logps.exp())[:, None]


def _left_over(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Return, for each of four chains, [D] what Eq. 17 as printed leaves over of each episode, and its noise's luck."""
    found = []
    for steps, share in CHAINS:
        world = _chains(case, steps=steps, share=share)
        drawings = world.drawings()
        luck = _enumerated_luck(world)[drawings.responses, drawings.path[:, 0]]
        found.append((_unexplained(world, hybrid.solve(world), drawings), luck))
    return found


def reward_with_noise(case: Case) -> float:
    """Return r − (β Σ log π*/π_ref + γ Σ log p*/p_ref + V(x) + V_y(y_T, z) − E V_y(·, z)), episodes of four chains."""
    return largest(*(left - luck for left, luck in _left_over(case)))


def reward_as_printed(case: Case) -> float:
    """The same without V_y(y_T, z) − E V_y(·, z), as Eq. 17 prints it."""
    return largest(*(left for left, _ in _left_over(case)))


def miss_as_printed(case: Case) -> float:
    """Largest error as printed − largest |V_y(y_T, z) − E V_y(·, z)| of each chain."""
    return largest(*(left.abs().max() - luck.abs().max() for left, luck in _left_over(case)))


def _differences(case: Case, groups: str) -> float:
    """Largest spread of what Eq. 17 as printed leaves over, within groups of episodes."""
    world = _chains(case)
    drawings = world.drawings()
    left = _unexplained(world, hybrid.solve(world), drawings)
    numbers = _groups(world, drawings)[groups]
    return largest(*(left[numbers == group] - left[numbers == group].mean() for group in set(numbers.tolist())))


def _groups(world: HybridWorld, drawings: Drawings) -> dict[str, Tensor]:
    """What the two episodes of a pair have in common, as numbers of groups; the prompt always is (there is one)."""
    starts = drawings.path[:, 0]
    return {
        "words and noise": drawings.responses * len(world.noise_logps) + starts,
        "noise": starts,
        "prompt": torch.zeros_like(starts),
    }


def one_noise_cancels(case: Case) -> float:
    """R − r' − (difference of both log-ratio sums) of two pictures of the same words from the same noise."""
    return _differences(case, "words and noise")


def one_noise_two_prompts(case: Case) -> float:
    """The same of pictures from one noise whose words differ: each words has a luck of its own with it."""
    return _differences(case, "noise")


def _fitted(case: Case, groups: str, less_luck: bool = False, words: bool = True, iterations: int = 300) -> float:
    """KL of whole episodes between optimum and DPO's minimiser on exact preferences, words fixed where not learnt."""
    world = _chains(case, states=2)
    optimum, drawings = hybrid.solve(world), world.drawings()
    scores = world.rewards[drawings.responses, drawings.path[:, -1]]
    if less_luck:
        scores = scores - hybrid.luck(world, optimum)[drawings.responses, drawings.path[:, 0]]
    blocks = learning.preferences(world, drawings, scores, _groups(world, drawings)[groups])
    kept = torch.arange(world.words.horizon + world.n_steps) >= (0 if words else world.words.horizon)
    found = learning.fit(world, drawings, blocks, kept, iterations)
    best = optimum.words.logps if words else world.words.reference_logps
    exact = learning.episode_logps(world, drawings, best, optimum.step_logps)
    return float((exact.exp() * (exact - learning.episode_logps(world, drawings, *found))).sum())


def one_noise_finds_the_drawing(case: Case) -> float:
    """KL(p*‖p) of episodes for DPO's minimiser on pairs of the same words and noise, the words' model left alone."""
    return _fitted(case, "words and noise", words=False)


def less_luck_finds_both(case: Case) -> float:
    """KL(π* p*‖π p) for DPO's minimiser with both strengths, each picture's luck taken off its reward; own noises."""
    return _fitted(case, "prompt", less_luck=True)


def pictures_from_one_noise(case: Case) -> float:
    """The same on preferences by what was drawn, the two pictures of a pair from one noise, their words their own."""
    return _fitted(case, "noise", iterations=60)


def pictures_from_own_noises(case: Case) -> float:
    """The same where each picture has a noise of its own."""
    return _fitted(case, "prompt", iterations=60)


def _gaussian_chain(case: Case, size: int) -> tuple[tuple[gaussian.Step, ...], gaussian.Quadratic]:
    """Return the exact denoiser of Gaussian pictures of so many numbers in three steps, and a reward of them."""
    dice = case.dice()
    mixed, bent = normal((2, size, size), dice)
    mean, slope = normal((2, size), dice)
    covariance = mixed @ mixed.mT + 0.3 * torch.eye(size, dtype=torch.float64)
    steps = gaussian.exact_denoiser(mean, covariance, (-3.0, -1.0, 1.0, 4.0), 0.8)
    return steps, gaussian.Quadratic(0.3 * bent @ bent.mT, slope, slope.new_tensor(0.0))


def steps_are_differences(case: Case) -> float:
    """γ log p*/p_ref of a step − (V(x_{t−1}) − V(x_t)), along drawn trajectories of pictures of two numbers."""
    steps, reward = _gaussian_chain(case, 2)
    optimum = gaussian.solve(steps, reward, GAMMA)
    path = gaussian.draw(steps, normal((100, 2), case.dice()), case.dice())
    ratios = GAMMA * (gaussian.step_logps(optimum.steps, path) - gaussian.step_logps(steps, path))
    values = torch.stack([value.at(path[:, t]) for t, value in enumerate(optimum.values)], 1)
    return largest(ratios - values.diff())


def _fitted_chain(case: Case, own: bool) -> float:
    """Mean KL(p*‖p) of a step for DPO's minimiser on exact preferences, pictures of one number drawn in two steps."""
    steps, reward = _gaussian_chain(case, 1)
    optimum = gaussian.solve(steps[-2:], reward, GAMMA)
    path, chances = gaussian.nodes(steps[-2:], NODES)
    same = path[:, 0] == path[:, 0].mT if not own else torch.tensor(True)
    pairs = torch.nonzero(same & ~torch.eye(len(path), dtype=torch.bool))
    scores = reward.at(path[:, -1])[pairs]
    weights = chances[pairs].prod(1) * torch.sigmoid(scores[:, 0] - scores[:, 1])
    found = gaussian.fit(steps[-2:], path, pairs, weights / weights.sum(), GAMMA)
    apart = [
        (chances * kl_divergence(best.after(path[:, t]), ours.after(path[:, t]))).sum()
        for t, (best, ours) in enumerate(zip(optimum.steps, found, strict=True))
    ]
    return largest(torch.stack(apart))


NODES = (3, 3, 3)
"""Noises, and outcomes of each of two steps."""


def gaussian_dpo(case: Case) -> float:
    """Mean KL(p*‖p) of a Gaussian step for DPO's minimiser on exact preferences, the two pictures from one noise."""
    return _fitted_chain(case, own=False)


def gaussian_dpo_of_own_noises(case: Case) -> float:
    """The same where each picture has a noise of its own."""
    return _fitted_chain(case, own=True)


def _errors(case: Case, schedule: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p*/p_ref of seven pictures, and what the two denoisers get wrong: weighted, and all levels alike."""
    logits, means, sds = normal((3, 3), case.dice())
    reference = mixture.Mixture(logits, means, 0.4 + torch.sigmoid(sds) / 2)
    policy, total = mixture.tilted(reference, 0.6, 0.5)
    pictures = torch.linspace(-2.5, 2.5, 7, dtype=torch.float64)
    log_snrs = mixture.SCHEDULES[schedule]((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    gains = mixture.error_gains(policy, reference, pictures, log_snrs)
    known = log_snrs.new_tensor([torch.inf, *log_snrs])
    levels = Schedule(known.sigmoid().sqrt(), (-known).sigmoid().sqrt(), "variance_preserving", "epsilon")
    weights = level_weights(levels, "log_snr")[1:] * (-log_snrs).exp()  # those of errors of ε
    return 0.6 * pictures - 0.25 * pictures**2 - total, weights @ gains / 2 / count, gains.mean(0)


def errors_are_the_ratio(case: Case) -> float:
    """Σ ½|dλ/dt| E(‖ε − ε_ref‖² − ‖ε − ε*‖²) − log p*/p_ref of a picture, 1,500 levels of a cosine schedule."""
    exact, weighted, _ = _errors(case, "cosine", 1_500)
    return largest(exact - weighted)


def errors_alike_are_the_ratio(case: Case) -> float:
    """The same with one weight for all levels, the one that fits best, on a cosine and a linear schedule."""
    found = [_errors(case, schedule, 300) for schedule in mixture.SCHEDULES]
    return largest(*(exact - (exact @ alike / (alike @ alike)) * alike for exact, _, alike in found))


_EQUATION = f"{PAPER} Eq. 17"
_WORDS = "two words"

CLAIMS = (
    Claim(
        "images", "r = β Σ log π*/π_ref + γ Σ log p*/p_ref + V(x) + noise", _EQUATION, reward_with_noise, _WORDS, 1e-12
    ),
    broken("images", "… without the noise's term (as printed)", _EQUATION, reward_as_printed, _WORDS),
    Claim("images", "… then it is off by V(y_T) − E V(y_T)", _EQUATION, miss_as_printed, _WORDS, 1e-12),
    Claim("images", "pairs of one noise and the same words need no value", _EQUATION, one_noise_cancels, _WORDS, 1e-12),
    broken("images", "… nor do pairs of one noise and any words", _EQUATION, one_noise_two_prompts, _WORDS),
    Claim(
        "images",
        "pairs of one noise and words: DPO finds p* (KL)",
        f"{PAPER} Eq. 18",
        one_noise_finds_the_drawing,
        _WORDS,
        1e-8,
    ),
    Claim("images", "preferences less luck: it finds π* and p*", f"{PAPER} Eq. 18", less_luck_finds_both, _WORDS, 1e-7),
    broken("images", "… by pictures from one noise", f"{PAPER} Eq. 18", pictures_from_one_noise, _WORDS),
    broken("images", "… by pictures from noises of their own", f"{PAPER} Eq. 18", pictures_from_own_noises, _WORDS),
    Claim("images", "Gaussian steps: γ log p*/p_ref = V(x_{t−1}) − V(x_t)", _EQUATION, steps_are_differences, _WORDS),
    Claim("images", "… DPO finds them from pairs of one noise (KL)", f"{PAPER} Eq. 18", gaussian_dpo, _WORDS, 1e-8),
    broken("images", "… from noises of their own", f"{PAPER} Eq. 18", gaussian_dpo_of_own_noises, _WORDS),
    Claim("images", "errors by ½|dλ/dt| are log p*/p_ref", "2302.03792", errors_are_the_ratio, _WORDS, 1e-4),
    broken("images", "errors alike are, by the best factor", "2311.12908", errors_alike_are_the_ratio, _WORDS),
)
