"""Episodes in lockstep: what is said and done, turn by turn, and how they end."""

import time
from dataclasses import replace
from functools import partial

import pytest
from data.toy_tokenizers import CHATML, THINKING, bytes_tokenizer
from tiny import tiny_model

import tokenq.envs.guarded as environments
from tokenq.data.dialogue import open_dialogue
from tokenq.envs.environment import Step
from tokenq.envs.table import find_environment
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.stepper import ModelStepper, remembering
from tokenq.records.examples import Message
from tokenq.rollout.episodes.game import Game, Player, Rules, Spent, Start, action_pieces
from tokenq.rollout.episodes.player import lockstep, play
from tokenq.rollout.episodes.seat import shortened
from tokenq.rollout.episodes.summary import numbers_of
from tokenq.rollout.writer import LocalWriter, Sample
from tokenq.search.branches import Limits
from tokenq.search.settings import Sampling

pytestmark = pytest.mark.integration

PLAIN = bytes_tokenizer(bos="<bos>", eos="<eos>")
CHAT = bytes_tokenizer(bos="<bos>", eos="<|im_end|>", chat_template=CHATML)
RULES = Rules(Sampling(), 0, max_turns=5, max_new_tokens=8)


class Counting:
    """Says how often it was answered; over after as many answers as its seed."""

    def reset(self, seed):
        self.seed, self.count = seed, 0
        return f"{seed}?"

    def step(self, action):
        self.count += 1
        over = self.count == self.seed
        info = {"luck": 0.5} | (
            {"success": action == "yes"} if over else {"invalid": action == "no", "thing": object()}
        )
        return Step(f"{self.count}!", float(self.count), over, False, info)

    def close(self):
        pass


class Scripted:
    """Writes what a function says of the text of the prompt; keeps what it was asked."""

    engine = "script"

    def __init__(self, tokenizer, say):
        self.tokenizer, self.say, self.asked = tokenizer, say, []

    def write(self, prompts, count, sampling, seed):
        assert count == 1
        self.asked.append((list(prompts), list(seed)))
        return [[self.sample(self.say(self.tokenizer.decode(prompt)))] for prompt in prompts]

    def sample(self, text):
        ids = tuple(self.tokenizer([text], add_special_tokens=False)["input_ids"][0])
        ended = ids[-1] == self.tokenizer.eos_token_id
        return Sample(ids, tuple(-0.5 for _ in ids), None, "stop" if ended else "length", version=3)


def scripted(tokenizer, say, instructions=""):
    writer = Scripted(tokenizer, say)
    return writer, Player(
        writer, open_dialogue(tokenizer, instructions), action_pieces(tokenizer, [tokenizer.eos_token_id])
    )


def alphabet(text):
    return "yes<eos>" if text.count("\n> ") != 2 else "no"


def test_turns_by_hand():
    """Three answers: the second is cut, and closed by what follows; rewards 1, 2 and 3; half a unit of luck a turn."""
    writer, player = scripted(PLAIN, alphabet)
    (episode,) = lockstep(Game("counting", {}, Counting), [Start(3, 7)], player, RULES)
    assert [(one.observation, one.action, one.reward, one.finish) for one in episode.turns] == [
        ("3?", "yes", 1.0, "stop"),
        ("1!", "no", 2.0, "length"),
        ("2!", "yes", 3.0, "stop"),
    ]
    said = [PLAIN.decode(one.observation_ids) for one in episode.turns]
    assert said == ["<bos>3?\n> ", "\n1!\n> ", "<eos>\n2!\n> "]
    assert [one.info for one in episode.turns] == [
        {"luck": 0.5, "invalid": False},
        {"luck": 0.5, "invalid": True},
        {"luck": 0.5, "success": True},
    ]
    assert episode.turns[0].pieces == ("y", "e", "s", "")
    assert (episode.id, episode.seed, episode.number, episode.version) == ("counting seed 3", 3, 7, 3)
    assert (episode.return_, episode.luck, episode.success, episode.observation) == (6.0, 1.5, True, "3!")
    assert (episode.terminal, episode.reason) == (True, "terminated")
    (segment,) = episode.segments()
    assert writer.asked[-1][0][0] == (*segment.prompt_ids, *segment.token_ids[:-4])


