"""Reward models where they are used: `tokenq score --reward-model`, search and evaluations, against transformers."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CHATML, tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tokenq.cli.main import main
from tokenq.errors import UserError
from tokenq.files import write_json_lines
from tokenq.jobs.inputs import examples_of
from tokenq.jobs.score import reader_of
from tokenq.listener import SILENCE
from tokenq.models.classifier import load_classifier
from tokenq.models.forward.reward_lm import output_weights
from tokenq.models.load import ModelSpec
from tokenq.models.reward_model import RewardModel, text_ids
from tokenq.records.examples import Message
from tokenq.records.results import Candidate, Cost, SearchResult, read_results
from tokenq.records.trace_files import read_traces
from tokenq.report.html import page
from tokenq.report.plots import figure
from tokenq.score.config import ScoreConfig

NAMES = ["helpfulness", "correctness", "coherence"]
GOODNESS = {"helpfulness": 0.65, "correctness": 0.8, "coherence": 0.45}
WEIGHTS = ["--reward-weights", *(f"{name}={weight}" for name, weight in GOODNESS.items())]
ROWS = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " red and green."},
    {"prompt": "Two and", "chosen": " two", "rejected": " four"},
]
STEPS = [{"prompt": "1+1+1?", "completions": ["1+1=2", "2+1=4", "so 4"], "labels": [True, False, False]}]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A policy with its reference, reward models of one and of three outputs, one of other tokens, and rows."""
    root = tmp_path_factory.mktemp("rewards")
    bases = {"policy": ("llama", "bytes"), "reference": ("gpt_neox", "bytes"), "small": ("llama", "words")}
    for name, (family, kind) in bases.items():
        tiny_model(family, layers=1, vocab_size=320).save_pretrained(root / name)
        tiny_tokenizer(kind).save_pretrained(root / name)
    classifiers = {"one": ("reference", ["reward"]), "three": ("policy", NAMES), "other": ("small", ["reward"])}
    for name, (base, outputs) in classifiers.items():
        tokenizer = AutoTokenizer.from_pretrained(root / base)
        model = load_classifier(ModelSpec(str(root / base)), tokenizer, outputs, 0)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    for name, rows in (("pairs", ROWS), ("steps", STEPS)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def score(place, tmp_path, *words, data="pairs", reward_model="one"):
    arguments = ["score", "--data", str(place / f"{data}.jsonl"), "--output", str(tmp_path / "traces.jsonl")]
    arguments += ["--reward-model", str(place / reward_model), "--device", "cpu", *words]
    assert main(arguments) == 0
    return list(read_traces(tmp_path / "traces.jsonl"))


@torch.no_grad()
def outputs_at(place, name, text, eos=True):
    """Return what transformers says of a text, alone in its row."""
    model = AutoModelForSequenceClassification.from_pretrained(place / name).eval()
    tokenizer = AutoTokenizer.from_pretrained(place / name)
    ids = [*tokenizer(text)["input_ids"], *([tokenizer.eos_token_id] if eos else [])]
    return model(input_ids=torch.tensor([ids])).logits[0].tolist()


@pytest.mark.integration
def test_the_reward_at_a_token_is_that_of_the_text_up_to_it(place, tmp_path):
    traces = score(place, tmp_path)
    assert [trace.id.rpartition("/")[2] for trace in traces] == ["chosen", "rejected"] * 2
    for trace in traces:
        for token in trace.tokens[:-1]:
            (want,) = outputs_at(place, "one", trace.prompt + trace.response[: token.end], eos=False)
            assert token.reward == pytest.approx(want, abs=1e-4)
        (want,) = outputs_at(place, "one", trace.prompt + trace.response)
        assert trace.totals.reward == trace.tokens[-1].reward == pytest.approx(want, abs=1e-4)
        assert trace.reward_model["outputs"] == ["reward"]
        assert (trace.policy, trace.totals.logp, trace.tokens[0].logp) == ({}, None, None)
        assert trace.totals.outputs == ()


def test_a_span_has_the_reward_at_its_end(place, tmp_path):
    """Steps: what the model says after each, the last one with EOS."""
    (trace,) = score(place, tmp_path, "--levels", "step", "word", data="steps")
    steps = [span for span in trace.spans if span.level == "step"]
    assert [span.label for span in steps] == [True, False, False]
    texts = ["1+1=2\n", "1+1=2\n2+1=4\n"]
    want = [outputs_at(place, "one", trace.prompt + text, eos=False)[0] for text in texts]
    want.append(outputs_at(place, "one", trace.prompt + trace.response)[0])
    assert [span.reward for span in steps] == pytest.approx(want, abs=1e-4)
    assert [span.tokens for span in steps] == [6, 6, 5]  # bytes, line ends and EOS
    assert sum(span.tokens for span in steps) == trace.totals.tokens


@pytest.mark.integration
def test_several_outputs_are_weighed(place, tmp_path):
    traces = score(place, tmp_path, *WEIGHTS, reward_model="three")
    for trace in traces:
        want = outputs_at(place, "three", trace.prompt + trace.response)
        assert trace.totals.outputs == pytest.approx(want, abs=1e-4)
        goodness = 0.65 * want[0] + 0.8 * want[1] + 0.45 * want[2]
        assert trace.totals.reward == pytest.approx(goodness, abs=1e-4)
        assert len(trace.tokens[0].outputs) == 3
        assert trace.reward_model["weights"] == [0.65, 0.8, 0.45]


@pytest.mark.integration
def test_beside_a_policy(place, tmp_path, capsys):
    """The numbers of the policy are those without a reward model, and the page has one more channel."""
    models = ["--policy", str(place / "policy"), "--reference", str(place / "reference")]
    alone = score(place, tmp_path)
    assert main([*_words(place, tmp_path / "plain.jsonl"), *models]) == 0
    plain = list(read_traces(tmp_path / "plain.jsonl"))
    both = score(place, tmp_path, *models, "--html", str(tmp_path / "page.html"))
    for without, rewards, together in zip(plain, alone, both, strict=True):
        assert [token.logp for token in together.tokens] == [token.logp for token in without.tokens]
        assert [token.reward for token in together.tokens] == pytest.approx([token.reward for token in rewards.tokens])
        assert together.totals.implicit_reward == without.totals.implicit_reward
        assert without.reward_model is None
    assert '"so_far":true' in page_text(tmp_path)
    assert '"so_far":true' not in page(plain, "plain")
    assert f"<title>{place / 'policy'} against {place / 'reference'}, {place / 'one'}</title>" in page_text(tmp_path)
    record = json.loads((tmp_path / "traces.jsonl.provenance.json").read_text())
    assert record["reward_model"]["outputs"] == ["reward"]
    assert main([*_words(place, None), *models, "--prompt", "The", "--response", " end", *_reward(place)]) == 0
    assert "reward " in capsys.readouterr().out


def page_text(folder):
    return (folder / "page.html").read_text()


def test_a_reward_model_alone_has_a_page_and_a_figure(place, tmp_path):
    """The page is called after it and has its channels alone; the figure is the first response with its reward."""
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    files = ["--html", str(tmp_path / "page.html"), "--figure", str(tmp_path / "figure.svg")]
    first, *_ = score(place, tmp_path, *WEIGHTS, *files, reward_model="three")
    (island,) = re.findall(r'<script type="application/json" id="index">(.*?)</script>', page_text(tmp_path))
    names = [channel["name"] for channel in json.loads(island)["channels"]]
    assert names == ["reward", "reward/helpfulness", "reward/correctness", "reward/coherence"]
    assert f"<title>{place / 'three'}</title>" in page_text(tmp_path)
    assert f"reward {first.totals.reward:+.3f}. Colour" in figure(first).axes[0].get_title(loc="left")
    assert (tmp_path / "figure.svg").stat().st_size > 1000


def _words(place, output):
    data = ["--data", str(place / "pairs.jsonl"), "--output", str(output)] if output else []
    return ["score", "--device", "cpu", *data]


def _reward(place, name="one"):
    return ["--reward-model", str(place / name)]


def test_a_single_text_in_the_terminal(place, capsys):
    words = [*_words(place, None), "--prompt", "The", "--response", " end", *_reward(place, "three"), *WEIGHTS]
    assert main(words) == 0
    (first, *_) = outputs_at(place, "three", "The end")
    assert f"helpfulness {first:+.3f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--reward-model", "THREE"], "has 3 outputs (helpfulness, correctness, coherence), and one number is needed"),
        (["--reward-model", "THREE", "--reward-weights", "helpfullness=1"], "Did you mean 'helpfulness'"),
        (["--reward-model", "THREE", "--reward-weights", "helpfulness=much"], "that is no number"),
        (["--reward-weights", "reward=1", "--policy", "POLICY"], "--reward-weights is given, and no --reward-model"),
        (
            ["--reward-model", "OTHER", "--policy", "POLICY", "--reference", "POLICY"],
            "reads other tokens than the policy",
        ),
        (["--reward-model", "POLICY"], "cannot be loaded as a reward model|lacks 1 weights of a reward model"),
    ],
)
def test_what_is_refused(words, said, place, tmp_path, capsys):
    known = {name: str(place / name.lower()) for name in ("ONE", "THREE", "OTHER", "POLICY")}
    arguments = _words(place, tmp_path / "out.jsonl") + [known.get(word, word) for word in words]
    assert main(arguments) == 2
    assert re.search(re.sub(r"([()])", r"\\\1", said), " ".join(capsys.readouterr().err.split()))


