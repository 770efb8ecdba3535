"""Attributes from rated rows to rounds of SteerLM: what is read and written, by hand and by Bayes' rule."""

import json
import math

import pytest
import torch
from jobs.test_online import rollouts
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.core.steerlm import level_logps
from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.jobs.evaluation.judges import JUDGES
from tokenq.judge.kinds import Pointwise

NAMES = ("help", "talk")
SHORT = {"device": "cpu", "learning_rate": 1e-2, "batch_size": 4, "max_steps": 3, "keep_checkpoints": 0}
ONLINE = {"method": "steerlm", "rounds": 2, "samples": 4, "max_new_tokens": 6, "batch_size": 2, "device": "cpu"}
ONLINE |= {"learning_rate": 1e-2}


def rated(n):
    """Return two rated responses to each of n prompts, on a scale of 1 to 3."""
    return [
        {"prompt": f"Say {i}:", "completion": " yes" * k, "ratings": {"help": 1 + i % 3, "talk": k}}
        for i in range(n)
        for k in (1, 3)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A policy that can be asked, the prior, and a model of both attributes, all trained for three steps."""
    root = tmp_path_factory.mktemp("steering")
    tiny_model("llama", layers=1).save_pretrained(root / "model")
    tiny_tokenizer("bytes").save_pretrained(root / "model")
    (root / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rated(4)))
    data = {"model": str(root / "model"), "data": str(root / "rated.jsonl"), **SHORT}
    control = {"condition_on": NAMES, "condition_scale": (1, 3)}
    tokenq.train(loss="sft", output=root / "asked", **control, **data)
    tokenq.train(loss="sft", output=root / "prior", **data)
    tokenq.train(loss="regression", attributes=NAMES, output=root / "rm", **data)
    return root


PROMPTS = [{"prompt": f"Say {i}:", "help": 1 + i % 3} for i in range(4)]


def steered(place, output, **more):
    models = {"reference": str(place / "prior" / "policy"), "reward_model": str(place / "rm" / "reward_model")}
    settings = {**ONLINE, **models, "condition": {"talk": 2}, **more}
    return tokenq.online(str(place / "asked" / "policy"), PROMPTS, output, **settings)


def test_what_was_learnt_is_the_control_string_behind_the_prompt(place, tmp_path):
    """The same rows with the string written by hand give the same weights; the tokenizers differ in what they say."""
    rows = [
        {"prompt": f"{row['prompt']} [help: {row['ratings']['help']}, talk: {row['ratings']['talk']}]"}
        | {"completion": row["completion"]}
        for row in rated(4)
    ]
    tokenq.train(model=str(place / "model"), data=rows, loss="sft", output=tmp_path / "by_hand", **SHORT)
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(one / "policy").state_dict()
        for one in (place / "asked", tmp_path / "by_hand")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    told = json.loads((place / "asked" / "policy" / "tokenizer_config.json").read_text())["tokenq_control"]
    assert told == {"attributes": ["help", "talk"], "low": 1, "high": 3}
    bare = json.loads((tmp_path / "by_hand" / "policy" / "tokenizer_config.json").read_text())
    assert "tokenq_control" not in bare


@pytest.fixture(scope="module")
def bare(place, tmp_path_factory):
    """The same policy with a tokenizer that says nothing."""
    folder = tmp_path_factory.mktemp("bare")
    AutoModelForCausalLM.from_pretrained(place / "asked" / "policy").save_pretrained(folder)
    tiny_tokenizer("bytes").save_pretrained(folder)
    return folder


@pytest.mark.integration
def test_searches_and_scores_read_the_string_that_was_learnt(place, bare):
    settings = {"method": "greedy", "max_new_tokens": 5, "device": "cpu"}
    run = place / "asked"
    asked = tokenq.decode(run, PROMPTS[:3], condition={"talk": 2}, **settings)
    hand = [f"Say {i}: [help: {1 + i}, talk: 2]" for i in range(3)]
    plain = tokenq.decode(str(bare), [{"prompt": text} for text in hand], **settings)
    assert [one.candidates[0].token_ids for one in asked] == [one.candidates[0].token_ids for one in plain]
    assert [one.candidates[0].logps for one in asked] == [one.candidates[0].logps for one in plain]
    assert [one.prompt for one in asked] == ["Say 0:", "Say 1:", "Say 2:"]
    reader = tokenq.load(run, device="cpu", condition={"help": 3, "talk": 1})
    other = tokenq.load(str(bare), str(place / "model"), device="cpu")
    want = other.score("Say 9: [help: 3, talk: 1]", " yes").trace
    assert reader.score("Say 9:", " yes").trace.tokens.columns["logp"] == pytest.approx(want.tokens.columns["logp"])
    own = tokenq.load(run, device="cpu").score_all(rated(1))
    assert [one.prompt for one in own] == ["Say 0: [help: 1, talk: 1]", "Say 0: [help: 1, talk: 3]"]
    found = reader.decode("Say 9:", **{name: settings[name] for name in ("method", "max_new_tokens")})
    assert found[0].prompt == "Say 9:"


@pytest.mark.integration
def test_weights_are_those_of_bayes(place, tmp_path):
    """Of every response of a round: the judge's P(a|x, y), P(y|x) and Q' by transformers alone, and what was stored."""
    run = steered(place, tmp_path / "run").folder
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    prior = AutoModelForCausalLM.from_pretrained(place / "prior" / "policy")
    writer = AutoModelForCausalLM.from_pretrained(place / "asked" / "policy")
    judge = AutoModelForSequenceClassification.from_pretrained(place / "rm" / "reward_model")
    lines = JsonLines(run / "rounds" / "0001" / "weights.jsonl").read()
    rows = rollouts(run, 1)
    assert len(lines) == len(rows) == 16
    for name in {row["id"] for row in rows}:
        logs, stored = [], []
        for row, line in zip(rows, lines, strict=True):
            if row["id"] != name:
                continue
            wanted = {"help": 1 + (int(name) - 1) % 3, "talk": 2}
            assert row["condition"] == wanted
            asked = f"{row['prompt']} [help: {wanted['help']}, talk: {wanted['talk']}]"
            bare_ids, ids = (tokenizer(text)["input_ids"] for text in (row["prompt"], asked))
            assert row["prompt_ids"] == ids
            assert sum(row["logps"]) == pytest.approx(logp(writer, ids, row["token_ids"]), abs=1e-4)
            end = [] if row["finish"] == "length" else [tokenizer.eos_token_id]
            text = tokenizer(row["prompt"] + row["response"])["input_ids"] + end
            ratings = judge(input_ids=torch.tensor([text])).logits[0].double()
            places = [judge.config.label2id[one] for one in NAMES]
            levels = level_logps(ratings[places].detach() - 1, levels=3)
            attribute = sum(levels[at, wanted[one] - 1].item() for at, one in enumerate(NAMES))
            assert row["reward"] == pytest.approx(attribute, abs=1e-2)
            logs.append(row["reward"] + logp(prior, bare_ids, row["token_ids"]) - sum(row["logps"]))
            stored.append(line["target_weights"])
            assert line["old_logps"] == pytest.approx(row["logps"])
        want = torch.tensor(logs, dtype=torch.float64).softmax(0)
        assert [weights[0] for weights in stored] == pytest.approx(want.tolist(), abs=1e-3)
        assert all(len(set(weights)) == 1 for weights in stored)
    first = next(line for line in JsonLines(run / "metrics.jsonl").read() if line.get("round") == 1)
    by_prompt = [[line["target_weights"][0] for line in lines if line["id"] == str(n)] for n in range(1, 5)]
    effective = sum(1 / sum(w * w for w in some) for some in by_prompt) / 4
    assert first["round/effective_samples"] == pytest.approx(effective, rel=1e-4)
    assert (first["round/weights"], first["round/compared"]) == (4, 4)
    assert (run / "policy" / "tokenizer_config.json").read_text().count("tokenq_control") == 1
    assert main(["doctor", str(run), "--depth", "record", "--output", str(tmp_path / "doctor.json")]) in (0, 1)
    said = json.loads((tmp_path / "doctor.json").read_text())
    assert "template-drift" not in {one["name"] for one in said["findings"]}


def logp(model, prompt, response):
    """Return Σ log π of a response by the model's own forward."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logps = model(input_ids=ids).logits[0].double().log_softmax(-1)
    return sum(logps[len(prompt) - 1 + at, token].item() for at, token in enumerate(response))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"temperature": 0.7}, "drawn from Q' itself"),
        ({"top_p": 0.9}, "drawn from Q' itself"),
        ({"samples": 1}, "one response has all the weight"),
        ({"reference": None}, r"Weights need P\(y\|x\)"),
        ({"reference_moves": "round"}, "does not move"),
        ({"beta": 0.1}, "--beta is given, and steerlm learns from weights"),
        ({"pairs": "all"}, "--pairs is given, and steerlm learns from weights"),
        ({"credit": "group"}, "--credit is given, and steerlm learns from weights"),
        ({"loss": "dpo"}, "does not learn from weights"),
        ({"reward_model": None}, "--judge attributes without a --reward-model"),
        ({"reward_weights": {"help": "1"}}, "reads the outputs apart"),
        ({"condition": {}}, "row 1: nothing says which talk is asked for"),
        ({"condition": {"tolk": 2}}, r"Unknown attribute in --condition 'tolk'.\n  Did you mean 'talk'"),
        ({"condition": {"talk": 4}}, "whole numbers from 1 to 3"),
        ({"condition_on": ("help",)}, "rounds learn behind the prompts they are given"),
    ],
)
def test_what_rounds_of_weights_cannot_do_is_refused(place, tmp_path, more, said):
    with pytest.raises(UserError, match=said):
        steered(place, tmp_path / "run", **more)
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.slow
def test_a_reward_model_must_have_the_attributes(place, tmp_path):
    tokenq.train(
        model=str(place / "model"),
        data=[{**row, "ratings": {"help": row["ratings"]["help"], "talks": 1}} for row in rated(4)],
        loss="regression",
        output=tmp_path / "rm",
        **SHORT,
    )
    with pytest.raises(UserError, match=r"Unknown output of .* 'talk'.\n  Did you mean 'talks'"):
        steered(place, tmp_path / "run", reward_model=str(tmp_path / "rm" / "reward_model"))
    with pytest.raises(UserError, match="nothing asks for any"):
        tokenq.online(
            str(place / "prior" / "policy"),
            PROMPTS,
            tmp_path / "bare",
            **{**ONLINE, "reference": str(place / "model"), "reward_model": str(place / "rm" / "reward_model")},
        )


