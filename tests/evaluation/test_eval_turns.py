"""Which turn is the mistake: metrics by hand on traces whose every number is given, and labels of played episodes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation.scored_traces import BETA, make_trace
from tiny import tiny_model, tiny_tokenizer

from tokenq import evaluate
from tokenq.cli.main import main
from tokenq.data.dialogue import open_dialogue
from tokenq.envs.guarded import guarded
from tokenq.envs.table import find_environment
from tokenq.envs.truth import optimal_actions
from tokenq.errors import UserError
from tokenq.evaluation.episodes.turns import turns
from tokenq.files import write_json_lines
from tokenq.rollout.episodes.game import Game, Player, Rules, Start, action_pieces
from tokenq.rollout.episodes.player import lockstep
from tokenq.rollout.writer import Sample
from tokenq.search.settings import Sampling

WORSE, SAME, BETTER = (0.25, 0.5), (0.5, 0.5), (0.5, 0.25)
STEP = BETA * np.log(2)


def episode(name, written, chances, steps, labels):
    """Return a trace of two tokens' vocabulary; chances are (π, π_ref) of the token taken."""
    logits = [np.log([[p, 1 - p] for p in side]) for side in zip(*chances, strict=True)]
    pieces = [chr(65 + place) for place in range(len(written))]
    return make_trace(name, pieces, written=written, logits=logits, steps=steps, labels=labels, kept=1)


ONE = episode(
    "e.jsonl, row 1",
    [True, False, True, True, False, True],
    [SAME, SAME, WORSE, SAME, SAME, BETTER],
    [(0, 1), (1, 4), (4, 6)],
    [True, False, True],
)
"""Suspicions 0, β log 2, −β log 2; the second turn is wrong."""

TWO = (
    episode("e.jsonl, row 2", [True, False, True], [WORSE, SAME, SAME], [(0, 1), (1, 3)], [True, False]),
    episode("e.jsonl, row 2, from turn 3", [True, True], [WORSE, WORSE], [(0, 2)], [False]),
)
"""Suspicions β log 2, 0 and, where the past was written anew, 2 β log 2; the second and third turns are wrong."""


def test_metrics_by_hand():
    """Within episodes 1 and ½; of all turns 7 of 9 pairs, two halves among them; the first wrong one is named once."""
    found = turns([ONE, *TWO], readouts=("policy_surprisal", "position"))
    one = found.numbers["turn_scores"]["sum"]
    rows = {row.readout: row for row in one.rows}
    assert (one.examples, one.tokens, one.wrong_tokens) == (2, 6, 3)
    reward = rows["implicit_reward"]
    assert reward.per_example["auroc"] == (1.0, 0.5)
    assert reward.metrics["pooled_auroc"].value == pytest.approx(7 / 9)
    assert reward.per_example["first"] == (1.0, 0.0)
    assert reward.per_example["top_1"] == (1.0, 1.0)
    assert rows["position"].per_example["auroc"] == (0.5, 1.0)  # it goes on in the second trace of an episode
    surprisal = rows["policy_surprisal"]  # log 2, 2 log 2 + log 2, log 2; then 2 log 2, log 2, 4 log 2
    assert surprisal.per_example["auroc"] == (1.0, 0.5)
    assert surprisal.differences["auroc"].value == 0.0
    assert [row[0] for row in found.tables[0].rows][-1] == "chance"
    assert [(one.id, one.numbers["first wrong turn"]) for one in found.examples] == [(TWO[0].id, "2"), (ONE.id, "2")]
    assert found.examples[1].wrong == ((1, 4),)


def test_scores_of_turns_by_their_conventions():
    """The mean over the second turn's two tokens is half of the sum."""
    found = turns([ONE, *TWO], conventions=("mean", "cumulative"), readouts=("implicit_reward",))
    mean, cumulative = (found.numbers["turn_scores"][name].rows[0] for name in ("mean", "cumulative"))
    assert mean.per_example["auroc"] == (1.0, 0.25)  # ½, then 1, 0, 1 of β log 2: above, below, and as much
    assert cumulative.per_example["auroc"] == (1.0, 0.75)  # 0, 1, 0; then 1, 1, 2


def test_turns_without_labels_and_names_that_are_none():
    bare = make_trace("t", ["a"], steps=[(0, 1)])
    with pytest.raises(UserError, match="no labelled turns"):
        turns([bare])
    with pytest.raises(UserError, match="no episodes"):
        turns([])
    with pytest.raises(UserError, match="step score"):
        turns([ONE], conventions=("total",))


def grid(**options):
    return guarded(find_environment("gridworld").make({"map": "S.G/.#./...", **options}))


def test_optimal_actions_by_hand():
    """East, east wins. Going south is a detour, but from there north leads back as the shortest way; words are none."""
    assert optimal_actions(grid(), 0, ["east", "east"]) == [True, True]
    assert optimal_actions(grid(), 0, ["south", "Go north.", "jump", "east", "east", "west"]) == [
        False,
        True,
        False,
        True,
        True,
        None,
    ]
    assert optimal_actions(grid(), 0, ["south", "south", "east", "east", "north", "north"]) == [
        False,
        False,
        *4 * [True],
    ]
    late = optimal_actions(grid(horizon="3"), 0, ["west", "west", "west"])
    assert late == [False, False, True]  # after two of three actions nothing can be won any more


