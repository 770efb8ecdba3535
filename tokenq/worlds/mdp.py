"""A tabular token MDP: a few tokens, a few steps, every state on a list, so that everything about it can be computed.

States are prompts and the prefixes that follow them, in one forest. The policy writes a token, which is appended; in a
world with an environment, the token after `HANDOVER` is not the policy's but drawn from a known distribution, as a
user's turn or a tool's answer is. An episode ends with `EOS`, or at the horizon.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenq.errors import UserError

EOS: Final = 0
"""Token that ends an episode; the environment never draws it."""

HANDOVER: Final = 1
"""Token after which the environment writes the next token, in worlds that have an environment."""

NO_STATE: Final = -1
"""Where no state is: before a prompt, after an end, behind a token that cannot come."""

MAX_STATES: Final = 200_000
"""Most states that are enumerated."""

MAX_SEQUENCES: Final = 2_000
"""Most sequences of which all pairs are compared."""


@dataclass(frozen=True, eq=False)
class TokenMDP:
    """A world of S states and V tokens, in float64.

    Attributes:
        beta: KL temperature of the objective.
        horizon: most tokens of a response, the environment's included.
        next_states: [S, V] the state after each token, `NO_STATE` where there is none.
        depths: [S] tokens since the prompt.
        prompts: [S] number of the prompt, which is also the index of its state.
        environment: [S] True where the environment writes the next token.
        rewards: [S, V] r(s, a) of the policy's tokens; 0 for the environment's.
        reference_logps: [S, V] log π_ref, and log p_env where the environment writes; −inf for what cannot come.
    """

    beta: float
    horizon: int
    next_states: Int[Tensor, "S V"]
    depths: Int[Tensor, " S"]
    prompts: Int[Tensor, " S"]
    environment: Bool[Tensor, " S"]
    rewards: Float[Tensor, "S V"]
    reference_logps: Float[Tensor, "S V"]

    @property
    def n_states(self) -> int:
        """Number of states, ends included."""
        return len(self.depths)

    @property
    def vocab_size(self) -> int:
        """Number of tokens that can be written."""
        return self.next_states.shape[1]

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return int((self.depths == 0).sum())

    @property
    def terminal(self) -> Bool[Tensor, " S"]:
        """True where the episode is over."""
        return (self.next_states == NO_STATE).all(-1)

    @property
    def choice(self) -> Bool[Tensor, " S"]:
        """True where the policy writes the next token."""
        return ~self.terminal & ~self.environment

    def at(self, values: Float[Tensor, " S"]) -> Float[Tensor, "S V"]:
        """Return the values of the states that follow, v(s'), 0 where no state follows."""
        return torch.where(self.next_states == NO_STATE, 0.0, values[self.next_states])

    def layers(self) -> Iterator[Int[Tensor, " n"]]:
        """Yield the states that are no ends, the deepest first: the order of dynamic programming."""
        for depth in range(self.horizon - 1, -1, -1):
            yield torch.nonzero((self.depths == depth) & ~self.terminal).squeeze(-1)

    def prompt_ids(self, prompt: int) -> tuple[int, ...]:
        """Return the prompt as tokens: one token beyond those that can be written, so that prompts are told apart."""
        return (self.vocab_size + prompt,)

    def walk(self, tokens: tuple[int, ...]) -> int:
        """Return the state that a prompt and the response tokens after it lead to.

        Raises:
            UserError: no state of this world is reached by these tokens.
        """
        state = tokens[0] - self.vocab_size if tokens else NO_STATE
        if not 0 <= state < self.n_prompts:
            raise UserError(
                f"{list(tokens)} does not begin with a prompt of this world.",
                f"Prompts are the tokens {self.vocab_size} to {self.vocab_size + self.n_prompts - 1}.",
            )
        for token in tokens[1:]:
            state = int(self.next_states[state, token]) if 0 <= token < self.vocab_size else NO_STATE
            if state == NO_STATE:
                raise UserError(f"No state of this world is reached by {list(tokens)}.", "Walk along its sequences.")
        return state

    def sequences(self) -> "Sequences":
        """Return every response to every prompt, in order of prompts.

        Raises:
            UserError: there are more than can be compared in pairs.
        """
        ends = torch.nonzero(self.terminal).squeeze(-1)
        count = int(torch.bincount(self.prompts[ends]).max())
        if count > MAX_SEQUENCES:
            raise UserError(
                f"A prompt of this world has {count:,} responses, and pairs are enumerated up to {MAX_SEQUENCES:,}.",
                "Take fewer tokens or a shorter horizon.",
            )
        parents = torch.full((self.n_states,), NO_STATE)
        arrived = torch.full((self.n_states,), NO_STATE)
        before, token = torch.nonzero(self.next_states != NO_STATE, as_tuple=True)
        parents[self.next_states[before, token]] = before
        arrived[self.next_states[before, token]] = token
        ends = ends[torch.argsort(self.prompts[ends], stable=True)]
        states = torch.zeros(len(ends), self.horizon, dtype=torch.long)
        tokens = torch.zeros_like(states)
        valid = torch.arange(self.horizon) < self.depths[ends, None]
        here = ends.clone()
        for step in range(self.horizon - 1, -1, -1):
            inside = valid[:, step]
            tokens[inside, step] = arrived[here[inside]]
            here[inside] = parents[here[inside]]
            states[inside, step] = here[inside]
        return Sequences(states, tokens, valid, valid & ~self.environment[states], self.prompts[ends], ends)


@dataclass(frozen=True, eq=False)
class Sequences:
    """N whole responses, step by step.

    Attributes:
        states: [N, T] state in which each token was written.
        tokens: [N, T] the token.
        valid: [N, T] True for tokens of the response.
        mask: [N, T] True for the policy's own tokens among them.
        prompts: [N] number of the prompt.
        ends: [N] the state at the end.
    """

    states: Int[Tensor, "N T"]
    tokens: Int[Tensor, "N T"]
    valid: Bool[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]
    prompts: Int[Tensor, " N"]
    ends: Int[Tensor, " N"]

    def taken(self, table: Float[Tensor, "S V"]) -> Float[Tensor, "N T"]:
        """Return the table's entry of every token of the responses, 0 beyond their ends."""
        return torch.where(self.valid, table[self.states, self.tokens], 0.0)

    def visited(self, values: Float[Tensor, " S"]) -> Float[Tensor, "N T+1"]:
        """Return the values of the states along each response, its end included; beyond it, the end's value."""
        states = torch.where(self.valid, self.states, self.ends[:, None])
        return values[torch.cat((states, self.ends[:, None]), 1)]

    def of_prompt(self, prompt: int) -> Int[Tensor, " n"]:
        """Return the indices of the responses to one prompt."""
        return torch.nonzero(self.prompts == prompt).squeeze(-1)

    def __len__(self) -> int:
        """Return N."""
        return len(self.ends)


def build(
    *,
    vocab_size: int,
    horizon: int,
    n_prompts: int = 1,
    beta: float = 1.0,
    environment: bool = False,
) -> TokenMDP:
    """Return a world with a uniform reference, a uniform environment and no reward: fill in with `dataclasses.replace`.

    Args:
        vocab_size: tokens that can be written, `EOS` included; 3 or more with an environment.
        horizon: most tokens of a response.
        n_prompts: number of prompts.
        beta: KL temperature.
        environment: whether the environment writes the token after `HANDOVER`.

    Raises:
        UserError: sizes that make no world, or one that is too large to enumerate.
    """
    if vocab_size < (3 if environment else 2) or horizon < 1 or n_prompts < 1 or beta <= 0:
        raise UserError(
            f"{vocab_size} tokens, {horizon} steps, {n_prompts} prompts and beta = {beta} make no world.",
            "It takes 2 tokens (3 with an environment), 1 step, 1 prompt, and beta above 0.",
        )
    # Every prefix without EOS, and behind each that is no full response yet, EOS. An environment only removes some.
    states = n_prompts * sum((vocab_size - 1) ** d for d in range(horizon + 1))
    states += n_prompts * sum((vocab_size - 1) ** d for d in range(horizon))
    if states > MAX_STATES:
        raise UserError(
            f"A world of {n_prompts} prompts, {vocab_size} tokens and {horizon} steps has up to {states:,} states, "
            f"and {MAX_STATES:,} are enumerated.",
            "Take fewer tokens, a shorter horizon, or fewer prompts.",
        )
    rows: list[list[int]] = [[NO_STATE] * vocab_size for _ in range(n_prompts)]
    depths, prompts, turn = [0] * n_prompts, list(range(n_prompts)), [False] * n_prompts
    open_states = list(range(n_prompts))
    for depth in range(1, horizon + 1):
        opened = []
        for state in open_states:
            for token in range(1 if turn[state] else 0, vocab_size):
                rows[state][token] = len(rows)
                if token != EOS and depth < horizon:
                    opened.append(len(rows))
                rows.append([NO_STATE] * vocab_size)
                depths.append(depth)
                prompts.append(prompts[state])
                turn.append(environment and depth < horizon and token == HANDOVER and not turn[state])
        open_states = opened
    next_states = torch.tensor(rows)
    possible = next_states != NO_STATE
    choices = possible.sum(-1, keepdim=True).clamp(min=1).double()
    uniform = torch.where(possible, -choices.log(), -torch.inf)
    return TokenMDP(
        beta=beta,
        horizon=horizon,
        next_states=next_states,
        depths=torch.tensor(depths),
        prompts=torch.tensor(prompts),
        environment=torch.tensor(turn),
        rewards=torch.zeros(next_states.shape, dtype=torch.float64),
        reference_logps=uniform,
    )


def prune(world: TokenMDP, possible: Bool[Tensor, "S V"]) -> TokenMDP:
    """Return the world without some of its transitions, and without the states that are then never reached.

    Args:
        world: the world.
        possible: [S, V] the transitions that stay, at least one of every state that is reached and is no end.
    """
    next_states = torch.where(possible, world.next_states, NO_STATE)
    reached = world.depths == 0
    for layer in reversed(list(world.layers())):
        after = next_states[layer[reached[layer]]]
        reached[after[after != NO_STATE]] = True
    kept = torch.nonzero(reached).squeeze(-1)
    renamed = torch.full((world.n_states,), NO_STATE)
    renamed[kept] = torch.arange(len(kept))
    next_states = next_states[kept]
    stays = next_states != NO_STATE
    return replace(
        world,
        next_states=torch.where(stays, renamed[next_states], NO_STATE),
        depths=world.depths[kept],
        prompts=world.prompts[kept],
        environment=world.environment[kept],
        rewards=torch.where(stays, world.rewards[kept], 0.0),
        reference_logps=_over(stays, world.reference_logps[kept]),
    )


def log_softmax(logits: Float[Tensor, "S V"], world: TokenMDP) -> Float[Tensor, "S V"]:
    """Return log softmax of any logits over the tokens that can come in each state, −inf elsewhere."""
    return _over(world.next_states != NO_STATE, logits)


def _over(possible: Bool[Tensor, "S V"], logits: Float[Tensor, "S V"]) -> Float[Tensor, "S V"]:
    kept = torch.where(possible, logits, -torch.inf)
    total = torch.where(possible.any(-1, keepdim=True), kept, 0.0).logsumexp(-1, keepdim=True)  # ends: no NaN
    return kept - total
