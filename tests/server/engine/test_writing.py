"""Requests in one batch: whoever comes, goes or fails beside it, each has the tokens and log-probs it has alone."""

import random
from dataclasses import replace

import pytest
import torch
from tiny import FAMILIES, VOCAB_SIZE, tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

import tokenq
from tokenq.models.forward.stepper import ModelStepper
from tokenq.search.branches import Limits, Walk
from tokenq.search.sampling import sample
from tokenq.server.engine.counters import Counters
from tokenq.server.engine.request import Generation, PromptLogps, Token
from tokenq.server.engine.ticket import Line, Ticket
from tokenq.server.engine.writing import Writing

pytestmark = pytest.mark.integration

CLOSE = 1e-5
EOS = frozenset(range(2, VOCAB_SIZE, 9))
"""Ids that end a choice: every ninth, so that some end early."""

BEGINNING = (5, 9, 4, 200, 31, 8, 77, 41, 12, 150, 3, 17, 19, 23, 60, 61, 62, 63, 64, 66)


def tiny_moe():
    config = AutoConfig.for_model(
        "mixtral",
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8.0)
    return model


def adapted():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


KINDS = {name: lambda name=name: (tiny_model(name), tiny_model(name, seed=1)) for name in FAMILIES} | {
    "mixtral": lambda: (tiny_moe(), tiny_model("llama")),
    "adapter": lambda: (adapted(), None),
}
"""Pairs of a policy and its reference: a window, experts, states that run along the row, an adapter on its base, …"""

QUICK = ("gemma3", "mixtral", "mamba", "adapter")
each_kind = pytest.mark.parametrize(
    ("kind", "count"),
    [*((kind, 9) for kind in QUICK), *(pytest.param(kind, 40, marks=pytest.mark.slow) for kind in KINDS)],
)


def reader_of(kind):
    policy, reference = KINDS[kind]()
    tokenizer = tiny_tokenizer("bytes")
    return tokenq.load((policy, tokenizer), None if reference is None else (reference, tokenizer))


def asked_of(rng):
    """Return some request."""
    own = tuple(rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 9)))
    asked = Generation(
        prompt=(*BEGINNING[: rng.randint(3, 20)], *own) if rng.random() < 0.6 else own,
        n=rng.choice([1, 1, 1, 3]),
        seed=rng.randrange(1000),
        temperature=rng.choice([0, 0, 1, 0.7]),
        max_new_tokens=rng.randint(1, 9),
        eos=EOS,
        top_logprobs=rng.choice([0, 0, 3]),
        rewards=rng.random() < 0.4,
        prompt_logps=rng.random() < 0.3,
    )
    return replace(asked, **rng.choice([{}, {"top_p": 0.6}, {"top_k": 5}, {"min_p": 0.2}]))


def alone(reader, asked):
    """Return what searches draw for a request."""
    policy, reference = reader.pair.models.policy, reader._base or reader.pair.models.reference
    stepper = ModelStepper(policy, reference if asked.rewards else None)
    walk = Walk(stepper, [asked.prompt], Limits(tuple(asked.eos), asked.max_new_tokens))
    return sample(walk, asked.sampling, count=asked.n, seed=asked.seed)[0]


def check(reader, asked, delivered, called_off=()):
    """Hold what was delivered to what searches draw; choices that were called off have a part of it."""
    assert delivered[-1] is None
    assert delivered.count(None) == 1
    told = [one for one in delivered[:-1] if isinstance(one, PromptLogps)]
    assert len(told) == (asked.prompt_logps and "all" not in called_off)
    if told:
        check_prompt(reader, asked, told[0])
    for choice, branch in enumerate(alone(reader, asked)):
        tokens = [one for one in delivered[:-1] if isinstance(one, Token) and one.choice == choice]
        ids = tuple(one.id for one in tokens)
        if {choice, "all"} & set(called_off):
            assert ids == branch.tokens[: len(ids)]
        else:
            assert ids == branch.tokens
            finishes = [one.finish for one in tokens]
            assert finishes == [None] * (len(ids) - 1) + ["stop" if ids[-1] in asked.eos else "length"]
        assert [one.logp for one in tokens] == pytest.approx(branch.logps[: len(ids)], abs=CLOSE)
        if asked.rewards:
            assert [one.ref_logp for one in tokens] == pytest.approx(branch.ref_logps[: len(ids)], abs=CLOSE)
        assert {len(one.top) for one in tokens} <= {asked.top_logprobs}
        if asked.temperature == 0 and asked.top_logprobs:
            assert [one.top[0][0] for one in tokens] == list(ids)