def test_episodes_side_by_side_are_asked_as_one_batch_until_each_is_over():
    writer, player = scripted(PLAIN, lambda _: "yes<eos>")
    spent = Spent()
    episodes = lockstep(Game("counting", {}, Counting), [Start(2), Start(9), Start(1)], player, RULES, spent)
    assert [len(prompts) for prompts, _ in writer.asked] == [3, 2, 1, 1, 1]
    assert [(one.reason, one.terminal, len(one.turns)) for one in episodes] == [
        ("terminated", True, 2),
        ("turn limit", False, 5),
        ("terminated", True, 1),
    ]
    assert spent.written == 8 * 4
    assert spent.read == sum(len(prompt) for prompts, _ in writer.asked for prompt in prompts)
    assert spent.writing + spent.acting <= spent.seconds
    seeds = [seed for _, some in writer.asked for seed in some]
    assert len(set(seeds)) == 8  # another one for every episode and turn


def local():
    lm = PackedLM(tiny_model("llama", layers=1, seed=1, vocab_size=263).eval(), "segments")
    limits = Limits((PLAIN.eos_token_id,), 8, context=256)
    writer = LocalWriter(lambda: ModelStepper(lm), limits, dialogues=partial(remembering, lm))
    return Player(writer, open_dialogue(PLAIN), action_pieces(PLAIN, limits.eos))


def shown(episodes):
    return [
        (one.id, one.number, one.reason, [(turn.action_ids, turn.observation, turn.reward) for turn in one.turns])
        for one in episodes
    ]


def test_an_episode_does_not_depend_on_what_is_played_beside_it():
    """The gridworld says the same at every seed, so that only seeds of the sampling tell episodes apart."""
    grid = Game("gridworld", {}, find_environment("gridworld").make({"map": "S.G"}))
    starts = [Start(seed, number) for seed in range(3) for number in range(2)]
    rules = replace(RULES, max_turns=3)
    alone = [next(play(grid, [start], local(), rules)) for start in starts]
    for size in (2, 32):
        together = list(play(grid, starts, local(), replace(rules, side_by_side=size)))
        assert shown(together) == shown(alone)
        for one, other in zip(together, alone, strict=True):
            for turn, same in zip(one.turns, other.turns, strict=True):
                assert turn.logps == pytest.approx(same.logps, abs=1e-5)
    firsts = [one.turns[0].action_ids for one in alone]
    assert len(set(firsts)) == len(firsts)
    assert shown(play(grid, starts, local(), replace(rules, seed=1))) != shown(alone)


class Failing(Counting):
    """Fails as its options say."""

    def __init__(self, at, how):
        self.at, self.how = at, how

    def reset(self, seed):
        if self.at == 0:
            self.how()
        return super().reset(seed)

    def step(self, action):
        if self.count + 1 == self.at:
            self.how()
        return super().step(action)


def broken():
    raise ValueError("it broke")


@pytest.mark.parametrize(
    ("at", "how", "reason", "turns", "error"),
    [
        (2, broken, "error", 2, "ValueError: it broke"),
        (2, partial(time.sleep, 30), "timeout", 2, "no answer within 0.5 s"),
        (0, broken, "error", 0, "it broke"),
        (0, partial(time.sleep, 30), "timeout", 0, "no answer within 0.5 s"),
    ],
)
def test_an_environment_that_fails_ends_its_own_episode(at, how, reason, turns, error, monkeypatch):
    monkeypatch.setattr(environments, "RESET_SECONDS", 0.5)
    _, player = scripted(PLAIN, lambda _: "yes<eos>")
    number = iter(range(3))
    game = Game("failing", {}, lambda: Failing(at if next(number, 9) == 1 else -1, how))
    episodes = lockstep(game, [Start(3)] * 3, player, replace(RULES, step_timeout=0.5))
    assert [one.reason for one in episodes] == ["terminated", reason, "terminated"]
    failed = episodes[1]
    assert (len(failed.turns), failed.terminal, failed.observation is None) == (turns, False, turns > 0 or at == 0)
    assert error in failed.error
    numbers = numbers_of(episodes)
    assert numbers.ended == {"terminated": 2, reason: 1}
    assert sum(numbers.errors.values()) == 1


