"""A person as a judge: what is asked, what a mistake costs, and that nothing is asked twice."""

import json
import threading
import time

import pytest

import tokenq.judge.person as person
from tokenq.errors import UserError
from tokenq.judge.judging import Comparison
from tokenq.judge.person import PersonJudge, read_sheet

PAIRS = [Comparison(str(n), f"{n}?", f"right {n}", f"wrong {n}") for n in range(6)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(person, "PAUSE", 0.005)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def fill(path, choose):
    path.write_text("".join(json.dumps({**row, "preferred": choose(row)}) + "\n" for row in rows_of(path)))


def right(row):
    return "a" if row["a"].startswith("right") else "b"


class Desk:
    """Somebody who does the next thing each time something is said, and gives up when there is no more to do."""

    def __init__(self, *acts):
        self.acts, self.heard, self.looks = list(acts), [], 0

    def say(self, text):
        self.heard.append(text)
        if self.acts:
            self.acts.pop(0)()

    def heed(self):
        self.looks += 1
        if self.looks > 500:
            raise TimeoutError(self.heard)


def test_what_is_shown_does_not_tell_which_is_which(tmp_path):
    path = tmp_path / "c.jsonl"
    for seed in (0, 1):
        PersonJudge(tmp_path / f"{seed}.jsonl", print, seed).ask(PAIRS * 10)
    PersonJudge(path, print).ask(PAIRS)
    rows = rows_of(path)
    assert rows == rows_of(tmp_path / "0.jsonl")  # a comparison is asked once
    assert list(rows[0]) == ["preferred", "prompt", "a", "b", "key"]
    assert {right(row) for row in rows} == {"a", "b"}
    other = rows_of(tmp_path / "1.jsonl")
    assert [right(row) for row in rows] != [right(row) for row in other]
    swapped = [Comparison(one.id, one.prompt, one.second, one.first) for one in PAIRS]
    assert PersonJudge(path, print).ask(swapped) == {}
    assert rows_of(path) == rows


def test_answers_are_those_of_the_person_whatever_the_order(tmp_path):
    path = tmp_path / "c.jsonl"
    desk = Desk(lambda: fill(path, lambda row: "tie" if row["prompt"] == "3?" else right(row)))
    pairs = [*PAIRS, Comparison("same", "?", "x", "x"), Comparison("turned", "1?", "wrong 1", "right 1")]
    found = PersonJudge(path, desk.say, heed=desk.heed)(pairs)
    assert [one.preference for one in found] == ["first"] * 3 + ["tie"] + ["first"] * 2 + ["tie", "second"]
    assert desk.heard[0].startswith(f"6 comparisons wait in {path}")
    again = Desk()
    assert PersonJudge(path, again.say, heed=again.heed)(pairs) == found
    assert (again.heard, again.looks) == ([], 0)


def test_a_mistake_is_named_with_its_row_and_costs_nothing(tmp_path):
    path = tmp_path / "c.jsonl"

    def wrong():
        fill(path, lambda row: "c" if row["prompt"] == "2?" else right(row))
        path.write_text(path.read_text() + "not a row\n")

    desk = Desk(wrong, lambda: None, lambda: fill_again(path))

    def fill_again(path):
        path.write_text(path.read_text().replace("not a row\n", "").replace('"c"', '"Tie "'))

    found = PersonJudge(path, desk.say, heed=desk.heed)(PAIRS)
    assert [one.preference for one in found] == ["first", "first", "tie", "first", "first", "first"]
    assert f'{path}, row 3: "preferred" is "c", and not "a", "b" or "tie"' in desk.heard[1]
    assert f"{path}, row 7 is no JSON" in desk.heard[2]
    assert len(desk.heard) == 3


def test_a_lost_row_or_file_is_written_again_with_its_answer(tmp_path):
    path = tmp_path / "c.jsonl"
    seen = []

    def lose():  # all but the first two answered; one of those is then deleted
        fill(path, lambda row: None if row["prompt"] in ("0?", "1?") else right(row))

    def watch():
        while not seen:
            time.sleep(0.01)
            if path.exists() and len(read_sheet(path).answers) == 4:
                time.sleep(0.05)
                path.unlink()
                while not path.exists() or len(rows_of(path)) < 6:
                    time.sleep(0.01)
                seen.extend(rows_of(path))
                fill(path, right)

    worker = threading.Thread(target=watch)
    worker.start()
    desk = Desk(lose)
    desk.looks = -2000
    found = PersonJudge(path, desk.say, heed=desk.heed)(PAIRS)
    worker.join()
    assert [one.preference for one in found] == ["first"] * 6
    assert [row["preferred"] is None for row in seen] == [True, True, False, False, False, False]


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"key": "0", "model": "m", "text": "Verdict: A"}\n')
    with pytest.raises(UserError, match="row 1 is no comparison"):
        PersonJudge(path, print)(PAIRS)
    assert path.read_text().count("\n") == 1
    with pytest.raises(UserError, match="is a folder"):
        PersonJudge(tmp_path, print)(PAIRS)


def test_waiting_ends_where_nobody_is_to_wait(tmp_path):
    desk = Desk()
    desk.looks = 490
    with pytest.raises(TimeoutError):
        PersonJudge(tmp_path / "c.jsonl", desk.say, heed=desk.heed)(PAIRS)
    assert len(rows_of(tmp_path / "c.jsonl")) == 6
