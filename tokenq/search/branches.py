"""What all searches share: branches that are being written, the limits they keep, and how they end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tokenq.core.tensors import Frontier, Stepper
from tokenq.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Where a response ends.

    Attributes:
        eos: token ids that end it.
        max_new_tokens: most tokens of a response.
        budget: most tokens that may go through the policy, prompts included; None for no limit.
    """

    eos: tuple[int, ...]
    max_new_tokens: int
    budget: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that allow nothing."""
        if self.max_new_tokens < 1:
            raise UserError("max_new_tokens must be 1 or more.", "Give the length of the longest answer.")

    def ends(self, token: int, length: int) -> bool:
        """Return whether a response is over with this token, as its `length`-th."""
        return token in self.eos or length >= self.max_new_tokens


@dataclass(frozen=True)
class Branch:
    """A response that is being written, or is complete.

    Attributes:
        tokens: its token ids.
        logps: log π of each.
        ref_logps: log π_ref of each, empty where no reference runs.
        score: what the search's objective gives it.
        row: its row in the frontier.
    """

    tokens: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    ref_logps: tuple[float, ...] = ()
    score: float = 0.0
    row: int = 0

    def with_token(self, token: int, frontier: Frontier, score: float) -> "Branch":
        """Return the branch with one more token, as the frontier sees it from this branch."""
        ref = () if frontier.ref_logps is None else (float(frontier.ref_logps[self.row, token]),)
        own = float(frontier.logps[self.row, token])
        return Branch((*self.tokens, token), (*self.logps, own), (*self.ref_logps, *ref), score, self.row)


class Walk:
    """A stepper that is walked along by many searches at once, and counts what that costs.

    Args:
        stepper: the stepper.
        prompts: one a search.
        limits: where responses end, and how much may be spent.

    Raises:
        UserError: the budget does not even allow reading the prompts and one step.
    """

    def __init__(self, stepper: Stepper, prompts: Sequence[Sequence[int]], limits: Limits) -> None:
        self._stepper = stepper
        self._limits = limits
        self.spent = sum(map(len, prompts))
        if limits.budget is not None and limits.budget <= self.spent:
            raise UserError(
                f"A budget of {limits.budget} tokens does not allow one step behind prompts of {self.spent} tokens.",
                "Raise the budget.",
            )
        self.frontier = stepper.start(prompts)

    def may_step(self, rows: int) -> bool:
        """Return whether the budget allows a step of so many branches."""
        return self._limits.budget is None or self.spent + rows <= self._limits.budget

    def step(self, branches: Sequence[Branch]) -> list[Branch]:
        """Append each branch's last token to the row it came from, and return the branches at their new rows."""
        parents = torch.tensor([branch.row for branch in branches])
        tokens = torch.tensor([branch.tokens[-1] for branch in branches])
        self.frontier = self._stepper.step(self.frontier, parents, tokens)
        self.spent += len(branches)
        return [replace(branch, row=row) for row, branch in enumerate(branches)]
