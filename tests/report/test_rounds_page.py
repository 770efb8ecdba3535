"""The page of an online run: what it shows of rounds written by hand, and that no text of theirs becomes markup."""

import json
import re

import pytest
from hand_made_rounds import hand_made_rounds, response
from hand_made_runs import write_lines, write_rounds
from hand_made_traces import HOSTILE

from tokenq.report.rounds.page import LONGEST, write_rounds_page
from tokenq.rundir import RunDir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hand_made_rounds(tmp_path_factory.mktemp("rounds") / "run")


@pytest.fixture(scope="module")
def text(run):
    return write_rounds_page(RunDir(run)).read_text()


def test_curves_stand_at_the_rounds_that_the_policy_has_learnt_from(text):
    """The reward of samples at places 0 and 1 of 2, with the band of its interval; held out at 0, 1 and 2."""
    (figure,) = re.findall("<figcaption>reward</figcaption>(.*?)</figure>", text, re.DOTALL)
    first, second = (points.split() for points in re.findall('<polyline class="[a-z]+" points="([^"]*)"', figure))
    assert [point.split(",")[0] for point in first] == ["8.0", "230.0"]  # 8 + 444 · place / 2
    assert [point.split(",")[0] for point in second] == ["8.0", "230.0", "452.0"]
    low, high = 0.35, 0.75
    heights = [142 - 134 * (value - low) / (high - low) for value in (0.4, 0.6)]
    assert [float(point.split(",")[1]) for point in first] == pytest.approx(heights, abs=0.06)
    assert len(re.findall("<polygon", figure)) == 2
    assert "samples: 0.6 [0.55, 0.65] at the end" in figure


def test_a_row_a_round_with_intervals(text):
    (table,) = re.findall("<h2>Rounds</h2>(.*?)</table>", text, re.DOTALL)
    rows = [re.sub("<[^>]*>", " ", row).split() for row in re.findall("<tr.*?</tr>", table, re.DOTALL)[1:]]
    assert [" ".join(row[:2]) for row in rows] == ["start 0.400", "round 1", "round 2"]
    assert rows[2][2:7] == ["0.600", "[0.550,", "0.650]", "0.700", "[0.650,"]


def test_responses_stand_with_the_side_that_they_are_on(text):
    (example,) = re.findall("<h3>prompt 7</h3>(.*?)</article>", text, re.DOTALL)
    sides = re.findall('<tr class="([a-z]*)"><th scope="row">([a-z]*)</th>', example)
    assert sides == [("rejected", "rejected"), ("chosen", "chosen")]
    assert f"{'x' * LONGEST} …" in example
    assert "x" * (LONGEST + 1) not in example
    assert "−1.000" in example  # the mean of −0.5 and −1.5


def test_texts_of_models_stay_texts(run, text):
    for hostile in HOSTILE[:3]:
        assert hostile not in text or "<" not in hostile
    assert "<script" not in text
    assert "<img" not in text
    assert json.dumps(str(run))[1:-1] not in re.findall("<title>(.*?)</title>", text)[0]


def test_a_page_may_be_written_before_the_first_round(tmp_path):
    folder = write_rounds(tmp_path / "run", [], [{}], rounds=3)
    (folder / "rounds" / "0000").mkdir(parents=True)
    write_lines(folder / "rounds" / "0000" / "eval.jsonl", [response("eval 1", 0, 1.0, "first")])
    assert "run: 0 of 3 rounds" in write_rounds_page(RunDir(folder)).read_text()


def test_an_accuracy_that_is_the_reward_is_shown_once(tmp_path):
    folder = write_rounds(tmp_path / "run", [{}], [{}, {}], rounds=1)
    for name in ("0000", "0001"):
        (folder / "rounds" / name).mkdir(parents=True)
        for file in ("eval.jsonl", "rollouts.jsonl", "pairs.jsonl"):
            write_lines(folder / "rounds" / name / file, [])
    assert "accuracy" not in write_rounds_page(RunDir(folder)).read_text()
