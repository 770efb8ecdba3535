"""The parts that all searches share: branches that are being written, their limits, their ends, and their cost."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tokenq.core.tensors import Frontier, Stepper
from tokenq.errors import UserError


def never() -> bool:
    """Go on to the end."""
    return False


@dataclass(frozen=True)
class Limits:
    """Where a response and its search end.

    Attributes:
        eos: token ids that end a response.
        max_new_tokens: most tokens of a response.
        budget: most tokens that may go through the policy for one prompt, itself included; None for no limit. A
            prompt's result does not depend on what is searched beside it.
        interrupted: asked before every step: True ends all searches with what they have.
        context: most tokens of prompt and response together that the models read; None for no limit.
    """

    eos: tuple[int, ...]
    max_new_tokens: int
    budget: int | None = None
    interrupted: Callable[[], bool] = never
    context: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that allow nothing."""
        if self.max_new_tokens < 1:
            raise UserError("max_new_tokens must be 1 or more.", "Give the length of the longest answer.")

    def ends(self, token: int, length: int) -> bool:
        """Return whether a response is over with this token, as its `length`-th."""
        return token in self.eos or length >= self.max_new_tokens

    def behind(self, prompt: Sequence[int]) -> "Limits":
        """Return the limits of responses to a prompt: they are shorter where the context would not hold them.

        Raises:
            UserError: the context does not hold a single token behind the prompt.
        """
        if self.context is None:
            return self
        room = self.context - len(prompt)
        if room < 1:
            raise UserError(
                f"A prompt of {len(prompt)} tokens leaves no room in the model's context of {self.context} tokens.",
                "Shorten the prompt.",
            )
        return replace(self, max_new_tokens=min(room, self.max_new_tokens))


@dataclass(frozen=True)
class Branch:
    """A response that is being written, or is complete.

    Attributes:
        tokens: its token ids.
        logps: log π of each.
        ref_logps: log π_ref of each, empty where no reference runs.
        score: what the search's objective gives it.
        row: its row in the frontier.
        prompt: number of its prompt.
        node: node of the lattice in which it stands.
    """

    tokens: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    ref_logps: tuple[float, ...] = ()
    score: float = 0.0
    row: int = 0
    prompt: int = 0
    node: int = 0

    def with_token(self, token: int, score: float, logp: float, ref_logp: float | None) -> "Branch":
        """Return the branch with one more token, its log-probs and what the objective then gives the whole."""
        tokens, logps = (*self.tokens, token), (*self.logps, logp)
        ref_logps = self.ref_logps if ref_logp is None else (*self.ref_logps, ref_logp)
        return Branch(tokens, logps, ref_logps, score, self.row, self.prompt, self.node)

    def at(self, row: int, node: int) -> "Branch":
        """Return the branch at another row of the frontier and node of the lattice."""
        return Branch(self.tokens, self.logps, self.ref_logps, self.score, row, self.prompt, node)


def grown(
    branches: Sequence[Branch], tokens: Sequence[int], frontier: Frontier, added: Float[Tensor, "B V"] | None = None
) -> list[Branch]:
    """Return every branch with one more token, as the frontier sees it from there.

    Args:
        branches: the branches, at their rows of the frontier.
        tokens: a token for each of them.
        frontier: where they stand.
        added: what each token adds to the score; nothing when None.
    """
    places = _places(branches, tokens, frontier.logps.device)
    logps = frontier.logps[places].tolist()
    ref_logps = [None] * len(branches) if frontier.ref_logps is None else frontier.ref_logps[places].tolist()
    gains = [0.0] * len(branches) if added is None else logps if added is frontier.logps else added[places].tolist()
    return [
        branch.with_token(token, branch.score + gain, logp, ref_logp)
        for branch, token, gain, logp, ref_logp in zip(branches, tokens, gains, logps, ref_logps, strict=True)
    ]