def test_traces_without_log_probs_are_of_no_policy(place, tmp_path, capsys):
    score(place, tmp_path, "--levels", "step", data="steps")
    traces = ["--traces", str(tmp_path / "traces.jsonl")]
    assert main(["eval", "localisation", *traces]) == 2
    assert "hold what a reward model says, and no log-probs" in capsys.readouterr().err
    assert main(["eval", "first-error", *traces, "--readouts", "implicit_reward"]) == 2
    assert "Unknown read-out of these traces 'implicit_reward'" in capsys.readouterr().err


@pytest.mark.integration
def test_accuracy_on_pairs(place, tmp_path, capsys):
    """From the model, from stored traces, and beside a policy, whose implicit reward then comes first."""
    traces = score(place, tmp_path)
    right = sum(a.totals.reward > b.totals.reward for a, b in zip(traces[::2], traces[1::2], strict=True)) / 2
    pairs = ["--data", str(place / "pairs.jsonl"), "--device", "cpu", *_reward(place)]
    models = ["--policy", str(place / "policy"), "--reference", str(place / "reference")]
    for name, words, rewards in (
        ("alone", pairs, {"reward_model", "length"}),
        ("stored", ["--traces", str(tmp_path / "traces.jsonl")], {"reward_model", "length"}),
        ("both", [*pairs, *models], {"reward_model", "length", "implicit_reward", "likelihood", "mean_likelihood"}),
    ):
        output = tmp_path / f"{name}.json"
        assert main(["eval", "preference", *words, "--output", str(output)]) == 0
        record = json.loads(output.read_text())
        assert rewards <= set(record["numbers"]["rewards"])
        assert (name == "both") == ("implicit_reward" in record["numbers"]["rewards"])
        assert record["numbers"]["rewards"]["reward_model"]["rewardbench"]["accuracy"]["value"] == right
        assert record["reward_model"]["outputs"] == ["reward"]
    assert "implicit reward − this" in capsys.readouterr().out
    assert main(["eval", "preference", *pairs, "--html", str(tmp_path / "page.html")]) == 0
    shown = (tmp_path / "page-traces.html").read_text()
    assert '"name":"reward"' in shown
    assert '"name":"implicit_reward"' not in shown


