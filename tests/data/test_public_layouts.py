"""Rows of public data sets, under their publishers' columns (all text made up), and what each is read as."""

import json

import pytest

from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.layouts.columns import find_format
from tokenq.data.layouts.formats import FORMATS
from tokenq.errors import UserError
from tokenq.records.examples import Message

U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def parts(text):
    """A turn's content as Chatbot Arena's 140,000 battles have it."""
    return [{"type": "text", "text": text, "image": None, "mimeType": None}]


ARENA = {
    "question_id": "1f",
    "model_a": "m",
    "model_b": "n",
    "judge": "arena_user_1",
    "conversation_a": [user("q"), assistant("a")],
    "conversation_b": [user("q"), assistant("b")],
    "turn": 1,
    "anony": True,
    "language": "English",
}
LONG = [user("q"), assistant("one"), user("more"), assistant("two")]
PKU = {
    "prompt": "Is it safe?",
    "response_0": "Yes.",
    "response_1": "No.",
    "prompt_source": "toy",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 1,
    "safer_response_id": 0,
}
SHP = {
    "post_id": "p",
    "domain": "askbaking",
    "history": "Why flour?",
    "human_ref_A": "Because.",
    "human_ref_B": "Who knows.",
    "score_A": 12,
    "score_B": 3,
    "labels": 1,
    "score_ratio": 4.0,
}
WEBGPT = {
    "question": {"dataset": "eli5", "id": "x", "full_text": "Why is it blue?"},
    "quotes_0": {"title": [], "extract": []},
    "answer_0": "Rayleigh.",
    "tokens_0": {"prefix": [1], "completion": [2]},
    "score_0": -0.5,
    "answer_1": "Paint.",
    "score_1": 0.5,
}
LISTED = {
    "id": 7,
    "model_a": "m",
    "model_b": "n",
    "prompt": '["q", "more"]',
    "response_a": '["one", "two"]',
    "response_b": '["eins", "zwei"]',
    "winner_model_a": 0,
    "winner_model_b": 1,
    "winner_tie": 0,
}

