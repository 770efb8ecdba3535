"""Search over a real model is that of transformers: the same responses, in the same order, with the same scores.

    TOKENQ_GEMMA=folder python -m pytest -m slow tests/search/test_gemma_search.py

for the folder of a Gemma-3 model of 270M parameters, or of another small causal language model with its tokenizer.
"""

import itertools
import os

import pytest
import torch
from transformers import GenerationConfig

from tokenq.models.forward.proof import fastest_exact
from tokenq.models.forward.stepper import Caching, ModelStepper, writer
from tokenq.models.load import ModelSpec, load_model
from tokenq.models.tokenizer import load_tokenizer
from tokenq.search.beam import beam_search
from tokenq.search.branches import Limits, Walk
from tokenq.search.sampling import filtered, greedy
from tokenq.search.settings import Beams, Sampling

pytestmark = pytest.mark.slow

TEXTS = (
    "Question: Is fire cold? Answer yes or no.\nAnswer:",
    "Alice: Where are you?\nBob: At home.\nAlice: Thank you!\nBob:",
    "To be or not to be",
)
"""Two whose answers are a line, and one that goes on: of several lengths."""

NEW_TOKENS = 12
TOLERANCE = 1e-4
"""Of scores, relative: what float32 leaves of sums over 12 tokens that went through other kernels."""


class Pair:
    """A model twice, in tokenq and as transformers has it, with prompts and the ids that end a response."""

    def __init__(self, folder):
        spec = ModelSpec(folder, "float32", "cpu")
        tokenizer = load_tokenizer(spec)
        self.peer = load_model(spec).requires_grad_(False)
        self.lm, warnings = fastest_exact(load_model(spec).requires_grad_(False))
        assert warnings == []
        assert isinstance(writer(self.lm), Caching)
        self.prompts = [tokenizer(text).input_ids for text in TEXTS]
        # The end of a line ends a response too: a base model writes its EOS too seldom.
        (line_end,) = tokenizer("\n", add_special_tokens=False).input_ids
        self.eos = (tokenizer.eos_token_id, line_end)
        self.options = {"eos_token_id": list(self.eos), "pad_token_id": 0, "max_new_tokens": NEW_TOKENS}

    def walk(self):
        return Walk(ModelStepper(self.lm), self.prompts, Limits(self.eos, NEW_TOKENS))

    def generate(self, prompt, **options):
        config = GenerationConfig(**{**self.options, **options})
        return self.peer.generate(
            torch.tensor([prompt]),
            generation_config=config,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=config.num_beams in (None, 1),  # of all beams they would be large
        )

    def responses(self, prompt, rows):
        """Return the rows without their prompt, and without what stands behind their end."""
        cut = [row[len(prompt) :].tolist() for row in rows]
        ends = [next((i for i, token in enumerate(row) if token in self.eos), len(row)) for row in cut]
        return [tuple(row[: end + 1]) for row, end in zip(cut, ends, strict=True)]

    def full_score(self, prompt, tokens, length_penalty):
        """Return Σ log π / length^penalty from one forward pass of the peer over the whole text."""
        logits = self.peer(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0]
        logps = logits[len(prompt) - 1 : -1].double().log_softmax(-1)
        return float(logps[range(len(tokens)), list(tokens)].sum()) / len(tokens) ** length_penalty


@pytest.fixture(scope="module")
def pair():
    folder = os.environ.get("TOKENQ_GEMMA")
    if not folder:
        pytest.skip("TOKENQ_GEMMA names no folder of a model")
    with torch.no_grad():
        return Pair(folder)


@pytest.fixture(scope="module")
def line_of(pair):
    """What transformers' greedy decoding writes behind every prompt, with the log-prob of each token."""
    lines = []
    for prompt in pair.prompts:
        found = pair.generate(prompt, do_sample=False)
        (tokens,) = pair.responses(prompt, found.sequences)
        logps = torch.cat(found.logits).log_softmax(-1)[range(len(tokens)), list(tokens)]
        lines.append((tokens, logps.tolist()))
    return lines


def assert_same(pair, prompt, branches, sequences, scores, length_penalty):
    """Compare two lists of responses, best first.

    Scores agree place by place. Where two neighbours are closer than what rounding may do, their order is
    left open: such a run of places must hold the same responses on both sides. The last run may be cut off by the
    width; a response of it that only one side has must then score what the last place scores, by a whole forward pass.
    """
    assert len(branches) == len(sequences)
    assert [branch.score for branch in branches] == pytest.approx(scores, rel=TOLERANCE)
    assert len({branch.tokens for branch in branches}) == len(branches)
    gaps = [a - b > TOLERANCE * abs(b) for a, b in itertools.pairwise(scores)]
    starts = [0, *(place for place, apart in enumerate(gaps, 1) if apart), len(scores)]
    for start, stop in itertools.pairwise(starts):
        ours = {branch.tokens for branch in branches[start:stop]}
        theirs = set(sequences[start:stop])
        if stop < len(scores):
            assert ours == theirs
        for tokens in ours ^ theirs:
            assert pair.full_score(prompt, tokens, length_penalty) == pytest.approx(scores[-1], rel=TOLERANCE)