@pytest.mark.integration
@pytest.mark.parametrize(("worth", "effective"), [pytest.param(0.0, None, marks=pytest.mark.slow), (-500.0, 1.0)])
def test_one_response_with_all_the_weight_is_said(place, tmp_path, monkeypatch, worth, effective):
    """Where the judge finds the first response to each prompt e^500 times likelier, one response is all there is."""
    told = lambda number, some: [0.0 if one.number == 0 else worth for one in some]  # noqa: E731 (one expression)
    monkeypatch.setitem(JUDGES, "attributes", lambda bench: Pointwise(told))
    lines = []
    listener = type(
        "Listener", (), {"__call__": lambda self, event: None, "say": lambda self, text: lines.append(text)}
    )
    run = steered(place, tmp_path / "run", rounds=1, listener=listener()).folder
    (found,) = [line for line in JsonLines(run / "metrics.jsonl").read() if "round" in line]
    warned = [line for line in lines if "nearly all is learnt from single ones" in line]
    if effective is None:
        assert found["round/effective_samples"] > 1.2
    else:
        assert found["round/effective_samples"] == pytest.approx(effective)
        assert warned == [line for line in lines if line.startswith("warning: round 1: the weights of a prompt speak")]
        assert len(warned) == 1


@pytest.mark.parametrize("value", [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)])
def test_a_judge_without_a_number_stops_the_run(place, tmp_path, monkeypatch, value):
    monkeypatch.setitem(JUDGES, "attributes", lambda bench: Pointwise(lambda number, some: [value] * len(some)))
    with pytest.raises(UserError, match="gives no finite number to response 0 of prompt"):
        steered(place, tmp_path / "run")