# the form that a row has, the row, prompt (as chat), chosen, rejected
PAIRS = {
    "stack exchange": (
        "stack exchange",
        {
            "qid": 1,
            "question": "How do I sort?",
            "answers": [
                {"answer_id": 1, "author": "a", "text": "No idea.", "pm_score": 0, "selected": False},
                {"answer_id": 2, "author": "b", "text": "Use sort.", "pm_score": 5, "selected": True},
            ],
            "date": "2020/01/01",
            "metadata": ["x"],
        },
        (U("How do I sort?"),),
        (A("Use sort."),),
        (A("No idea."),),
    ),
    "stack exchange, paired": (
        "better answer first",
        {"qid": 1, "question": "How?", "date": "d", "metadata": ["x"], "response_j": "So.", "response_k": "No."},
        (U("How?"),),
        (A("So."),),
        (A("No."),),
    ),
    "shp": ("votes", SHP, (U("Why flour?"),), (A("Because."),), (A("Who knows."),)),
    "shp, the second": ("votes", {**SHP, "labels": 0}, (U("Why flour?"),), (A("Who knows."),), (A("Because."),)),
    "pku": ("two responses", PKU, (U("Is it safe?"),), (A("No."),), (A("Yes."),)),
    "arena": ("battle", {**ARENA, "winner": "model_a"}, (U("q"),), (A("a"),), (A("b"),)),
    "arena, the second": ("battle", {**ARENA, "winner": "model_b"}, (U("q"),), (A("b"),), (A("a"),)),
    "arena of 140,000": (
        "battle",
        {
            **ARENA,
            "winner": "model_b",
            "conversation_a": [{"role": "user", "content": parts("q")}, {"role": "assistant", "content": parts("a")}],
            "conversation_b": [{"role": "user", "content": parts("q")}, {"role": "assistant", "content": parts("b")}],
        },
        (U("q"),),
        (A("b"),),
        (A("a"),),
    ),
    "arena of 55,000": (
        "battle in lists",
        LISTED,
        (U("q"),),
        (A("eins"), U("more"), A("zwei")),
        (A("one"), U("more"), A("two")),
    ),
    "mt-bench, the first turn judged": (
        "battle",
        {**ARENA, "winner": "model_a", "conversation_a": LONG, "conversation_b": [user("q"), assistant("b")]},
        (U("q"),),
        (A("one"),),
        (A("b"),),
    ),
    "mt-bench, the second turn judged": (
        "battle",
        {
            **ARENA,
            "turn": 2,
            "winner": "model_b",
            "conversation_a": LONG,
            "conversation_b": [*LONG[:3], assistant("zwei")],
        },
        (U("q"), A("one"), U("more")),
        (A("zwei"),),
        (A("two"),),
    ),
    "ppe": (
        "two responses",
        {"question_id": "1", "prompt": "q", "model_1": "m", "response_1": "a", "response_2": "b", "winner": "model_2"},
        (U("q"),),
        (A("b"),),
        (A("a"),),
    ),
    "judgebench": (
        "two responses",
        {"pair_id": "1", "question": "q", "response_A": "a", "response_B": "b", "label": "B>A"},
        (U("q"),),
        (A("b"),),
        (A("a"),),
    ),
    "llmbar": (
        "two responses",
        {"input": "q", "output_1": "a", "output_2": "b", "label": 2},
        (U("q"),),
        (A("b"),),
        (A("a"),),
    ),
    "alpaca farm": (
        "two responses",
        {"instruction": "Add.", "input": "1 1", "output_1": "2", "output_2": "3", "preference": 1},
        (U("Add.\n\n1 1"),),
        (A("2"),),
        (A("3"),),
    ),
    "alpaca eval's annotations": (
        "two responses",
        {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1.9, "generator_1": "base"},
        (U("q"),),
        (A("b"),),
        (A("a"),),
    ),
    "prometheus": (
        "two responses",
        {"orig_instruction": "q", "orig_response_A": "a", "orig_response_B": "b", "orig_preference": "B"},
        (U("q"),),
        (A("b"),),
        (A("a"),),
    ),
    "webgpt": ("two responses", WEBGPT, (U("Why is it blue?"),), (A("Paint."),), (A("Rayleigh."),)),
    "openai preference": (
        "preferred output",
        {
            "input": {"messages": [user("q")], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [assistant("c")],
            "non_preferred_output": [assistant("r")],
        },
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "gemini preference": (
        "scored completions",
        {
            "systemInstruction": {"parts": [{"text": "Be kind."}]},
            "contents": [{"role": "user", "parts": [{"text": "q"}]}],
            "completions": [
                {"score": 0.0, "completion": {"role": "model", "parts": [{"text": "r"}]}},
                {"score": 1.0, "completion": {"role": "model", "parts": [{"text": "c"}]}},
            ],
        },
        (S("Be kind."), U("q")),
        (A("c"),),
        (A("r"),),
    ),
    "rewardbench": (
        "preference",
        {"prompt": "q", "chosen": "c", "chosen_model": "m", "rejected": "r", "subset": "donotanswer", "id": 3},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "rewardbench 2": (
        "right and wrong",
        {"id": "0", "prompt": "q", "chosen": ["c"], "rejected": ["r", "s", "t"], "num_correct": 1, "subset": "Math"},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "rejected in a list": (
        "right and wrong",
        {"prompt": "q", "chosen": "c", "rejected": ["r"]},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "lists of conversations": (
        "right and wrong",
        {
            "prompt": [user("q")],
            "chosen": [[user("q"), assistant("c")]],
            "rejected": [[user("q"), assistant("r")], [user("q"), assistant("s")]],
        },
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "scores in a list": (
        "scored list",
        {"prompt": "q", "responses": ["r", "m", "c"], "scores": [0.1, 0.5, 0.9]},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "ranks in a list": (
        "scored list",
        {"question": "q", "completions": ["r", "c", "m"], "ranks": [3, 1, 2]},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "axolotl": (
        "conversation preference",
        {
            "messages": [{"role": "system", "content": "Be kind."}, user("q")],
            "chosen": assistant("c"),
            "rejected": assistant("r"),
        },
        (S("Be kind."), U("q")),
        (A("c"),),
        (A("r"),),
    ),
    "llama-factory": (
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
    "a conversation with its chosen answer": (
        "conversation preference",
        {"messages": [user("q"), assistant("c")], "chosen": [assistant("c")], "rejected": [assistant("r")]},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "ultra interact": (
        "conversation preference",
        {"trajectory": [{"from": "user", "value": "q"}], "chosen": "c", "rejected": "r", "id": "1"},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "ms-swift": (
        "answered preference",
        {"messages": [user("q"), assistant("c")], "rejected_response": "r"},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "ms-swift, whole": (
        "answered preference",
        {"messages": [user("q"), assistant("c")], "rejected_messages": [user("q"), assistant("r")]},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "dpo mix": (
        "implicit preference",
        {
            "chosen": [user("q"), assistant("c")],
            "rejected": [user("q"), assistant("r")],
            "chosen_rating": 5,
            "rejected_rating": 1.5,
        },
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "skywork": (
        "implicit preference",
        {"chosen": [user("q"), assistant("c")], "rejected": [user("q"), assistant("r")], "source": "toy"},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "tulu 3": (
        "preference",
        {
            "id": "1",
            "source": "toy",
            "prompt": "more",
            "chosen": [*LONG[:3], assistant("c")],
            "rejected": [*LONG[:3], assistant("r")],
            "chosen_rating": 4,
            "chosen_model": "m",
        },
        (U("q"), A("one"), U("more")),
        (A("c"),),
        (A("r"),),
    ),
    "magpie": (
        "question preference",
        {"instruction": "q", "chosen": [user("q"), assistant("c")], "rejected": [user("q"), assistant("r")]},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "orca pairs": (
        "question preference",
        {"system": "Be kind.", "question": "q", "chosen": "c", "rejected": "r"},
        (S("Be kind."), U("q")),
        (A("c"),),
        (A("r"),),
    ),
    "argilla": (
        "question preference",
        {"source": "toy", "instruction": "q", "chosen_response": "c", "rejected_response": "r"},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "accepted": (
        "question preference",
        {"input": "q", "accepted": "c", "rejected": "r"},
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
    "hh": (
        "implicit preference",
        {
            "chosen": "\n\nHuman: q\n\nAssistant: one\n\nHuman: more\n\nAssistant: c",
            "rejected": "\n\nHuman: q\n\nAssistant: one\n\nHuman: more\n\nAssistant: r",
        },
        (U("q"), A("one"), U("more")),
        (A("c"),),
        (A("r"),),
    ),
    "ultrafeedback, fine": (
        "ultrafeedback",
        {
            "source": "toy",
            "instruction": "q",
            "models": ["m", "n"],
            "completions": [
                {"model": "m", "response": "r", "overall_score": 3.0, "annotations": {"honesty": {"Rating": "N/A"}}},
                {"model": "n", "response": "c", "overall_score": 8.0, "annotations": {"honesty": {"Rating": "3"}}},
            ],
        },
        (U("q"),),
        (A("c"),),
        (A("r"),),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_public_data(name):
    form, values, prompt, chosen, rejected = PAIRS[name]
    row = Row(values, "row 1")
    assert find_format(row) == form
    (example,) = read_examples([row], style="chat").examples
    assert (example.prompt, [one.content for one in example.responses]) == (prompt, [chosen, rejected])
    (imitated,) = read_examples([row], style="chat", selection="responses").examples
    assert [one.content for one in imitated.responses] == [chosen]
    (labelled,) = (
        read_examples([row], style="chat", selection="labelled", pairing="all").examples
        if FORMATS[form].holds == "pairs"
        else [None]
    )
    if labelled:
        assert [(one.content, one.label) for one in labelled.responses] == [(chosen, True), (rejected, False)]


@pytest.mark.parametrize(
    "values",
    [
        {**ARENA, "winner": "tie"},
        {**ARENA, "winner": "tie (bothbad)"},
        {**ARENA, "winner": "both_bad"},
        {**ARENA, "winner": "tie", "conversation_b": ARENA["conversation_a"]},
        {**LISTED, "winner_model_b": 0, "winner_tie": 1},
        {**WEBGPT, "score_0": 0.0, "score_1": 0.0},
        {"prompt": "q", "response_1": "a", "response_2": "b", "winner": "tie"},
        {"question": "q", "response_A": "a", "response_B": "b", "label": "A=B"},
        {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1.5},
        {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 0},
        {"context": [user("q")], "response1": "a", "response2": "b", "overall_preference": 0},
    ],
)
@pytest.mark.parametrize("want", ["pairs", "responses", "labelled", "all"])
def test_ties_are_left_out_and_counted(values, want):
    decided = {**ARENA, "winner": "model_a"} if "winner" in values and "turn" in values else None
    rows = [Row(values, "row 1")] + ([Row(decided, "row 2")] if decided else [])
    if decided:
        found = read_examples(rows, selection=want)
        assert len(found.examples) == 1
        assert found.dropped == {"no response is the better one": 1}
    else:
        with pytest.raises(UserError, match="1 no response is the better one"):
            read_examples(rows, selection=want)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**ARENA, "winner": None}, "winner is None, and names none of the two responses"),
        ({**ARENA, "winner": "model_c"}, "winner is 'model_c'"),
        ({**PKU, "better_response_id": 2}, "better_response_id is 2"),
        ({**PKU, "better_response_id": True}, "better_response_id is True"),
        ({**SHP, "labels": None}, "column 'labels' is empty"),
        ({"prompt": "q", "response_a": "a", "response_b": "b", "winner": 1}, "winner is 1"),
        ({**LISTED, "response_a": '["one"]'}, "2 prompts, and 1 and 2 responses"),
        ({**WEBGPT, "score_0": None}, "nothing says which response is the better one"),
        (
            {"messages": [user("q"), assistant("x")], "chosen": "c", "rejected": "r"},
            "does not end with a turn to answer",
        ),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1]}, "2 responses but 1 scores"),
        ({"prompt": "q", "chosen": ["c"], "rejected": []}, "column 'rejected' holds no response"),
    ],
)
def test_verdicts_that_decide_nothing_are_bad_rows(values, message):
    with pytest.raises(UserError, match=f"^row 1: .*{message}"):
        read_examples([Row(values, "row 1")])


def test_which_verdict_decides_is_the_users_to_say():
    (better,) = read_examples([Row(PKU, "row 1")]).examples
    (safer,) = read_examples([Row(PKU, "row 1")], columns={"better_response_id": "safer_response_id"}).examples
    assert [one.content for one in better.responses] == ["No.", "Yes."]
    assert [one.content for one in safer.responses] == ["Yes.", "No."]


@pytest.mark.parametrize(
    "values",
    [
        {"conversation_a": ARENA["conversation_a"], "conversation_b": ARENA["conversation_b"]},
        {"prompt": "q", "response_a": "a", "response_b": "b"},
        {"prompt": "q", "response_0": "a", "response_1": "b"},
        {"question": "q", "answer_1": "a", "answer_2": "b"},
    ],
)
@pytest.mark.parametrize("want", ["pairs", "responses"])
def test_two_responses_without_a_verdict_are_never_learnt_from(values, want):
    with pytest.raises(UserError, match="two responses, and no column says which is the better one") as caught:
        read_examples([Row(values, "row 1")], selection=want)
    assert "--columns winner=THEIRS" in caught.value.hint


def test_scores_and_margins_of_comparisons():
    (example,) = read_examples([Row(SHP, "row 1")], selection="margins").examples
    assert example.margin == 9.0
    (example,) = read_examples([Row(SHP, "row 1")], selection="all").examples
    assert [one.score for one in example.responses] == [12.0, 3.0]
    (example,) = read_examples([Row(WEBGPT, "row 1")], selection="margins").examples
    assert example.margin == 1.0
    (example,) = read_examples([Row(WEBGPT, "row 1")], selection="all").examples
    assert [one.score for one in example.responses] == [0.5, -0.5]
    (example,) = read_examples([Row(PAIRS["dpo mix"][1], "row 1")], selection="margins").examples
    assert example.margin == 3.5
    row = {"prompt": "q", "chosen": "c", "rejected": "r", "magnitude": 3}
    (example,) = read_examples([Row(row, "row 1")], selection="margins").examples
    assert example.margin == 3.0


def test_right_and_wrong_responses_keep_all_of_them():
    row = Row(PAIRS["rewardbench 2"][1], "row 1")
    (example,) = read_examples([row], selection="all").examples
    assert not example.is_pair
    assert [(one.content, one.label) for one in example.responses] == [
        ("c", True),
        ("r", False),
        ("s", False),
        ("t", False),
    ]
    pairs = read_examples([row], pairing="all").examples
    assert [[one.content for one in pair.responses] for pair in pairs] == [["c", "r"], ["c", "s"], ["c", "t"]]


SHEPHERD = {
    "input": "Why? Is Step 1 hard? Step 1: add. ки\nStep 2: it is 1 ки",
    "label": "Why? Is Step 1 hard? Step 1: add. +\nStep 2: it is 1 -",
    "task": "GSM8K",
}
PRM = {
    "labeler": "x",
    "question": {"problem": "1+1+1?", "ground_truth_answer": "3"},
    "label": {
        "steps": [
            {
                "completions": [{"text": "Hm.", "rating": -1}, {"text": "1+1=2.", "rating": 1}],
                "human_completion": None,
                "chosen_completion": 1,
            },
            {
                "completions": [{"text": "2+1=4.", "rating": -1}],
                "human_completion": {"text": "2+1=3.", "rating": None},
                "chosen_completion": None,
            },
            {"completions": [{"text": "So 3.", "rating": 0}], "human_completion": None, "chosen_completion": None},
        ],
        "finish_reason": "solution",
    },
}
SIGNED = {
    "conversations": [
        user("1+1? Step 1: add."),
        assistant("+"),
        user("Step 2: it is 3."),
        assistant("-"),
    ]
}
# the form, the row, the question, steps, labels, whether the whole is right
STEPS = {
    "math-shepherd": (
        "marked steps",
        SHEPHERD,
        "Why? Is Step 1 hard?",
        ["Step 1: add.", "Step 2: it is 1"],
        [True, False],
        False,
    ),
    "prm800k": ("path of steps", PRM, "1+1+1?", ["1+1=2.", "2+1=3.", "So 3."], [True, True, True], True),
    "prm800k, given up": (
        "path of steps",
        {**PRM, "label": {"steps": PRM["label"]["steps"][:1], "finish_reason": "give_up"}},
        "1+1+1?",
        ["1+1=2."],
        [True],
        False,
    ),
    "prm800k, an error found": (
        "path of steps",
        {
            **PRM,
            "label": {
                "steps": [{"completions": [{"text": "2.", "rating": -1}], "chosen_completion": None}],
                "finish_reason": "found_error",
            },
        },
        "1+1+1?",
        ["2."],
        [False],
        False,
    ),
    "rlhflow": ("signed steps", SIGNED, "1+1?", ["Step 1: add.", "Step 2: it is 3."], [True, False], False),
    "processbench": (
        "first error",
        {
            "id": "g-1",
            "generator": "m",
            "problem": "1+1?",
            "steps": ["a", "b"],
            "final_answer_correct": False,
            "label": 1,
        },
        "1+1?",
        ["a", "b"],
        [True, False],
        False,
    ),
    "trl": (
        "stepwise",
        {"prompt": "1+1?", "completions": ["a", "b"], "labels": [True, True]},
        "1+1?",
        ["a", "b"],
        [True, True],
        True,
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_public_data(name):
    form, values, prompt, steps, labels, right = STEPS[name]
    assert find_format(Row(values, "row 1")) == form
    (example,) = read_examples([Row(values, "row 1")], selection="steps", style="chat").examples
    (response,) = example.responses
    assert example.prompt == (U(prompt),)
    assert [step.rstrip("\n") for step in response.steps] == steps
    assert list(response.step_labels) == labels
    assert FORMATS[form].read(values).responses[0].label is right


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**SHEPHERD, "label": SHEPHERD["label"].replace("-", "?")}, "label and input differ at step 2"),
        ({"input": "Step 1: add. ки", "label": "Step 1: add. +"}, "no 'Step 1:' behind a question"),
        ({"input": "q Step 1: add. ки more", "label": "q Step 1: add. + more"}, "text behind the last mark: 'more'"),
        ({**PRM, "label": {"steps": []}}, "no step has a completion"),
        (
            {**PRM, "label": {"steps": [{"completions": [{"text": "a", "rating": 1}], "chosen_completion": 3}]}},
            "chosen_completion is 3 of 1",
        ),
        ({**PRM, "label": {"steps": [{"completions": [{"text": "a", "rating": None}]}]}}, "a step has no rating"),
        ({"messages": [user("add."), assistant("+")]}, "no 'Step 1:' behind a question"),
    ],
)
def test_steps_that_cannot_be_told_are_bad_rows(values, message):
    with pytest.raises(UserError, match=f"^row 1: .*{message}"):
        read_examples([Row(values, "row 1")], selection="steps")


# the form, the row, the prompt, the response, its label
LABELLED = {
    "trl": ("labelled", {"prompt": [user("q")], "completion": [assistant("a")], "label": True}, True),
    "a response": ("labelled", {"prompt": "q", "response": "a", "label": "False"}, False),
    "beavertails": ("labelled", {"prompt": "q", "response": "a", "category": {"x": True}, "is_safe": False}, False),
    "llama-factory": (
        "labelled conversation",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "kto_tag": True},
        True,
    ),
    "messages": ("labelled conversation", {"messages": [user("q"), assistant("a")], "label": False}, False),
    "alpaca": ("labelled answer", {"instruction": "q", "input": "", "output": "a", "kto_tag": False}, False),
    "a question": ("labelled answer", {"question": "q", "completion": "a", "label": 1}, True),
}


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_responses_of_public_data(name):
    form, values, label = LABELLED[name]
    assert find_format(Row(values, "row 1")) == form
    (example,) = read_examples([Row(values, "row 1")], selection="labelled", style="chat").examples
    assert example.prompt == (U("q"),)
    assert [(one.content, one.label) for one in example.responses] == [((A("a"),), label)]
    if not label:  # what is undesirable is never imitated
        with pytest.raises(UserError, match="1 undesirable response"):
            read_examples([Row(values, "row 1")], selection="responses")


ANSWERS = {
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "alpaca eval": {"instruction": "q", "output": "a", "generator": "m", "dataset": "toy"},
    "dolly": {"instruction": "q", "context": "", "response": "a", "category": "open_qa"},
    "open orca": {"id": "1", "system_prompt": "", "question": "q", "response": "a"},
    "metamath": {"query": "q", "response": "a", "type": "x", "original_question": "p"},
    "math-500": {"problem": "q", "solution": "a", "answer": "5", "subject": "toy", "level": 1},
    "gsm8k": {"question": "q", "answer": "a"},
    "openai": {"messages": [user("q"), assistant("a")]},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "lmsys": {"conversation_id": "1", "model": "m", "conversation": [user("q"), assistant("a")], "turn": 1},
    "capybara": {"source": "toy", "conversation": [{"input": "q", "output": "a"}]},
    "lima": {"conversations": ["q", "a"], "source": "toy"},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_single_responses_of_public_data(name):
    (example,) = read_examples([Row(ANSWERS[name], "row 1")], selection="responses", style="chat").examples
    assert (example.prompt, example.responses[0].content) == ((U("q"),), (A("a"),))


def test_dolly_context_stands_below_the_instruction():
    row = {"instruction": "Sum up.", "context": "Long text.", "response": "Short."}
    (example,) = read_examples([Row(row, "row 1")], selection="responses").examples
    assert example.prompt == "Sum up.\n\nLong text.\n"


def test_rated_summaries():
    info = {"post": "I ran.", "title": "Run", "subreddit": "sport"}
    rows = [
        {"info": info, "summary": {"text": text, "axes": {"overall": score, "coverage": None}}, "split": "valid1"}
        for text, score in (("r", 2), (" c", 6))
    ]
    (example,) = read_examples([Row(row, "row 1") for row in rows]).examples
    assert example.prompt == "SUBREDDIT: r/sport\n\nTITLE: Run\n\nPOST: I ran.\n\nTL;DR:"
    assert [one.content for one in example.responses] == [" c", " r"]
    (rated,) = read_examples([Row(row, "row 1") for row in rows], selection="rated").examples
    assert [one.ratings for one in rated.responses] == [{"overall": 2.0}, {"overall": 6.0}]


def test_scores_of_responses_in_rows_of_their_own():
    rows = [Row({"prompt": "q", "response": text, "score": score}, "row 1") for text, score in (("r", 0.2), ("c", 0.9))]
    (example,) = read_examples(rows).examples
    assert [one.content for one in example.responses] == ["c", "r"]


def message(name, parent, role, text, rank=None, deleted=False):
    return {
        "message_id": name,
        "parent_id": parent,
        "text": text,
        "role": role,
        "rank": rank,
        "deleted": deleted,
        "lang": "en",
        "message_tree_id": "p0",
    }


OASST = [
    message("p0", None, "prompter", "q"),
    message("a0", "p0", "assistant", "bad", rank=1.0),
    message("a1", "p0", "assistant", "good", rank=0.0),
    message("a2", "p0", "assistant", "spam", rank=2.0, deleted=True),
    message("p1", "a1", "prompter", "more"),
    message("b0", "p1", "assistant", "worse", rank=1.0),
    message("b1", "p1", "assistant", "better", rank=0.0),
    message("p2", "b1", "prompter", "unanswered"),
]


def as_tree(name):
    (found,) = [one for one in OASST if one["message_id"] == name]
    replies = [as_tree(one["message_id"]) for one in OASST if one["parent_id"] == name]
    return {key: found[key] for key in ("message_id", "text", "role", "rank", "deleted")} | {"replies": replies}


@pytest.mark.parametrize(
    "rows",
    [
        [Row(values, f"m.jsonl, row {number}") for number, values in enumerate(OASST, 1)],
        [Row({"message_tree_id": "p0", "tree_state": "ready_for_export", "prompt": as_tree("p0")}, "t.jsonl, row 1")],
    ],
    ids=["messages", "trees"],
)
def test_open_assistant(rows):
    found = read_examples(rows)
    assert [(one.prompt, [r.content for r in one.responses]) for one in found.examples] == [
        ((U("q"),), [(A("good"),), (A("bad"),)]),
        ((U("q"), A("good"), U("more")), [(A("better"),), (A("worse"),)]),
    ]
    assert [one.where.partition(",")[2] for one in found.examples] in (
        [" row 1", " row 5"],
        [" row 1", " row 1, message p1"],
    )
    best = read_examples(rows, selection="responses").examples
    assert [one.responses[0].content for one in best] == [(A("good"),), (A("better"),)]


def test_a_conversation_that_begins_outside_the_data():
    rows = [Row(values, f"row {number}") for number, values in enumerate(OASST[4:7], 5)]
    with pytest.raises(UserError, match="row 5: message 'p1' stands below one that is not in the data"):
        read_examples(rows)


def test_lists_as_json_text():
    row = {**LISTED, "prompt": json.dumps(["q"]), "response_a": ["a"], "response_b": json.dumps(["b"])}
    (example,) = read_examples([Row(row, "row 1")]).examples
    assert [one.content for one in example.responses] == [(A("b"),), (A("a"),)]
