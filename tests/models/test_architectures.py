"""Every causal LM type of the installed transformers, tiny and random: read, written with and trained as it is without.

What a type says by itself is asked of plain transformers alone: whole unpadded rows, nothing kept between them. A type
that the tables below do not name, as another version of transformers may bring, is tried like the rest.
"""

import json
import math

import pytest
import torch
import transformers
from tiny_types import TOKENIZER, TYPES, WINDOW, tiny_of
from transformers import AutoModelForCausalLM, AutoTokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.errors import UserError

WRITTEN_FOR = "5.23."
"""Version of transformers whose types the tables name; others have some less and some more."""

NO_WAY = "No way of batching reproduces this model's own forward"

REFUSED = {
    "cpmant": NO_WAY,
    "emu3": "lacks 21 weights of a causal language model",
    "prophetnet": NO_WAY,
    "xlnet": NO_WAY,
}
"""Types that are refused, by what is said of them: what CPM-Ant, ProphetNet and XLNet say of a token changes with the
tokens behind it; AutoModelForCausalLM does not find Emu 3's weights in the whole model and would draw them anew."""

ENCODERS = (
    *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta"),
    *("xlm-roberta-xl", "xmod"),
)
"""Types that are encoders unless their configuration says otherwise; the tests of the others make decoders of them."""

UNTRAINED = {
    "big_bird": "The policy does not start equal to its reference",
    "reformer": "ReformerModel refuses rows of 77 tokens",
}
"""Types that are read and written with and cannot be trained, by what is said then: BigBird makes new attention layers
in its first forward, with dropout; Reformer takes only rows of whole chunks in training."""

UNBUILT: dict[str, str] = {
    "gemma3n": "its vision part comes from timm, which is no dependency (gemma3n_text is its language model)",
    "gemma4_assistant": "it reads the keys and values of another model and cannot run alone",
    "gemma4_unified_assistant": "it reads the keys and values of another model and cannot run alone",
    "musicgen": "AutoModelForCausalLM cannot make its decoder of audio codes from the configuration of the type",
    "musicgen_melody": "AutoModelForCausalLM cannot make its decoder of audio codes from the configuration of the type",
}
"""Types of which no tiny model is made, with the reason."""

PROMPT = "Question: how many are there? Answer: the cat sat on the mat, and the dog ran to the old red house."
ANSWERS = (" 1 2 3 4 5 6.", " It is one that sang a song at night, by the sea")
NEW = 12
"""Tokens that are written."""

SAME = 1e-4
"""Nats by which a log-prob may differ."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # each architecture has its own
@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in {*UNBUILT, *REFUSED}])
def test_it_is_read_written_with_and_trained_as_transformers_has_it(kind, tmp_path, record_property, capsys):
    saved = save(kind, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(saved)
    prompt = tokenizer(PROMPT).input_ids
    assert len(prompt) > WINDOW

    session = tokenq.load(str(saved), str(saved))
    off = largest_difference(session, model)
    record_property("difference", off)
    record_property("way", session.pair.models.policy.way)
    assert off <= SAME

    candidate = tokenq.decode(str(saved), [PROMPT], method="greedy", max_new_tokens=NEW)[0].candidates[0]
    assert list(candidate.token_ids) == written(model, prompt, tokenizer.eos_token_id)

    run = tmp_path / "run"
    if kind in UNTRAINED:
        assert train(saved, run) == 2
        assert UNTRAINED[kind] in capsys.readouterr().err
        return
    assert train(saved, run) == 0
    first, second = losses(run)
    assert first == pytest.approx(math.log(2), abs=1e-5)
    assert second < first
    tokenq.load(str(run / "policy"), str(saved))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in REFUSED if kind in TYPES])
def test_what_cannot_be_read_is_refused(kind, tmp_path):
    saved = save(kind, tmp_path / "model")
    with pytest.raises(UserError, match=REFUSED[kind]):
        tokenq.load(str(saved), str(saved))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind in TYPES])
def test_an_encoder_is_refused(kind, tmp_path):
    saved = save(kind, tmp_path / "model", is_decoder=False, causal=False)
    with pytest.raises(UserError, match=NO_WAY):
        tokenq.load(str(saved), str(saved))


def test_the_tables_name_types_that_there_are_and_none_twice():
    assert not set(REFUSED) & UNBUILT.keys()
    named = {*REFUSED, *ENCODERS, *UNTRAINED, *UNBUILT}
    assert named <= set(TYPES) or not transformers.__version__.startswith(WRITTEN_FOR)


def save(kind, folder, **changed):
    """Return a folder with the tiny model of a type and its tokenizer."""
    try:
        model = tiny_of(kind, **changed)
    except Exception as problem:
        pytest.fail(
            f"No tiny {kind} can be made ({type(problem).__name__}: {' '.join(str(problem).split())[:400]}). Say in "
            "OWN of tiny_types.py what its configuration needs, or in UNBUILT of this file why there is none."
        )
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def largest_difference(session, model):
    """Return how far the log-probs of a batch of two responses are from those of whole rows."""
    rows, _ = session.rows([session.example(PROMPT, answer) for answer in ANSWERS])
    found = []
    for row, (trace,) in zip(rows, session.traces(rows), strict=True):
        ids = torch.tensor([[*row.group.prompt_ids.tolist(), *(token.id for token in trace.tokens)]])
        with torch.no_grad():
            want = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        places = range(len(row.group.prompt_ids), ids.shape[1])
        found += [
            abs(token.logp - want[place - 1, token.id].item())
            for token, place in zip(trace.tokens, places, strict=True)
        ]
    return max(found)


def written(model, prompt, eos):
    """Return the most likely tokens, each from the whole text read anew."""
    text = list(prompt)
    for _ in range(NEW):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1]
        text.append(int(logits.argmax()))
        if text[-1] == eos:
            break
    return text[len(prompt) :]


def train(saved, output, *more):
    """Take two steps of DPO on the same four pairs and return how the command ended."""
    data = saved.parent / "pairs.jsonl"
    pairs = [
        {"prompt": f"{PROMPT} {i}", "chosen": f" {i} cats sat.", "rejected": f" the old house {i}."} for i in range(4)
    ]
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    words = ["train", "--model", str(saved), "--data", str(data), "--output", str(output), "--loss", "dpo"]
    words += ["--learning-rate", "1e-3", "--schedule", "constant", "--batch-size", "4", "--max-steps", "2"]
    return main([*words, *more])


def losses(run):
    """Return the loss of every step."""
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines() if "loss" in line]