def _places(branches: Sequence[Branch], tokens: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return where the next-token tables have each branch's next token."""
    rows = torch.tensor([branch.row for branch in branches], dtype=torch.long, device=device)
    return rows, torch.tensor(tokens, dtype=torch.long, device=device)


class Visited(NamedTuple):
    """A node of a lattice or a tree: a token behind its parent.

    Attributes:
        parent: index of the node before; −1 for the prompt.
        token: the token; −1 for the prompt.
        logp: log π of the token.
        score: what the objective gives the response up to here.
        ends: whether the response is over with it.
        visits: simulations that came through; 0 outside tree search.
        value: estimate of the best completion; 0 outside tree search.
    """

    parent: int
    token: int
    logp: float
    score: float
    ends: bool
    visits: int = 0
    value: float = 0.0


ROOT = Visited(-1, -1, 0.0, 0.0, False)


class Walk:
    """A stepper that is walked along by the searches of many prompts at once, and what each of them costs.

    Args:
        stepper: the stepper.
        prompts: one a search.
        limits: where responses end, and how much may be spent.

    Attributes:
        prompts: token ids of every prompt.
        limits: where responses end, and how much may be spent.
        own: the same by prompt: responses to a long one may be shorter.
        frontier: where the branches stand.
        spent: tokens that went through the policy, by prompt.
        stopped: "budget" or "interrupted" where a search was ended by that, "context" where a response filled the
            model's context before it had its most tokens; by prompt.
        lattices: what was looked at, by prompt.

    Raises:
        UserError: the budget, or the context, does not even allow reading a prompt and one step.
    """

    def __init__(self, stepper: Stepper, prompts: Sequence[Sequence[int]], limits: Limits) -> None:
        self._stepper = stepper
        self.prompts = prompts
        self.limits = limits
        self.own = [limits.behind(prompt) for prompt in prompts]
        self.spent = [len(prompt) for prompt in prompts]
        longest = max(self.spent, default=0)
        if limits.budget is not None and limits.budget <= longest:
            raise UserError(
                f"A budget of {limits.budget} tokens does not allow one step behind a prompt of {longest} tokens.",
                "Raise the budget.",
            )
        self.stopped: list[str | None] = [None for _ in prompts]
        self.lattices = [[ROOT] for _ in prompts]
        self.frontier = stepper.start(prompts)

    def roots(self) -> list[Branch]:
        """Return an empty branch for every prompt."""
        return [Branch(row=row, prompt=row) for row in range(len(self.spent))]

    def may_step(self, prompt: int, rows: int) -> bool:
        """Return whether a prompt's search may step so many branches; remember why where it may not."""
        if self.limits.interrupted():
            self.stopped[prompt] = "interrupted"
        elif self.limits.budget is not None and self.spent[prompt] + rows > self.limits.budget:
            self.stopped[prompt] = "budget"
        else:
            return True
        return False

    def over(self, branch: Branch) -> bool:
        """Return whether a response is complete: by an end, or by its length; not where a search was stopped in it."""
        return bool(branch.tokens) and self.own[branch.prompt].ends(branch.tokens[-1], len(branch.tokens))

    def step(self, branches: Sequence[Branch]) -> list[Branch]:
        """Append each branch's last token to the row it came from, and return the branches at their new rows."""
        parents = torch.tensor([branch.row for branch in branches])
        return self._stepped(self.frontier.state, parents, branches)

    def step_from(self, places: Sequence[tuple[Any, int]], branches: Sequence[Branch]) -> list[Branch]:
        """Append each branch's last token to a (state, row) of any earlier frontier, as `step` does."""
        return self._stepped(self._stepper.gather(places), torch.arange(len(places)), branches)

    def end(self, branch: Branch) -> None:
        """Note that a branch is over with its last token."""
        self._note(branch, True)

    def _stepped(self, state: Any, parents: Tensor, branches: Sequence[Branch]) -> list[Branch]:
        tokens = torch.tensor([branch.tokens[-1] for branch in branches])
        self.frontier = self._stepper.step(state, parents, tokens)
        for branch in branches:
            self.spent[branch.prompt] += 1
        return [branch.at(row, self._note(branch, False)) for row, branch in enumerate(branches)]

    def _note(self, branch: Branch, ends: bool) -> int:
        lattice = self.lattices[branch.prompt]
        lattice.append(Visited(branch.node, branch.tokens[-1], branch.logps[-1], branch.score, ends))
        return len(lattice) - 1


def check_room(prompts: Iterable[tuple[str, int]], budget: int | None, context: int | None) -> None:
    """Refuse a prompt that alone would spend the budget, or fill the context, before anything is computed.

    Args:
        prompts: where each comes from, and its number of tokens.
        budget: most tokens that may go through the policy for one of them.
        context: most tokens that the models read.

    Raises:
        UserError: names the prompt, and both numbers.
    """
    for where, tokens in prompts:
        if context is not None and context <= tokens:
            raise UserError(
                f"{where}: the prompt has {tokens} tokens, and the model reads {context} at most.",
                "Shorten the prompt, or leave it out.",
            )
        if budget is not None and budget <= tokens:
            raise UserError(
                f"{where}: a budget of {budget} tokens does not reach past the prompt's {tokens}.", "Raise --budget."
            )