def check_prompt(reader, asked, told):
    """Hold log-probs of a prompt to those of the packed forward, which `tokenq score` reads."""
    assert told.logps[0] is None
    assert len(told.logps) == len(told.tops) == len(asked.prompt)
    lm = reader.pair.models.policy
    expected = []
    with torch.no_grad(), lm.own_attention_restored():
        for place in range(1, len(asked.prompt)):
            logits = lm.lm(input_ids=torch.tensor([asked.prompt[:place]]), use_cache=False).logits[0, -1]
            expected.append(float(logits.log_softmax(-1)[asked.prompt[place]]))
    assert list(told.logps[1:]) == pytest.approx(expected, abs=3 * CLOSE)
    assert (told.ref_logps is not None) == asked.rewards


def begun(reader, **options):
    given = {"most_running": 8, "most_kept": 2**20, "chunk": 7, "counters": Counters(), **options}
    return Writing(reader.pair, **given)


def ask(line, asked, client=""):
    delivered = []
    ticket = Ticket(asked, delivered.append, client, asked.max_new_tokens)
    line.add(ticket)
    return ticket, delivered


@each_kind
def test_each_request_has_what_it_has_alone(kind, count):
    """Random arrivals, cancellations and stops: with seeds, so that each run is the same."""
    reader, rng, line = reader_of(kind), random.Random(7), Line()
    writing, requests, off = begun(reader), [], {}
    while len(requests) < count or line or not writing.idle:
        if len(requests) < count and rng.random() < 0.6:
            asked = asked_of(rng)
            requests.append((asked, *ask(line, asked, client=rng.choice("ab"))))
        if requests and rng.random() < 0.15:
            asked, ticket, delivered = rng.choice(requests)
            if not ticket.ended and asked.n > 1 and rng.random() < 0.5:
                ticket.stop(0)
                off.setdefault(id(ticket), set()).add(0)
            elif not ticket.ended:
                ticket.cancel()
                off.setdefault(id(ticket), set()).add("all")
        writing.step(line)
        assert writing.choices <= 8
    for asked, ticket, delivered in requests:
        part = off.get(id(ticket), set())
        if "all" in part:
            delivered = [one for one in delivered if not isinstance(one, PromptLogps)]
        check(reader, asked, delivered, part)
    assert off
    writing.step(line)
    assert sum(model.size for model in writing.models) == 0


def test_what_is_drawn_does_not_depend_on_what_runs_beside_it():
    """A seed and a prompt have one answer; without a seed two requests differ."""
    reader, line = reader_of("llama"), Line()
    writing = begun(reader)
    asked = Generation(prompt=BEGINNING, n=2, seed=5, max_new_tokens=6, eos=frozenset())
    several = [ask(line, one)[1] for one in (asked, asked, replace(asked, seed=None), replace(asked, seed=None))]
    while line or not writing.idle:
        writing.step(line)
    texts = [tuple(one.id for one in delivered[:-1]) for delivered in several]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_a_bias_is_added_before_anything_is_drawn():
    reader, line = reader_of("llama"), Line()
    writing = begun(reader)
    common = {"prompt": BEGINNING, "max_new_tokens": 4, "eos": frozenset()}
    wanted = ask(line, Generation(temperature=0, logit_bias={7: 1e3}, **common))[1]
    banned = ask(line, Generation(seed=1, top_k=2, logit_bias=dict.fromkeys(range(200), -1e3), **common))[1]
    plain = ask(line, Generation(temperature=0, **common))[1]
    while line or not writing.idle:
        writing.step(line)
    assert [one.id for one in wanted[:-1]] == [7] * 4
    assert wanted[0].logp < -1  # of the model itself
    assert min(one.id for one in banned[:-1]) >= 200
    assert [one.id for one in plain[:-1]] == list(alone(reader, Generation(temperature=0, seed=0, **common))[0].tokens)


