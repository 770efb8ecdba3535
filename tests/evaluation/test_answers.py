"""Answers as they are found in responses."""

import pytest

from tokenq.data.prompts import Prompt
from tokenq.errors import UserError
from tokenq.judge.answers import (
    boxed,
    equal,
    find_equality,
    find_extractor,
    last_number,
    true_answer,
    whole_text,
)
from tokenq.judge.formulas import plain_formula
from tokenq.judge.tasks import AnswerTask
from tokenq.records.examples import Message


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("48 + 24 = 72\n#### 72", "72"),
        ("#### $1,250.00", "1250"),
        ("He has 3 left, so -4.50 it is.", "-4.5"),
        ("no number", None),
        ("#### none, but 5 before", "5"),
        ("7 first #### nothing", "7"),
        ("costs .50", "0.5"),
        ("-0.0", "0"),
        ("007", "7"),
        ("2. Then 3.", "3"),
        ("so −5", "-5"),
        ("between 10-15 km", "15"),
        ("about 1/2 of it", "0.5"),
        ("grows by 50%.", "50"),
        # a model that runs on: the first mark counts
        ("so 5\n#### 5\n\nQuestion: what is 3 + 4?\n#### 7", "5"),
        ("#### 18 #### 20", "18"),
        ("**#### 8**", "8"),
        (r"#### \boxed{6}", "6"),
        ("#### The answer is $12.", "12"),
        # headings are no marks
        ("#### Step 1\n3 + 4 = 7\n#### Step 2\n7 + 2 = 9", "9"),
    ],
)
def test_last_number(text, answer):
    assert last_number(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{5} or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{ x }", "x"),
        (r"\boxed{open", None),
        ("none", None),
        (r"\boxed{4}, or \boxed{open", "4"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\fbox{3}", "3"),
    ],
)
def test_boxed(text, answer):
    assert boxed(text) == answer


def test_patterns_and_whole_texts():
    assert find_extractor(r"regex:Answer: (\w+)")("Answer: A. Answer: B") == "B"
    assert find_extractor(r"regex:\d+")("1 and 22") == "22"
    assert find_extractor("regex:x(y)?")("x") is None
    assert find_extractor(r"regex:\d+")("none") is None
    assert whole_text("  yes\n") == "yes"
    assert whole_text(" ") is None


@pytest.mark.parametrize(
    ("name", "says"), [("last_nummer", "Did you mean 'last_number'"), ("regex:(", "pattern is not valid")]
)
def test_bad_names(name, says):
    with pytest.raises(UserError, match=says):
        find_extractor(name)


@pytest.mark.parametrize(
    ("formula", "plain"),
    [
        (r"\dfrac12", "0.5"),
        (r"-\frac{1}{3}", "-1/3"),
        (r"$1{,}250$", "1250"),
        (r"5\text{ cm}^2", "5"),
        ("5 cm", "5"),
        (r"90^{\circ}", "90"),
        (r"50\%", "50"),
        ("x = 5", "5"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"2\sqrt3", r"2\sqrt{3}"),
        (r"\text{(A)}", "(A)"),
        (r"\text{New  York}.", "New York"),
        ("5 x", "5x"),
        (r"πr", r"\pi r"),
    ],
)
def test_a_formula_without_what_only_sets_it(formula, plain):
    assert plain_formula(formula) == plain


@pytest.mark.parametrize(
    ("truth", "answer", "same"),
    [
        ("0.5", "1/2", True),
        ("0.5", r"\frac12", True),
        (".50", r"\dfrac{1}{2}", True),
        ("1,250", "1250.00", True),
        ("(1,2)", "( 1, 2 )", True),
        ("1/3", "0.333", False),
        ("3", "4", False),
        ("New York", "NewYork", False),
        ("1 + x", "x + 1", False),  # that takes --answer math
    ],
)
def test_answers_are_compared_by_value(truth, answer, same):
    assert equal(truth, answer) is same
    assert equal(answer, truth) is same


@pytest.mark.parametrize(
    ("truth", "answer", "same"),
    [
        ("0.5", "1/2", True),
        ("1+x", "x + 1", True),
        (r"\{1,2\}", r"\{2,1\}", True),
        ("x=5", "5", True),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        ("-5", "−5", True),
        ("3", "4", False),
    ],
)
def test_algebra_is_compared_by_math_verify(truth, answer, same):
    assert find_equality("math")(truth, answer) is same


def test_math_verify_finds_the_answer_of_a_response():
    extract = find_extractor("math")
    assert extract(r"It is $\boxed{\frac{1}{2}}$.") == "0.5"
    assert extract("so the answer is −5") == "-5"
    assert extract("nothing at all") is None


def test_a_missing_math_verify_is_said_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "math_verify", None)
    with pytest.raises(UserError, match=r"pip install 'tokenq\[math\]'"):
        find_extractor("math")


@pytest.mark.parametrize("answer", ["boxed", "last_number", "math"])
@pytest.mark.parametrize("column", ["answer", "solution"])
def test_rows_of_math_500_give_the_truth_in_either_column(answer, column):
    values = {"answer": r"\frac{1}{2}", "solution": r"Half of it: $\boxed{\frac{1}{2}}$."}
    prompt = Prompt("1", (Message("user", "?"),), "row 1", values=values)
    task = AnswerTask([prompt], column, find_extractor(answer), find_equality(answer))
    assert task.correct("1", r"So it is \boxed{0.5}.") == 1.0
    assert task.correct("1", r"So it is \boxed{0.6}.") == 0.0
    assert task.correct("1", "I do not know.") == 0.0


def test_a_solution_without_its_mark_is_no_plain_answer():
    assert true_answer("A long solution.\nIt has no box.", find_extractor("boxed")) is None
    assert true_answer("word " * 40, find_extractor("boxed")) is None
    assert true_answer("#### 5", find_extractor("boxed")) is None
    assert true_answer("no number", last_number) is None
    assert true_answer("B", find_extractor(r"regex:Answer: (\w)")) == "B"