def test_weights():
    assert output_weights(["r"], {}, "m") == (1.0,)
    assert output_weights(["a", "b"], {"b": "2"}, "m") == (0.0, 2.0)
    assert output_weights(["r"], {"r": -1}, "m") == (-1.0,)
    with pytest.raises(UserError, match="Unknown output of m"):
        output_weights(["a", "b"], {"c": 1}, "m")


def test_a_judge_reads_a_response_where_training_read_it(place):
    """At EOS, alone or in a batch of several lengths, weighed."""
    judge = RewardModel(ModelSpec(str(place / "three")), GOODNESS)
    responses = [" blue.", " red and green.", ""]
    got = judge.score(["The sky is"] * 3, responses)
    for reward, response in zip(got, responses, strict=True):
        want = outputs_at(place, "three", "The sky is" + response)
        assert reward == pytest.approx(0.65 * want[0] + 0.8 * want[1] + 0.45 * want[2], abs=1e-4)
    with pytest.raises(UserError, match="has 3 outputs"):
        RewardModel(ModelSpec(str(place / "three")))


def save_chat_model(folder):
    """Save a reward model of turns."""
    tokenizer = tiny_tokenizer("bytes", chat_template=CHATML, eos="<|im_end|>")
    tiny_model("llama", layers=1, vocab_size=320).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    model = load_classifier(ModelSpec(str(folder / "base")), tokenizer, ["reward"], 0)
    model.save_pretrained(folder / "rm")
    tokenizer.save_pretrained(folder / "rm")


