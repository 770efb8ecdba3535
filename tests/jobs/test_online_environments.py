"""`tokenq online --environment`: rounds of episodes, what is at rest, what a kill costs, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from forked import done, two_ranks
from jobs.test_online import files_of, lines_of, moments, rollouts, watched
from rollout.stub_engine import StubEngine
from rollout.test_episode_rollouts import episode
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

import tokenq
from tokenq.cli.main import main
from tokenq.core.losses import find_sum
from tokenq.errors import UserError
from tokenq.jobs.rollout.clock import Clock
from tokenq.jobs.rollout.lessons.advantages import learning_from_advantages
from tokenq.jobs.rollout.lessons.judged_tokens import CreditInputs
from tokenq.jobs.rollout.lessons.lesson import Scoring
from tokenq.jobs.rollout.settings import filled_in
from tokenq.records.episodes import Episode, Turn, read_episodes
from tokenq.records.rollouts import TurnSpan, read_advantages, read_pairs
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.episodes.rollouts import (
    earned,
    earned_without_luck,
    refuse_rewritten,
    returns,
    rollouts_of,
    whole_rollout,
)
from tokenq.rundir import RunDir

SAID = (
    "Answer with one direction and nothing else.\nGo north, east, south, west: reach G, keep off X, # is a wall.\n"
    "SG.\n..\nYou are at row 1, column 1 2.\n> north east south west > "
)
SMALL = ["--environment", "gridworld", "--environment-options", "map=.G/..", "start=any", "--max-turns", "4"]
SHORT = ["--environment-seeds", "4", "--rounds", "2", "--samples", "4", "--batch-size", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of one layer that says each direction as often, and ends."""
    root = tmp_path_factory.mktemp("environments")
    tokenizer = tiny_tokenizer("words", texts=(SAID, "a\n> That is no direction. Say north or east or south or west."))
    tiny_model("llama", layers=1, vocab_size=len(tokenizer)).save_pretrained(root / "random")
    tokenizer.save_pretrained(root / "random")
    asked = SAID.partition(" north east south west >")[0] + " "
    after = [f"{asked}{ways}<eos>\nYou are at row 1, column 2.\n> " for ways in ("north", "east", "south", "west")]
    ways = ("north", "east", "south", "west")
    rows = [{"prompt": prompt, "response": way} for prompt in (asked, *after) for way in ways]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", "--loss", "sft", "--model", root / "random", "--data", root / "rows.jsonl", "--device", "cpu"]
    words += ["--max-steps", "60", "--batch-size", "20", "--learning-rate", "1e-2", "--output", root / "sft"]
    assert main(list(map(str, words))) == 0
    return root


def words(place, output, *more):
    return [
        "online",
        "--model",
        str(place / "sft" / "policy"),
        "--output",
        str(output),
        *SMALL,
        *SHORT,
        *map(str, more),
    ]


PPO = ["--method", "ppo", "--samples", "4", "--credit-span", "turn", "--eval-size", "2", "--learning-rate", "1e-3"]


@pytest.fixture(scope="module")
def whole(place):
    counted = done(lambda: watched(lambda _: None, words(place, place / "whole", *PPO)), place / "printed")
    assert counted.code == 0, counted.text
    return place / "whole", int(counted.text.rsplit("writes: ", 1)[1])


def episodes_of(run, number, name="episodes"):
    return list(read_episodes(run / "rounds" / f"{number:04d}" / f"{name}.jsonl"))


