"""A search that is watched, and one that goes on behind what is written already."""

from dataclasses import replace

import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq import load
from tokenq.data.prompts import given_prompts

TEXTS = ["the sum of two and three is five", "it is not six"]


@pytest.fixture(scope="module")
def searcher():
    tokenizer = tiny_tokenizer("bytes", texts=TEXTS)
    reader = load(tiny_model("llama", seed=0), tiny_model("llama", seed=1), tokenizer=tokenizer)
    return reader.searcher(None, {"method": "beam", "width": 2, "max_new_tokens": 4})


def test_whoever_watches_sees_every_step_and_changes_nothing(searcher):
    steps = []

    class Seen:
        def __init__(self, inner):
            self.inner = inner

        def start(self, prompts):
            return self.inner.start(prompts)

        def step(self, state, parents, tokens):
            steps.append(tokens.tolist())
            return self.inner.step(state, parents, tokens)

        def gather(self, places):
            return self.inner.gather(places)

    (alone,) = searcher.results(given_prompts("the sum", chat=False))
    (seen,) = replace(searcher, watch=Seen).results(given_prompts("the sum", chat=False))
    assert [one.token_ids for one in seen.candidates] == [one.token_ids for one in alone.candidates]
    assert sum(map(len, steps)) == seen.cost.policy_tokens - len("the sum") - 1  # a byte a token, and BOS


def test_what_is_begun_stands_behind_the_prompt(searcher):
    """Greedy text of four tokens is the greedy text of two behind its own first two."""
    greedy = replace(searcher, config=replace(searcher.config, method="greedy"))
    (whole,) = greedy.results(given_prompts("the sum", chat=False))
    ids = whole.candidates[0].token_ids
    assert len(ids) == 4
    begun = [replace(one, begun=ids[:2]) for one in given_prompts("the sum", chat=False)]
    (rest,) = replace(greedy, config=replace(greedy.config, max_new_tokens=2)).results(begun)
    assert rest.candidates[0].token_ids == ids[2:]
    assert rest.candidates[0].logps == pytest.approx(whole.candidates[0].logps[2:], abs=1e-5)
