"""Answers between runs: kept, checked now and then, and never in the way."""

import json
import os
import threading

import pytest

from tokenq import cache as module
from tokenq.cache import cache_folder, cached, sources


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "proofs"


class Finder:
    """Finds the next of some answers, and counts."""

    def __init__(self, *answers):
        self.answers, self.calls, self.said = list(answers), 0, []

    def __call__(self):
        self.calls += 1
        return {"way": self.answers[min(self.calls, len(self.answers)) - 1], "note": self.calls}

    def ask(self, depends=None, **options):
        return cached("proofs", depends or {"a": 1}, self, decides=("way",), say=self.said.append, **options)["way"]


def only_file(folder):
    (file,) = folder.iterdir()
    return file


def test_an_answer_is_found_once_for_one_question(folder):
    finder = Finder("x")
    assert [finder.ask(), finder.ask(), finder.ask({"a": 2}), finder.ask()] == ["x"] * 4
    assert finder.calls == 2
    assert len(list(folder.iterdir())) == 2


def test_it_is_found_anew_after_some_uses_and_corrected_aloud(folder):
    finder = Finder("wrong", "right")
    found = [finder.ask(uses=3) for _ in range(6)]
    # found, used three times, found anew, used
    assert found == ["wrong"] * 4 + ["right"] * 2
    assert finder.calls == 2
    (said,) = finder.said
    assert "way wrong → right" in said
    assert str(only_file(folder)) in said


def test_a_check_that_agrees_is_silent(folder):
    finder = Finder("x")
    assert [finder.ask(uses=1) for _ in range(4)] == ["x"] * 4
    assert finder.calls == 2
    assert finder.said == []


@pytest.mark.parametrize("days", [8, -1])
def test_an_old_answer_and_one_from_the_future_are_found_anew(folder, days):
    finder = Finder("x", "y")
    finder.ask()
    entry = json.loads(only_file(folder).read_text())
    entry["checked"] -= days * 86_400.0
    only_file(folder).write_text(json.dumps(entry))
    assert finder.ask() == "y"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 100_000,
        lambda text: text.replace('"uses": 0', '"uses": "0"'),
        lambda text: json.dumps({**json.loads(text), "answer": ["x"]}),
        lambda text: json.dumps({**json.loads(text), "depends": "something else"}),
        lambda text: json.dumps([]),
        lambda text: "\x00\xff",
    ],
)
def test_a_damaged_file_is_ignored_and_written_anew(folder, damage):
    finder = Finder("x")
    finder.ask()
    file = only_file(folder)
    file.write_text(damage(file.read_text()), encoding="latin-1")
    assert finder.ask() == "x"
    assert finder.calls == 2
    assert json.loads(only_file(folder).read_text())["answer"]["way"] == "x"
    assert finder.said == []


def test_a_file_in_the_place_of_the_folder_means_that_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("TOKENQ_CACHE", str(tmp_path / "cache"))
    finder = Finder("x")
    assert [finder.ask(), finder.ask()] == ["x", "x"]
    assert finder.calls == 2


def test_a_full_disk_means_that_nothing_is_kept(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    finder = Finder("x")
    assert [finder.ask(), finder.ask()] == ["x", "x"]
    assert list(folder.iterdir()) == []


def test_an_error_is_not_kept(folder):
    def fails():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached("proofs", {"a": 1}, fails, decides=("way",))
    assert not folder.exists()


def test_many_at_once_never_read_half_an_answer(folder):
    found = []

    def ask():
        finder = Finder("x")
        for _ in range(50):
            found.append(finder.ask(uses=5))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == ["x"] * 200
    assert len(list(folder.iterdir())) == 1


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TOKENQ_CACHE", raising=False)
    assert cache_folder() == tmp_path / "tokenq"
    monkeypatch.setenv("TOKENQ_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("TOKENQ_CACHE", "")
    assert cache_folder() == tmp_path / "tokenq"
    monkeypatch.setenv("TOKENQ_CACHE", "off")
    assert cache_folder() is None
    finder = Finder("x")
    assert [finder.ask(), finder.ask()] == ["x", "x"]
    assert finder.calls == 2


def test_sources_are_known_by_their_bytes():
    one, other = sources("tokenq.errors"), sources("tokenq.cache")
    assert one != other
    assert sources("tokenq.errors", "tokenq.cache") not in (one, other)
    assert module.VERSION == 1
