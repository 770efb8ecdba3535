"""Saved sessions: what is kept, changed, deleted, put back, and what a file that is none is answered."""

import multiprocessing
import os
import sqlite3
from dataclasses import replace

import pytest

from tokenq.errors import UserError
from tokenq.server.web.records import Branch
from tokenq.server.web.store import Store, Unknown

BRANCH = Branch("b1", None, 0, "answer 1", "written", (1, 5), (7, 8, 2), "yes", True, 0.25, ("cut",), '{"id": "x"}')
MODELS = {"policy": {"path": "p"}, "reference": {"path": "r"}, "beta": 0.1}


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "kept" / "sessions.sqlite")
    yield found
    found.close()


def filled(store):
    store.add("s1", "sums", "2 + 3 =", MODELS)
    store.add_branch("s1", BRANCH)
    store.add_branch(
        "s1", replace(BRANCH, id="b2", parent="b1", at=2, name="answer 2", total=None, trace='{"id": "y"}')
    )
    return store


def test_what_was_saved_is_there_when_the_file_is_opened_again(store):
    filled(store).prefer("s1", "b2", "b1")
    store.close()
    again = Store(store.path)
    session = again.session("s1")
    assert (session.name, session.prompt, session.models) == ("sums", "2 + 3 =", MODELS)
    assert session.branches == (
        replace(BRANCH, trace=""),
        replace(BRANCH, id="b2", parent="b1", at=2, name="answer 2", total=None, trace=""),
    )
    assert session.pairs == (("b2", "b1"),)
    assert again.branch("s1", "b1") == BRANCH
    again.close()


def test_nothing_is_lost_where_the_process_is_killed(tmp_path):
    """The child dies by SIGKILL right behind the change, without closing anything."""
    path = tmp_path / "sessions.sqlite"

    def save_and_die():
        filled(Store(path))
        os.kill(os.getpid(), 9)

    child = multiprocessing.get_context("fork").Process(target=save_and_die)
    child.start()
    child.join()
    assert child.exitcode == -9
    found = Store(path)
    assert [one.id for one in found.session("s1").branches] == ["b1", "b2"]
    found.close()


def test_the_session_that_was_changed_last_comes_first(store):
    for name in ("one", "two", "three"):
        store.add(name, name, "p" * 500, MODELS)
    store.rename("one", "first")
    listed = store.sessions()
    assert [(one["id"], one["name"], one["branches"]) for one in listed] == [
        ("one", "first", 0),
        ("three", "three", 0),
        ("two", "two", 0),
    ]
    assert len(listed[0]["prompt"]) == 200


def test_a_branch_that_is_deleted_can_be_put_back_with_its_pairs(store):
    filled(store).prefer("s1", "b1", "b2")
    store.delete_branch("s1", "b2")
    assert [one.id for one in store.session("s1").branches] == ["b1"]
    assert store.session("s1").pairs == ()
    assert [one.id for one in store.traces("s1")] == ["b1"]
    store.delete_branch("s1", "b2", deleted=False)
    assert [one.id for one in store.session("s1").branches] == ["b1", "b2"]
    assert store.session("s1").pairs == (("b1", "b2"),)


def test_who_prefers_the_other_one_has_changed_their_mind(store):
    filled(store)
    store.prefer("s1", "b1", "b2")
    store.prefer("s1", "b2", "b1")
    assert store.session("s1").pairs == (("b2", "b1"),)
    store.forget_pair("s1", "b1", "b2")
    assert store.session("s1").pairs == ()


def test_a_request_that_is_sent_twice_does_its_work_once(store):
    filled(store)
    filled(store)
    assert len(store.sessions()) == 1
    assert len(store.session("s1").branches) == 2


def test_two_windows_add_to_one_session(store):
    filled(store)
    other = Store(store.path)
    other.add_branch("s1", replace(BRANCH, id="b3"))
    store.add_branch("s1", replace(BRANCH, id="b4"))
    assert [one.id for one in other.session("s1").branches] == ["b1", "b2", "b3", "b4"]
    other.close()


def test_a_session_goes_with_all_that_it_has(store):
    filled(store).prefer("s1", "b1", "b2")
    store.delete("s1")
    assert store.sessions() == []
    for table in ("branches", "pairs"):
        assert store._file.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.session("s2"),
        lambda store: store.branch("s1", "b9"),
        lambda store: store.rename("s2", "x"),
        lambda store: store.rename_branch("s1", "b9", "x"),
        lambda store: store.delete_branch("s2", "b1"),
        lambda store: store.add_branch("s2", BRANCH),
        lambda store: store.prefer("s1", "b1", "b9"),
        lambda store: store.delete("s2"),
    ],
)
def test_what_does_not_exist_is_named(store, ask):
    with pytest.raises(Unknown, match=r"there is no (session 's2'|branch 'b9')"):
        ask(filled(store))
    assert [one.id for one in store.session("s1").branches] == ["b1", "b2"]


def test_in_memory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = filled(Store(None))
    assert len(store.session("s1").branches) == 2
    assert list(tmp_path.iterdir()) == []
    store.close()


def test_a_file_of_something_else_is_left_alone(tmp_path):
    text, other, later = tmp_path / "notes.txt", tmp_path / "other.sqlite", tmp_path / "later.sqlite"
    text.write_text("not a database, but long enough to be looked at as one" * 20)
    with sqlite3.connect(other) as file:
        file.execute("CREATE TABLE mine (x)")
    Store(later).close()
    with sqlite3.connect(later) as file:
        file.execute("PRAGMA user_version=99")
    before = {path: path.read_bytes() for path in (text, other)}
    for path, said in ((text, "cannot be kept there"), (other, "of something else"), (later, "later version")):
        with pytest.raises(UserError, match=said) as caught:
            Store(path)
        assert path.name in caught.value.message
        assert "--sessions" in caught.value.hint
    assert {path: path.read_bytes()[:16] for path in before} == {path: held[:16] for path, held in before.items()}
    with pytest.raises(UserError, match="cannot be kept there"):
        Store(tmp_path)