def test_what_training_cannot_condition_is_refused(place, tmp_path):
    model, data = str(place / "model"), str(place / "rated.jsonl")
    with pytest.raises(UserError, match="loss 'dpo' learns from pairs"):
        tokenq.train(model=model, data=data, condition_on=NAMES, output=tmp_path / "run", **SHORT)
    off = [{"prompt": "P", "completion": " c", "ratings": {"help": 9, "talk": 1}}, *rated(2)]
    sft = {"model": model, "loss": "sft", "condition_on": NAMES, **SHORT}
    with pytest.raises(UserError, match="row 1: help is 9, and its scale is 0 to 4"):
        tokenq.train(data=off, output=tmp_path / "run", **sft)
    with pytest.raises(UserError, match="No response is rated on all of help, tone"):
        tokenq.train(data=data, output=tmp_path / "run", **{**sft, "condition_on": ("help", "tone")})
    lines = []
    listener = type(
        "Listener", (), {"__call__": lambda self, event: None, "say": lambda self, text: lines.append(text)}
    )
    lacking = [{"prompt": "P", "completion": " c", "ratings": {"help": 2}}, *off]
    tokenq.train(data=lacking, output=tmp_path / "run", bad_rows="drop", listener=listener(), **sft)
    (said,) = [line for line in lines if line.startswith("data: ") and "dropped" in line]
    assert "1 response that is not rated on all that is conditioned on" in said
    assert "1 a rating outside its scale" in said


@pytest.mark.slow
def test_prompts_are_held_out_whatever_is_asked_for_in_them(place, tmp_path):
    """Both responses to a held-out prompt are held out, though they stand behind two control strings."""
    run = tokenq.train(
        model=str(place / "model"),
        data=str(place / "rated.jsonl"),
        loss="sft",
        condition_on=NAMES,
        eval_size=0.3,
        output=tmp_path / "run",
        **SHORT,
    )
    rows = JsonLines(run.folder / "held_out.jsonl").read()
    assert len(rows) % 2 == 0
    assert rows


@pytest.mark.slow
def test_a_training_from_such_a_policy_is_asked_for_nothing(place, tmp_path):
    run = tokenq.train(
        model=str(place / "asked" / "policy"), data=rated(2), loss="sft", output=tmp_path / "run", **SHORT
    )
    assert "tokenq_control" not in (run.policy / "tokenizer_config.json").read_text()
