"""Files of public layouts, in the forms in which they lie around, through the commands: train, score, eval, search."""

import bz2
import io
import json
import sys

import pytest
from tiny import CHATML, tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.data.files import local as files
from tokenq.records.trace_files import read_traces


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pku(n):
    sides = {"response_0": f"yes {n}", "response_1": f"no {n}"}
    return {"prompt": f"ask {n}?", **sides, "better_response_id": n % 2, "safer_response_id": 0}


def arena(n):
    sides = {f"conversation_{side}": [user(f"ask {n}?"), assistant(f"{side} {n}")] for side in "ab"}
    return {"model_a": "m", "model_b": "n", **sides, "winner": ("model_a", "model_b", "tie")[n % 3]}


def stack(n):
    return {"question": f"ask {n}?", "answers": [{"text": f"a {n}", "pm_score": n}, {"text": f"b {n}", "pm_score": 1}]}


def kto(n):
    turns = [{"from": "human", "value": f"ask {n}?"}, {"from": "gpt", "value": f"word {n}"}]
    return {"conversations": turns, "kto_tag": n % 2 == 0}


def shepherd(n):
    text = "ask {n}? Step 1: add. {a}\nStep 2: so {n} {b}"
    marks = {"a": "+", "b": "+-"[n % 2]}
    return {"input": text.format(n=n, a="ки", b="ки"), "label": text.format(n=n, **marks)}


def openai(n):
    outputs = {"preferred_output": [assistant(f"c {n}")], "non_preferred_output": [assistant(f"r {n}")]}
    return {"input": {"messages": [user(f"ask {n}?")]}, **outputs}


def listed(n):
    return {"prompt": f"ask {n}?", "chosen": [f" c {n}"], "rejected": [f" r {n}", f" s {n}"], "subset": "Math"}


