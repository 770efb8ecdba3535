"""Writing step by step: the same log-probs as whole rows, for every family, whatever branches are picked."""

import functools
import itertools

import numpy as np
import pytest
import torch
from examples import cases
from tiny import FAMILIES, VOCAB_SIZE, tiny_model
from transformers import GenerationConfig

from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.proof import fastest_exact
from tokenq.models.forward.stepper import Caching, ModelStepper, PromptMemory, Rereading, writer
from tokenq.search.beam import beam_search
from tokenq.search.beam_sampling import beam_sample
from tokenq.search.branches import Limits, Walk
from tokenq.search.sampling import Dice, greedy, mixed_seed
from tokenq.search.settings import Beams, Sampling

PROMPTS = [[5, 9, 2, 200, 31, 8, 77, 41, 12, 150, 3], [17], [88, 4, 250]]
"""Longer than the sliding window, of one token, and short."""


QUICK = ("gpt_neox", "gpt2", "gemma3", "gemma2", "mamba")
"""Families that are tried by default: rotary and learned positions, windows, capped scores, a state along the row."""
each_family = pytest.mark.parametrize("family", cases(FAMILIES, QUICK))

FLOAT32_INSIDE = {"bloom", "gemma2", "mamba"}
"""Families whose code in transformers computes a part in float32, whatever the weights are."""


def tolerance(family):
    return 2e-5 if family in FLOAT32_INSIDE else 1e-9


