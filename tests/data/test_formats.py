"""Every format of the table, from a row as it is found in the wild to the example that is meant."""

import json
import re
from pathlib import Path

import pytest
from test_public_layouts import LABELLED, STEPS
from test_public_layouts import PAIRS as PUBLIC

from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.layouts.columns import find_format
from tokenq.data.layouts.formats import FORMATS
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.records.examples import Message


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))
HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant:"
POST = {"post": "I ran.", "title": "Run", "subreddit": "sport", "article": None}

# name of the format, row, prompt, chosen, rejected
PAIRS = {
    "strings": ("preference", {"prompt": "q:", "chosen": " c", "rejected": " r"}, "q:", " c", " r"),
    "turns": (
        "preference",
        {"prompt": [user("q")], "chosen": [assistant("c")], "rejected": [assistant("r")]},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "turns beside a text prompt": (
        "preference",
        {"prompt": "q", "chosen": [assistant("c")], "rejected": [assistant("r")]},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "text beside a prompt of turns": (
        "preference",
        {"prompt": [user("q")], "chosen": "c", "rejected": "r"},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "whole conversations beside their prompt": (
        "preference",
        {
            "prompt": "q",
            "prompt_id": "8f3",
            "chosen": [user("q"), assistant("c")],
            "rejected": [user("q"), assistant("r")],
            "messages": [user("q"), assistant("c")],
            "score_chosen": 8.5,
            "score_rejected": 8.0,
        },
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "a step amid a solution": (
        "step preference",
        {
            "dataset": "MATH_Rephrased",
            "prompt": "1+1+1?",
            "initial_reason_steps": "Step 1: 1+1=2\nStep 2:",
            "chosen": " 2+1=3",
            "rejected": " 2+1=4",
            "full_chosen": " 2+1=3\nStep 3: so 3",
            "full_rejected": " 2+1=4\nStep 3: so 4",
            "answer": "3",
        },
        "1+1+1?\n",
        "Step 1: 1+1=2\nStep 2: 2+1=3",
        "Step 1: 1+1=2\nStep 2: 2+1=4",
    ),
    "the first step of a solution": (
        "step preference",
        {"prompt": "1+1?", "initial_reason_steps": "", "chosen": "2", "rejected": "3"},
        "1+1?\n",
        "2",
        "3",
    ),
    "implicit turns": (
        "implicit preference",
        {"chosen": [user("q"), assistant("c")], "rejected": [user("q"), assistant("r")]},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "implicit strings": (
        "implicit preference",
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        "The sky is",
        " blue.",
        " green.",
    ),
    "hh": ("implicit preference", {"chosen": f"{HH} c", "rejected": f"{HH} r"}, HH, " c", " r"),
    "orca": (
        "question preference",
        {"system": "Be kind.", "question": "q", "chosen": "c", "rejected": "r"},
        "Be kind.\n\nq\n",
        "c",
        "r",
    ),
    "alpaca preference": (
        "question preference",
        {"instruction": "Add.", "input": "1 1", "chosen": "2", "rejected": "3"},
        "Add.\n\n1 1\n",
        "2",
        "3",
    ),
    "input": ("question preference", {"input": "q", "chosen": "c", "rejected": "r"}, "q\n", "c", "r"),
    "sharegpt preference": (
        "conversation preference",
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "c"},
            "rejected": {"from": "gpt", "value": "r"},
        },
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "alpaca list": (
        "instruction preference",
        {"instruction": "q", "input": "", "output": ["c", "r"]},
        "q\n",
        "c",
        "r",
    ),
    "tldr comparison": (
        "comparison",
        {"info": POST, "summaries": [{"text": " r"}, {"text": " c"}], "choice": 1},
        "SUBREDDIT: r/sport\n\nTITLE: Run\n\nPOST: I ran.\n\nTL;DR:",
        " c",
        " r",
    ),
    "article comparison": (
        "comparison",
        {"info": {"post": None, "article": "News."}, "summaries": [{"text": "c"}, {"text": "r"}], "choice": 0},
        "News.\n\nTL;DR:",
        " c",
        " r",
    ),
    "ultrafeedback": (
        "ultrafeedback",
        {
            "instruction": "q",
            "completions": [
                {"response": "m", "overall_score": 5},
                {"response": "r", "overall_score": 2.5},
                {"response": "x", "overall_score": None},
                {"response": "c", "overall_score": "7"},
            ],
        },
        "q\n",
        "c",
        "r",
    ),
    "nectar": (
        "nectar",
        {"prompt": HH, "answers": [{"answer": "r", "rank": 7}, {"answer": "c", "rank": 1}, {"answer": "m", "rank": 2}]},
        HH,
        "c",
        "r",
    ),
    "nectar as arrow stores it": (
        "nectar",
        {"prompt": HH, "answers": {"answer": ["r", "c"], "rank": [2.0, 1.0]}},
        HH,
        "c",
        "r",
    ),
    "helpsteer3": (
        "helpsteer preference",
        {"context": [user("q")], "response1": "c", "response2": "r", "overall_preference": -2},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "helpsteer2 preference": (
        "helpsteer preference",
        {"prompt": "q", "response_1": "r", "response_2": "c", "preference_strength": 1},
        "q",
        "c",
        "r",
    ),
    "gsm8k solutions": (
        "solutions",
        {
            "question": "q?",
            "ground_truth": "A: 2",
            "6b": {"is_correct": False, "solution": "A: 3"},
            "175b": {"is_correct": True, "solution": "A: 2"},
        },
        "q?\n",
        "A: 2",
        "A: 3",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name):
    form, values, prompt, chosen, rejected = PAIRS[name]
    assert find_format(Row(values, "row 1")) == form
    (example,) = read_examples([Row(values, "row 1")]).examples
    assert example.is_pair
    assert example.prompt == prompt
    assert [response.content for response in example.responses] == [chosen, rejected]
    (example,) = read_examples([Row(values, "row 1")], selection="responses").examples
    assert not example.is_pair
    assert [response.content for response in example.responses] == [chosen]


def test_scores_of_a_pair_are_kept():
    (example,) = read_examples([Row(PAIRS["whole conversations beside their prompt"][1], "")], selection="all").examples
    assert [response.score for response in example.responses] == [8.5, 8.0]


# name of the format, row, prompt, response
RESPONSES = {
    "strings": ("completion", {"prompt": "q", "completion": " r"}, "q", " r"),
    "response": ("completion", {"prompt": "q", "response": " r"}, "q", " r"),
    "turns": ("completion", {"prompt": [user("q")], "completion": [assistant("r")]}, (U("q"),), (A("r"),)),
    "messages": (
        "messages",
        {"messages": [{"role": "system", "content": "s"}, user("q"), assistant("r"), user("t")]},
        (S("s"), U("q")),
        (A("r"),),
    ),
    "sharegpt": (
        "messages",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]},
        (U("q"),),
        (A("r"),),
    ),
    "several turns": (
        "messages",
        {"messages": [user("q"), assistant("r"), user("t"), assistant("u")]},
        (U("q"),),
        (A("r"), U("t"), A("u")),
    ),
    "messages in a CSV cell": (
        "messages",
        {"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]'},
        (U("q"),),
        (A("r"),),
    ),
    "text": ("text", {"text": "Once."}, "", "Once."),
    "transcript": ("text", {"text": f"{HH} r"}, HH, " r"),
    "gsm8k": ("question", {"question": "q?", "answer": "2\n#### 2"}, "q?\n", "2\n#### 2"),
    "a whole number": ("question", {"question": "1 + 1?", "answer": 2}, "1 + 1?\n", "2"),
    "alpaca": ("instruction", {"instruction": "Add.", "input": "1 1", "output": "2"}, "Add.\n\n1 1\n", "2"),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_responses(name):
    form, values, prompt, response = RESPONSES[name]
    assert find_format(Row(values, "row 1")) == form
    (example,) = read_examples([Row(values, "row 1")], selection="responses").examples
    assert (example.prompt, [one.content for one in example.responses]) == (prompt, [response])
    with pytest.raises(UserError, match="row 1: the data holds single responses"):
        read_examples([Row(values, "row 1")])


def test_labelled_responses():
    rows = [
        Row({"prompt": "q", "completion": " c", "label": True}, "row 1"),
        Row({"prompt": "q", "completion": " r", "label": "False"}, "row 2"),
        Row({"prompt": "p", "completion": " s", "label": 1}, "row 3"),
    ]
    assert find_format(rows[0]) == "labelled"
    both, last = read_examples(rows, selection="all").examples
    assert [(one.content, one.label) for one in both.responses] == [(" c", True), (" r", False)]
    assert [(one.content, one.label) for one in last.responses] == [(" s", True)]
    pairs = read_examples(rows)
    assert [[one.content for one in pair.responses] for pair in pairs.examples] == [[" c", " r"]]
    assert pairs.dropped == {"fewer than two rated responses": 1}
    right = read_examples(rows, selection="responses")
    assert [example.responses[0].content for example in right.examples] == [" c", " s"]
    assert right.dropped == {"undesirable response": 1}


def test_responses_with_a_reward():
    """Those of one prompt are one example; text cells hold numbers too; a label beside a reward stays one."""
    rows = [
        Row({"prompt": "q", "completion": " c", "reward": 0.5}, "row 1"),
        Row({"prompt": "q", "completion": " r", "reward": "-2"}, "row 2"),
        Row({"prompt": "p", "response": " s", "reward": 1, "label": False}, "row 3"),
    ]
    assert {find_format(row) for row in rows} == {"rewarded"}
    both, last = read_examples(rows, selection="rewarded").examples
    assert [(one.content, one.score) for one in both.responses] == [(" c", 0.5), (" r", -2.0)]
    assert [(one.content, one.score, one.label) for one in last.responses] == [(" s", 1.0, False)]
    pairs = read_examples(rows)
    assert [[one.content for one in pair.responses] for pair in pairs.examples] == [[" c", " r"]]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ({"input": "1+1+1?", "steps": ["1+1=2", "2+1=4", "so 4"], "mistake_index": 1}, (True, False, False)),
        ({"input": "1+1+1?", "steps": ["1+1=2", "2+1=3"], "mistake_index": None, "target": "3"}, (True, True)),
        ({"problem": "1+1?", "steps": ["2"], "label": -1, "id": "gsm8k-0"}, (True,)),
        ({"problem": "1+1?", "steps": ["3"], "label": 0, "id": "gsm8k-1"}, (False,)),
    ],
)
def test_the_first_wrong_step_makes_labels(values, labels):
    assert find_format(Row(values, "")) == "first error"
    parsed = FORMATS["first error"].read(values)
    (response,) = parsed.responses
    assert response.step_labels == labels
    assert "".join(response.steps) == response.content[0].content == "\n".join(values["steps"])
    assert response.label is all(labels)


@pytest.mark.parametrize(
    "wrong", [{"mistake_index": 2}, {"mistake_index": True}, {"mistake_index": 0.5}, {"steps": []}]
)
def test_a_first_wrong_step_that_there_is_not(wrong):
    with pytest.raises(BadRow):
        FORMATS["first error"].read({"input": "?", "steps": ["a", "b"], "mistake_index": 0, **wrong})


def test_stepwise_responses_are_lines_with_a_label_each():
    values = {"prompt": "q?", "completions": ["One.", "Two.\n", "Two."], "labels": [True, 1, False]}
    assert find_format(Row(values, "")) == "stepwise"
    (example,) = read_examples([Row(values, "")], selection="all").examples
    (response,) = example.responses
    assert example.prompt == "q?\n"
    assert response.content == "One.\nTwo.\nTwo." == "".join(response.steps)
    assert response.steps == ("One.\n", "Two.\n", "Two.")
    assert response.step_labels == (True, True, False)
    assert response.label is False
    (example,) = read_examples([Row(values, "")], selection="all", style="chat").examples
    assert example.responses[0].content == (A("".join(response.steps)),)


def test_helpsteer_rows_of_one_prompt_are_one_example():
    rows = [
        Row({"prompt": prompt, "response": response, "helpfulness": rating, "verbosity": 1}, f"row {number}")
        for number, (prompt, response, rating) in enumerate(
            [("q", "r", 1), ("q", "c", 4), ("p", "s", 3), ("q", "t", 0)], 1
        )
    ]
    assert find_format(rows[0]) == "helpsteer"
    result = read_examples(rows)
    assert [(one.where, [r.content for r in one.responses]) for one in result.examples] == [("row 1", ["c", "r"])]
    assert result.dropped == {"fewer than two rated responses": 2}  # only neighbours are put together


UNUSABLE = {
    "not text": ({"prompt": "q", "chosen": 1.5, "rejected": "r"}, "column 'chosen' holds float, not text"),
    "null": ({"prompt": "q", "chosen": "c", "rejected": None}, "column 'rejected' is empty"),
    "prompt of another conversation": (
        {"prompt": "p", "chosen": [user("q"), assistant("c")], "rejected": [user("q"), assistant("r")]},
        "the prompt is no turn of the conversations",
    ),
    "no choice": ({"info": POST, "summaries": [{"text": "a"}, {"text": "b"}], "choice": None}, "choice is None"),
    "no record": ({"info": "post", "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0}, "'info' holds no record"),
    "three outputs": ({"instruction": "q", "output": ["a", "b", "c"]}, r"not \[chosen, rejected\]"),
    "no list": ({"prompt": "q", "answers": "x"}, "column 'answers' holds no list"),
    "item without text": ({"prompt": "q", "answers": [{"rank": 1}]}, "an item without text under 'answer'"),
    "label": ({"prompt": "q", "completion": "c", "label": "maybe"}, "label 'maybe' is neither true nor false"),
    "reward": ({"prompt": "q", "completion": "c", "reward": "good"}, "reward 'good' is no finite number"),
    "no reward": ({"prompt": "q", "completion": "c", "reward": None}, "column 'reward' is empty"),
    "endless reward": ({"prompt": "q", "completion": "c", "reward": "inf"}, "reward 'inf' is no finite number"),
    "reward that is none": (
        {"prompt": "q", "completion": "c", "reward": float("nan")},
        "column 'reward' is empty",
    ),
    "begun with a list": (
        {"prompt": "q", "initial_reason_steps": ["a"], "chosen": "c", "rejected": "r"},
        "column 'initial_reason_steps' holds list, not text",
    ),
    "labels": ({"prompt": "q", "completions": ["a", "b"], "labels": [True]}, "2 completions but 1 labels"),
    "step": ({"prompt": "q", "completions": ["a", 1], "labels": [True, True]}, "a step that is not text"),
    "tools": (
        {"prompt": [user("q")], "chosen": [assistant("c")], "rejected": [assistant("r")], "tools": "[{"},
        "column 'tools' holds text that is not JSON",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_cells_name_the_row_and_the_column(name):
    values, detail = UNUSABLE[name]
    with pytest.raises(UserError, match=f"^file.jsonl, row 3: .*{detail}"):
        read_examples([Row(values, "file.jsonl, row 3")])


def test_turns_are_needed_where_a_conversation_is_asked_for():
    with pytest.raises(UserError, match="holds no list of turns"):
        read_examples([Row({"messages": [1]}, "row 1")], selection="responses")


def test_every_format_is_tried_here():
    public = {case[0] for case in (*PUBLIC.values(), *STEPS.values(), *LABELLED.values())}
    tried = (
        {case[0] for case in [*PAIRS.values(), *RESPONSES.values()]}
        | public
        | {
            "rated summary",  # tests/data/test_public_layouts.py
            "scored",
            "labelled",
            "rewarded",
            "advantages",  # tests/data/test_signals.py
            "stepwise",
            "first error",
            "helpsteer",
            "rated",  # tests/data/test_ratings.py
            "episode",  # tests/data/test_episodes.py
            "chain",  # tests/data/test_chains.py
            "weighted",  # tests/jobs/test_steering.py
        }
    )
    assert tried == set(FORMATS)


def test_the_rows_of_the_documentation_have_the_format_that_it_says():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| ([a-z ]+?)(?: \(TL;DR\))? \| `(\{.*?\})`", page, re.M)
    assert [name for name, _ in shown] == list(FORMATS)
    for name, text in shown:
        row = Row(json.loads(text), "row 1")
        assert find_format(row) == name
        assert read_examples([row], selection="all").examples


def test_columns_that_fit_and_values_that_do_not():
    with pytest.raises(UserError, match=r"'question', 'ground_truth' fit no known format\.\n"):
        read_examples([Row({"question": "q", "ground_truth": "r"}, "row 1")])


@pytest.mark.parametrize("written", [1, 1.0, "1", "1.0", " 1 "])
def test_a_first_wrong_step_may_be_written_as_pandas_and_csv_write_it(written):
    row = {"problem": "p", "steps": '["a", "b", "c"]', "label": written}
    assert FORMATS["first error"].read(row).responses[0].step_labels == (True, False, False)
    for none in (-1, -1.0, "-1", None, float("nan"), "NaN", ""):
        assert FORMATS["first error"].read(row | {"label": none}).responses[0].step_labels == (True, True, True)


@pytest.mark.parametrize("name", ["finish", "finish_reason"])
def test_a_response_that_its_engine_cut_goes_on(name):
    """An EOS behind it would be an action that nobody took; what stopped by itself, and a pair, are as they were."""
    rows = [{"prompt": "q:", "completion": f" {said}", "reward": 0.5, name: said} for said in ("length", "stop")]
    read = read_examples([Row(row, f"row {n}") for n, row in enumerate(rows)], selection="all")
    cut = {one.content: one.goes_on for example in read.examples for one in example.responses}
    assert cut == {" length": True, " stop": False}
    (pair,) = read_examples([Row({"prompt": "q:", "chosen": " c", "rejected": " r", name: "length"}, "row")]).examples
    assert not any(one.goes_on for one in pair.responses)
