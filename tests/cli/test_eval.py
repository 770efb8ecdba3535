"""`tokenq eval TASK` as a user types it, on tiny models and stored files."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.evaluation.config import TASKS
from tokenq.files import write_json_lines
from tokenq.records.results import Candidate, Cost, SearchResult
from tokenq.records.trace_files import read_traces

pytestmark = pytest.mark.integration

PAIRS = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " a cafe", "kind": "short", "bad": [[1, 2]]},
    {
        "prompt": "Two and two",
        "chosen": " make four, say I.",
        "rejected": " make five!",
        "kind": "long",
        "bad": [[6, 10]],
    },
    {"prompt": "Once", "chosen": " more", "rejected": " again and again", "kind": "short", "bad": [[7, 10], [11, 16]]},
]
STEPS = [
    {"prompt": f"Add {n} and 2.", "completions": ["First.", f"So {n} + 2.", f"It is {n}."], "labels": labels}
    for n, labels in enumerate(
        [[True] * 3, [True, False, False], [False] * 3, [True, True, False], [True] * 3, [True, False, True]]
    )
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("eval")
    for name, family in (("policy", "llama"), ("reference", "gpt_neox")):
        tiny_model(family, layers=1, vocab_size=320).save_pretrained(root / name)
        tiny_tokenizer("bpe").save_pretrained(root / name)
    write_json_lines(root / "pairs.jsonl", PAIRS)
    write_json_lines(root / "steps.jsonl", STEPS)
    write_json_lines(root / "questions.jsonl", [{"prompt": f"{n}?", "answer": f"#### {n}"} for n in (1, 2)])
    for name, texts in (("ours", ["1", "2"]), ("theirs", ["1", "3"]), ("others", ["5", "2"])):
        write_json_lines(root / f"{name}.jsonl", [stored(n, [text]).to_dict() for n, text in enumerate(texts, 1)])
    write_json_lines(root / "samples.jsonl", [stored(n, ["1", "2", "2", "7"], "sample").to_dict() for n in (1, 2)])
    return root


def stored(number, texts, method="greedy"):
    candidates = tuple(Candidate(text, (1, 2), 0.0, (-1.0, -1.0), (-1.5, -1.0), True) for text in texts)
    return SearchResult(str(number), f"{number}?", method, "likelihood", candidates, Cost(9, 3, 0, 1.0, 1))


def evaluated(place, tmp_path, task, *words, data="pairs.jsonl"):
    given = ["eval", task, "--policy", str(place / "policy"), "--reference", str(place / "reference")]
    given += ["--data", str(place / data), "--device", "cpu", "--resamples", "200"]
    given += ["--output", str(tmp_path / "eval.json"), "--html", str(tmp_path / "eval.html")]
    assert main([*given, *words]) == 0
    return json.loads((tmp_path / "eval.json").read_text())


def judged(tmp_path, task, *words):
    assert main(["eval", task, "--output", str(tmp_path / "eval.json"), "--resamples", "200", *words]) == 0
    return json.loads((tmp_path / "eval.json").read_text())


def test_preference_counts_what_the_traces_say(place, tmp_path, capsys):
    record = evaluated(place, tmp_path, "preference", "--subset", "kind")
    traces = {trace.id: trace for trace in read_traces(tmp_path / "eval.traces.parquet")}
    rows = sorted({name.rpartition("/")[0] for name in traces})
    margins = [
        traces[f"{row}/chosen"].totals.implicit_reward - traces[f"{row}/rejected"].totals.implicit_reward
        for row in rows
    ]
    scored = record["numbers"]["rewards"]["implicit_reward"]["rewardbench"]
    assert scored["accuracy"]["value"] == pytest.approx(np.mean([margin > 0 for margin in margins]))
    assert set(scored["subsets"]) == {"short", "long"}
    assert record["numbers"]["margin"]["mean"] == pytest.approx(np.mean(margins))
    assert record["cost"]["tokens"] > 0
    assert record["policy"]["path"] == str(place / "policy")
    assert record["reference"]["architecture"] == "GPTNeoXForCausalLM"
    assert "implicit reward" in capsys.readouterr().out
    page = (tmp_path / "eval.html").read_text()
    assert "eval-traces.html#row=" in page
    assert "<svg" in page
    again = judged(tmp_path, "preference", "--traces", str(tmp_path / "eval.traces.parquet"))
    assert again["numbers"]["margin"] == record["numbers"]["margin"]


def test_localisation_finds_the_stretches_of_the_data(place, tmp_path):
    record = evaluated(place, tmp_path, "localisation", "--errors", "bad", "--classes", "letters=[a-z]")
    every, letters = record["numbers"]["classes"]
    assert (every["examples"], every["token_class"], letters["token_class"]) == (3, "all", "letters")
    names = {row["readout"] for row in every["rows"]}
    assert {"implicit_reward", "centred_advantage", "reference_surprisal", "random", "position"} <= names
    assert 0 < every["wrong_tokens"] < every["tokens"]
    page = (tmp_path / "eval-traces.html").read_text()
    islands = re.findall(r'<script[^>]*id="trace-\d+"[^>]*>(.*?)</script>', page, re.S)
    traces = [json.loads(zlib.decompress(base64.b64decode(one))) for one in islands]
    marked = {one["id"].rpartition("/")[2]: one for one in traces}
    given = marked["rejected"]["spans"]["given"]
    assert given["label"] == [False] * len(given["first"])
    assert all(first < last for first, last in zip(given["first"], given["last"], strict=True))
    assert "given" not in marked["chosen"]["spans"]


def test_localisation_by_steps_and_first_errors(place, tmp_path):
    record = evaluated(place, tmp_path, "localisation", data="steps.jsonl")
    assert record["numbers"]["classes"][0]["without_wrong"] == 2
    record = evaluated(
        place, tmp_path, "first-error", "--overwrite", "--folds", "3", "--readouts", "random", data="steps.jsonl"
    )
    assert (record["numbers"]["examples"], record["numbers"]["erroneous"]) == (6, 4)
    assert record["numbers"]["baselines"]["always_none"]["correct"]["value"] == 1.0
    assert record["numbers"]["baselines"]["always_first"]["erroneous"]["value"] == pytest.approx(1 / 4)


def test_stored_answers_are_verified(place, tmp_path, capsys):
    files = [f"ours={place / 'ours.jsonl'}", f"theirs={place / 'theirs.jsonl'}"]
    asked = ["--prompts", str(place / "questions.jsonl"), "--answer", "last_number"]
    record = judged(tmp_path, "generation", "--results", *files, *asked)
    assert record["numbers"]["ours"]["quality"]["value"] == 1.0
    assert record["numbers"]["theirs"]["gain"]["value"] == -0.5
    record = judged(tmp_path, "kl-frontier", "--overwrite", "--results", *files, *asked)
    assert record["numbers"]["ours"]["kl"]["value"] == pytest.approx(0.5)
    record = judged(tmp_path, "best-of-n", "--overwrite", "--results", str(place / "samples.jsonl"), *asked)
    assert record["numbers"]["accuracy"]["pass@n"]["4"]["value"] == 1.0
    assert record["numbers"]["accuracy"]["one sample"]["4"]["value"] == pytest.approx(3 / 8)
    assert record["numbers"]["accuracy"]["majority"]["4"]["value"] == pytest.approx(1 / 2)


def test_stored_preferences_in_both_forms(tmp_path):
    """AlpacaEval's 1 to 2, and rows per prompt: wins, a loss and a tie."""
    row = {
        "model": "m",
        "preference": [2.0, 1.0, 1.5, 2.0],
        "model_length": [5, 9, 3, 7],
        "baseline_length": [6, 5, 4, 2],
    }
    write_json_lines(tmp_path / "alpaca.jsonl", [row])
    numbers = judged(tmp_path, "win-rate", "--preferences", str(tmp_path / "alpaca.jsonl"))["numbers"]
    assert (numbers["m"]["raw"]["win_rate"], numbers["m"]["raw"]["ties"]) == (0.625, 1)
    write_json_lines(tmp_path / "rows.jsonl", [{"preference": said} for said in ("first", "second", "tie", 0.75)])
    numbers = judged(tmp_path, "win-rate", "--preferences", str(tmp_path / "rows.jsonl"))["numbers"]
    assert numbers["system"]["raw"]["win_rate"] == pytest.approx((1 + 0 + 0.5 + 0.75) / 4)


