"""Searches over actions, in gridworlds whose best return is known."""

import random
import re
from dataclasses import replace

import pytest
from data.toy_tokenizers import bytes_tokenizer

from tokenq.data.dialogue import open_dialogue
from tokenq.envs.environment import Step, solution_of
from tokenq.envs.table import find_environment
from tokenq.envs.world import best_values, soft_values
from tokenq.errors import UserError
from tokenq.rollout.episodes.game import ActionSearch, Game, Player, Rules, Spent, Start, action_pieces
from tokenq.rollout.episodes.player import lockstep
from tokenq.rollout.writer import Sample
from tokenq.search.settings import Sampling

pytestmark = pytest.mark.integration

TOKENIZER = bytes_tokenizer(bos="<bos>", eos="<eos>")
WAYS = ("north", "east", "south", "west")
RULES = Rules(Sampling(), 0, max_turns=12, max_new_tokens=8)
OPTIONS = {"penalty": "0.05"}
STARTS = [Start(seed) for seed in range(6)]


class Careless:
    """Draws directions; those of one seed and number are the same, whatever is drawn beside them."""

    engine = "script"

    def write(self, prompts, count, sampling, seeds):
        return [[self.drawn(seed, number) for number in range(count)] for seed in seeds]

    def drawn(self, seed, number):
        way = random.Random(f"{seed} {number}").choice((*WAYS, "jump"))
        ids = (*TOKENIZER([way], add_special_tokens=False)["input_ids"][0], TOKENIZER.eos_token_id)
        return Sample(ids, tuple(-1.0 for _ in ids), None, "stop")


def played(search=None, name="gridworld", starts=STARTS, worth=None, spent=None, **options):
    given = {**OPTIONS, **options}
    game = Game(name, given, find_environment(name).make(given))
    player = Player(Careless(), open_dialogue(TOKENIZER), action_pieces(TOKENIZER, [TOKENIZER.eos_token_id]))
    return lockstep(game, starts, replace(player, worth=worth), replace(RULES, search=search), spent)


def world_of(**options):
    environment = find_environment("gridworld").make({**OPTIONS, **options})()
    environment.reset(0)
    return solution_of(environment).world


BEST = 1 - 6 * 0.05
"""Of the default map: six steps."""


@pytest.mark.parametrize("method", ["best_of_n", "tree"])
@pytest.mark.parametrize("name", ["gridworld", "slippery_gridworld"])
def test_a_search_by_returns_never_does_worse(method, name):
    """What would have been played is among what is looked at, and the best that was seen is kept."""
    plain = [one.return_ for one in played(name=name)]
    found = [one.return_ for one in played(ActionSearch(method, "return", 3, 4), name=name)]
    assert all(after >= before - 1e-12 for after, before in zip(found, plain, strict=True))
    assert sum(found) > sum(plain)


def test_one_candidate_is_what_is_written_anyway():
    plain, found = played(), played(ActionSearch("best_of_n", "return", 1))
    assert [[turn.action for turn in one.turns] for one in found] == [
        [turn.action for turn in one.turns] for one in plain
    ]


@pytest.mark.parametrize("method", ["best_of_n", "tree"])
def test_with_exact_values_it_finds_the_optimum(method):
    """32 draws of five words miss a direction once in 1,000 states."""
    found = played(ActionSearch(method, "exact", 32, 3))
    assert [one.return_ for one in found] == pytest.approx([BEST] * len(STARTS))
    assert best_values(world_of(), 12).values[0, 0] == pytest.approx(BEST)


def soft_worth(beta):
    """Return what exact models would say: β log π*/π_ref = Q* − V* of an action in the cell that the text ends with."""
    world = world_of()
    values = soft_values(world, 12, beta)

    def worth(actions):
        found = []
        for before, ids in actions:
            said = TOKENIZER.decode(before, skip_special_tokens=True)
            cell = world.names.index(re.findall(r"row \d+, column \d+", said)[-1])
            turn = said.count("\n> ") - 1
            way = TOKENIZER.decode(ids, skip_special_tokens=True)
            q = values.q_values[turn, cell, WAYS.index(way)] if way in WAYS else values.values[turn + 1, cell] - 0.05
            found.append(float(q - values.values[turn, cell]))
        return found

    return worth


@pytest.mark.parametrize("method", ["best_of_n", "tree"])
def test_implicit_rewards_of_exact_models_lead_to_the_optimum(method):
    found = played(ActionSearch(method, "implicit", 32, 3), worth=soft_worth(0.02))
    assert [one.return_ for one in found] == pytest.approx([BEST] * len(STARTS))


def test_a_tree_looks_further_than_one_turn():
    """A reward behind two steps that cost: what they are worth as they stand leads away, the tree sees the end."""
    found = played(ActionSearch("tree", "return", 16, 60), starts=STARTS[:2], map="S..G", penalty="0.1", horizon="4")
    assert [one.return_ for one in found] == pytest.approx([0.7] * 2)
    assert all([turn.action for turn in one.turns] == ["east"] * 3 for one in found)


def test_what_it_costs_and_how_it_was_played_are_told():
    spent, plain = Spent(), Spent()
    one = played(ActionSearch("tree", "return", 2, 3), starts=STARTS[:1], spent=spent)[0]
    played(starts=STARTS[:1], spent=plain)
    assert one.sampling["search"] == {"method": "tree", "value": "return", "candidates": 2, "simulations": 3}
    assert spent.written > plain.written


class Opaque:
    """Cannot be listed, and cannot be copied either: it is played again."""

    def reset(self, seed):
        self.count = 0
        return "?"

    def step(self, action):
        self.count += action == "east"
        return Step("!", float(action == "east"), self.count == 2)

    def close(self):
        pass


class Fickle(Opaque):
    """Counts up to a number that nobody's seed gives."""

    numbers = random.Random(7)

    def step(self, action):
        return super().step(action if self.numbers.random() < 0.5 else "east")


def test_a_plan_that_does_not_come_true_is_dropped():
    player = Player(Careless(), open_dialogue(TOKENIZER), action_pieces(TOKENIZER, [TOKENIZER.eos_token_id]))
    rules = replace(RULES, max_turns=6, search=ActionSearch("best_of_n", "return", 4))
    found = lockstep(Game("fickle", {}, Fickle), STARTS, player, rules)
    assert {one.reason for one in found} <= {"terminated", "turn limit"}
    assert all(one.return_ <= 2.0 for one in found)


def test_environments_that_can_only_be_played_again():
    player = Player(Careless(), open_dialogue(TOKENIZER), action_pieces(TOKENIZER, [TOKENIZER.eos_token_id]))
    game = Game("opaque", {}, Opaque)
    rules = replace(RULES, max_turns=3)
    found = lockstep(game, STARTS[:3], player, replace(rules, search=ActionSearch("best_of_n", "return", 16)))
    assert [one.return_ for one in found] == [2.0, 2.0, 2.0]
    with pytest.raises(UserError, match="cannot be listed"):
        lockstep(game, STARTS[:1], player, replace(rules, search=ActionSearch("tree", "exact")))
    with pytest.raises(UserError, match="need a reference"):
        lockstep(game, STARTS[:1], player, replace(rules, search=ActionSearch("tree", "implicit")))
