"""Comparisons and judgements, judges that score, the question in words and how its verdict is read."""

import math

import numpy as np
import pytest

from tokenq.errors import UserError
from tokenq.judge.judging import (
    Answer,
    Comparison,
    Judgement,
    ScoreJudge,
    combined,
    reliability,
    shares,
    undone,
)
from tokenq.judge.prompt import STANDARD, Template, read_template, read_verdict


def answers(given, swapped):
    """Both answers, by the response of the comparison that each names; None is nonsense."""
    return tuple(
        Answer(order, "…", verdict, "" if verdict else "no verdict", 10, 2)
        for order, verdict in (("given", given), ("swapped", swapped))
    )


class TestScores:
    PAIRS = (
        Comparison("a", "2+2", "4", "5"),
        Comparison("b", "2+2", "22", "4"),
        Comparison("c", "2+2", "4", "4."),
    )

    def test_the_higher_score_is_preferred(self):
        asked = []

        def length(prompts, responses):
            asked.append((prompts, responses))
            return [len(response) for response in responses]

        judgements = ScoreJudge(length)(self.PAIRS)
        assert [one.preference for one in judgements] == ["tie", "first", "second"]
        assert [one.scores for one in judgements] == [(1, 1), (2, 1), (1, 2)]
        assert asked == [(["2+2"] * 6, ["4", "22", "4", "5", "4", "4."])]  # once, all first ones before all second

    def test_near_scores_tie_where_asked_for(self):
        judge = ScoreJudge(lambda prompts, responses: [0.0, 0.5, 1.0, 0.25, 0.0, 0.0], tie=0.5)
        assert [one.preference for one in judge(self.PAIRS)] == ["tie", "tie", "first"]

    @pytest.mark.parametrize("score", [math.nan, math.inf])
    def test_a_score_that_is_not_finite_is_unusable(self, score):
        judge = ScoreJudge(lambda prompts, responses: [1, 1, score, 1, 0, 0])
        judgements = judge(self.PAIRS)
        assert [one.preference for one in judgements] == ["tie", "first", None]
        assert judgements[2].problem == "a score that is not finite"
        assert reliability(judgements).problems == {"a score that is not finite": 1}

    def test_a_score_is_missing(self):
        with pytest.raises(UserError, match="gave 5 scores for 6 responses"):
            ScoreJudge(lambda prompts, responses: [1.0] * 5)(self.PAIRS)

    def test_numpy_scores_will_do(self):
        judge = ScoreJudge(lambda prompts, responses: np.array([1.0, 2.0, 3.0, 0.0, 5.0, 3.0], dtype=np.float32))
        assert [one.preference for one in judge(self.PAIRS)] == ["first", "second", "tie"]

    def test_nothing_to_compare(self):
        assert ScoreJudge(lambda prompts, responses: [])([]) == []


@pytest.mark.parametrize(
    ("given", "swapped", "preference"),
    [
        ("first", "first", "first"),
        ("second", "second", "second"),
        ("tie", "tie", "tie"),
        ("first", "second", "tie"),
        ("second", "first", "tie"),
        ("tie", "first", "tie"),
        ("second", "tie", "tie"),
        (None, "first", None),
        ("second", None, None),
        (None, None, None),
    ],
)
def test_two_orders_make_one_judgement(given, swapped, preference):
    judgement = combined("x", *answers(given, swapped))
    assert judgement.preference == preference
    assert judgement.problem == ("" if preference else "no verdict")


def test_an_order_is_undone():
    assert [undone(verdict, "swapped") for verdict in ("first", "second", "tie", None)] == [
        "second",
        "first",
        "tie",
        None,
    ]
    assert undone("first", "given") == "first"


def test_shares_of_the_first_response():
    judgements = [Judgement("x", preference) for preference in ("first", "second", "tie", None)]
    np.testing.assert_equal(shares(judgements), [1, 0, 0.5, np.nan])