def test_turns_of_others_have_no_reward(tmp_path):
    """A span has the reward at its last token that the policy wrote, and none where there is no such token."""
    save_chat_model(tmp_path)
    said = [("user", "Hi"), ("assistant", "Yes"), ("user", "No?"), ("assistant", "No")]
    row = {"messages": [{"role": role, "content": content} for role, content in said]}
    (tmp_path / "turns.jsonl").write_text(json.dumps(row) + "\n")
    (trace,) = score(tmp_path, tmp_path, "--levels", "turn", "paragraph", data="turns", reward_model="rm")
    own = [[token.reward for token in trace.tokens[s.first : s.last] if token.written] for s in trace.spans]
    assert [bool(rewards) for rewards in own] == [True, False, True, True]
    assert [span.reward for span in trace.spans] == [rewards[-1] if rewards else None for rewards in own]
    assert all((token.reward is None) == (not token.written) for token in trace.tokens)


def test_a_judge_of_turns_stops_at_the_end_of_the_turn(tmp_path):
    """What a template writes behind the last EOS is not read, as in training."""
    save_chat_model(tmp_path)
    rows = [{"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "Yes"}],
             "rejected": [{"role": "assistant", "content": "No, no"}]}]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text(json.dumps(rows[0]) + "\n")
    traces = score(tmp_path, tmp_path, reward_model="rm")
    got = RewardModel(ModelSpec(str(tmp_path / "rm"))).score([(Message("user", "Hi"),)] * 2, ["Yes", "No, no"])
    assert got == pytest.approx([trace.totals.reward for trace in traces], abs=1e-4)
    assert abs(got[0] - got[1]) > 1e-3


@pytest.mark.integration
def test_a_win_rate_by_a_reward_model_keeps_its_chat_template(tmp_path):
    """Prompts that are turns go through the model's template, and never as "user: Hi" with the answer glued on."""
    save_chat_model(tmp_path)
    judge = RewardModel(ModelSpec(str(tmp_path / "rm")))
    asked, cost = [(Message("user", f"{n}?"),) for n in range(8)], Cost(1, 0, 0, 0.0, 0)
    texts = {"ours": [f"Yes, {n}" for n in range(8)], "theirs": ["No, no"] * 8}
    for name, own in texts.items():
        found = [
            SearchResult(
                str(n), asked[n], "greedy", "likelihood", (Candidate(text, (1,), 0.0, (-1.0,), None, True),), cost
            )
            for n, text in enumerate(own)
        ]
        write_json_lines(tmp_path / f"{name}.jsonl", [one.to_dict() for one in found])
    words = ["eval", "win-rate", "--reward-model", str(tmp_path / "rm"), "--output", str(tmp_path / "eval.json")]
    assert main([*words, "--results", *(f"{name}={tmp_path / name}.jsonl" for name in texts)]) == 0
    right = np.array(judge.score(asked, texts["ours"])) > np.array(judge.score(asked, texts["theirs"]))
    glued = [[f"user: {n}?" for n in range(8)], *texts.values()]
    wrong = np.array(judge.score(*glued[:2])) > np.array(judge.score(glued[0], glued[2]))
    assert right.tolist() != wrong.tolist(), "the two readings differ here, so the test can fail"
    kept = [json.loads(line) for line in (tmp_path / "eval.preferences.jsonl").read_text().splitlines()]
    assert [row["preference"] for row in kept] == right.astype(float).tolist()


def test_the_beginning_of_a_response_is_read_at_its_last_token(place, tmp_path):
    """Without EOS and without the end of the turn, as training reads a prefix; a whole response at its EOS."""
    judge = RewardModel(ModelSpec(str(place / "one")))
    whole, begun = (judge.score(["The sky is"], [" blue"], [ended])[0] for ended in (True, False))
    assert [whole] == pytest.approx(outputs_at(place, "one", "The sky is blue"), abs=1e-4)
    assert [begun] == pytest.approx(outputs_at(place, "one", "The sky is blue", eos=False), abs=1e-4)
    save_chat_model(tmp_path)
    tokenizer, turns = AutoTokenizer.from_pretrained(tmp_path / "rm"), (Message("user", "Hi"),)
    forms = (("Yes", True), ("Yes", False), ("", False))
    rows = [text_ids(tokenizer, turns, response, ended=ended, eos=True) for response, ended in forms]
    texts = [tokenizer.decode(row) for row in rows]
    assert texts[0].endswith("Yes<|im_end|>")
    assert texts[1].endswith("Yes")
    assert texts[2].endswith("<|im_start|>assistant\n")