def test_optimal_actions_where_a_step_may_go_astray():
    """Below the start a hole: one that is afraid of it walks into the wall, from which nobody slips into the hole."""
    slippery = guarded(find_environment("slippery_gridworld").make({"map": "#S.G/#XX#", "slip": "0.5"}))
    assert optimal_actions(slippery, 0, ["north"]) == [True]
    assert optimal_actions(slippery, 0, ["south"]) == [False]
    assert optimal_actions(slippery, 0, ["onward"]) == [False]


class Unknown:
    def reset(self, seed):
        return "?"


def test_environments_whose_states_nobody_lists():
    assert optimal_actions(Unknown(), 0, ["a"]) is None


class Scripted:
    """Takes these actions in turn."""

    engine = "script"

    def __init__(self, tokenizer, actions):
        self.tokenizer, self.actions = tokenizer, iter(actions)

    def write(self, prompts, count, sampling, seed):
        said = self.tokenizer([next(self.actions)], add_special_tokens=False)["input_ids"][0]
        ids = (*said, self.tokenizer.eos_token_id)
        return [[Sample(ids, tuple(-0.5 for _ in ids), None, "stop")]]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models, and three episodes: without a mistake, with one first, with one second."""
    root = tmp_path_factory.mktemp("turns")
    tokenizer = tiny_tokenizer("bpe")
    for name, family in (("policy", "llama"), ("reference", "gpt_neox")):
        tiny_model(family, layers=1, vocab_size=320).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    options = {"map": "S.G/.#./..."}
    game = Game("gridworld", options, find_environment("gridworld").make(options))
    played = []
    for seed, actions in enumerate((["east", "east"], ["south", "north", "east", "east"], ["east", "jump", "east"])):
        pieces = action_pieces(tokenizer, [tokenizer.eos_token_id])
        player = Player(Scripted(tokenizer, actions), open_dialogue(tokenizer), pieces)
        rules = Rules(Sampling(), 0, max_turns=5, max_new_tokens=8)
        played += lockstep(game, [Start(seed)], player, rules)
    write_json_lines(root / "episodes.jsonl", [one.to_dict() for one in played])
    return root, played


def given(root, *words):
    models = ["--policy", str(root / "policy"), "--reference", str(root / "reference"), "--device", "cpu"]
    return ["eval", "turns", *models, "--resamples", "50", *words]


def test_episodes_are_read_by_their_ids(place, tmp_path, capsys):
    root, _ = place
    files = ["--output", str(tmp_path / "eval.json"), "--html", str(tmp_path / "eval.html")]
    assert main(given(root, "--data", str(root / "episodes.jsonl"), *files)) == 0
    record = json.loads((tmp_path / "eval.json").read_text())
    found = record["numbers"]["turn_scores"]["sum"]
    assert (found["examples"], found["tokens"], found["wrong_tokens"], found["without_wrong"]) == (3, 9, 2, 1)
    rows = {row["readout"]: row for row in found["rows"]}
    assert rows["position"]["per_example"]["auroc"][1:] == [0.0, 0.5]
    assert 0 <= rows["implicit_reward"]["metrics"]["pooled_auroc"]["value"] <= 1
    assert "9 turns, 2 of them not the best" in capsys.readouterr().err
    again = evaluate("turns", traces=str(tmp_path / "eval.traces.parquet"), resamples=50)
    stored = {row.readout: row.metrics["pooled_auroc"].value for row in again.numbers["turn_scores"]["sum"].rows}
    assert stored == {name: row["metrics"]["pooled_auroc"]["value"] for name, row in rows.items()}


def test_what_the_environment_says_comes_first(place):
    root, played = place
    said = [
        replace(one, turns=tuple(replace(turn, info={"optimal": number == 0}) for number, turn in enumerate(one.turns)))
        for one in played
    ]
    found = evaluate(
        "turns",
        policy=str(root / "policy"),
        reference=str(root / "reference"),
        data=said,
        device="cpu",
        resamples=50,
    )
    assert found.numbers["turn_scores"]["sum"].wrong_tokens == 6


def test_mistakes_of_users(place, tmp_path, capsys):
    root, played = place
    write_json_lines(tmp_path / "late.jsonl", [replace(played[0], turns=(*played[0].turns * 2,)).to_dict()])
    turn = replace(played[0].turns[0], pieces=("west", ""))
    write_json_lines(tmp_path / "ids.jsonl", [replace(played[0], turns=(turn, *played[0].turns[1:])).to_dict()])
    for data, more, said in (
        (tmp_path / "late.jsonl", (), "whether the action of turn 3 was"),
        (tmp_path / "ids.jsonl", (), "another text than was played"),
        (root / "episodes.jsonl", ("--max-length", "8"), "would cut episodes"),
        (root / "episodes.jsonl", ("--against", "nothing"), "read-out"),
    ):
        assert main(given(root, "--data", str(data), *more)) == 2
        assert said in capsys.readouterr().err