def test_a_round_is_made_of_episodes_and_their_tokens(whole):
    run, _ = whole
    for number in (1, 2):
        played, rows = episodes_of(run, number), rollouts(run, number)
        assert [(one.seed, one.number) for one in played] == [(seed, n) for seed in range(4) for n in range(4)]
        for one, row in zip(played, rows, strict=True):
            (segment,) = one.segments()
            assert (row["id"], row["number"], row["judge"]) == (one.id, one.number, "return")
            assert (row["reward"], row["token_ids"]) == (one.return_, list(segment.token_ids))
            assert (row["own"], row["logps"]) == (list(segment.own), list(segment.logps))
            for (start, end, reward), turn in zip(row["turns"], one.turns, strict=True):
                assert row["token_ids"][start:end] == list(turn.action_ids)
                assert reward == turn.reward
        line = next(line for line in lines_of(run) if line.get("round") == number)
        assert line["round/reward"] == pytest.approx(np.mean([one.return_ for one in played]))
        assert line["round/success"] == np.mean([one.success is True for one in played])
        assert line["round/turns"] == np.mean([len(one.turns) for one in played])
        written = sum(len(turn.action_ids) for one in played for turn in one.turns)
        assert line["round/written_tokens"] == written
        assert line["round/length"] == pytest.approx(written / 16)


def test_held_out_seeds_come_after_those_of_rounds(whole):
    run, _ = whole
    for number in (0, 1, 2):
        held_out = episodes_of(run, number, "eval-episodes")
        assert [one.seed for one in held_out] == [4, 5]
        line = next(line for line in lines_of(run) if line.get("after_round") == number)
        assert line["eval/reward"] == pytest.approx(np.mean([one.return_ for one in held_out]))


def test_a_turn_has_one_advantage_and_what_the_environment_said_has_none(whole):
    run, _ = whole
    groups = read_advantages(run / "rounds" / "0001" / "advantages.jsonl")
    named = {(row["id"], tuple(row["token_ids"])): row for row in rollouts(run, 1)}
    for group in groups:
        for one in group.responses:
            row = named[group.where.removeprefix("round 1, prompt "), tuple(one.ids.tolist())]
            assert one.mask.tolist() == row["own"]
            column = one.token_columns["advantages"]
            assert not column[~one.mask].any()
            for start, end, _ in row["turns"]:
                assert len(set(column[start:end].tolist())) == 1


@pytest.mark.slow
def test_a_kill_at_any_moment_costs_nothing(place, whole, tmp_path):
    run, count = whole
    for at in moments(count):
        other = tmp_path / f"{at}"
        killed = done(lambda at=at, other=other: watched(at, words(place, other, *PPO)), tmp_path / "printed")
        assert killed.code != 0
        resumed = done(lambda other=other: main(words(place, other, *PPO, "--resume")), tmp_path / "printed")
        assert resumed.code == 0, resumed.text
        assert files_of(other) == files_of(run)


@pytest.mark.integration
@pytest.mark.parametrize("method", ["dpo", "dmpo", "branches", "xpo"])
def test_pairs_of_episodes(method, place, tmp_path):
    run = tmp_path / "run"
    assert main(words(place, run, "--method", method, "--samples", "4", "--rounds", "1")) == 0
    rows = {(row["id"], row["number"]): row for row in rollouts(run, 1)}
    lines = [json.loads(line) for line in (run / "rounds" / "0001" / "pairs.jsonl").read_text().splitlines()]
    assert lines
    for line in lines:
        chosen, rejected = (rows[line["id"], line[f"{side}_number"]] for side in ("chosen", "rejected"))
        assert chosen["reward"] > rejected["reward"]
        cut = len(line["prompt_ids"]) - len(chosen["prompt_ids"])
        assert line["prompt_ids"] == chosen["prompt_ids"] + chosen["token_ids"][:cut]
        for side, row in (("chosen", chosen), ("rejected", rejected)):
            assert line[f"{side}_ids"] == row["token_ids"][cut:]
            assert line.get(f"{side}_mask", [True] * len(line[f"{side}_ids"])) == row["own"][cut:]
            assert cut == 0 or cut in [start for start, _, _ in row["turns"]]
    assert read_pairs(run / "rounds" / "0001" / "pairs.jsonl")
    said = next(line for line in lines_of(run) if line.get("after_round") == 1)
    after, before = (covered_by_hand(model, lines) for model in (run / "policy", place / "sft" / "policy"))
    assert said["covered/policy"] == pytest.approx(np.mean([*after.values()]), rel=1e-3)
    assert said["covered/reference"] == pytest.approx(np.mean([*before.values()]), rel=1e-3)
    change = np.mean([np.log(value / before[prompt]) for prompt, value in after.items()])
    assert said["covered/change"] == pytest.approx(change, abs=1e-3)


