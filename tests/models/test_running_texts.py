"""Texts of many requests in one model: whatever comes and goes beside it, each is what its whole row says."""

import numpy as np
import pytest
import torch
from examples import cases
from tiny import FAMILIES, VOCAB_SIZE, tiny_model

from tokenq.models.forward.proof import fastest_exact
from tokenq.models.forward.streams import group, table
from tokenq.models.forward.streams import memory as memory_of_texts
from tokenq.models.forward.streams.memory import TextMemory
from tokenq.models.forward.streams.streams import Streams

each_family = pytest.mark.parametrize("family", cases(FAMILIES, ("gemma3",)))

FLOAT32_INSIDE = {"bloom", "gemma2", "mamba"}
BEGINNING = (5, 9, 2, 200, 31, 8, 77, 41, 12, 150, 3)


def tolerance(family):
    return 2e-5 if family in FLOAT32_INSIDE else 1e-9


@pytest.fixture
def small(monkeypatch):
    """Make groups, tables and slack as small as the texts here, so that all of them are made anew again and again."""
    monkeypatch.setattr(group, "SHORT", 4)
    monkeypatch.setattr(group, "TABLES", 1)
    monkeypatch.setattr(table, "SLACK", 6)


def prompt_of(rng):
    """Return a prompt; half of them begin alike, so that what is known of one serves another."""
    own = tuple(rng.integers(0, VOCAB_SIZE, rng.integers(1, 14)).tolist())
    return (*BEGINNING[: rng.integers(3, 12)], *own) if rng.random() < 0.5 else own


def lived(streams, rng, steps):
    """Yield (text, log-probs of what comes next) of everything that a random life of some streams shows."""
    alive, reading = [], []
    for _ in range(steps):
        while rng.random() < 0.4 and len(reading) < 3:
            reading.append(streams.begin(prompt_of(rng), None))
        reads = [(one, streams.share(one, int(rng.integers(1, 8)))) for one in reading if rng.random() < 0.8]
        alive = [one for one in alive if rng.random() < 0.9]
        given = [(one, int(rng.integers(0, VOCAB_SIZE))) for one in alive]
        if not given and not reads:
            continue
        logps = list(streams.step(given, reads))
        for stream, _ in given:
            yield stream.text, logps.pop(0)
        for one, _ in reads:
            if not one.left:
                yield one.prompt, logps.pop(0)
                reading.remove(one)
                alive += streams.enter(one, int(rng.choice([1, 1, 1, 3])))
        assert logps == []


def whole_rows(lm, texts):
    lm.release()
    return torch.stack(
        [
            lm.model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].double().log_softmax(-1)
            for text in texts
        ]
    )


@pytest.mark.parametrize(
    ("family", "limit"),
    [
        pytest.param(
            family, limit, marks=() if (family, limit) in (("gemma3", None), ("gpt2", 14)) else pytest.mark.slow
        )
        for family in FAMILIES
        for limit in (None, 14)
    ],
)
@torch.no_grad()
def test_every_text_is_what_its_whole_row_says(family, limit, small):
    """In float64, past the window, with memory and without, up to a length beyond which texts are read anew."""
    lm, _ = fastest_exact(tiny_model(family, dtype=torch.float64))
    lm.limit = limit
    found = [
        *lived(Streams(lm, 2**20), np.random.default_rng(0), 30),
        *lived(Streams(lm), np.random.default_rng(1), 12),
    ]
    assert len(found) > 60
    found = found[::2] + found[-9:]
    assert max(len(text) for text, _ in found) > 24
    expected = whole_rows(lm, [text for text, _ in found])
    torch.testing.assert_close(torch.stack([own for _, own in found]), expected, rtol=0, atol=tolerance(family))


@each_family
@torch.no_grad()
def test_log_probs_of_prompts_are_those_of_whole_rows(family):
    """With alternatives and without, read in parts, and known in part from a prompt that began alike."""
    lm, _ = fastest_exact(tiny_model(family, dtype=torch.float64))
    streams = Streams(lm, 2**20)
    prompts = [BEGINNING, (*BEGINNING[:7], 4, 90), (*BEGINNING, 17, 18), BEGINNING[:1]]
    asked = [(prompt, count) for prompt in prompts for count in (2, 0)]
    readings = []
    for prompt, count in asked:
        reading = streams.begin(prompt, count)
        while reading.left:
            streams.step([], [(reading, streams.share(reading, 4))])
        readings.append(reading)
    lm.release()
    for (prompt, count), reading in zip(asked, readings, strict=True):
        logps = lm.model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0].double().log_softmax(-1)
        assert len(reading.said) == len(prompt) - 1
        for place, (logp, tops) in enumerate(reading.said):
            assert logp == pytest.approx(float(logps[place, prompt[place + 1]]), abs=tolerance(family))
            best = logps[place].topk(count)
            assert [token for token, _ in tops] == best.indices.tolist()
            assert [one for _, one in tops] == pytest.approx(best.values.tolist(), abs=tolerance(family))