def test_reliability_by_hand():
    """Ten judgements: 5 consistent, 2 named what came first, 1 what came second, 1 half a tie, 1 unusable.

    Naming the first place twice is "first" in the given order and "second" in the swapped one. Position bias 3/9.
    """
    pairs = [
        *[("first", "first")] * 3,
        ("second", "second"),
        ("tie", "tie"),
        *[("first", "second")] * 2,
        ("second", "first"),
        ("tie", "first"),
        (None, "first"),
    ]
    found = reliability([combined(str(n), *answers(*pair)) for n, pair in enumerate(pairs)])
    assert (found.n, found.unusable, found.problems) == (10, 1, {"no verdict": 1})
    assert (found.both_orders, found.inconsistent) == (9, 4)
    assert (found.named_first_shown, found.named_second_shown) == (2, 1)
    assert found.position_bias == pytest.approx(3 / 9)
    assert (found.prompt_tokens, found.response_tokens) == (200, 40)


def test_reliability_of_a_judge_that_scores():
    found = reliability([Judgement("x", "first", scores=(1.0, 0.0))])
    assert (found.n, found.unusable, found.both_orders, found.position_bias) == (1, 0, 0, None)


class TestQuestion:
    COMPARISON = Comparison("x", "Why {{first}}?", "because {{second}}", "so {{prompt}}")

    def test_shows_both_orders_and_fills_no_blank_of_the_texts(self):
        template = Template("P {{prompt}} A {{first}} B {{ second }} {json} {{")
        given = template.filled(self.COMPARISON, "given")
        assert given == "P Why {{first}}? A because {{second}} B so {{prompt}} {json} {{"
        swapped = template.filled(self.COMPARISON, "swapped")
        assert swapped == "P Why {{first}}? A so {{prompt}} B because {{second}} {json} {{"

    def test_the_standard_one_has_every_blank_once_and_no_verdict_of_its_own(self):
        for blank in ("{{prompt}}", "{{first}}", "{{second}}"):
            assert STANDARD.count(blank) == 1
        # A model that only repeats the question has given no verdict.
        assert read_verdict(Template().filled(self.COMPARISON, "given"), cut=False) == (None, "several verdicts")

    def test_comes_from_a_file(self, tmp_path):
        path = tmp_path / "question.txt"
        path.write_text("Über {{prompt}}: {{first}} / {{second}}", encoding="utf-8")
        assert read_template(path).text == "Über {{prompt}}: {{first}} / {{second}}"

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("{{prompt}} {{first}}", "lacks {{second}}"),
            ("{{prompt}} {{first}} {{second}} {{system}}", "has {{system}}, which nothing fills"),
        ],
    )
    def test_with_wrong_blanks_is_refused(self, tmp_path, text, problem):
        path = tmp_path / "question.txt"
        path.write_text(text)
        with pytest.raises(UserError) as told:
            read_template(path)
        assert problem in told.value.message

    def test_without_a_file_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_template(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Verdict: A", "first"),
        ("B is vague.\n\nverdict: b\n", "second"),
        ("**Verdict:** tie.", "tie"),
        ("### Verdict: [[B]]", "second"),
        ("  **Verdict: A**  ", "first"),
        ("Verdict: A\nTo repeat:\nVerdict: A", "first"),
        ("<think>Verdict: A? No.\nVerdict: B</think>\nVerdict: A", "first"),
    ],
)
def test_a_verdict_is_read(text, verdict):
    assert read_verdict(text, cut=False) == (verdict, "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "an empty answer"),
        (" \n", "an empty answer"),
        ("A", "no verdict"),
        ("I prefer A.", "no verdict"),
        ("The verdict: A", "no verdict"),
        ("<think>Verdict: A", "no verdict"),
        ("Verdict: A\nVerdict: B", "several verdicts"),
        ("Verdict: A\nVerdict: neither", "several verdicts"),
        ("Verdict: C", "an unknown verdict"),
        ("Verdict:", "an unknown verdict"),
        ("Verdict: A or B", "an unknown verdict"),
        ("Verdict: A, or Verdict: B", "an unknown verdict"),
        ("Verdict: Assistant", "an unknown verdict"),
    ],
)
def test_nonsense_is_no_verdict(text, problem):
    assert read_verdict(text, cut=False) == (None, problem)


def test_of_an_answer_that_was_cut_only_whole_lines_count():
    """ "Verdict: A" may have been about to become "Verdict: A or B"."""
    assert read_verdict("Verdict: A", cut=True) == (None, "cut before its verdict")
    assert read_verdict("Verdict: A\nBecause", cut=True) == ("first", "")
    assert read_verdict("Let me see", cut=True) == (None, "cut before its verdict")