def covered_by_hand(model, lines):
    """Return, by prompt, how likely a model plays one of the different episodes of pairs, by a plain forward pass."""
    model, sums = AutoModelForCausalLM.from_pretrained(model).eval(), {}
    for line in lines:
        for side in ("chosen", "rejected"):
            ids, prompt = line[f"{side}_ids"], line["prompt_ids"]
            with torch.no_grad():
                logps = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
            own = torch.tensor(line.get(f"{side}_mask", [True] * len(ids)))
            value = float(logps[range(len(ids)), ids][own].sum().exp())
            sums.setdefault(tuple(prompt), {})[tuple(ids)] = value
    return {prompt: sum(some.values()) for prompt, some in sums.items()}


WAYS = """
from tokenq.envs.environment import Step


class Ways:
    def reset(self, seed):
        return "Go north, east, south, west: reach G, keep off X, # is a wall.\\nYou are at row 1, column 1."

    def step(self, action):
        return Step("You are at row 1, column 2.", float(len(action.strip())) + ("o" in action) / 3)
"""
"""An environment whose every action is worth something else, and that never ends."""


@pytest.mark.integration
def test_branches_take_the_same_turns_up_to_one(place, tmp_path):
    """From Python. The turns that are taken again are those of the first episode to the bit, log-probs too."""
    run = tmp_path / "run"
    (tmp_path / "ways.py").write_text(WAYS)
    asked = {"environment": f"{tmp_path / 'ways.py'}:Ways", "max_turns": 6, "max_new_tokens": 4, "rounds": 1}
    asked |= {"environment_seeds": 8, "device": "cpu", "method": "branches", "samples": 3}
    tokenq.online(str(place / "sft" / "policy"), (), run, **asked)
    by_seed: dict[int, list[Episode]] = {}
    for one in episodes_of(run, 1):
        by_seed.setdefault(one.seed, []).append(one)
    shared = []
    for first, *others in by_seed.values():
        alike = [[a == b for a, b in zip(one.turns, first.turns, strict=False)] for one in others]
        shared += [([*row, False]).index(False) for row in alike]
    assert len(shared) == 16
    assert len(set(shared)) > 2  # turns are drawn
    pairs = [json.loads(line) for line in (run / "rounds" / "0001" / "pairs.jsonl").read_text().splitlines()]
    prompts = {row["id"]: len(row["prompt_ids"]) for row in rollouts(run, 1)}
    cut = [len(row["prompt_ids"]) > prompts[row["id"]] for row in pairs]
    assert sum(cut) >= 2  # those that part at once compare whole episodes


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--prompts", "p.jsonl"], "--prompts and --environment gridworld are both given"),
        (["--gold", "answer", "--answer", "text"], "--answer and --environment gridworld are both given"),
        (["--judge", "verifier"], "--judge verifier knows true answers"),
        (["--method", "eto"], "--data is missing"),
        (["--environment", "gridwrld"], "gridworld"),
        (["--environment-options", "mapp=S"], "map"),
    ],
)
def test_what_does_not_go_with_an_environment_is_said(more, said, place, tmp_path, capsys):
    assert main(words(place, tmp_path / "run", *more)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "--prompts is missing"),
        (["--prompts", "p.jsonl", "--max-turns", "3"], "--max-turns is given, and no environment"),
        (["--prompts", "p.jsonl", "--judge", "return"], "--judge return is of episodes"),
        (["--prompts", "p.jsonl", "--pairs", "shared_prefix"], "episodes that begin alike"),
        (["--prompts", "p.jsonl", "--method", "branches"], "--environment is missing"),
    ],
)
def test_what_needs_an_environment_is_said(more, said, place, tmp_path, capsys):
    given = ["online", "--model", str(place / "sft" / "policy"), "--output", str(tmp_path / "run"), *more]
    assert main(given) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["sft", "dpo", "dmpo"])
