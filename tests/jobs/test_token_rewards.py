"""Dense rewards of rollouts, token by token: against `tokenq score`, and against transformers."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models.tiny_ranker import write_ranker
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.errors import UserError
from tokenq.jobs.rollout.judges import ImplicitReward, Scorers
from tokenq.jobs.rollout.token_rewards import Source, token_rewards
from tokenq.judge.kinds import Pairwise, Pointwise
from tokenq.models.classifier import load_classifier
from tokenq.models.load import ModelSpec
from tokenq.records.rollouts import Rollout
from tokenq.records.trace_files import read_traces
from tokenq.rollout.config import OnlineConfig

pytestmark = pytest.mark.integration

TEXTS = ("What is and ? 0 1 2 3 4 5 6 7 8 9 .",)
PAIRS = [{"prompt": f"{n}?", "chosen": f" {n}.", "rejected": f" {n + 1} and 9."} for n in range(6)]
BETA = 0.3
WEIGHTS = {"good": 2.0, "long": -0.5}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A policy and a run of DPO that began with it, a reward model of two outputs, and models of other tokens."""
    root = tmp_path_factory.mktemp("token_rewards")
    tiny_model("llama", vocab_size=32).save_pretrained(root / "model")
    tiny_tokenizer("words", texts=TEXTS).save_pretrained(root / "model")
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    trained = ["train", "--model", root / "model", "--data", root / "pairs.jsonl", "--output", root / "dpo"]
    trained += ["--beta", BETA, "--learning-rate", "1e-2", "--max-steps", "3", "--device", "cpu"]
    assert main([str(word) for word in trained]) == 0
    classifiers = (
        ("rewards", "llama", "words", TEXTS),
        ("other", "llama", "bytes", ()),
        ("short", "gpt2", "words", TEXTS),
    )
    for name, family, kind, texts in classifiers:
        tokenizer = tiny_tokenizer(kind, texts=texts)
        base = tiny_model(family, seed=3, vocab_size=len(tokenizer))
        base.config.num_labels = 2
        base.save_pretrained(root / f"{name}-base")
        model = load_classifier(ModelSpec(str(root / f"{name}-base")), tokenizer, list(WEIGHTS), 0)
        with torch.no_grad():
            model.score.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(5))
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    write_ranker(root / "ranker")
    return root


def source_of(place, prm=None, judge=None, **settings):
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    given = {"model": "m", "prompts": ["p"], "output": "o", "tokens_per_batch": 30, "reward_weights": WEIGHTS}
    return Source(OnlineConfig(**given | settings), Scorers(None, None, None, tokenizer, "cpu"), judge, prm)


def rollout(prompt, response, name="1", number=0):
    """A response that was sampled; one that ends in EOS (id 2) has come to its end."""
    more = {"prompt": "", "response": "", "kept_mass": None, "writer": "policy", "version": 0, "sampling": {}}
    finish = "stop" if response[-1] == 2 else "length"
    logps = (-1.0,) * len(response)
    return Rollout(name, number, prompt_ids=prompt, token_ids=response, logps=logps, finish=finish, engine="",
                   use="compared", **more)  # fmt: skip


QUESTION, OTHER = (1, 5, 6, 8), (1, 9, 8)
SAMPLES = [rollout(QUESTION, (11, 7, 12, 2)), rollout(QUESTION, (13,), number=1), rollout(OTHER, (9, 10, 4), "2")]
SAMPLES += [rollout(OTHER, (2,), "2", 1), rollout(OTHER, (11, 12, 13, 14, 15, 16, 2), "2", 2)]


def ratios(place, one):
    """log π − log π_ref of each token by transformers, one unpadded row a model."""
    ids, start = torch.tensor([one.prompt_ids + one.token_ids]), len(one.prompt_ids)
    found = []
    for folder in (place / "dpo" / "policy", place / "model"):
        with torch.no_grad():
            table = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits.log_softmax(-1)
        found.append(table[0, :-1].gather(1, ids[0, 1:, None])[start - 1 :, 0].double())
    return (found[0] - found[1]).tolist()


