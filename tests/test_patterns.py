"""Patterns of users: they find what `re` finds, and give up where it never would."""

import re
import time

import pytest

from tokenq import patterns
from tokenq.errors import UserError
from tokenq.judge.answers import find_extractor
from tokenq.patterns import read_pattern
from tokenq.records.examples import Response
from tokenq.score.spans import find_cut

ENDLESS = r"(a|aa)+$"
LONG = "a" * 200 + "b"


@pytest.mark.parametrize("pattern", [r"\d+", r"(\w+)@(\w+)", r"(?i)ab?", "x*", r"(?<=a)b", "a{2,3}"])
def test_matches_are_those_of_the_standard_library(pattern):
    text = "aab 12 Ab me@home 007 aaa"
    assert [m.span() for m in read_pattern(pattern).matches(text)] == [m.span() for m in re.finditer(pattern, text)]
    assert read_pattern(pattern).found_in(text) == (re.search(pattern, text) is not None)


def test_a_dot_is_a_line_break_where_that_is_asked_for():
    assert not read_pattern("a.b").found_in("a\nb")
    assert read_pattern("a.b", over_lines=True).found_in("a\nb")


@pytest.mark.parametrize(
    "use",
    [
        lambda: read_pattern(ENDLESS).found_in(LONG),
        lambda: find_extractor(f"regex:{ENDLESS}")(LONG),
        lambda: find_cut(f"regex:{ENDLESS}").find(LONG, Response(LONG), ()),
    ],
    ids=["search", "answer", "level"],
)
def test_a_pattern_that_would_never_end_is_given_up(use, monkeypatch):
    assert patterns.SECONDS == 2
    monkeypatch.setattr(patterns, "SECONDS", 0.25)
    begin = time.perf_counter()
    with pytest.raises(UserError, match=r"takes more than 0.25 seconds on a text of 201 characters"):
        use()
    assert time.perf_counter() - begin < 2


@pytest.mark.parametrize("pattern", ["(", "*a", "a{99999999999}", "(" * 5000 + ")" * 5000, "((a{1000}){1000}){1000}"])
def test_what_is_no_pattern_is_said_at_once(pattern):
    with pytest.raises(UserError, match=r"no regular expression|repeats a part"):
        read_pattern(pattern)