def test_stored_episodes_are_trained_on(loss, place, whole, tmp_path):
    """The first step's loss is of the actions alone: −log π by the episodes' own log-probs, log 2 of a pair."""
    run, _ = whole
    data = run / "rounds" / "0001" / "episodes.jsonl"
    given = ["train", "--loss", loss, "--model", place / "sft" / "policy", "--data", data, "--device", "cpu"]
    given += ["--output", tmp_path / "run", "--max-steps", "1", "--batch-size", "16"]
    assert main(list(map(str, given))) == 0
    first = lines_of(tmp_path / "run")[0]
    played = episodes_of(run, 1)
    per_token = np.mean([-value for one in played for turn in one.turns for value in turn.logps])
    assert first["loss"] == pytest.approx(per_token if loss == "sft" else np.log(2), abs=1e-4)
    last = lines_of(tmp_path / "run")[-1]
    assert ("covered/change" in last) == (loss != "sft")
    if loss != "sft":
        assert last["covered/change"] == pytest.approx(0, abs=1e-2)  # one small step
        assert 0 < last["covered/reference"] < 1


@pytest.mark.integration
@pytest.mark.parametrize("known", ["tokens", "texts"])
def test_an_expert_s_episodes_stand_against_the_policy_s_own(known, place, whole, tmp_path, capsys):
    """Sampled ids where the policy reads the same tokens; an episode that is only text is written in them."""
    run, _ = whole
    best = max(episodes_of(run, 1), key=lambda one: one.return_)
    assert best.return_ == 1
    line = best.to_dict()
    for turn in line["turns"] if known == "texts" else ():
        turn |= {"action_ids": [], "logps": [], "pieces": [], "observation_ids": [], "kept_mass": None}
    (tmp_path / "expert.jsonl").write_text(json.dumps(line) + "\n")
    more = ["--method", "eto", "--samples", "1", "--rounds", "1", "--data", tmp_path / "expert.jsonl"]
    assert main(words(place, tmp_path / "run", *more)) == 0
    rows = rollouts(tmp_path / "run", 1)
    (expert,) = [row for row in rows if row["writer"] == "data"]
    assert (expert["id"], expert["number"]) == (best.id, 1)
    assert expert["token_ids"] == list(best.segments()[0].token_ids)
    assert expert["logps"] == pytest.approx(list(best.segments()[0].logps), abs=1e-5)  # of today's policy, the same
    assert [row["writer"] for row in rows].count("policy") == 4
    other = words(place, tmp_path / "other", *more, "--environment-options", "map=.G", "start=any")
    assert main(other) == 2
    assert "Give episodes of the same environment" in capsys.readouterr().err
    line["turns"][0]["observation"] = "Something else."
    (tmp_path / "expert.jsonl").write_text(json.dumps(line) + "\n")
    assert main(words(place, tmp_path / "third", *more)) == 2
    assert "do not begin alike" in capsys.readouterr().err


