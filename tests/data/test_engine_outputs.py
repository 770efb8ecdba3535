"""Files that other programs wrote (text made up) to answers that can be judged side by side."""

import json

import pytest

from tokenq.data.layouts.engine_outputs import read_answers, with_prompts
from tokenq.errors import UserError
from tokenq.records.examples import Message
from tokenq.records.results import Candidate, Cost, SearchResult

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
BATCH = {"status_code": 200, "body": {"choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}}]}}

# a row, the name of its prompt, the prompt, the answers
FORMS = {
    "alpaca eval": ({"instruction": "q", "output": "a", "generator": "m"}, "1", "q", ["a"]),
    "a batch": ({"id": None, "custom_id": "r-1", "response": BATCH, "error": None}, "r-1", "", ["a"]),
    "mt-bench": (
        {"question_id": 81, "model_id": "m", "choices": [{"index": 0, "turns": ["a", "later"]}]},
        "81",
        "",
        ["a"],
    ),
    "arena-hard": (
        {"question_id": "x", "choices": [{"index": 0, "turns": [{"content": "a", "token_len": 1}]}]},
        "x",
        "",
        ["a"],
    ),
    "arena-hard 2": ({"uid": "x", "model": "m", "messages": TURNS}, "x", (Message("user", "q"),), ["a"]),
    "a logged completion": (
        {"id": "c", "messages": TURNS[:1], "choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]},
        "c",
        (Message("user", "q"),),
        ["a", "b"],
    ),
    "vllm": ({"request_id": "7", "prompt": "q", "outputs": [{"text": "a"}, {"text": "b"}]}, "7", "q", ["a", "b"]),
    "tgi": ({"inputs": "q", "generated_text": "a"}, "1", "q", ["a"]),
    "lm-evaluation-harness": (
        {"doc_id": 4, "doc": {}, "arguments": {"gen_args_0": {"arg_0": "q", "arg_1": {}}}, "resps": [["a"]]},
        "4",
        "q",
        ["a"],
    ),
    "lm-evaluation-harness, older": (
        {"doc_id": 4, "arguments": [["q", {"until": []}]], "resps": [["a"]]},
        "4",
        "q",
        ["a"],
    ),
    "helm": (
        {"instance": {"id": "id1"}, "request": {"prompt": "q"}, "result": {"completions": [{"text": "a"}]}},
        "1",
        "q",
        ["a"],
    ),
    "columns": ({"id": "5", "prompt": "q", "responses": ["a", "b"]}, "5", "q", ["a", "b"]),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_answers_of_other_programs(tmp_path, name, suffix):
    row, known_as, prompt, texts = FORMS[name]
    path = tmp_path / f"theirs{suffix}"
    path.write_text(json.dumps([row]) if suffix == ".json" else json.dumps(row) + "\n")
    (result,) = read_answers(path)
    assert (result.id, result.prompt, [one.text for one in result.candidates]) == (known_as, prompt, texts)


def test_our_own_results_are_read_as_they_are(tmp_path):
    result = SearchResult(
        "x", "q", "beam", "logp", (Candidate(" a", (1,), 0.5, (-1.0,), None, True),), Cost(1, 0, 0, 0.1, 2)
    )
    path = tmp_path / "ours.jsonl"
    path.write_text(json.dumps(result.to_dict()) + "\n")
    assert read_answers(path) == [result]


def results(tmp_path, name, rows):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_answers(path)


def test_prompts_are_taken_from_the_file_that_has_them(tmp_path):
    ours = results(tmp_path, "ours", [{"id": "r-1", "prompt": "q", "response": "a"}])
    theirs = results(tmp_path, "theirs", [{"custom_id": "r-1", "response": BATCH}])
    assert [one.prompt for one in with_prompts({"ours": ours, "theirs": theirs})["theirs"]] == ["q"]
    with pytest.raises(
        UserError, match="The answers of 'theirs' hold no prompts, and no other file has the prompt 'r-1'"
    ):
        with_prompts({"theirs": theirs})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"x": 1}], r"row 1: the columns 'x' are no answers that can be read"),
        ([FORMS["alpaca eval"][0], {"instruction": "q"}], "row 2: it has not the form of the first row"),
        ([FORMS["alpaca eval"][0], {"instruction": "q", "output": None}], "row 2: column 'output' is empty"),
        ([{"custom_id": "r", "response": None, "error": {"code": 1}}], "row 1: column 'response' holds no record"),
        ([{"messages": TURNS[:1]}], "row 1: the conversation does not end with an answer"),
    ],
)
def test_rows_that_hold_no_answer(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        results(tmp_path, "theirs", rows)