@pytest.mark.integration
@pytest.mark.parametrize("name", ["one", "three"])
def test_search_ranks_by_a_reward_model(place, name, tmp_path):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "The sky is"}) + "\n")
    words = [
        "search",
        "--policy",
        str(place / "policy"),
        "--prompts",
        str(tmp_path / "prompts.jsonl"),
        "--device",
        "cpu",
    ]
    words += ["--method", "best_of_n", "--n", "4", "--ranking", "value", "--max-new-tokens", "5"]
    words += ["--output", str(tmp_path / "found.jsonl"), *_reward(place, name), *(WEIGHTS if name == "three" else [])]
    assert main(words) == 0
    (found,) = read_results(tmp_path / "found.jsonl")
    scores = [candidate.score for candidate in found.candidates]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    weights = list(GOODNESS.values()) if name == "three" else [1.0]
    for candidate in found.candidates:
        outputs = outputs_at(place, name, "The sky is" + candidate.text, eos=candidate.terminal)
        assert candidate.score == pytest.approx(sum(map(lambda a, b: a * b, outputs, weights)), abs=1e-4)


@pytest.mark.integration
def test_a_win_rate_is_judged_by_a_reward_model(place, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("The sky", "Two", "A")))
    for name, seed in (("ours", "1"), ("theirs", "2")):
        words = ["search", "--policy", str(place / "policy"), "--prompts", str(tmp_path / "prompts.jsonl")]
        words += ["--method", "sample", "--max-new-tokens", "5", "--seed", seed, "--device", "cpu"]
        assert main([*words, "--output", str(tmp_path / f"{name}.jsonl")]) == 0
    words = ["eval", "win-rate", "--results", f"ours={tmp_path / 'ours.jsonl'}", f"theirs={tmp_path / 'theirs.jsonl'}"]
    assert main([*words, *_reward(place, "three")]) == 2
    assert "--reward-weights" in capsys.readouterr().err
    assert main([*words, *_reward(place, "three"), *WEIGHTS, "--output", str(tmp_path / "eval.json")]) == 0
    judge = RewardModel(ModelSpec(str(place / "three")), GOODNESS)
    rows = list(zip(read_results(tmp_path / "ours.jsonl"), read_results(tmp_path / "theirs.jsonl"), strict=True))
    wins = sum(
        judge.score([a.prompt], [a.candidates[0].text])[0] > judge.score([b.prompt], [b.candidates[0].text])[0]
        for a, b in rows
    )
    numbers = json.loads((tmp_path / "eval.json").read_text())["numbers"]
    assert numbers["ours over theirs"]["raw"]["win_rate"] == pytest.approx(wins / 3)


@pytest.mark.parametrize(
    ("models", "data"),
    [
        ({"policy": "policy", "reference": "reference"}, "pairs"),
        ({"policy": "policy", "reference": "reference", "reward_model": "three"}, "steps"),
        ({"policy": "policy", "reference": "small"}, "steps"),
        ({"reward_model": "one"}, "pairs"),
    ],
    ids=["two models", "and a reward model", "two tokenizers", "a reward model alone"],
)
def test_totals_alone_are_those_of_traces_to_the_last_bit(place, models, data):
    """Also where some rows are done already: the rest is read in the same batches."""
    named = {role: str(place / name) for role, name in models.items()}
    named |= {"reward_weights": GOODNESS} if models.get("reward_model") == "three" else {}
    reader = reader_of(ScoreConfig(data=["rows"], device="cpu", tokens_per_batch=40, **named), "cpu", SILENCE)
    examples = examples_of([str(place / f"{data}.jsonl")] * 3, {}, "error", "as_given", 0).examples
    rows, _ = reader.rows(examples)
    for done in (0, 2):
        whole, alone = (list(read(rows, done)) for read in (reader.traces, reader.totals))
        assert [[replace(one, tokens=(), spans=()) for one in row] for row in whole] == alone
    assert all(len(one.tokens) == len(one.spans) == 0 for row in alone for one in row)