def test_an_episode_whose_past_was_rewritten_is_credited_whole_and_learnt_in_parts(tmp_path):
    """Rewards 1 and 2 in one part, 4 in the other; one of another seed gets 3 and 0. Its returns follow each turn."""
    one = episode("a", reward=7.0)
    one = replace(one, turns=(TurnSpan(0, 2, 1.0), TurnSpan(4, 5, 2.0)))
    two = replace(episode("a", tokens=(6, 2), reward=7.0), part=1, prompt_ids=(1, 9, 9), own=(True, True))
    two = replace(two, logps=(-0.25, -0.25), turns=(TurnSpan(0, 2, 4.0),))
    other = replace(episode("b", reward=3.0), turns=(TurnSpan(0, 2, 3.0), TurnSpan(4, 5, 0.0)))
    asked = OnlineConfig(model="m", prompts=(), output="o", environment="gridworld", method="reinforce", samples=1)
    config, _ = filled_in(asked)
    scoring = Scoring(lambda batch: None, lambda batch: None, None, "cpu", Clock())
    inputs = CreditInputs(config, scoring, find_sum("reinforce"), None, None, exact=True, run=RunDir(tmp_path))
    lesson = learning_from_advantages(inputs).lesson(1, [one, two, other])
    found = [[row["token_ids"], row["advantages"], row.get("mask")] for row in lesson.files["advantages.jsonl"]]
    assert found == [
        [[5, 2, 7, 8, 2], [7, 7, 0, 0, 6], [True, True, False, False, True]],
        [[6, 2], [4, 4], [True, True]],
        [[5, 2, 7, 8, 2], [3, 3, 0, 0, 0], [True, True, False, False, True]],
    ]
    assert [row["where"] for row in lesson.files["advantages.jsonl"]] == [
        "round 1, prompt a",
        "round 1, prompt a, response 0, part 1",
        "round 1, prompt b",
    ]
    assert [group.prompt_ids.tolist() for group in lesson.groups] == [[1], [1, 9, 9], [1]]
    assert returns(1, [one, two, other]) == [7, 7, 3]


def test_pairs_refuse_an_episode_that_is_no_single_sequence(whole):
    run, _ = whole
    first = episodes_of(run, 1)[0]
    again = replace(first, turns=(first.turns[0], replace(first.turns[0], starts_over=True)))
    with pytest.raises(UserError, match="the chat template rewrites the past"):
        refuse_rewritten([first, again], "dpo")
    parts = rollouts_of(again, "compared", earned)
    assert [(one.part, one.token_ids) for one in parts] == [(k, first.turns[0].action_ids) for k in (0, 1)]
    one = whole_rollout(again, earned)
    ids = first.turns[0].action_ids
    assert one.token_ids == ids + first.turns[0].observation_ids + ids
    assert one.length == 2 * len(ids)
    for start, end, _ in one.turns:
        assert one.token_ids[start:end] == ids


def test_luck_is_taken_off_the_turn_that_had_it():
    turn = Turn("?", (1,), "go", (5, 2), (-1.0, -1.0), "stop", 1.0, info={"luck": 0.25})
    bare = {"environment": "e", "options": {}, "seed": 0, "number": 0, "observation": None, "terminal": True}
    bare |= {"reason": "terminated", "success": True, "luck": 0.25, "writer": "policy", "version": 0, "engine": ""}
    bare |= {"sampling": {"temperature": 1.0, "top_k": 0, "top_p": 1.0}}
    one = Episode(id="e seed 0", turns=(turn,), **bare)
    both = [rollouts_of(one, "compared", worth)[0] for worth in (earned, earned_without_luck)]
    assert [each.turns for each in both] == [((0, 2, 1.0),), ((0, 2, 0.75),)]
    assert [returns(1, [each]) for each in both] == [[1.0], [0.75]]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "more"), [(0, ()), (1, ()), (2, ("--credit-span", "turn"))])
def test_it_learns(seed, more, place, tmp_path):
    """At random half of the episodes reach the goal, after ten rounds more than eight of ten."""
    asked = ["--method", "rloo", "--rounds", "10", "--environment-seeds", "8", "--samples", "8", "--batch-size", "64"]
    asked += ["--learning-rate", "5e-3", "--seed", seed, *more]
    assert main(words(place, tmp_path / "run", *asked)) == 0
    rewards = [line["round/reward"] for line in lines_of(tmp_path / "run") if "round" in line]
    assert rewards[0] < 0.65
    assert np.mean(rewards[-3:]) > 0.8


