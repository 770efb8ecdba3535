"""The local writer: what comes back is what the stepper's policy says, sample by sample."""

import math

import pytest
import torch
from transformers import LlamaConfig

from tokenq.rollout.writer import LocalWriter, prompts_at_once
from tokenq.search.branches import Limits
from tokenq.search.settings import Sampling
from tokenq.worlds.draws import generator, random_policy
from tokenq.worlds.mdp import EOS, build
from tokenq.worlds.tabular import TabularStepper

WORLD = build(vocab_size=4, horizon=5, n_prompts=2)
POLICY = random_policy(WORLD, generator(0), spread=1.5)
PROMPTS = [WORLD.prompt_ids(0), WORLD.prompt_ids(1)]


def writer(longest=5):
    return LocalWriter(lambda: TabularStepper(WORLD, POLICY), Limits((EOS,), longest))


def logp(prompt, tokens):
    """Return the log-prob of each token, looked up one by one."""
    return [float(POLICY[WORLD.walk((*prompt, *tokens[:place])), token]) for place, token in enumerate(tokens)]


def test_log_probs_are_those_of_the_policy_whatever_the_sampling():
    for sampling in (Sampling(), Sampling(temperature=0.5, top_p=0.7), Sampling(temperature=0.0)):
        for prompt, samples in zip(PROMPTS, writer().write(PROMPTS, 6, sampling, 3), strict=True):
            for one in samples:
                assert one.logps == pytest.approx(logp(prompt, one.token_ids), abs=1e-12)
                assert (one.finish == "stop") == (one.token_ids[-1] == EOS)


def test_a_response_that_is_cut_says_so():
    samples = [one for some in writer(longest=2).write(PROMPTS, 30, Sampling(), 0) for one in some]
    assert {one.finish for one in samples} == {"stop", "length"}
    assert all(len(one.token_ids) == 2 for one in samples if one.finish == "length")


def test_the_mass_that_filters_keep_by_hand():
    """Top-p .7 at temperature ½: the likeliest tokens until .7 is reached, of the probabilities squared."""
    sampling = Sampling(temperature=0.5, top_p=0.7)
    for prompt, samples in zip(PROMPTS, writer().write(PROMPTS, 5, sampling, 1), strict=True):
        for one in samples:
            for place in range(len(one.token_ids)):
                chances = (2 * POLICY[WORLD.walk((*prompt, *one.token_ids[:place]))]).softmax(-1)
                mass, row = 0.0, chances.sort(descending=True)
                for chance, token in zip(row.values.tolist(), row.indices.tolist(), strict=True):
                    if mass < 0.7:
                        mass += chance
                        last = token
                assert one.kept_mass[place] == pytest.approx(mass, abs=1e-12)
                assert chances[one.token_ids[place]] >= chances[last]


def test_without_filters_there_is_no_mass_to_tell():
    assert writer().write(PROMPTS, 1, Sampling(temperature=0.3), 0)[0][0].kept_mass is None


def test_samples_depend_on_the_seed_and_not_on_what_is_written_beside_them():
    both = writer().write(PROMPTS, 4, Sampling(), 5)
    assert writer().write(PROMPTS[1:], 4, Sampling(), 5)[0] == both[1]
    assert writer().write(PROMPTS, 4, Sampling(), 6) != both
    assert writer().write(PROMPTS, 2, Sampling(), 5)[0] == both[0][:2]


def test_frequencies_are_those_of_the_policy():
    """First tokens of 4,000 samples: within four standard errors of the policy's."""
    samples = writer().write(PROMPTS[:1], 4000, Sampling(), 0)[0]
    found = torch.bincount(torch.tensor([one.token_ids[0] for one in samples]), minlength=4) / 4000
    expected = POLICY[0].exp()
    for share, chance in zip(found.tolist(), expected.tolist(), strict=True):
        assert share == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 4000) + 1e-9)


def test_prompts_side_by_side_follow_from_the_size_of_the_model():
    small = LlamaConfig(vocab_size=1000, hidden_size=96, num_hidden_layers=3)
    assert prompts_at_once(small, samples=8, tokens=32, itemsize=4) == 512 // 8
    # A large vocabulary: 2^25 / 2^18 = 128 responses.
    wide = LlamaConfig(vocab_size=2**18, hidden_size=640, num_hidden_layers=18)
    assert prompts_at_once(wide, samples=4, tokens=48, itemsize=4) == 128 // 4
    # Keys and values: 2 · 32 layers · 4096 · 2 bytes · 256 tokens = 2^27 a response, of which 2^32 bytes hold 32.
    large = LlamaConfig(vocab_size=32_000, hidden_size=4096, num_hidden_layers=32)
    assert prompts_at_once(large, samples=4, tokens=256, itemsize=2) == 32 // 4
    assert prompts_at_once(large, samples=64, tokens=256, itemsize=2) == 1


def test_a_prompt_with_a_seed_of_its_own_is_written_to_as_if_alone():
    """The same prompt thrice: two seeds, one of them twice."""
    seeds = [5, 6, 5]
    together = writer().write([PROMPTS[0]] * 3, 2, Sampling(), seeds)
    for own, samples in zip(seeds, together, strict=True):
        assert samples == writer().write(PROMPTS[:1], 2, Sampling(), own)[0]
    assert together[0] == together[2]
    assert together[0] != together[1]
