"""Tokens are drawn from large vocabularies as from small ones."""

import torch

from tokenq.search.sampling import _inverse, _inverse_by_spans


def test_spans_of_a_large_vocabulary_give_the_tokens_of_one_running_sum():
    """Also where most tokens have no chance, and the last span is short; a number just below 1 draws a possible one."""
    dice = torch.Generator().manual_seed(0)
    for size in (5, 1024, 2049, 20_000):
        chances = torch.rand(64, size, generator=dice) ** 8
        chances[:, 1:].masked_fill_(torch.rand(64, size - 1, generator=dice) < 0.7, 0.0)
        numbers = torch.rand(64, 1, generator=dice, dtype=torch.float64)
        numbers[0] = 1 - 2**-53
        whole, by_spans = _inverse(chances, numbers), _inverse_by_spans(chances, numbers)
        assert torch.equal(whole[1:], by_spans[1:])
        assert bool((chances.gather(1, by_spans) > 0).all())