@torch.no_grad()
def test_greedy_is_that_of_transformers(pair, line_of):
    found = greedy(pair.walk())
    for (branch,), (tokens, logps) in zip(found, line_of, strict=True):
        assert branch.tokens == tokens
        assert list(branch.logps) == pytest.approx(logps, rel=TOLERANCE, abs=1e-5)
    lengths = [len(tokens) for tokens, _ in line_of]
    assert min(lengths) < NEW_TOKENS == max(lengths)  # else the ends of responses would go unseen


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@torch.no_grad()
def test_one_beam_is_greedy(pair, line_of, length_penalty, early_stopping):
    """transformers has no beam search of one beam: it decodes greedily, without scores of sequences."""
    found = beam_search(pair.walk(), Beams(1, length_penalty, str(early_stopping).lower()))
    for (branch,), (tokens, logps) in zip(found, line_of, strict=True):
        assert branch.tokens == tokens
        assert branch.score == pytest.approx(sum(logps) / len(tokens) ** length_penalty, rel=TOLERANCE)


BEAMS = [
    *itertools.product((2, 5, 10), (0.0, 1.0, 2.0), (False, True)),
    (5, 0.0, "never"),
    (5, 2.0, "never"),
]


@pytest.mark.parametrize(("width", "length_penalty", "early_stopping"), BEAMS)
@torch.no_grad()
def test_beams_are_those_of_transformers(pair, width, length_penalty, early_stopping):
    found = beam_search(pair.walk(), Beams(width, length_penalty, str(early_stopping).lower()))
    ended = 0
    for prompt, branches in zip(pair.prompts, found, strict=True):
        theirs = pair.generate(
            prompt,
            num_beams=width,
            num_return_sequences=width,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            do_sample=False,
        )
        sequences = pair.responses(prompt, theirs.sequences)
        assert_same(pair, prompt, branches, sequences, theirs.sequences_scores.tolist(), length_penalty)
        ended += sum(len(tokens) < NEW_TOKENS for tokens in sequences)
    # A penalty of 2 drives short responses out again.
    assert ended or length_penalty == 2


FILTERS = (
    {"temperature": 0.7},
    {"temperature": 1.6, "top_k": 40},
    {"top_k": 1},
    {"top_p": 0.9},
    {"temperature": 0.5, "top_p": 0.3},
    {"min_p": 0.02},
    {"temperature": 1.3, "top_k": 200, "top_p": 0.95, "min_p": 0.01},
)


@pytest.mark.parametrize("filters", FILTERS)
@torch.no_grad()
def test_filters_are_those_of_transformers(pair, filters):
    """On the logits behind every prompt: what `generate` draws from, all filters in its order.

    Both find the edge of top-p by a cumulative sum in float32, from either end: a token may be in or out where that sum
    is within 1e-5 of top_p, and only there.
    """
    for prompt in pair.prompts:
        options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **filters}
        theirs = pair.generate(prompt, do_sample=True, max_new_tokens=1, **options)
        expected = theirs.scores[0].double().log_softmax(-1)
        found = filtered(theirs.logits[0].log_softmax(-1), Sampling(**filters)).double()
        kept, expected_kept = found > -torch.inf, expected > -torch.inf
        assert expected_kept.any()
        assert bool(expected_kept.all()) == (set(filters) == {"temperature"})
        open_to_both = at_the_edge(theirs.logits[0], **options)
        assert not ((kept != expected_kept) & ~open_to_both).any()
        both = kept & expected_kept
        # A log-softmax over 262144 entries is true to some 1e-5 in float32; what is open moves all others by as much.
        torch.testing.assert_close(found[both], expected[both], rtol=0, atol=5e-5)


def at_the_edge(logits, *, temperature, top_k, top_p, min_p=0.0):
    """Return where the mass of all likelier tokens, after temperature and top-k, is within 1e-5 of top_p."""
    if top_p == 1:
        return torch.zeros_like(logits, dtype=torch.bool)
    scores = logits.double() / temperature
    if top_k:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[..., -1:], -torch.inf)
    ordered, places = scores.softmax(-1).sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, places, (before - top_p).abs() < 1e-5)