def test_implicit_rewards_are_what_a_score_of_the_run_reads(place, tmp_path):
    """The same texts through `tokenq score --run`: the same tokens, EOS included, and the same numbers."""
    words = ["score", "--run", place / "dpo", "--data", place / "pairs.jsonl", "--output", tmp_path / "traces.jsonl"]
    assert main([str(word) for word in (*words, "--device", "cpu")]) == 0
    traces = list(read_traces(tmp_path / "traces.jsonl"))
    prompts = tokenq.load(place / "dpo", device="cpu")
    rows, _ = prompts.rows([prompts.example(row["prompt"], row["chosen"]) for row in PAIRS])
    rollouts = [
        rollout(
            tuple(rows[i // 2].group.prompt_ids.tolist()), tuple(token.id for token in trace.tokens), str(i // 2), i % 2
        )
        for i, trace in enumerate(traces)
    ]
    assert {one.token_ids[-1] for one in rollouts} == {2}
    found = token_rewards("implicit", source_of(place, credit_run=str(place / "dpo")))(rollouts)
    for trace, rewards in zip(traces, found, strict=True):
        assert rewards == pytest.approx([token.implicit_reward for token in trace.tokens], abs=1e-6)
        assert sum(rewards) == pytest.approx(trace.totals.implicit_reward, abs=1e-6 * len(rewards))  # of so many errors


def test_implicit_rewards_add_up_to_the_reward_of_the_response(place):
    """Also where a response was cut, and where it is an EOS alone; whatever shares a batch."""
    read = token_rewards("implicit", source_of(place, credit_run=str(place / "dpo")))
    found, sizes = read(SAMPLES), [len(one.token_ids) for one in SAMPLES]
    assert list(map(len, found)) == sizes
    for one, rewards in zip(SAMPLES, found, strict=True):
        want = ratios(place, one)
        assert rewards == pytest.approx([BETA * ratio for ratio in want], abs=1e-5)
        assert sum(rewards) == pytest.approx(BETA * sum(want), abs=1e-5)
    alone = [read([one])[0] for one in SAMPLES]
    for rewards, again in zip(found, alone, strict=True):
        assert rewards == pytest.approx(again, abs=1e-6)


def test_clipped_rewards_add_up_to_less(place):
    """Each log-ratio within half a nat, as RTO holds it within one; the others are left as they are."""
    clipped = token_rewards("implicit", source_of(place, credit_run=str(place / "dpo")), clip=0.5 * BETA)(SAMPLES)
    cut = 0
    for one, rewards in zip(SAMPLES, clipped, strict=True):
        want = np.array(ratios(place, one))
        cut += (abs(want) > 0.5).sum()
        assert rewards == pytest.approx(BETA * np.clip(want, -0.5, 0.5), abs=1e-5)
    assert 0 < cut < sum(len(one.token_ids) for one in SAMPLES)


def test_a_reward_model_is_read_behind_the_prompt_and_behind_every_token(place):
    """Differences of the weighted outputs by transformers, a row for each prefix; they add up to end minus prompt."""
    model = AutoModelForSequenceClassification.from_pretrained(place / "rewards", dtype=torch.float32).eval()

    def value(ids):
        with torch.no_grad():
            outputs = model(input_ids=torch.tensor([ids])).logits[0].double()
        return float(2.0 * outputs[0] - 0.5 * outputs[1])

    found = token_rewards("reward_model", source_of(place, reward_model=str(place / "rewards")))(SAMPLES)
    for one, rewards in zip(SAMPLES, found, strict=True):
        prefixes = [value(one.prompt_ids + one.token_ids[:end]) for end in range(len(one.token_ids) + 1)]
        assert rewards == pytest.approx(np.diff(prefixes), abs=1e-5)
        assert sum(rewards) == pytest.approx(prefixes[-1] - prefixes[0], abs=1e-5)
    assert max(abs(reward) for rewards in found for reward in rewards) > 0.1


def test_a_process_reward_model_is_read_as_it_is():
    """β (log φ − log π_ref) by hand: φ gives every token a log-prob of −0.01 times its id, the reference −0.5."""
    prm = ImplicitReward(lambda batch: -0.01 * batch.targets.float(), lambda batch: -0.5 + 0.0 * batch.targets, 0.05)
    source = Source(
        OnlineConfig(model="m", prompts=["p"], output="o"), Scorers(None, None, None, None, "cpu"), None, prm
    )
    found = token_rewards("prime", source)(SAMPLES[:2])
    want = [[0.05 * (0.5 - 0.01 * token) for token in one.token_ids] for one in SAMPLES[:2]]
    assert found == [pytest.approx(rewards, abs=1e-7) for rewards in want]


def test_a_judge_is_read_in_front_of_every_token(place):
    """(Sum of the digits so far)²: 6 2 7 is worth 36, 64, 225 and nothing more at its EOS; beginnings that go on."""
    asked = []

    def squares(number, responses):
        asked.extend(responses)
        return [sum(map(int, re.findall(r"\d", one.response))) ** 2 for one in responses]

    given = [replace(one, reward=reward) for one, reward in zip(SAMPLES, (225.0, 64.0, 81.0, 0.0, 900.0), strict=True)]
    found = token_rewards("judge", source_of(place, judge=Pointwise(squares)))(given)
    assert found == [[36, 28, 161, 0], [64], [16, 65, 0], [0], [36, 133, 272, 459, 0, 0, 0]]
    assert {one.finish for one in asked} == {"length"}
    texts = [[one.response for one in asked if one.id == name] for name in ("1", "2")]
    assert sorted(texts[0]) == ["", " 6", " 6 2", " 6 2 7"]  # of both responses: what they begin with is judged once
    assert len(texts[1]) == len(set(texts[1])) == 9


def other_run(place):
    """Return a run whose tokenizer is another one."""
    tiny_tokenizer("bytes").save_pretrained(place / "dpo-of-bytes" / "policy")
    tiny_model("llama", vocab_size=320).save_pretrained(place / "dpo-of-bytes" / "policy")
    for name in ("config.yaml", "provenance.json"):
        (place / "dpo-of-bytes" / name).write_bytes((place / "dpo" / name).read_bytes())
    return str(place / "dpo-of-bytes")


REFUSED = {
    "no run": ("implicit", lambda place: {}, "no run is named.*--credit-run"),
    "other tokens": ("implicit", lambda place: {"credit_run": other_run(place)}, "dpo-of-bytes reads other tokens"),
    "no reward model": ("reward_model", lambda place: {}, "need one.*--reward-model"),
    "other tokens of rewards": (
        "reward_model",
        lambda place: {"reward_model": str(place / "other")},
        "other reads other tokens than the policy.*was trained with the policy's tokenizer",
    ),
    "a ranker": ("reward_model", lambda place: {"reward_model": str(place / "ranker")}, "compares two responses"),
    "no weights": (
        "reward_model",
        lambda place: {"reward_model": str(place / "rewards"), "reward_weights": {}},
        "has 2 outputs",
    ),
    "no PRM": ("prime", lambda place: {}, "no process reward model"),
    "a judge that compares": ("judge", lambda place: {"judge": Pairwise(print)}, "this judge compares two responses"),
    "a judge of tokens": ("judge", lambda place: {"judge": Pointwise(print, "tokens")}, "--token-rewards implicit"),
    "no such source": ("implicite", lambda place: {}, "Did you mean 'implicit'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(place, name):
    asked, settings, says = REFUSED[name]
    with pytest.raises(UserError) as refused:
        token_rewards(asked, source_of(place, **settings(place)))
    assert re.search(says, str(refused.value), re.DOTALL)


def test_a_response_beyond_the_positions_of_a_reward_model_is_refused(place):
    read = token_rewards("reward_model", source_of(place, reward_model=str(place / "short"), tokens_per_batch=1000))
    with pytest.raises(UserError, match=r"its response has 263 tokens, and .* has 256 positions"):
        read([rollout(OTHER, (5,) * 260)])


def test_a_number_that_is_none_is_refused_by_its_response(place):
    logps = SimpleNamespace(nan=lambda batch: torch.full((len(batch.targets),), float("nan")))
    with pytest.raises(UserError, match="Prompt 1, response 0: the prime reward of a token is not finite"):
        token_rewards("prime", source_of(place, ImplicitReward(logps.nan, logps.nan, 1.0)))(SAMPLES)
