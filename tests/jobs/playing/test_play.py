"""`tokenq play`: the same episodes by every way, what is kept of a killed one, and what is said of bad input."""

import json

import pytest
import torch
from forked import two_ranks
from rollout.stub_engine import StubEngine
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

import tokenq
import tokenq.jobs.playing.models as playing_models
import tokenq.jobs.playing.play as playing
from tokenq.cli.main import main
from tokenq.errors import UserError
from tokenq.jobs.outputs import beside
from tokenq.judge.endpoint import Endpoint
from tokenq.records.episodes import read_episodes
from tokenq.rollout.episodes.player import lockstep

pytestmark = pytest.mark.integration

WORDS = (
    "north east south west Go You are at row column 1 2 3 , : . # X G reach keep off is a wall That no direction Say"
)
SHORT = {"environment": "gridworld", "environment_options": {"map": "S.G"}, "episodes": 5, "batch_size": 2, "seed": 3}
SHORT |= {"max_turns": 3, "max_new_tokens": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("play")
    for name, seed in (("policy", 0), ("reference", 1)):
        tiny_model("llama", layers=1, seed=seed, vocab_size=48).save_pretrained(root / name)
        tiny_tokenizer("words", texts=(WORDS,)).save_pretrained(root / name)
    return root


def words(place, output, **more):
    settings = {**SHORT, "policy": place / "policy", "output": output, **more}
    told = ["play"]
    for name, value in settings.items():
        listed = [f"{key}={one}" for key, one in value.items()] if isinstance(value, dict) else [value]
        told += [f"--{name.replace('_', '-')}", *listed]
    return [str(word) for word in told]


def test_a_line_is_an_episode(place, tmp_path, capsys):
    path = tmp_path / "e.jsonl"
    assert main(words(place, path)) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["seed"] for row in rows] == [3, 4, 5, 6, 7]
    for row in rows:
        assert {"turns", "return", "seed", "terminal"} <= row.keys()
        assert all({"observation", "action", "reward"} <= turn.keys() for turn in row["turns"])
        assert row["return"] == sum(turn["reward"] for turn in row["turns"])
        assert row["terminal"] == (row["reason"] == "terminated")
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"done: 5 episodes are in {path}"
    assert "tokens/s; the environment took" in said[-2]
    assert any(line.startswith("actions: ") and "invalid" in line for line in said)
    record = json.loads(beside(path).read_bytes())
    assert (record["made_by"], record["records"]) == ("tokenq play", 5)


def test_the_same_episodes_in_memory_and_by_other_batches(place, tmp_path):
    path = tmp_path / "e.jsonl"
    assert main(words(place, path)) == 0
    by_command = list(read_episodes(path))
    in_memory = tokenq.play(place / "policy", **SHORT)
    assert in_memory.episodes == by_command
    assert in_memory.numbers.episodes == 5
    alone = tokenq.play(place / "policy", **SHORT | {"batch_size": 1}).episodes
    assert [[turn.action_ids for turn in one.turns] for one in alone] == [
        [turn.action_ids for turn in one.turns] for one in by_command
    ]
    table = in_memory.to_frame()
    assert len(table) == in_memory.numbers.turns
    assert table["logp"][0] == sum(by_command[0].turns[0].logps)


def test_two_processes_write_the_same_file(place, tmp_path):
    assert main(words(place, tmp_path / "one.jsonl")) == 0
    ended = two_ranks(lambda: main(words(place, tmp_path / "two.jsonl")), tmp_path)
    assert [one.code for one in ended] == [0, 0], ended
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_a_killed_play_goes_on_and_plays_no_batch_twice(place, tmp_path, monkeypatch, capsys):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "e.jsonl"
    assert main(words(place, whole)) == 0
    begun = []

    def killed(game, starts, *rest):
        begun.append([one.seed for one in starts])
        if len(begun) == 2:
            raise KeyboardInterrupt
        return lockstep(game, starts, *rest)

    monkeypatch.setattr(playing, "lockstep", killed)
    assert main(words(place, path)) == 130
    assert not path.exists()
    (part,) = tmp_path.glob(".e.jsonl.partial-*")
    part.write_bytes(part.read_bytes() + b"\0\0\0\0\0\0\1\0half")  # a frame that the kill has torn
    assert "The same command goes on" in capsys.readouterr().err
    assert main(words(place, path)) == 0
    assert begun == [[3, 4], [5, 6], [5, 6], [7]]
    assert "going on after 2 of 5 episodes" in capsys.readouterr().err
    assert path.read_bytes() == whole.read_bytes()
    assert main(words(place, path)) == 0
    assert len(begun) == 4
    assert "the 5 episodes are in" in capsys.readouterr().err
    assert main(words(place, path, seed=4)) == 0
    assert begun[4:] == [[4, 5], [6, 7], [8]]