@pytest.mark.integration
def test_a_server_writes_what_is_learnt_from(place, tmp_path):
    """Its greedy episodes are those of the local writer, before the round by the first weights and after it by its own.

    The rewards of pairs are those of the episodes that it wrote.
    """
    engine = StubEngine(str(place / "sft" / "policy"))
    more = ["--rounds", "1", "--eval-size", "2", "--learning-rate", "1e-2"]
    try:
        assert main(words(place, tmp_path / "run", *more, "--writer", engine.url)) == 0
    finally:
        engine.close()
    assert {one.engine for one in episodes_of(tmp_path / "run", 1)} == {"stub 1.2 float32 tiny"}
    (line,) = (line for line in lines_of(tmp_path / "run") if line.get("round") == 1)
    assert line["round/pairs"] > 0
    before = place / "sft" / "policy", 0
    after = tmp_path / "run" / "policy", 1
    taken = []
    for policy, number in (before, after):
        local = tokenq.play(policy, **GREEDY)
        served = episodes_of(tmp_path / "run", number, "eval-episodes")
        taken.append([[turn.action_ids for turn in one.turns] for one in served])
        assert taken[-1] == [[turn.action_ids for turn in one.turns] for one in local]
        assert [one.return_ for one in served] == [one.return_ for one in local]
    assert taken[0] != taken[1]


GREEDY = {"environment": "gridworld", "environment_options": {"map": ".G/..", "start": "any"}, "temperature": 0.0}
GREEDY |= {"seed": 4, "episodes": 2, "max_turns": 4, "device": "cpu"}
"""What held-out seeds are played with."""


@pytest.mark.slow
def test_two_processes_play_and_learn_what_one_does(place, tmp_path):
    asked = ["--method", "rloo", "--rounds", "1", "--optimizer", "sgd", "--learning-rate", "3e-2", "--eval-size", "1"]
    alone = done(lambda: main(words(place, tmp_path / "one", *asked)), tmp_path / "printed")
    assert alone.code == 0, alone.text
    ended = two_ranks(lambda: main(words(place, tmp_path / "two", *asked)), tmp_path)
    assert [each.code for each in ended] == [0, 0], ended
    own, other = ([one.turns for one in episodes_of(tmp_path / name, 1)] for name in ("one", "two"))
    assert [[turn.action_ids for turn in turns] for turns in own] == [[t.action_ids for t in turns] for turns in other]
    one, two = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("one", "two"))
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-6


@pytest.mark.integration
def test_luck_is_taken_off_returns_where_that_is_asked_for(place, tmp_path):
    more = ["--environment", "slippery_gridworld", "--environment-options", "map=.G/..", "start=any", "slip=0.6"]
    run = tmp_path / "run"
    assert main(words(place, run, "--rounds", "1", "--method", "dpo", "--subtract-luck", "--samples", "8", *more)) == 0
    played, rows = episodes_of(run, 1), rollouts(run, 1)
    assert [row["reward"] for row in rows] == pytest.approx([one.return_ - one.luck for one in played])
    assert max(abs(one.luck) for one in played) > 1e-3


@pytest.mark.integration
def test_a_class_of_ones_own_is_found_again_from_another_folder(place, tmp_path, monkeypatch):
    (tmp_path / "doors.py").write_text(
        "from tokenq.envs.environment import Step\n"
        "class Doors:\n"
        "    def reset(self, seed):\n"
        "        return 'Say north or east .'\n"
        "    def step(self, action):\n"
        "        return Step('a', float(action.strip() == 'north'), terminated=True)\n"
        "    def close(self):\n"
        "        pass\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["online", "--model", place / "sft" / "policy", "--environment", "doors.py:Doors", "--method", "rloo"]
    words += ["--environment-seeds", "2", "--samples", "2", "--rounds", "1", "--batch-size", "4", "--device", "cpu"]
    assert main([*map(str, words), "--output", "run"]) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = tmp_path / "run" / "config.yaml"
    assert main(["online", "--config", str(config), "--resume"]) == 0
    assert f"environment: {tmp_path / 'doors.py'}:Doors" in config.read_text()
