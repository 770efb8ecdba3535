"""A claim, the world it is checked in, and the verdict.

A claim that holds only under an assumption has a sister that breaks the assumption and must be seen to fail.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenq.core.qfunction import implicit_rewards
from tokenq.core.tensors import TokenLogps
from tokenq.verify.gridworlds import KINDS
from tokenq.worlds.draws import generator
from tokenq.worlds.mdp import Sequences, TokenMDP
from tokenq.worlds.soft_q import SoftOptimum, returns, solve, token_logps


@dataclass(frozen=True, eq=False)
class Case:
    """A world with its solution: what a check looks at.

    Attributes:
        world: the world.
        optimum: its soft optimum (a test puts a wrong one here and sees the check fail).
        sequences: all its responses.
        seed: of whatever a check draws.
    """

    world: TokenMDP
    optimum: SoftOptimum
    sequences: Sequences
    seed: int

    @classmethod
    def of(cls, world: TokenMDP, seed: int) -> "Case":
        """Return the case of a world, solved."""
        return cls(world, solve(world), world.sequences(), seed)

    def dice(self) -> torch.Generator:
        """Return the generator of this case, at its start."""
        return generator(self.seed)

    @cached_property
    def returns(self) -> Float[Tensor, " N"]:
        """[N] Σ r of every response."""
        return returns(self.world, self.sequences)

    @cached_property
    def policy(self) -> TokenLogps:
        """[N, T] log π* of the policy's tokens."""
        return token_logps(self.sequences, self.optimum.logps)

    @cached_property
    def reference(self) -> TokenLogps:
        """[N, T] log π_ref of the policy's tokens."""
        return token_logps(self.sequences, self.world.reference_logps)

    @cached_property
    def implicit(self) -> Float[Tensor, "N T"]:
        """[N, T] implicit rewards of π* against π_ref."""
        return implicit_rewards(self.policy, self.reference, self.world.beta)

    @cached_property
    def start_values(self) -> Float[Tensor, " N"]:
        """[N] V* of the prompt of every response."""
        return self.optimum.values[self.sequences.prompts]

    @cached_property
    def rows(self) -> list[Int[Tensor, " n"]]:
        """The responses to each prompt, as indices."""
        return [self.sequences.of_prompt(prompt) for prompt in self.prompts()]

    def prompts(self) -> range:
        """Return the numbers of the prompts."""
        return range(self.world.n_prompts)


class Claim(NamedTuple):
    """A row of the table.

    Attributes:
        topic: what it is about, in a word or two.
        statement: the claim.
        source: paper and place.
        check: gives the largest error in one world.
        kind: the worlds it is checked in, a key of `KINDS`.
        tolerance: what an error may be.
        must: "hold" in every world, or "fail" in at least one, because its assumption is broken there.
    """

    topic: str
    statement: str
    source: str
    check: Callable[[Case], float]
    kind: str = "dense reward"
    tolerance: float = 1e-10
    must: Literal["hold", "fail"] = "hold"


broken = partial(Claim, tolerance=1e-3, must="fail")
"""The claim without its assumption: it must be seen to fail, by more than any rounding."""

PAPER = "2404.12358"
"""The paper that most claims are of."""

SMALL = "dense reward, small"
"""The worlds of claims that something is trained for."""


@dataclass(frozen=True)
class ClaimResult:
    """The result of checking a claim.

    Attributes:
        claim: the claim.
        worlds: number of worlds it was checked in.
        error: largest error over them (NaN counts as infinite).
    """

    claim: Claim
    worlds: int
    error: float

    @property
    def as_expected(self) -> bool:
        """Whether the claim held where it must hold, or failed where it must fail."""
        return (self.error <= self.claim.tolerance) == (self.claim.must == "hold")

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if self.error <= self.claim.tolerance:
            return "holds" if self.as_expected else "holds, and must not"
        return "fails, as it must" if self.as_expected else "fails"


def find(claim: Claim, seeds: range) -> ClaimResult:
    """Check a claim in one world for each seed.

    One world refutes a claim. Where a claim that must fail holds in all of these by chance (β in the wrong place, where
    β is 1), it is checked in the next worlds, up to `COUNTEREXAMPLE`, until one refutes it.
    """
    error, worlds = 0.0, 0
    for seed in range(seeds.start, seeds.stop + COUNTEREXAMPLE):
        if seed not in seeds and (claim.must == "hold" or error > claim.tolerance):
            break
        found = claim.check(Case.of(KINDS[claim.kind](seed), seed))
        error, worlds = max(error, found if found == found else float("inf")), worlds + 1
    return ClaimResult(claim, worlds, error)


COUNTEREXAMPLE = 10
"""Worlds in which a counterexample is looked for beyond those that were asked for."""


def largest(*errors: Tensor) -> float:
    """Return the largest absolute entry of any of the tensors, infinite where one is not a number."""
    return max(float(error.abs().nan_to_num(torch.inf).max()) for error in errors)


def excess(values: Tensor) -> float:
    """Return by how much the largest value exceeds 0: the error of a claim that says "at most 0"."""
    return max(0.0, float(values.nan_to_num(torch.inf).max()))
