"""A tabular language model: one row of logits for every state, behind the protocols that networks are seen through.

The project's own losses, packing, read-outs and searches run on it unchanged, in a world whose answers are known.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenq.core.losses import find_loss
from tokenq.core.tensors import Frontier, PackedBatch, PairLogps, TokenLogps
from tokenq.worlds.mdp import Sequences, TokenMDP
from tokenq.worlds.soft_q import softmax_policy, token_logps


class TabularLM(nn.Module):
    """A policy over the tokens of a world, trainable; a `TokenScorer`.

    Args:
        world: where it lives.
        logits: [S, V] where it begins; a copy of the reference when None.
    """

    def __init__(self, world: TokenMDP, logits: Float[Tensor, "S V"] | None = None) -> None:
        super().__init__()
        self.world = world
        start = world.reference_logps if logits is None else logits
        self.logits = nn.Parameter(torch.where(torch.isinf(start), 0.0, start))

    def table(self) -> Float[Tensor, "S V"]:
        """Return log π(a|s) of every state, the environment's log-probs where that writes."""
        return softmax_policy(self.logits, self.world)

    def forward(self, batch: PackedBatch) -> Float[Tensor, " N"]:
        """Return log π of every target of the batch.

        Raises:
            UserError: the batch holds tokens that lead to no state of this world.
        """
        return self.table()[_states(self.world, batch), batch.targets]


def _states(world: TokenMDP, batch: PackedBatch) -> Int[Tensor, " N"]:
    """Return the state in which each target of a packed batch was written."""
    ids = batch.input_ids.tolist()
    states: dict[int, int] = {}
    wanted = batch.predictors.tolist()
    for start, stop, prefix_start, prefix_stop in batch.segments:
        prefix = ids[prefix_start:prefix_stop]
        for index in wanted:
            if start <= index < stop:
                states[index] = world.walk((*prefix, *ids[start : index + 1]))
    return torch.tensor([states[index] for index in wanted])


class TabularStepper:
    """A `Stepper` over a world: the next-token log-probs of policy and reference, looked up.

    Args:
        world: the world.
        logps: [S, V] log π.
        ref_logps: [S, V] log π_ref, None for searches that need no reference.
    """

    def __init__(
        self, world: TokenMDP, logps: Float[Tensor, "S V"], ref_logps: Float[Tensor, "S V"] | None = None
    ) -> None:
        self.world = world
        self.logps = logps
        self.ref_logps = ref_logps

    def start(self, prompts: Sequence[Sequence[int]]) -> Frontier:
        """Return a frontier of one branch for each prompt."""
        return self._at(torch.tensor([self.world.walk(tuple(prompt)) for prompt in prompts]))

    def step(self, state: Any, parents: Int[Tensor, " M"], tokens: Int[Tensor, " M"]) -> Frontier:
        """Return the frontier after each token is appended to its parent branch."""
        return self._at(self.world.next_states[state[parents], tokens])

    def gather(self, places: Sequence[tuple[Any, int]]) -> Any:
        """Return the states of the world in which branches of several states stand."""
        return torch.stack([state[row] for state, row in places])

    def _at(self, states: Int[Tensor, " B"]) -> Frontier:
        return Frontier(self.logps[states], None if self.ref_logps is None else self.ref_logps[states], states)


def fit(
    model: TabularLM,
    sequences: Sequences,
    pairs: Int[Tensor, "P 2"],
    weights: Float[Tensor, " P"],
    *,
    loss: str = "dpo",
    parameters: Mapping[str, float] | None = None,
) -> Float[Tensor, "S V"]:
    """Minimise Σ_p w_p loss_p over weighted pairs to the last digits, and return the policy's log-probs.

    The reference is the world's, the loss is the project's own at the world's β.

    Args:
        model: where to begin; changed in place.
        sequences: all responses of its world.
        pairs: (chosen, rejected) as indices of responses.
        weights: how much each pair counts.
        loss: a key of `LOSSES` for pairs without further inputs.
        parameters: of the loss, besides β.
    """
    world = model.world
    objective = find_loss(loss, {"beta": world.beta, **(parameters or {})}).function
    taken = summed_pairs if loss in OF_SUMS else TokenLogps.pairs
    reference = taken(token_logps(sequences, world.reference_logps), pairs)

    def value(logps: Float[Tensor, "S V"]) -> Tensor:
        return (objective(taken(token_logps(sequences, logps), pairs), reference) * weights).sum()

    return minimise(model, value)


OF_SUMS = frozenset({"dpo", "robust", "fdpo_forward_kl", "fdpo_js", "fdpo_alpha"})
"""Losses that see nothing of a response but its log-prob."""


def summed_pairs(responses: TokenLogps, pairs: Int[Tensor, "P 2"]) -> PairLogps:
    """Return (chosen, rejected) with the log-prob of a whole response as its only token.

    A world has hundreds of responses and a hundred thousand pairs of them, so each response is summed once and not in
    every pair.
    """
    sums = responses.sums()

    def side(which: int) -> TokenLogps:
        column = sums.index_select(0, pairs[:, which])[:, None]
        return TokenLogps(column, torch.ones_like(column, dtype=torch.bool))

    return PairLogps(side(0), side(1))


def minimise(model: TabularLM, value: Callable[[Float[Tensor, "S V"]], Tensor]) -> Float[Tensor, "S V"]:
    """Minimise a function of the policy's log-probs to the last digits (L-BFGS), and return them.

    Args:
        model: where to begin; changed in place.
        value: [S, V] log π → what is to be small.
    """
    descend(list(model.parameters()), lambda: value(model.table()))
    return model.table().detach()


def descend(parameters: Sequence[Tensor], value: Callable[[], Tensor], iterations: int = 2_000) -> None:
    """Move parameters to a minimum, to the last digits (L-BFGS).

    Args:
        parameters: where to begin; changed in place.
        value: what is to be small, of the parameters as they are.
        iterations: the most; 2,000 are enough for the last digits.
    """
    search = torch.optim.LBFGS(
        parameters,
        max_iter=iterations,
        tolerance_grad=1e-13,
        tolerance_change=1e-18,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        found = value()
        found.backward()  # type: ignore[no-untyped-call]  # torch's
        return found

    search.step(closure)  # type: ignore[no-untyped-call]  # torch's