def test_a_class_that_cannot_be_made_fails_its_episodes():
    _, player = scripted(PLAIN, lambda _: "yes<eos>")
    (episode,) = lockstep(Game("broken", {}, broken), [Start(1)], player, RULES)
    assert (episode.reason, episode.turns, episode.error) == ("error", (), "ValueError: it broke")


def test_a_full_context_ends_an_episode():
    """<bos> "9?\\n> " are 6 ids, an action 4, what follows 6: the third action would begin at 26."""
    _, player = scripted(PLAIN, lambda _: "yes<eos>")
    (episode,) = lockstep(Game("counting", {}, Counting), [Start(9)], player, replace(RULES, context=26))
    assert (episode.reason, episode.terminal, len(episode.turns), episode.observation) == ("context", False, 2, "2!")
    (longer,) = lockstep(Game("counting", {}, Counting), [Start(9)], player, replace(RULES, context=27))
    assert len(longer.turns) == 3
    (none,) = lockstep(Game("counting", {}, Counting), [Start(9)], player, replace(RULES, context=6))
    assert (none.reason, none.turns, none.error) == ("context", (), "it begins with 6 tokens, and 6 are read at most")


def test_a_full_context_loses_its_oldest_turns_where_that_is_asked_for():
    writer, player = scripted(CHAT, lambda _: "yes<|im_end|>", "Count.")
    rules = replace(RULES, context=120, when_full="cut")
    (episode,) = lockstep(Game("counting", {}, Counting), [Start(9)], player, rules)
    assert (episode.reason, len(episode.turns)) == ("turn limit", 5)
    assert all(len(prompt) + 8 <= 120 for prompts, _ in writer.asked for prompt in prompts)
    told = [(one.starts_over, one.info.get("cut_turns")) for one in episode.turns]
    assert told == [(False, None), (False, None), (False, None), (True, 1), (True, 2)]
    last = CHAT.decode(writer.asked[-1][0][0])
    assert [word in last for word in ("Count.", "9?", "1!", "2!", "3!", "4!")] == [True, True, False, False, True, True]
    assert [one.first for one in episode.segments()] == [0, 3, 4]
    assert numbers_of([episode]).cut_turns == 1


def test_what_cannot_be_shortened_stays():
    dialogue = open_dialogue(PLAIN)
    state = dialogue.start("A long beginning.")
    assert shortened(dialogue, state, 3) == (state, 0)


def test_a_template_that_rewrites_the_past_starts_over():
    thinking = bytes_tokenizer(eos="<|im_end|>", chat_template=THINKING)
    _, player = scripted(thinking, lambda _: "hm</think>yes<|im_end|>")
    (episode,) = lockstep(Game("counting", {}, Counting), [Start(3)], player, RULES)
    assert [one.starts_over for one in episode.turns] == [False, True, True]
    assert [segment.first for segment in episode.segments()] == [0, 1, 2]


def test_messages_are_told_as_they_were_said():
    class Talking(Counting):
        def reset(self, seed):
            super().reset(seed)
            return (Message("user", "Hello."),)

    _, player = scripted(CHAT, lambda _: "yes<|im_end|>")
    (episode,) = lockstep(Game("talking", {}, Talking), [Start(1)], player, RULES)
    assert episode.turns[0].observation == ({"role": "user", "content": "Hello."},)


def test_numbers_by_hand():
    """Of returns 6, 15 and 1 the mean is 22/3; one of three succeeds, as one is not over; 8 actions of 4 tokens."""
    _, player = scripted(PLAIN, lambda text: "yes<eos>" if text.startswith("<bos>1?") else "no<eos>")
    found = numbers_of(lockstep(Game("counting", {}, Counting), [Start(3), Start(9), Start(1)], player, RULES))
    assert found.success.value == pytest.approx(1 / 3)
    assert (found.success.low, found.success.high) == pytest.approx((0.0615, 0.7923), abs=1e-4)  # Wilson's
    assert found.mean_return.value == pytest.approx(22 / 3)
    assert (found.episodes, found.turns, found.tokens) == (3, 9, 8 * 3 + 4)
    assert (found.invalid, found.truncated) == (7, 0)
    assert found.lines()[0] == "success: 0.333 [0.061, 0.792]"
    assert "invalid 77.8%" in found.lines()[2]
    assert found.lines()[3] == "ended: terminated 2, turn limit 1"
