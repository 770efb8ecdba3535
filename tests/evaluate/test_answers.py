"""Answers as they are found in responses."""

import pytest

from tokenq.errors import UserError
from tokenq.evaluate.answers import boxed, find_extractor, last_number, whole_text


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
