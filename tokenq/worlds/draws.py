"""Random worlds of every kind that a claim may depend on, the same for the same seed."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from tokenq.worlds.mdp import EOS, NO_STATE, TokenMDP, build, log_softmax, prune
from tokenq.worlds.soft_q import response_logps, softmax_policy

_SIZES = ((3, 4), (4, 3), (5, 2), (3, 3), (2, 5))
"""(tokens, steps) of the random worlds, in turn."""

_BETAS = (1.0, 0.5, 0.2, 2.0, 0.1)
"""Temperatures of the random worlds, in turn."""


def generator(seed: int) -> torch.Generator:
    """Return a generator with this seed."""
    return torch.Generator().manual_seed(seed)


def normal(shape: tuple[int, ...], dice: torch.Generator) -> Tensor:
    """Return standard normal numbers in float64."""
    return torch.randn(shape, generator=dice, dtype=torch.float64)


def random_policy(world: TokenMDP, dice: torch.Generator, spread: float = 1.0) -> Tensor:
    """Return [S, V] log-probs of a policy with normal logits, the environment's where that writes."""
    return softmax_policy(spread * normal(tuple(world.next_states.shape), dice), world)


def dense(seed: int) -> TokenMDP:
    """Return a world of two prompts with a reward for every token and a random reference."""
    size = seed % len(_SIZES)
    vocab_size, horizon = _SIZES[size]
    return _filled(build(vocab_size=vocab_size, horizon=horizon, n_prompts=2, beta=_BETAS[size]), seed)


def small(seed: int) -> TokenMDP:
    """Return a dense world small enough to train in: two prompts, 15 responses each."""
    return _filled(build(vocab_size=3, horizon=3, n_prompts=2, beta=(1.0, 0.5, 0.25)[seed % 3]), seed)


def terminal_only(seed: int) -> TokenMDP:
    """Return a dense world whose reward comes at the end alone, as a reward model's does."""
    world = dense(seed)
    last = world.terminal[world.next_states] & (world.next_states != NO_STATE)
    return replace(world, rewards=torch.where(last, world.rewards, 0.0))


def thin_tail(seed: int) -> TokenMDP:
    """Return a world of 341 responses with rewards in [0, 4] at the end that are best where the reference is thin.

    The reward is one part noise and minus half a part log π_ref, both by their standard deviations; β = 0.3.
    """
    tree, dice = build(vocab_size=5, horizon=4, beta=0.3), generator(seed)
    world = replace(tree, reference_logps=log_softmax(normal(tuple(tree.next_states.shape), dice), tree))
    sequences = world.sequences()
    logps = response_logps(sequences, world.reference_logps)
    scores = normal((len(sequences),), dice) - 0.5 * (logps - logps.mean()) / logps.std()
    responses, last = torch.arange(len(sequences)), sequences.valid.sum(-1) - 1
    rewards = torch.zeros_like(world.rewards)
    places = sequences.states[responses, last], sequences.tokens[responses, last]
    rewards[places] = 4 * (scores - scores.min()) / (scores.max() - scores.min())
    return replace(world, rewards=rewards)


def clockwork(seed: int) -> TokenMDP:
    """Return a world without EOS's choice: what follows does not depend on what was written.

    Reward and reference depend on the step and the token alone, and EOS comes at the last step only; so V*(s') is the
    same for all tokens of a state.
    """
    world = build(vocab_size=4, horizon=3, n_prompts=2, beta=_BETAS[seed % len(_BETAS)])
    early = (world.depths < world.horizon - 1)[:, None] & (torch.arange(world.vocab_size) == EOS)
    world = prune(world, ~early)
    by_step = normal((2, world.horizon, world.vocab_size), generator(seed))
    rewards, logits = by_step[:, world.depths.clamp(max=world.horizon - 1)]
    return _with(world, rewards, logits)


def two_words(seed: int) -> TokenMDP:
    """Return one prompt and its nine responses of two tokens, unrewarded: the words that a hybrid world draws."""
    world = build(vocab_size=4, horizon=2, beta=0.7)
    world = prune(world, (torch.arange(world.vocab_size) != EOS).expand(world.n_states, -1))
    return replace(world, reference_logps=random_policy(world, generator(seed)))


def deterministic_environment(seed: int) -> TokenMDP:
    """Return a world in which the environment answers `HANDOVER` with one certain token, which depends on the state."""
    world = stochastic_environment(seed)
    certain = world.reference_logps.argmax(-1)
    only = torch.arange(world.vocab_size) == certain[:, None]
    return prune(world, only | ~world.environment[:, None])


def stochastic_environment(seed: int) -> TokenMDP:
    """Return a world in which the environment answers `HANDOVER` with a token drawn from a random distribution."""
    world = build(vocab_size=3 + seed % 2, horizon=4, n_prompts=2, beta=_BETAS[seed % 3], environment=True)
    world = _filled(world, seed)
    return replace(world, rewards=torch.where(world.environment[:, None], 0.0, world.rewards))


def indifferent_environment(seed: int) -> TokenMDP:
    """Return a stochastic environment whose answer changes nothing: what follows is the same after any."""
    world = stochastic_environment(seed)
    rewards, reference = world.rewards.clone(), world.reference_logps.clone()
    for layer in reversed(list(world.layers())):  # from the prompts down, so that a copy is copied on
        for state in layer[world.environment[layer]].tolist():
            answers = [int(s) for s in world.next_states[state] if s != NO_STATE]
            for answer in answers[1:]:
                _copy_subtree(world, answers[0], answer, rewards, reference)
    return replace(world, rewards=rewards, reference_logps=reference)


def _copy_subtree(world: TokenMDP, source: int, target: int, rewards: Tensor, reference: Tensor) -> None:
    rewards[target], reference[target] = rewards[source], reference[source]
    for one, other in zip(world.next_states[source].tolist(), world.next_states[target].tolist(), strict=True):
        if one != NO_STATE:
            _copy_subtree(world, one, other, rewards, reference)


def _filled(world: TokenMDP, seed: int) -> TokenMDP:
    """Return the world with random rewards, and a random reference (and environment)."""
    rewards, logits = normal((2, *world.next_states.shape), generator(seed))
    return _with(world, rewards, logits)


def _with(world: TokenMDP, rewards: Tensor, logits: Tensor) -> TokenMDP:
    """Return the world with these rewards and reference logits where something can come."""
    possible = world.next_states != NO_STATE
    logps = log_softmax(logits, world)
    return replace(world, rewards=torch.where(possible, rewards, 0.0), reference_logps=logps)


KINDS: dict[str, Callable[[int], TokenMDP]] = {
    "dense reward": dense,
    "dense reward, small": small,
    "terminal reward": terminal_only,
    "reward in a thin tail": thin_tail,
    "reward by step": clockwork,
    "two words": two_words,
    "deterministic environment": deterministic_environment,
    "stochastic environment": stochastic_environment,
    "indifferent environment": indifferent_environment,
}
