"""Episodes at rest: there and back without loss, the tokens that turns make, and what is refused."""

import json
from dataclasses import replace

import pytest

from tokenq.errors import UserError
from tokenq.files import json_line, write_json_lines
from tokenq.records.episodes import Episode, Segment, Turn, read_episodes, told, untold
from tokenq.records.examples import Message

FIRST = Turn("A room.\n> ", (1, 2, 3), "look", (4, 5, 9), (-0.5, -0.25, -1.0), "stop", 0.0, ("lo", "ok", ""))
SECOND = Turn("Dust.\n> ", (6, 7), "take é", (8, 9), (-2.0, -0.125), "stop", 1.5, ("take é", ""), implicit=(0.5, -0.25))
LAST = Turn(
    ({"role": "tool", "content": "4"},), (1, 2), "go", (4,), (-3.0,), "length", -0.5, ("go",), True, (0.75,), (0.1,)
)
EPISODE = Episode(
    id="maze seed 3",
    environment="maze",
    options={"rooms": "3"},
    seed=3,
    number=1,
    turns=(FIRST, SECOND, replace(LAST, info={"invalid": True})),
    observation=None,
    terminal=False,
    reason="error",
    success=None,
    luck=0.25,
    writer="policy",
    version=7,
    sampling={"temperature": 1.0},
    engine="local float32",
    error="it broke",
    tools=({"type": "function", "function": {"name": "add"}},),
)


def test_an_episode_comes_back_as_it_was(tmp_path):
    write_json_lines(tmp_path / "e.jsonl", [EPISODE.to_dict()] * 2)
    assert list(read_episodes(tmp_path / "e.jsonl")) == [EPISODE, EPISODE]


def test_a_line_has_the_keys_that_are_promised():
    row = json.loads(json_line(EPISODE.to_dict()))
    assert (row["return"], row["seed"], row["terminal"]) == (1.0, 3, False)
    assert [(one["observation"], one["action"], one["reward"]) for one in row["turns"]] == [
        ("A room.\n> ", "look", 0.0),
        ("Dust.\n> ", "take é", 1.5),
        ([{"role": "tool", "content": "4"}], "go", -0.5),
    ]


def test_turns_whose_tokens_follow_each_other_are_one_sequence():
    first, second = EPISODE.segments()
    assert first == Segment(
        prompt_ids=(1, 2, 3),
        token_ids=(4, 5, 9, 6, 7, 8, 9),
        own=(True, True, True, False, False, True, True),
        logps=(-0.5, -0.25, -1.0, 0.0, 0.0, -2.0, -0.125),
        turns=(0, 0, 0, 1, 1, 1, 1),
        first=0,
        rewards=(0.0, 1.5),
        finish="stop",
    )
    assert second == Segment((1, 2), (4,), (True,), (-3.0,), (2,), 2, (-0.5,), "length")
    assert replace(EPISODE, turns=()).segments() == []


def test_messages_are_told_without_what_is_empty():
    said = (Message("user", "add"), Message("tool", ""))
    assert told(said) == ({"role": "user", "content": "add"}, {"role": "tool", "content": ""})
    assert untold(told(said)) == said
    assert untold("text") == told("text") == "text"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 99}, "schema 99"),
        ({"seed": "3"}, "'seed' is '3'"),
        ({"reason": "bored"}, "'bored' is none of terminated"),
        ({"turns": [{}]}, "it has no"),
        ({"turns": [{**vars(FIRST), "logps": [0.0]}]}, "3 tokens and 1 log-probs"),
        ({"turns": [{**vars(FIRST), "observation": None}]}, "no observation"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_no_episode_is_refused_by_its_line(tmp_path, change, words):
    write_json_lines(tmp_path / "e.jsonl", [EPISODE.to_dict(), {**EPISODE.to_dict(), **change}])
    with pytest.raises(UserError, match="line 2") as refused:
        list(read_episodes(tmp_path / "e.jsonl"))
    assert words in refused.value.message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"No file .*nothing\.jsonl"):
        list(read_episodes(tmp_path / "nothing.jsonl"))