@pytest.mark.parametrize("stay", [(2, 3), (2, 2)], ids=["of two lengths", "of one length"])
@torch.no_grad()
def test_texts_whose_longest_neighbours_leave_are_what_their_whole_rows_say(stay):
    """Prompts in one table with padding before the shorter ones, and then a table of the shorter ones alone."""
    lm, _ = fastest_exact(tiny_model("llama", dtype=torch.float64))
    streams = Streams(lm)
    prompts = [BEGINNING, BEGINNING[1:], *(tuple(range(9, 9 + 2 * size)) for size in stay)]
    readings = [streams.begin(prompt, None) for prompt in prompts]
    streams.step([], [(one, one.left) for one in readings])
    texts = [stream for one in readings for stream in streams.enter(one, 1)]
    streams.step([(one, 5) for one in texts])
    logps = streams.step([(one, 6) for one in texts[2:]])
    torch.testing.assert_close(logps, whole_rows(lm, [one.text for one in texts[2:]]), rtol=0, atol=1e-9)


def reads_of(lm):
    counts = []
    lm.lm.get_input_embeddings().register_forward_hook(lambda module, given, output: counts.append(given[0].numel()))
    return counts


@torch.no_grad()
def test_what_is_known_is_not_read_again():
    """A prompt in parts; its text goes on; another branch of the text; log-probs of responses to one prompt."""
    lm, _ = fastest_exact(tiny_model("llama"))
    streams, counts = Streams(lm, 2**20), reads_of(lm)

    def read(prompt, alternatives=None):
        reading = streams.begin(prompt, alternatives)
        while reading.left:
            streams.step([], [(reading, streams.share(reading, 8))])
        return reading

    (text,) = streams.enter(read(BEGINNING), 1)
    for token in (7, 8, 9):
        streams.step([(text, token)])
    assert counts == [8, 3, 1, 1, 1]
    streams.step([], [])  # the text has left
    read((*BEGINNING, 7, 8, 9, 10, 11))
    read((*BEGINNING, 7, 100))
    assert counts[5:] == [2, 1]
    for own in ((1, 2), (3, 4, 5)):
        read((*BEGINNING, *own), 1)
    assert counts[7:] == [8, 5, 4]  # the last common token is read again: the first own token is predicted there


@torch.no_grad()
def test_memory_is_given_back_and_shared():
    """Bytes by hand: 2 layers, 2 heads of 12, keys and values in float32 are 384 bytes a token."""
    lm, _ = fastest_exact(tiny_model("llama"))
    streams = Streams(lm)
    reading = streams.begin(BEGINNING, None)
    streams.step([], [(reading, 11)])
    four = streams.enter(reading, 4)
    streams.step([(one, 5) for one in four])
    own = 32 * 384  # room for 32 tokens is taken at once
    assert streams.size == 11 * 384 + 4 * own
    streams.step([(four[2], 5)])
    assert streams.size == 11 * 384 + own + 384  # and for one more than that behind those that stay
    streams.step([])
    assert streams.size == 0


def test_memory_of_texts_forgets_the_least_used():
    token = {0: (torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))}
    memory = TextMemory(3 * 8 * 2)

    def keep(*tokens, **given):
        layers = {0: tuple(torch.zeros(1, len(tokens), 1) for _ in token[0])}
        memory.keep(tokens, layers, **given)

    def known(*tokens, alternatives=None):
        return next((keys.shape[1] for keys, _ in memory.find(np.array(tokens), alternatives)[0].values()), 0)

    keep(1, 2)
    keep(3, 4)
    keep(5, 6)
    assert known(1, 2, 9) == 2
    keep(7, 8)  # forgets (3, 4): (1, 2) was used since
    assert (known(1, 2, 9), known(3, 4, 9), known(5, 6, 9), known(5, 6)) == (2, 0, 2, 1)
    keep(1, 2, 3)  # stands for (1, 2) too
    assert (len(memory), memory.size) == (2, 5 * 8)
    keep(1, 2)
    assert len(memory) == 2
    keep(*range(20))  # more than there is room for
    assert len(memory) == 2
    keep(1, 2, 3, 4, said=[(-1.0, ((2, -0.5),)), (-2.0, ()), (-3.0, ())], alternatives=1)
    assert known(1, 2, 3, 9, alternatives=1) == 2
    assert known(1, 2, 3, 9, alternatives=2) == 0
    assert memory.find(np.array((1, 2, 3, 9)), 0)[1] == [(-1.0, ()), (-2.0, ())]


def test_no_more_texts_are_kept_than_can_be_compared(monkeypatch):
    monkeypatch.setattr(memory_of_texts, "MOST_TEXTS", 3)
    memory = TextMemory(2**20)
    for first in range(5):
        memory.keep((first, 9), {0: (torch.zeros(1, 2, 1), torch.zeros(1, 2, 1))})
    assert len(memory) == 3
    assert [bool(memory.find(np.array((first, 9, 9)), None)[0]) for first in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]


@torch.no_grad()
def test_a_step_that_fails_can_be_taken_again():
    lm, _ = fastest_exact(tiny_model("llama", dtype=torch.float64))
    streams, other = Streams(lm), Streams(lm)
    texts = []
    for one in (streams, other):
        reading = one.begin(BEGINNING, None)
        one.step([], [(reading, 11)])
        texts.append(one.enter(reading, 2))
        one.step([(text, 3) for text in texts[-1]])
    broken = streams.begin((5, VOCAB_SIZE + 3), None)
    with pytest.raises(IndexError):
        streams.step([(texts[0][0], 4), (texts[0][1], 5)], [(broken, 2)])
    after = streams.step([(texts[0][0], 4), (texts[0][1], 5)])
    torch.testing.assert_close(after, other.step([(texts[1][0], 4), (texts[1][1], 5)]), rtol=0, atol=1e-12)
    assert texts[0][0].text == (*BEGINNING, 3, 4)