OWN = """
from tokenq.envs.environment import Step

class Echo:
    def __init__(self, reward: float = 1.0):
        self.reward = reward

    def reset(self, seed):
        return "G?"

    def step(self, action):
        return Step("X", self.reward, True, False, {"success": True})

    def close(self):
        pass
"""


def test_an_environment_of_ones_own_is_played_anew_when_it_changes(place, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    asked = {"environment": f"{tmp_path}/own.py:Echo", "environment_options": {"reward": 2.5}, "episodes": 2}
    assert main(words(place, tmp_path / "e.jsonl", **asked)) == 0
    assert [one.return_ for one in read_episodes(tmp_path / "e.jsonl")] == [2.5, 2.5]
    assert "success: 1.000" in capsys.readouterr().err
    (tmp_path / "own.py").write_text(OWN.replace("self.reward, True", "-self.reward, True"))
    assert main(words(place, tmp_path / "e.jsonl", **asked)) == 0
    assert [one.return_ for one in read_episodes(tmp_path / "e.jsonl")] == [-2.5, -2.5]


def test_implicit_rewards_are_those_of_both_models(place, tmp_path):
    """β log π/π_ref of every token of the policy, by the models' own forward over the whole dialogue."""
    found = tokenq.play(place / "policy", reference=place / "reference", beta=0.5, **SHORT)
    for episode in found:
        (segment,) = episode.segments()
        start, whole = len(segment.prompt_ids), torch.tensor([[*segment.prompt_ids, *segment.token_ids]])
        tables = []
        for name in ("policy", "reference"):
            with torch.no_grad():
                model = AutoModelForCausalLM.from_pretrained(place / name, dtype=torch.float32)
                tables.append(model(whole).logits[0].log_softmax(-1))
        by_hand = [
            0.5 * float(tables[0][place, token] - tables[1][place, token])
            for place, token, own in zip(range(start - 1, whole.shape[1]), segment.token_ids, segment.own, strict=False)
            if own
        ]
        assert [one for turn in episode.turns for one in turn.implicit] == pytest.approx(by_hand, abs=1e-5)
    page = found.html(tmp_path / "e.html").read_text(encoding="utf-8")
    assert "implicit value so far" in page
    assert "<script" not in page


@pytest.fixture
def engine(place, monkeypatch):
    patient = Endpoint("", role="writer", key_variable="VLLM_API_KEY", attempts=2, backoff=0.001)
    monkeypatch.setattr(playing_models, "PATIENCE", patient)
    found = StubEngine(str(place / "policy"))
    yield found
    found.close()


def test_a_greedy_writer_behind_a_server_plays_the_same(place, engine, tmp_path):
    local = tokenq.play(place / "policy", temperature=0.0, **SHORT)
    remote = tokenq.play(place / "policy", temperature=0.0, writer=engine.url, **SHORT)
    for own, other in zip(local, remote, strict=True):
        assert [(turn.action_ids, turn.observation, turn.reward) for turn in own.turns] == [
            (turn.action_ids, turn.observation, turn.reward) for turn in other.turns
        ]
        assert (own.reason, own.return_, own.logps_of) == (other.reason, other.return_, other.logps_of)
        assert other.engine == "stub 1.2 float32 tiny"
        for turn, same in zip(own.turns, other.turns, strict=True):
            assert turn.logps == pytest.approx(same.logps, abs=1e-4)


def test_a_server_that_has_other_weights_is_refused(place, engine):
    with pytest.raises(UserError, match="The writer at"):
        tokenq.play(place / "reference", writer=engine.url, **SHORT)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"environment": "gridwrold"}, "Did you mean 'gridworld'"),
        ({"environment_options": {"slpi": "0.1"}}, "slip"),
        ({"writer": "here"}, "is no writer"),
        ({"output": "e.txt"}, "Name it .jsonl"),
        ({"episodes": 0}, "--episodes"),
        ({"step_timeout": 0}, "--step-timeout"),
        ({"writer_model": "m"}, "--writer-model is given"),
        ({"eos": "two words"}, "not one"),
    ],
)
def test_what_cannot_be_meant_is_said(place, tmp_path, capsys, more, said):
    more = {"output": tmp_path / more["output"]} if "output" in more else more
    assert main(words(place, **{"output": tmp_path / "e.jsonl"} | more)) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir()) or not (tmp_path / "e.jsonl").exists()


def test_a_play_needs_an_environment_and_a_policy(place):
    with pytest.raises(UserError, match="no environment"):
        tokenq.play(place / "policy")
    with pytest.raises(UserError, match="either --policy or --run"):
        tokenq.play(environment="gridworld")


def test_another_file_is_not_replaced(place, tmp_path, capsys):
    (tmp_path / "e.jsonl").write_text("mine\n")
    assert main(words(place, tmp_path / "e.jsonl")) == 2
    assert "tokenq play did not write it" in capsys.readouterr().err
    assert (tmp_path / "e.jsonl").read_text() == "mine\n"
