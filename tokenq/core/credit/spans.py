"""Credit of spans: rewards by step, advantages by turn, and turns as single actions."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenq.core.credit.groups import Groups, mean_of_others
from tokenq.core.credit.token_rewards import Mask, Numbers


def by_step(rewards: Numbers, steps: Int[Tensor, "N T"], mask: Mask) -> Numbers:
    """Return the rewards of each step summed at its last own token: it is judged when it is over; iStar, 2509.19199.

    Args:
        rewards: of tokens.
        steps: the number of the step that a token belongs to, rising along a response.
        mask: own tokens.
    """
    step, count = _spans(steps, mask)
    sums = _span_sums(rewards * mask, step, count)
    last = mask & (step != _next_own(step, mask))
    return torch.where(last, sums.gather(1, step), 0.0)


def by_turn(rewards: Numbers, turns: Int[Tensor, "N T"], groups: Groups, mask: Mask) -> Numbers:
    """Return one advantage a turn: the rewards from its beginning on, less the mean return of the group's others.

    The baseline is the mean of *whole* returns. One for each turn index, over the responses that have such a turn,
    knows what the policy chose (to go on), and biases the gradient.

    Args:
        rewards: of tokens.
        turns: the number of the turn that a token belongs to, rising along a response.
        groups: the prompt of each response.
        mask: own tokens.
    """
    turn, count = _spans(turns, mask)
    sums = _span_sums(rewards * mask, turn, count)
    ahead = sums.flip(-1).cumsum(-1).flip(-1)
    baseline = mean_of_others((rewards * mask).sum(-1), groups)
    return (ahead.gather(1, turn) - baseline[:, None]) * mask


NumbersOfTurns = Float[Tensor, "N J"]


class Turns(NamedTuple):
    """Responses whose turns are their actions.

    Attributes:
        numbers: [N, T] the turn of each token, 0 for others' tokens.
        first: [N, T] True = the first own token of a turn.
        mask: [N, J] True = a turn that a response has.
    """

    numbers: Int[Tensor, "N T"]
    first: Bool[Tensor, "N T"]
    mask: Bool[Tensor, "N J"]

    @classmethod
    def of(cls, turns: Int[Tensor, "N T"], mask: Mask) -> "Turns":
        """Return the turns of responses.

        Args:
            turns: the number of the turn that a token belongs to, rising along a response from 0.
            mask: own tokens.
        """
        numbers, count = _spans(turns, mask)
        before = torch.where(mask, numbers, -1).cummax(-1).values.roll(1, -1)
        before[:, :1] = -1
        places = torch.zeros(len(turns), count, dtype=torch.long, device=turns.device)
        return cls(numbers, mask & (numbers > before), places.scatter_add(1, numbers, mask.long()) > 0)

    def sums(self, numbers: Numbers) -> NumbersOfTurns:
        """Return [N, J] the sums over the tokens of each turn; numbers of others' tokens are 0."""
        return _span_sums(numbers, self.numbers, self.mask.shape[1])

    def firsts(self, numbers: Numbers) -> NumbersOfTurns:
        """Return [N, J] the number at the first token of each turn."""
        return self.sums(torch.where(self.first, numbers, 0.0))

    def of_tokens(self, numbers: NumbersOfTurns) -> Numbers:
        """Return [N, T] the number of its turn for every token."""
        return numbers.gather(1, self.numbers)


def _next_own(numbers: Tensor, mask: Tensor) -> Tensor:
    """Return the number of the next own token, −1 where there is none."""
    found, ahead = torch.empty_like(numbers), torch.full_like(numbers[:, 0], -1)
    for t in range(numbers.shape[1] - 1, -1, -1):
        found[:, t] = ahead
        ahead = torch.where(mask[:, t], numbers[:, t], ahead)
    return found


def _spans(spans: Tensor, mask: Tensor) -> tuple[Tensor, int]:
    """Return the spans numbered from 0, 0 for others' tokens, and how many there are at most."""
    own = torch.where(mask, spans, 0)
    return own, int(own.max()) + 1 if own.numel() else 1


def _span_sums(rewards: Tensor, spans: Tensor, count: int) -> Tensor:
    """Return [N, spans] the sums of each span of each response."""
    return rewards.new_zeros(len(rewards), count).scatter_add(1, spans, rewards)