ROWS = {maker.__name__: [maker(n) for n in range(6)] for maker in (pku, arena, stack, kto, shepherd, openai, listed)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model that knows turns, and a file of each layout."""
    folder = tmp_path_factory.mktemp("public")
    tiny_model("llama", layers=1, vocab_size=320).save_pretrained(folder / "model")
    tokenizer = tiny_tokenizer("bytes")
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder / "model")
    for name, rows in ROWS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return folder


def train(place, tmp_path, data, *more):
    words = ["train", "--model", str(place / "model"), "--data", data, "--output", str(tmp_path / "run")]
    words += ["--device", "cpu", "--max-steps", "1", "--batch-size", "2", "--reference-store", str(tmp_path / "store")]
    return main([*words, *more])


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "loss", "said"),
    [
        ("pku", "dpo", "6 rows: 6 pairs"),
        ("arena", "dpo", "6 rows: 4 pairs; dropped 2 (2 no response is the better one)"),
        ("stack", "dpo", "6 rows: 5 pairs; dropped 1 (1 tied ratings)"),
        ("kto", "kto", "6 rows: 6"),
        ("shepherd", "process", "6 rows: 6"),
        ("openai", "dpo", "6 rows: 6 pairs"),
        ("listed", "dpo", "6 rows: 6 pairs"),
        ("arena", "sft", "dropped 2 (2 no response is the better one)"),
    ],
)
def test_public_layouts_train(place, tmp_path, capsys, name, loss, said):
    assert train(place, tmp_path, str(place / f"{name}.jsonl"), "--loss", loss, "--style", "chat") == 0
    assert said in capsys.readouterr().err


def test_which_column_decides_is_said(place, tmp_path, capsys):
    assert train(place, tmp_path, str(place / "pku.jsonl"), "--style", "chat") == 0
    said = "better_response_id says which response is the better one (another column: --columns better_response_id="
    assert said + "safer_response_id)" in capsys.readouterr().err


def score(place, tmp_path, data, *more):
    words = ["score", "--policy", str(place / "model"), "--reference", str(place / "model"), "--data", data]
    return main([*words, "--output", str(tmp_path / "traces.jsonl"), "--device", "cpu", "--style", "chat", *more])


def _said(traces, side):
    """Return what the responses of a side say, without the template's tokens and line breaks."""
    return [trace.response.split("<|im_end|>")[0].strip() for trace in traces if trace.side == side]


def test_the_winner_is_the_chosen_response(place, tmp_path):
    assert score(place, tmp_path, str(place / "arena.jsonl")) == 0
    traces = list(read_traces(tmp_path / "traces.jsonl"))
    assert _said(traces, "chosen") == ["a 0", "b 1", "a 3", "b 4"]


def test_a_pattern_of_packed_files_with_a_slice(place, tmp_path):
    for part, rows in enumerate((ROWS["openai"][:3], ROWS["openai"][3:])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"part-{part}.jsonl.bz2").write_bytes(bz2.compress(text.encode()))
    assert score(place, tmp_path, str(tmp_path / "part-*.jsonl.bz2") + ":[1:5]") == 0
    traces = list(read_traces(tmp_path / "traces.jsonl"))
    assert _said(traces, "chosen") == ["c 1", "c 2", "c 3", "c 4"]


@pytest.fixture
def piped(monkeypatch):
    files._input_bytes.cache_clear()
    text = "".join(json.dumps(row) + "\n" for row in ROWS["openai"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    yield
    files._input_bytes.cache_clear()


def test_standard_input_is_scored(place, tmp_path, piped):
    assert score(place, tmp_path, "/dev/stdin[:2]") == 0
    traces = list(read_traces(tmp_path / "traces.jsonl"))
    assert _said(traces, "chosen") + _said(traces, "rejected") == ["c 0", "c 1", "r 0", "r 1"]


def test_a_run_from_standard_input_is_not_resumed(place, tmp_path, piped, capsys):
    assert train(place, tmp_path, "-") == 0
    assert "this run cannot be resumed" in capsys.readouterr().err
    assert train(place, tmp_path, "-", "--resume") == 2
    assert "what came on standard input is gone" in capsys.readouterr().err


@pytest.mark.integration
def test_a_bad_line_is_a_bad_row_of_every_command(place, tmp_path, capsys):
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS["openai"][:2]) + '{"input": \n')
    for run in (train, score):
        assert run(place, tmp_path, str(path)) == 2
        assert "some.jsonl, row 3: broken JSON" in capsys.readouterr().err
        assert run(place, tmp_path, str(path), "--bad-rows", "drop") == 0
        assert "2 pairs" in capsys.readouterr().err


def test_right_responses_are_above_all_wrong_ones(place, tmp_path, capsys):
    words = ["eval", "preference", "--policy", str(place / "model"), "--reference", str(place / "model")]
    words += ["--data", str(place / "listed.jsonl"), "--subset", "subset", "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path / "eval.json")]) == 0
    assert "6 prompts with 18 responses" in capsys.readouterr().out
    bench = json.loads((tmp_path / "eval.json").read_text())["numbers"]["rewards"]["likelihood"]["rewardbench"]
    traces = list(read_traces(tmp_path / "eval.totals.parquet"))
    logps = [[one.totals.logp for one in traces if f"row {row}/" in one.id] for row in range(1, 7)]
    assert [len(found) for found in logps] == [3] * 6
    right = sum(chosen > max(rejected) for chosen, *rejected in logps)
    assert bench["accuracy"]["value"] == pytest.approx(right / 6)


def test_outputs_of_other_programs_are_judged(place, tmp_path, capsys):
    """The longer answer wins: a reward model stands in for the judge, whose scores are not looked at here."""
    for name in ("ours", "theirs"):
        rows = [{"instruction": f"ask {n}?", "output": f"{name} {n}", "generator": name} for n in range(4)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    words = ["eval", "win-rate", "--results", f"ours={tmp_path / 'ours.json'}", f"theirs={tmp_path / 'theirs.json'}"]
    assert main([*words, "--judge", "nobody", "--answers", str(tmp_path / "answers.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "no search result" not in said
    assert "can be read" not in said


def test_prompts_of_mt_bench_are_searched(place, tmp_path):
    rows = [{"question_id": 80 + n, "category": "toy", "turns": [f"ask {n}?", "and again?"]} for n in range(2)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["search", "--policy", str(place / "model"), "--prompts", str(tmp_path / "questions.jsonl")]
    words += [
        "--output",
        str(tmp_path / "found.jsonl"),
        "--max-new-tokens",
        "2",
        "--method",
        "greedy",
        "--device",
        "cpu",
    ]
    assert main([*words, "--style", "chat"]) == 0
    found = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [one["prompt"] for one in found] == [[user("ask 0?")], [user("ask 1?")]]
