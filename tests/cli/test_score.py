"""`tokenq score` as a user types it, on two tiny models, against each model's own forward."""

import json

import numpy as np
import pytest
import torch
from forked import two_ranks
from tiny import CHATML, tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.frames import Frames
from tokenq.jobs.reader import Reader
from tokenq.models.adapters import with_adapter
from tokenq.models.load import add_lora
from tokenq.records.trace_files import read_traces

PAIRS = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " a café 🙂 </script>"},
    {"prompt": "Two and two", "chosen": " make four, say I.", "rejected": " make\n\nfive!"},
    {"prompt": "Once", "chosen": " more", "rejected": " again and again and again"},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A policy, a reference, the reference with other tokens, an adapter for the policy, and rows."""
    root = tmp_path_factory.mktemp("score")
    for name, family, kind in (
        ("policy", "llama", "bpe"),
        ("reference", "gpt_neox", "bpe"),
        ("other", "qwen3", "bytes"),
    ):
        tiny_model(family, layers=1, vocab_size=320).save_pretrained(root / name)
        tiny_tokenizer(kind).save_pretrained(root / name)
    torch.manual_seed(0)
    adapted = add_lora(
        tiny_model("llama", layers=1, vocab_size=320), rank=2, alpha=4.0, dropout=0.0, targets="all-linear"
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    adapted.save_pretrained(root / "adapter")
    described = json.loads((root / "adapter" / "adapter_config.json").read_text())
    described["base_model_name_or_path"] = str(root / "policy")
    (root / "adapter" / "adapter_config.json").write_text(json.dumps(described))
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return root


def words(place, tmp_path, *more, policy="policy", reference="reference", data="pairs.jsonl", output="traces.jsonl"):
    given = ["score", "--policy", str(place / policy), "--data", str(place / data), "--output", str(tmp_path / output)]
    return [*given, *(["--reference", str(place / reference)] if reference else []), "--device", "cpu", *more]


@torch.no_grad()
def own_logps(model, tokenizer, prompt, response):
    """Return the log-probs of a response's tokens and its EOS, from the model's own logits of one row."""
    ids = [*tokenizer(prompt + response)["input_ids"], tokenizer.eos_token_id]
    start = len(tokenizer(prompt)["input_ids"])
    logps = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [float(logps[i - 1, ids[i]]) for i in range(start, len(ids))]


@pytest.mark.integration
def test_every_number_is_what_each_model_says_by_itself(place, tmp_path, capsys):
    assert main(words(place, tmp_path, "--beta", "0.5", "--top-k", "3")) == 0
    traces = list(read_traces(tmp_path / "traces.jsonl"))
    tokenizer = tiny_tokenizer("bpe")
    models = [tiny_model(family, layers=1, vocab_size=320) for family in ("llama", "gpt_neox")]
    expected = [(row["prompt"], side, row[side]) for row in PAIRS for side in ("chosen", "rejected")]
    assert [(t.prompt, t.side, t.response) for t in traces] == expected
    for trace, (prompt, _, response) in zip(traces, expected, strict=True):
        own, other = (own_logps(model, tokenizer, prompt, response) for model in models)
        assert [token.logp for token in trace.tokens] == pytest.approx(own, abs=1e-4)
        assert [token.ref_logp for token in trace.tokens] == pytest.approx(other, abs=1e-4)
        rewards = 0.5 * (np.array(own) - np.array(other))
        assert [token.implicit_reward for token in trace.tokens] == pytest.approx(rewards, abs=1e-4)
        assert trace.tokens[-1].prefix_value == pytest.approx(rewards.sum(), abs=1e-4)
        assert trace.totals.implicit_reward == pytest.approx(rewards.sum(), abs=1e-4)
        assert "".join(token.text for token in trace.tokens) == response
        assert {len(token.likely) for token in trace.tokens} == {3}
        for level in ("word", "sentence"):
            parts = [span.sum for span in trace.spans if span.level == level]
            assert sum(parts) == pytest.approx(trace.totals.implicit_reward)
    assert "3 pairs" in capsys.readouterr().err


def test_where_the_numbers_come_from_is_written_beside_them(place, tmp_path):
    assert main(words(place, tmp_path)) == 0
    record = json.loads((tmp_path / "traces.jsonl.provenance.json").read_text())
    assert record["policy"]["path"] == str(place / "policy")
    assert record["reference"]["architecture"] == "GPTNeoXForCausalLM"
    assert record["config"]["top_k"] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["traces.jsonl", "traces.jsonl.provenance.json"]


@pytest.mark.integration
def test_parquet_holds_the_same(place, tmp_path):
    assert main(words(place, tmp_path)) == 0
    assert main(words(place, tmp_path, output="traces.parquet")) == 0
    assert list(read_traces(tmp_path / "traces.parquet")) == list(read_traces(tmp_path / "traces.jsonl"))


@pytest.mark.integration
def test_a_killed_run_goes_on_and_scores_no_row_twice(place, tmp_path, monkeypatch, capsys):
    assert main(words(place, tmp_path, output="whole.jsonl")) == 0
    scored, real = [], Frames.append

    def dying(self, record):
        if len(scored) == 2:  # the key, a row
            raise KeyboardInterrupt
        scored.append(record)
        real(self, record)

    monkeypatch.setattr(Frames, "append", dying)
    assert main(words(place, tmp_path)) == 130
    assert not (tmp_path / "traces.jsonl").exists()
    monkeypatch.setattr(Frames, "append", real)
    seen, traces = [], Reader.traces
    monkeypatch.setattr(
        Reader, "traces", lambda self, rows, done=0: (seen.extend(rows[done:]), traces(self, rows, done))[1]
    )
    capsys.readouterr()
    assert main(words(place, tmp_path)) == 0
    assert len(seen) == 2
    assert "going on after 1 of 3 rows" in capsys.readouterr().err
    one, two = (list(read_traces(tmp_path / name)) for name in ("whole.jsonl", "traces.jsonl"))
    assert [trace.id for trace in two] == [trace.id for trace in one]
    assert one == two  # to the last bit: the rest met in the batches of a whole run


def test_what_another_job_left_behind_is_not_taken_over(place, tmp_path, monkeypatch):
    (tmp_path / ".traces.jsonl.partial-0-of-1").write_text('{"key": "of another job"}\n{"traces": []}\n')
    assert main(words(place, tmp_path)) == 0
    assert len(list(read_traces(tmp_path / "traces.jsonl"))) == 6


@pytest.mark.integration
def test_two_processes_score_every_row_once_and_in_order(place, tmp_path):
    assert main(words(place, tmp_path, output="one.jsonl")) == 0
    for code, said in two_ranks(lambda: main(words(place, tmp_path, output="two.jsonl")), tmp_path):
        assert code == 0, said[-3000:]
    one, two = (list(read_traces(tmp_path / name)) for name in ("one.jsonl", "two.jsonl"))
    assert [trace.id for trace in two] == [trace.id for trace in one]
    for a, b in zip(one, two, strict=True):
        assert b.totals.implicit_reward == pytest.approx(a.totals.implicit_reward, abs=1e-5)
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]


@pytest.mark.integration
def test_an_adapter_is_read_against_its_base(place, tmp_path):
    assert main(words(place, tmp_path, policy="adapter", reference=None)) == 0
    trace = next(read_traces(tmp_path / "traces.jsonl"))
    tokenizer, row = tiny_tokenizer("bpe"), PAIRS[0]
    base = tiny_model("llama", layers=1, vocab_size=320)
    expected = own_logps(base, tokenizer, row["prompt"], row["chosen"])
    assert [token.ref_logp for token in trace.tokens] == pytest.approx(expected, abs=1e-4)
    adapted = with_adapter(base, str(place / "adapter"), trainable=False)
    expected = own_logps(adapted, tokenizer, row["prompt"], row["chosen"])
    assert [token.logp for token in trace.tokens] == pytest.approx(expected, abs=1e-4)
    assert trace.policy["weights"] != trace.reference["weights"]


def test_models_with_different_tokenizers_meet_at_common_boundaries(place, tmp_path):
    assert main(words(place, tmp_path, reference="other")) == 0
    traces = list(read_traces(tmp_path / "traces.jsonl"))
    models = [tiny_model("llama", layers=1, vocab_size=320), tiny_model("qwen3", layers=1, vocab_size=320)]
    for trace in traces:
        own, other = (
            sum(own_logps(model, tiny_tokenizer(kind), trace.prompt, trace.response))
            for model, kind in zip(models, ("bpe", "bytes"), strict=True)
        )
        assert trace.totals.logp == pytest.approx(own, abs=1e-3)
        assert trace.totals.ref_logp == pytest.approx(other, abs=1e-3)
        assert "".join(token.text for token in trace.tokens) == trace.response
        assert any("different tokenizers" in warning for warning in trace.warnings)


def test_one_text_is_shown_in_the_terminal(place, capsys):
    asked = ["--prompt", "The sky is", "--response", " blue."]
    models = ["--policy", str(place / "policy"), "--reference", str(place / "reference")]
    assert main(["score", *models, *asked, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert " blue." in printed
    assert "implicit reward" in printed
    assert "most negative tokens" in printed


@pytest.mark.integration
def test_a_finished_run_knows_its_models(place, tmp_path, capsys):
    run = tmp_path / "run"
    trained = ["--model", str(place / "policy"), "--data", str(place / "pairs.jsonl"), "--output", str(run)]
    trained += ["--max-steps", "1", "--batch-size", "3", "--learning-rate", "1e-3", "--beta", "0.25", "--device", "cpu"]
    assert main(["train", *trained]) == 0
    given = ["--run", str(run), "--data", str(place / "pairs.jsonl"), "--output", str(tmp_path / "t.jsonl")]
    assert main(["score", *given, "--device", "cpu"]) == 0
    trace = next(read_traces(tmp_path / "t.jsonl"))
    assert (trace.beta, trace.policy["path"]) == (0.25, str(run / "policy"))
    assert trace.reference["path"] == str(place / "policy")


def test_conversations_are_scored_turn_by_turn(place, tmp_path):
    root = tmp_path / "chat"
    tiny_model("llama", layers=1, vocab_size=320).save_pretrained(root)
    tiny_tokenizer("bytes", chat_template=CHATML, eos="<|im_end|>").save_pretrained(root)
    turns = [("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "So long.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"prompt": messages[:1], "completion": messages[1:]}) + "\n")
    given = [
        "--policy",
        str(root),
        "--reference",
        str(root),
        "--data",
        str(tmp_path / "chat.jsonl"),
        "--levels",
        "turn",
    ]
    assert main(["score", *given, "--output", str(tmp_path / "t.jsonl"), "--device", "cpu"]) == 0
    trace = next(read_traces(tmp_path / "t.jsonl"))
    assert "".join(token.text for token in trace.tokens if token.written) == "Hello.<|im_end|>So long.<|im_end|>"
    assert [span.tokens > 0 for span in trace.spans] == [True, False, True]
    assert trace.totals.implicit_reward == pytest.approx(0.0, abs=1e-5)


def test_a_header_that_opens_thoughts_is_scored_as_it_is_trained(place, tmp_path):
    thinking = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>' }}{% endif %}")
    assert thinking != CHATML
    tiny_model("llama", layers=1, vocab_size=320).save_pretrained(tmp_path / "chat")
    tiny_tokenizer("bytes", chat_template=thinking, eos="<|im_end|>").save_pretrained(tmp_path / "chat")
    turns = [{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Hello."}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"prompt": turns[0], "completion": turns[1]}) + "\n")
    model = str(tmp_path / "chat")
    given = ["--policy", model, "--reference", model, "--data", str(tmp_path / "chat.jsonl"), "--device", "cpu"]
    assert main(["score", *given, "--output", str(tmp_path / "t.jsonl")]) == 0
    (trace,) = read_traces(tmp_path / "t.jsonl")
    assert "".join(token.text for token in trace.tokens if token.written) == "Hello.<|im_end|>"
    assert trace.prompt.endswith("assistant\n")


def test_rows_that_the_template_refuses_are_named_or_left_out(tmp_path, capsys):
    strict = "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    tiny_model("llama", layers=1, vocab_size=320).save_pretrained(tmp_path / "chat")
    tiny_tokenizer("bytes", chat_template=strict, eos="<|im_end|>").save_pretrained(tmp_path / "chat")
    rows = [{"prompt": [{"role": "user", "content": text}], "response": "Hello."} for text in ("Hi", "bad", "Ho")]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = str(tmp_path / "chat")
    given = ["--policy", model, "--reference", model, "--data", str(tmp_path / "chat.jsonl"), "--device", "cpu"]
    assert main(["score", *given, "--output", str(tmp_path / "t.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "chat.jsonl, row 2: the chat template refuses the conversation (user): no" in said
    assert "--bad-rows drop." in said
    assert "--chat-template" not in said  # a flag of tokenq train alone
    assert main(["score", *given, "--output", str(tmp_path / "t.jsonl"), "--bad-rows", "drop"]) == 0
    assert "3 rows: 2 responses; dropped 1 (1 refused by the chat template)" in capsys.readouterr().err
    assert len(list(read_traces(tmp_path / "t.jsonl"))) == 2


def test_in_python(place):
    session = tokenq.load(str(place / "policy"), str(place / "reference"), beta=0.5, device="cpu")
    shown = session.score("The sky is", " blue.")
    own = own_logps(tiny_model("llama", layers=1, vocab_size=320), tiny_tokenizer("bpe"), "The sky is", " blue.")
    assert shown.totals.logp == pytest.approx(sum(own), abs=1e-4)
    assert "<div" in shown._repr_html_()
    assert len(shown.to_frame()) == shown.totals.tokens


@pytest.mark.integration
def test_the_page_and_the_figure(place, tmp_path):
    shown = ["--html", str(tmp_path / "page.html"), "--figure", str(tmp_path / "figure.svg")]
    assert main(words(place, tmp_path, *shown)) == 0
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")
    page = (tmp_path / "page.html").read_text()
    assert "<html" in page
    assert " a café 🙂 </script>" not in page


MODELS = ["--policy", "POLICY", "--reference", "POLICY"]
SCORED = [*MODELS, "--output", "t.jsonl"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--policy", "POLICY", "--data", "DATA", "--output", "t.jsonl"], "needs a --reference"),
        ([*MODELS, "--data", "DATA"], "--output is missing"),
        ([*MODELS, "--data", "DATA", "--output", "t.csv"], "Name it .jsonl or .parquet"),
        ([*MODELS, "--prompt", "a"], "belong together"),
        (MODELS, "nothing to score"),
        (["--run", "POLICY", "--data", "DATA", "--output", "t.jsonl"], "holds no trained policy"),
        (["--data", "DATA", "--output", "t.jsonl"], "either --policy or --run"),
        ([*SCORED, "--data", "DATA", "--levels", "wort"], "Did you mean 'word'"),
        ([*SCORED, "--data", "BOTH"], "row 1"),
        ([*MODELS, "--prompt", "a", "--response", ""], "no token besides EOS"),
    ],
)
def test_bad_input(place, tmp_path, change, says, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = {"prompt": "a", "response": "b", "chosen": "c", "rejected": "d"}
    (tmp_path / "both.jsonl").write_text(json.dumps(both) + "\n")
    paths = {"POLICY": place / "policy", "DATA": place / "pairs.jsonl", "BOTH": tmp_path / "both.jsonl"}
    assert main(["score", *(str(paths.get(word, word)) for word in change), "--device", "cpu"]) == 2
    assert says in capsys.readouterr().err