def test_a_file_with_an_equals_sign_in_its_name_is_a_file(place, tmp_path):
    """As sweeps write them; a name before it still counts, and so does a name that has such a sign itself."""
    swept = tmp_path / "beam,width=3.jsonl"
    swept.write_text((place / "ours.jsonl").read_text())
    asked = ["--prompts", str(place / "questions.jsonl"), "--answer", "last_number"]
    files = [str(swept), f"named={swept}", f"width=3={swept}"]
    record = judged(tmp_path, "generation", "--results", *files, *asked)
    assert list(record["numbers"]) == ["beam,width=3", "named", "width=3"]
    assert main(["eval", "generation", "--results", f"named={tmp_path}/absent=1.jsonl", *asked]) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["preference"], "There is nothing to evaluate"),
        (["preferences"], "Did you mean 'eval preference'"),
        (["preference", "--policy", "POLICY"], "--data is missing"),
        (["localisation", "--traces", "none.jsonl"], "No file none.jsonl"),
        (["localisation", "--policy", "POLICY", "--reference", "POLICY", "--data", "PAIRS"], "has no labels"),
        (["localisation", "--policy", "POLICY", "--data", "PAIRS", "--errors", "wrong"], "has no column 'wrong'"),
        (["first-error", "--policy", "POLICY", "--reference", "POLICY", "--data", "PAIRS"], "no labelled steps"),
        (["generation"], "--results is missing"),
        (["generation", "--results", "OURS"], "nothing to judge by"),
        (["generation", "--results", "OURS", "--task", "chess"], "reasoning-gym:chain_sum"),
        (["generation", "--results", "OURS", "OURS", "--prompts", "Q", "--answer", "text"], "Two systems are called"),
        (["best-of-n", "--results", "OURS", "--prompts", "Q", "--answer", "text"], "holds no plain samples"),
        (["win-rate"], "There is nothing to judge"),
        (["win-rate", "--results", "OURS"], "There is no judge"),
    ],
)
def test_bad_input(place, capsys, words, says):
    known = {"POLICY": "policy", "PAIRS": "pairs.jsonl", "OURS": "ours.jsonl", "Q": "questions.jsonl"}
    assert main(["eval", *(str(place / known[word]) if word in known else word for word in words)]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err


def test_the_tasks_are_listed(capsys):
    assert main(["eval", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"eval {task} " in told for task in TASKS)
    assert "tokenq train" not in told.partition("tasks:")[2]
    assert main(["eval"]) == 2
    assert capsys.readouterr().out == told


def test_what_an_evaluation_is_about_is_written_down(place, tmp_path):
    about = evaluated(place, tmp_path, "preference")["about"]
    assert {"command", "policy", "reference", "data", "β", "date", "tokenq"} == about.keys()
    assert about["data"] == str(place / "pairs.jsonl")
    assert about["β"] == "0.1"


def test_rows_that_were_trained_on_are_said(place, tmp_path, capsys):
    run, data = tmp_path / "run", str(place / "pairs.jsonl")
    words = ["--model", str(place / "reference"), "--data", data, "--device", "cpu", "--max-steps", "1"]
    assert main(["train", *words, "--output", str(run), "--eval-size", "1", "--seed", "0"]) == 0
    capsys.readouterr()
    for asked in (["--run", str(run)], ["--policy", str(run / "policy"), "--reference", str(place / "reference")]):
        assert main(["eval", "preference", *asked, "--data", data, "--device", "cpu", "--resamples", "200"]) == 0
        count = len(PAIRS)
        told = " ".join(capsys.readouterr().err.split())
        assert f"warning: {count - 1} of {count} rows were trained on in {run}" in told
    write_json_lines(tmp_path / "others.jsonl", [{**row, "prompt": f"Other {row['prompt']}"} for row in PAIRS])
    words = ["--run", str(run), "--data", str(tmp_path / "others.jsonl"), "--device", "cpu", "--resamples", "200"]
    assert main(["eval", "preference", *words]) == 0
    assert "were trained on" not in capsys.readouterr().err