def test_alternatives_of_both_models():
    """By hand from whole rows: the policy's likeliest, the reference's, and the reference on the policy's."""
    reader, line = reader_of("llama"), Line()
    writing = begun(reader)
    asked = Generation(prompt=BEGINNING, temperature=0, max_new_tokens=1, eos=frozenset(), top_logprobs=2, rewards=True)
    delivered = ask(line, asked)[1]
    while line or not writing.idle:
        writing.step(line)
    one = delivered[0]
    own, ref = (
        ModelStepper(lm).start([BEGINNING]).logps[0] for lm in (reader.pair.models.policy, reader.pair.models.reference)
    )
    best, theirs = own.topk(2), ref.topk(2)
    assert [i for i, _ in one.top] == best.indices.tolist()
    assert [p for _, p in one.top] == pytest.approx(best.values.tolist(), abs=CLOSE)
    others = [i for i in best.indices.tolist() if i not in theirs.indices.tolist()]
    assert [i for i, _ in one.ref_top] == [*theirs.indices.tolist(), *others]
    assert [p for _, p in one.ref_top] == pytest.approx([float(ref[i]) for i, _ in one.ref_top], abs=CLOSE)
    assert one.ref_logp == pytest.approx(float(ref[one.id]), abs=CLOSE)


def test_clients_have_their_turns_one_after_the_other():
    line = Line()
    asked = Generation(prompt=(1,), max_new_tokens=1, eos=frozenset())
    names = {
        ask(line, asked, client)[0]: name for client, name in zip("aaabc", ("a1", "a2", "a3", "b1", "c1"), strict=True)
    }
    gone = next(ticket for ticket, name in names.items() if name == "a2")
    gone.cancel()
    assert line.leave(lambda one: one.cancelled) == [gone]
    assert len(line) == 4
    assert [names[line.take()] for _ in range(4)] == ["a1", "b1", "c1", "a3"]
    assert line.next() is None


def test_a_newcomer_that_fails_leaves_the_others():
    reader, line = reader_of("llama"), Line()
    writing = begun(reader)
    good = Generation(prompt=BEGINNING, seed=3, max_new_tokens=6, eos=frozenset(), rewards=True)
    first = ask(line, good)[1]
    for _ in range(5):
        writing.step(line)
    assert first
    bad = ask(line, replace(good, prompt=(5, VOCAB_SIZE + 7)))[1]
    while line or not writing.idle:
        writing.step(line)
    assert isinstance(bad[0], IndexError)
    assert bad[1:] == [None]
    check(reader, good, first)


def test_prompts_that_begin_alike_are_read_once_even_when_they_come_together():
    """8 responses of 3 tokens to one prompt of 20: 23 tokens, then 4 for each of the others."""
    reader, line = reader_of("llama"), Line()
    counters = Counters()
    writing = begun(reader, counters=counters, chunk=100)
    common = {"max_new_tokens": 0, "eos": frozenset(), "prompt_logps": True}
    asked = [Generation(prompt=(*BEGINNING, 100 + i, 101, 102 + i), **common) for i in range(8)]
    delivered = [ask(line, one)[1] for one in asked]
    while line or not writing.idle:
        writing.step(line)
    for one, got in zip(asked, delivered, strict=True):
        check_prompt(reader, one, got[0])
        assert got[1:] == [None]
    assert counters.tokens_read == 23 + 7 * 4
    assert counters.tokens_known == 7 * 19
    assert counters.steps == 2


def test_long_prompts_are_read_in_parts_beside_steps():
    """70 tokens at 7 a step: the text that runs gets a token at each of these steps."""
    reader, line = reader_of("llama"), Line()
    writing = begun(reader)
    running = ask(line, Generation(prompt=(3,), seed=1, max_new_tokens=30, eos=frozenset()))[1]
    writing.step(line)
    long = ask(line, Generation(prompt=tuple(range(70)), seed=1, max_new_tokens=1, eos=frozenset()))[1]
    before = len(running)
    while not long:
        writing.step(line)
    assert len(running) - before == 10