def own_logps(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().log_softmax(-1)


def walk(stepper, steps, seed=0):
    """Yield (tokens of each branch, frontier) along random steps: branches picked, multiplied and dropped."""
    rng = np.random.default_rng(seed)
    frontier, texts = stepper.start(PROMPTS), [list(prompt) for prompt in PROMPTS]
    yield texts, frontier
    for step in range(steps):
        count = len(texts) if step % 3 == 0 else int(rng.integers(2, 6))
        parents = np.arange(count) if step % 3 == 0 else rng.integers(0, len(texts), count)
        tokens = rng.integers(0, VOCAB_SIZE, count)
        texts = [[*texts[p], int(t)] for p, t in zip(parents, tokens, strict=True)]
        frontier = stepper.step(frontier.state, torch.tensor(parents), torch.tensor(tokens))
        yield texts, frontier


@each_family
@torch.no_grad()
def test_every_step_is_what_the_whole_row_says(family):
    """In float64, past the sliding window and past the memory that is taken at first."""
    model = tiny_model(family, dtype=torch.float64)
    lm, _ = fastest_exact(model)
    stepper = ModelStepper(lm)
    found = [(texts, frontier.logps) for texts, frontier in walk(stepper, 20)]
    lm.release()
    for texts, logps in found:
        expected = torch.stack([own_logps(model, text) for text in texts])
        torch.testing.assert_close(logps, expected, rtol=0, atol=tolerance(family))


@each_family
def test_models_that_share_prompts_keep_keys_and_values(family):
    lm, _ = fastest_exact(tiny_model(family))
    assert isinstance(writer(lm), Caching if FAMILIES[family].shares_prefix else Rereading)


@each_family
@torch.no_grad()
def test_prompts_that_go_on_are_read_from_there_on(family):
    """Three turns: one goes on, one is new, one loses its end, one was there already; the number of tokens read."""
    model = tiny_model(family, dtype=torch.float64)
    lm, _ = fastest_exact(model)
    stepper, read = ModelStepper(lm, memory=PromptMemory()), []
    counting = lm.lm.base_model.register_forward_pre_hook(
        lambda _, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    turns = [
        PROMPTS,
        [[*PROMPTS[0], *range(20, 33)], [7, 7], PROMPTS[2]],
        [[*PROMPTS[0], *range(20, 33), 5], [7, 7, 8, *range(90, 110)], PROMPTS[2][:2]],
    ]
    found = []
    for prompts in turns:
        frontier = stepper.start(prompts)
        after = stepper.step(frontier.state, torch.arange(3), torch.tensor([1, 2, 3]))
        found += [(prompts, frontier.logps), ([[*one, n] for n, one in enumerate(prompts, 1)], after.logps)]
    counting.remove()
    lm.release()
    for texts, logps in found:
        expected = torch.stack([own_logps(model, text) for text in texts])
        torch.testing.assert_close(logps, expected, rtol=0, atol=tolerance(family))
    if FAMILIES[family].shares_prefix:
        assert read == [11 + 1 + 3, 3, 13 + 2 + 1, 3, 1 + 21 + 2, 3]


@torch.no_grad()
def test_a_frontier_can_be_gone_on_from_twice():
    """A second step from the same frontier sees what the first saw, though memory is written in place."""
    lm, _ = fastest_exact(tiny_model("llama", dtype=torch.float64))
    stepper = ModelStepper(lm)
    frontier = stepper.start(PROMPTS)
    every, again = torch.arange(3), torch.tensor([7, 8, 9])
    once = stepper.step(frontier.state, every, torch.tensor([1, 2, 3]))
    other = stepper.step(frontier.state, every, again)
    deeper = stepper.step(once.state, every, again)
    fresh = ModelStepper(lm)
    start = fresh.step(fresh.start(PROMPTS).state, every, again)
    torch.testing.assert_close(other.logps, start.logps, rtol=0, atol=1e-12)
    straight = ModelStepper(lm)
    expected = straight.step(
        straight.step(straight.start(PROMPTS).state, every, torch.tensor([1, 2, 3])).state, every, again
    )
    torch.testing.assert_close(deeper.logps, expected.logps, rtol=0, atol=1e-12)


@each_family
@torch.no_grad()
def test_branches_of_several_steps_go_on_together(family):
    """Rows picked from frontiers of other depths and prompts: as if each had been written alone."""
    model = tiny_model(family, dtype=torch.float64)
    lm, _ = fastest_exact(model)
    stepper = ModelStepper(lm, lm)
    seen = [(list(texts), frontier.state) for texts, frontier in walk(stepper, 5, seed=1)]
    picks = [(seen[number], row) for number, row in ((5, 1), (0, 1), (3, 0), (5, 1), (1, 2), (0, 0))]
    texts = [[*texts[row], 11 + place] for place, ((texts, _), row) in enumerate(picks)]
    tokens = torch.tensor([text[-1] for text in texts])
    state = stepper.gather([(state, row) for (_, state), row in picks])
    frontier = stepper.step(state, torch.arange(len(picks)), tokens)
    further = stepper.step(frontier.state, torch.tensor([5, 0]), torch.tensor([3, 4]))
    lm.release()
    texts += [[*texts[5], 3], [*texts[0], 4]]
    expected = torch.stack([own_logps(model, text) for text in texts])
    assert further.ref_logps is not None
    torch.testing.assert_close(torch.cat((frontier.logps, further.logps)), expected, rtol=0, atol=tolerance(family))
    torch.testing.assert_close(further.ref_logps, expected[-2:], rtol=0, atol=tolerance(family))


def reads_of(lm):
    """Return a list to which every forward of a model adds the number of tokens that it reads."""
    counts = []
    lm.lm.get_input_embeddings().register_forward_hook(lambda module, given, output: counts.append(given[0].numel()))
    return counts


@torch.no_grad()
def test_both_models_and_what_they_cost():
    lms = [fastest_exact(tiny_model(family))[0] for family in ("llama", "gpt_neox")]
    reads = [reads_of(lm) for lm in lms]
    stepper = ModelStepper(*lms)
    frontier = stepper.step(stepper.start(PROMPTS).state, torch.tensor([0, 0]), torch.tensor([1, 2]))
    alone = ModelStepper(lms[1])
    expected = alone.step(alone.start(PROMPTS).state, torch.tensor([0, 0]), torch.tensor([1, 2]))
    torch.testing.assert_close(frontier.ref_logps, expected.logps)
    assert reads == [[15, 2], [15, 2, 15, 2]]


def generated(model, prompt, eos=(2,), **options):
    """Return the sequences and scores that transformers finds for one prompt."""
    config = GenerationConfig(eos_token_id=list(eos), pad_token_id=0, bos_token_id=1, **options)
    found = model.generate(
        torch.tensor([prompt]), generation_config=config, return_dict_in_generate=True, output_scores=True
    )
    rows = [row[len(prompt) :].tolist() for row in found.sequences]
    ends = [next((place for place, token in enumerate(row, 1) if token in eos), len(row)) for row in rows]
    return [tuple(row[:end]) for row, end in zip(rows, ends, strict=True)], found.sequences_scores


def model_that_ends():
    """Return a model that writes EOS often enough: a head without bias has its weight alone."""
    model = tiny_model("gpt_neox")
    with torch.no_grad():
        model.get_output_embeddings().weight[2] *= 3.0
    return model


@functools.cache
def way_of_the_model_that_ends():
    """Return the name of the fastest exact way of that model, proven once."""
    lm, _ = fastest_exact(model_that_ends())
    return lm.release() and lm.way


def quarter_of(*settings):
    """Return the cases of a test over three settings, a quarter of them by default: every value is among those."""
    numbered = itertools.product(*(enumerate(values) for values in settings))
    return [
        pytest.param(*(value for _, value in case), marks=pytest.mark.slow if sum(n for n, _ in case) % 4 else ())
        for case in numbered
    ]


@pytest.mark.parametrize(
    ("width", "length_penalty", "early_stopping"), quarter_of([1, 2, 5, 10], [0.0, 1.0, 2.0], [False, True, "never"])
)
@torch.no_grad()
def test_beams_are_those_of_transformers(width, length_penalty, early_stopping):
    model = model_that_ends()
    lm = PackedLM(model, way_of_the_model_that_ends())
    beams = Beams(width, length_penalty, str(early_stopping).lower())
    found = beam_search(Walk(ModelStepper(lm), PROMPTS, Limits((2,), 12)), beams)
    lm.release()
    for prompt, branches in zip(PROMPTS, found, strict=True):
        if width == 1:
            continue
        sequences, scores = generated(
            model,
            prompt,
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=12,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            do_sample=False,
        )
        assert [branch.tokens for branch in branches] == sequences
        assert [branch.score for branch in branches] == pytest.approx(scores.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("filters", "lengths", "eos"),
    quarter_of(
        [{}, {"temperature": 0.7}, {"top_k": 50}, {"temperature": 1.3, "top_k": 40, "top_p": 0.5}, {"min_p": 0.3}],
        [(0.0, False), (1.0, False), (1.0, True), (2.0, "never")],
        [(2,), (2, 7)],
    ),
)
@torch.no_grad()
def test_the_same_draw_gives_the_beams_of_transformers(monkeypatch, filters, lengths, eos):
    """`generate` draws continuations by torch.multinomial; here it is given the dice of the prompt instead."""
    length_penalty, early_stopping = lengths
    model = model_that_ends()
    lm = PackedLM(model, way_of_the_model_that_ends())
    beams, limits = Beams(4, length_penalty, str(early_stopping).lower()), Limits(eos, 12)
    found = beam_sample(Walk(ModelStepper(lm), PROMPTS, limits), beams, Sampling(**filters), seed=1)
    lm.release()
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **filters, "do_sample": True, "max_new_tokens": 12}
    options |= {"length_penalty": length_penalty, "early_stopping": early_stopping}
    for prompt, branches in zip(PROMPTS, found, strict=True):
        dice, counts = Dice(mixed_seed(1, prompt, 0)), []

        def multinomial(chances, num_samples, dice=dice, counts=counts):
            (row,), counts[:] = chances, [*counts, num_samples]
            noise = torch.zeros_like(row, dtype=torch.float64)
            noise[row > 0] = -(-dice.many(int((row > 0).sum())).log()).log()
            return (row.log() + noise).topk(num_samples).indices[None]

        monkeypatch.setattr(torch, "multinomial", multinomial)
        sequences, scores = generated(model, prompt, eos, num_beams=4, num_return_sequences=4, **options)
        monkeypatch.undo()
        assert set(counts) == {4 * (1 + len(eos))}
        assert [branch.tokens for branch in branches] == sequences
        assert [branch.score for branch in branches] == pytest.approx(scores.tolist(), abs=1e-4)


@torch.no_grad()
def test_greedy_is_that_of_transformers():
    model = tiny_model("qwen3")
    lm, _ = fastest_exact(model)
    found = greedy(Walk(ModelStepper(lm), PROMPTS, Limits((2,), 16)))
    lm.release()
    config = GenerationConfig(eos_token_id=[2], pad_token_id=0, bos_token_id=1, max_new_tokens=16, do_sample=False)
    for prompt, branches in zip(PROMPTS, found, strict=True):
        row = model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()
        assert list(branches[0].tokens) == (row[: row.index(2) + 1] if 2 in row else row)


def test_a_model_without_a_shared_way_is_read_again():
    lm = PackedLM(tiny_model("llama"), "plain")
    stepper, reads = ModelStepper(lm), reads_of(lm)
    frontier = stepper.step(stepper.start([[5, 9]]).state, torch.tensor([0]), torch.tensor([3]))
    torch.testing.assert_close(frontier.logps[0].double(), own_logps(lm.model, [5, 9, 3]), rtol=0, atol=1e-5)
    assert reads[:2] == [2, 3]
