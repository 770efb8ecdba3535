"""Sampling, with the usual filters: every sample has a die of its own, so that no batch changes it."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from tokenq.errors import UserError
from tokenq.listener import Progress, silent
from tokenq.search.branches import Branch, Walk, grown
from tokenq.search.settings import Sampling


def kept(logps: Tensor, sampling: Sampling, least: int = 1) -> Tensor:
    """Return [B, V] tempered log-probs, not normalised; −inf for what the filters leave out.

    Args:
        logps: [B, V] log π.
        sampling: the filters; a temperature of 0 changes nothing.
        least: tokens that every filter leaves.
    """
    scores = logps if sampling.temperature in (0, 1) else logps / sampling.temperature
    least = min(least, scores.shape[-1])
    if 0 < sampling.top_k < scores.shape[-1]:
        edge = scores.topk(max(sampling.top_k, least), -1).values[..., -1:]
        scores = scores.masked_fill(scores < edge, -torch.inf)
    if sampling.top_p < 1:
        ordered, places = scores.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        out = before >= sampling.top_p
        out[..., :least] = False
        left_out = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, places, out)
        scores = scores.masked_fill(left_out, -torch.inf)
    if sampling.min_p > 0:
        chances = scores.softmax(-1)
        edge = torch.minimum(sampling.min_p * chances.amax(-1, keepdim=True), chances.topk(least, -1).values[..., -1:])
        scores = scores.masked_fill(chances < edge, -torch.inf)
    return scores


def filtered(logps: Tensor, sampling: Sampling) -> Tensor:
    """Return [B, V] log-probs of what is drawn from: tempered, filtered, normalised; −inf for what is left out.

    Args:
        logps: [B, V] log π.
        sampling: the filters.
    """
    if sampling == Sampling():
        return logps
    if sampling.temperature == 0:
        best = logps.argmax(-1, keepdim=True)
        return torch.full_like(logps, -torch.inf).scatter(-1, best, 0.0)
    return kept(logps, sampling).log_softmax(-1)


def sample(
    walk: Walk,
    sampling: Sampling | None = None,
    *,
    count: int = 1,
    seed: int | Sequence[int] = 0,
    progress: Progress = silent,
) -> list[list[Branch]]:
    """Return `count` responses to every prompt, in the order in which they are drawn; the score is log π.

    A sample depends on the seed, on the tokens of its prompt and on its number alone, whatever is drawn beside it.

    Args:
        walk: prompts and limits, at their beginning.
        sampling: temperature and filters.
        count: samples for each prompt.
        seed: decides everything; one for all prompts, or one for each.
        progress: told (tokens of the longest response so far, most tokens) after every step.

    Raises:
        UserError: a budget smaller than one step, or no sample.
    """
    if count < 1:
        raise UserError(f"{count} samples are none.", "Draw 1 or more.")
    sampling = sampling or Sampling()
    limits = walk.limits
    seeds = each_seed(seed, len(walk.prompts))
    dice = [
        [Dice(mixed_seed(own, prompt, number)) for number in range(count)]
        for own, prompt in zip(seeds, walk.prompts, strict=True)
    ]
    running = {(root.prompt, number): root for root in walk.roots() for number in range(count)}
    finished: dict[tuple[int, int], Branch] = {}
    for length in range(1, limits.max_new_tokens + 1):
        frontier = walk.frontier
        rows = [branch.row for branch in running.values()]
        if sampling.temperature == 0:
            likeliest = frontier.logps.argmax(-1).tolist()
            tokens = [likeliest[row] for row in rows]
        else:
            tokens = draw(filtered(frontier.logps, sampling), rows, [dice[row][number] for row, number in running])
        after = grown(list(running.values()), tokens, frontier, frontier.logps)
        longer: dict[tuple[int, int], Branch] = {}
        for place, branch in zip(running, after, strict=True):
            if walk.over(branch):
                walk.end(branch)
                finished[place] = branch
            else:
                longer[place] = branch
        progress(length, limits.max_new_tokens)
        asking = Counter(row for row, _ in longer)
        may = {row for row, rows_of_it in asking.items() if walk.may_step(row, rows_of_it)}
        finished |= {place: branch for place, branch in longer.items() if place[0] not in may}
        running = {place: branch for place, branch in longer.items() if place[0] in may}
        if not running:
            break
        running = dict(zip(running, walk.step(list(running.values())), strict=True))
    return [[finished[row, number] for number in range(count)] for row in range(len(walk.prompts))]


class Dice:
    """Uniform numbers in [0, 1) of one seed, drawn in blocks: the same, however they are asked for.

    Args:
        seed: decides all of them.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn: list[float] = []

    def one(self) -> float:
        """Return the next number."""
        if not self._drawn:
            self._drawn = self._fresh(BLOCK).tolist()
            self._drawn.reverse()
        return self._drawn.pop()

    def many(self, count: int) -> Tensor:
        """Return the next numbers, [count] in double precision."""
        drawn = [self._drawn.pop() for _ in range(min(count, len(self._drawn)))]
        return torch.cat((torch.tensor(drawn, dtype=torch.float64), self._fresh(count - len(drawn))))

    def _fresh(self, count: int) -> Tensor:
        return torch.rand(count, generator=self._generator, dtype=torch.float64)


BLOCK = 32
"""Numbers of one die that are drawn at a time: calls for single ones cost more than all that is done with them."""


def draw(logps: Tensor, rows: Sequence[int], dice: Sequence[Dice]) -> list[int]:
    """Return a token for each of some rows, drawn by the inverse of the distribution function at one uniform number."""
    size, tokens = logps.shape[1], list[int]()
    step = max(1, DRAWN // size)
    inverse = _inverse if size <= WIDE else _inverse_by_spans
    for start in range(0, len(rows), step):
        chances = logps[torch.tensor(rows[start : start + step], device=logps.device)].exp_()
        numbers = torch.tensor([[one.one()] for one in dice[start : start + step]], device=logps.device, dtype=DOUBLE)
        tokens += inverse(chances, numbers)[:, 0].tolist()
    return tokens


def _inverse(chances: Tensor, numbers: Tensor) -> Tensor:
    """Return [B, 1] the token at which running sums of probabilities [B, V] pass a share [B, 1] of the whole."""
    totals = chances.cumsum(-1, dtype=DOUBLE)
    return _passed(totals, numbers * totals[:, -1:])


def _inverse_by_spans(chances: Tensor, numbers: Tensor) -> Tensor:
    """Return the same from sums of spans of the vocabulary, then of the entries of the span that is reached."""
    size = chances.shape[1]
    spans = _spans(chances).cumsum(-1, dtype=DOUBLE)
    reached = numbers * spans[:, -1:]
    span = torch.searchsorted(spans, reached, right=True).clamp(max=spans.shape[1] - 1)
    before = torch.where(span > 0, spans.gather(1, (span - 1).clamp(min=0)), 0.0)
    places = span * SPAN + torch.arange(SPAN, device=chances.device)
    inside = chances.gather(1, places.clamp(max=size - 1)).masked_fill_(places >= size, 0.0)
    within = inside.cumsum(-1, dtype=DOUBLE)
    return span * SPAN + _passed(within, reached - before)


def _passed(totals: Tensor, reached: Tensor) -> Tensor:
    """Return [B, 1] the first place at which running sums [B, V] are above a number, and one that has a chance.

    Products and sums of spans round: a number may come to the last sum, or above it.
    """
    last = torch.nextafter(totals[:, -1:], torch.zeros_like(reached))
    return torch.searchsorted(totals, torch.minimum(reached, last), right=True)


def _spans(chances: Tensor) -> Tensor:
    """Return [B, n] sums of probabilities [B, V] over spans of the vocabulary, the last of which may be shorter."""
    whole = chances.shape[1] // SPAN * SPAN
    sums = chances[:, :whole].reshape(len(chances), -1, SPAN).sum(-1)
    rest = chances[:, whole:].sum(-1, keepdim=True)
    return torch.cat((sums, rest), 1) if whole < chances.shape[1] else sums


WIDE = 16_384
"""Entries of a vocabulary from which on spans are faster than running sums of all."""

SPAN = 1024
"""Entries of the vocabulary whose probabilities are added up before they are looked at one by one."""

DOUBLE = torch.float64
DRAWN = 2**23
"""Numbers in double precision that a draw holds at a time: rows of a large vocabulary are drawn from in parts."""


def mixed_seed(seed: int, prompt: Sequence[int], number: int) -> int:
    """Return a seed of its own for one sample."""
    mixed = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
    for token in prompt:
        mixed = ((mixed ^ token) * 0x100000001B3) % 2**64
    return mixed >> 1


def each_seed(seed: int | Sequence[int], prompts: int) -> Sequence[int]:
    """Return a seed for each of so many prompts, of one for all of them or one for each."""
    return [seed] * prompts if isinstance(seed, int) else seed


def greedy(walk: Walk, progress: Progress = silent) -> list[list[Branch]]:
    """Return the response that takes the most likely token at every step, for every prompt."""
    return sample(walk, Sampling(temperature=0.0), progress=progress)
