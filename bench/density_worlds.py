"""Summaries of posts whose facts are counted: ordinary ones of any length, and chains of one length that say more.

A writer states some facts of a post, gets a few wrong, and adds remarks that report nothing, at any place. A chain
states two facts at first and one more at each step; remarks make room for them, so that all summaries of a chain have
as many tokens to the last. Everything is drawn from the seed alone.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenq.demo.gold import GOLD, GoldReward, count_tokens, judge, read_facts
from tokenq.demo.settings import label_pairs
from tokenq.demo.tldr import Difficulty, Post, dice, make_posts
from tokenq.demo.wording import ATTRIBUTES

RICH = Difficulty(facts=(6, 6))
"""Posts that state six facts: enough for a chain of five steps."""

STEPS = 5

ROOM = 3
"""Tokens of the least remark with its comma: a chain is at least that much longer than six facts take."""

REMARKS = (
    "not sure",
    "a lot",
    "I like it",
    "my mother says no",
    "what would you do",
    "so I am not sure",
    "I like it a lot",
)
"""Phrases that report nothing, of two to five words, so that any room can be filled."""

MOST_REMARKS = 2
"""Of an ordinary summary."""

WRONG = 0.05
"""Chance that a writer of ordinary summaries gets a fact wrong."""

BY_FACTS = GOLD
"""A labeller who wants facts, and short summaries a little more than long ones."""

BY_LENGTH = GoldReward(correct=0.0, wrong=0.0, repeated=0.0, token=0.2)
"""A labeller who loves length and reads nothing else."""

BY_BOTH = GoldReward(length_bonus=0.1)
"""The demonstration's own labeller with a taste for length: facts count for him as well."""

LABELLERS: Mapping[str, GoldReward] = {"facts": BY_FACTS, "length": BY_LENGTH, "both": BY_BOTH}


@dataclass(frozen=True)
class Chain:
    """Summaries of one post, each with one fact more than the one before.

    Attributes:
        post: what they summarise.
        summaries: the texts.
        added: what each adds, as the text has it; of the first, all that it states.
    """

    post: Post
    summaries: tuple[str, ...]
    added: tuple[tuple[str, ...], ...]

    def row(self) -> dict[str, Any]:
        """Return it as format `chain` has it."""
        entities = [[one for step in self.added[: place + 1] for one in step] for place in range(len(self.added))]
        return {"prompt": self.post.prompt, "summaries": list(self.summaries), "entities": entities}


def ordinary(post: Post, seed: object) -> str:
    """Return a summary as some writer puts it: one fact to all of them, and up to two remarks among them."""
    draw = dice("ordinary", seed, post.prompt)
    truth = post.truth()
    names = [name for name in post.topic.attributes if name in truth]
    kept = sorted(draw.sample(names, draw.randint(1, len(names))), key=names.index)
    phrases = [draw.choice(ATTRIBUTES[name].noted).format(_value(post, name, draw)) for name in kept]
    return _text(post, _with_remarks(phrases, draw.sample(REMARKS, draw.randint(0, MOST_REMARKS)), draw))


def pairs(posts: Sequence[Post], seed: int, reward: GoldReward, temperature: float) -> list[dict[str, str]]:
    """Return two ordinary summaries of each post, labelled by a Bradley-Terry draw from a labeller's reward."""
    written = [[ordinary(post, f"{seed}/{place}") for place in range(2)] for post in posts]
    return label_pairs(posts, written, reward, seed=seed, temperature=temperature)


def chain(post: Post, seed: int) -> Chain:
    """Return five summaries of a post with six facts, all of one length in tokens.

    Raises:
        ValueError: the post states fewer than six facts.
    """
    draw = dice("chain", seed, post.prompt)
    names = [name for name in post.topic.attributes if name in post.truth()]
    if len(names) <= STEPS:
        raise ValueError(f"{len(names)} facts are too few for {STEPS} steps")
    order = draw.sample(names, STEPS + 1)
    noted = {name: draw.choice(ATTRIBUTES[name].noted).format(post.truth()[name]) for name in names}
    longest = count_tokens(_text(post, list(noted.values())))
    length = longest + draw.randint(ROOM, 2 * ROOM)
    summaries = tuple(_filled(post, order[: step + 2], noted, length, draw) for step in range(STEPS))
    first, *later = ([noted[name] for name in order[:2]], *([noted[name]] for name in order[2:]))
    return Chain(post, summaries, (tuple(first), *map(tuple, later)))


def chains(count: int, seed: int) -> list[Chain]:
    """Return chains of posts that ordinary pairs are not made of."""
    return [chain(post, seed) for post in make_posts(count, seed=100 * seed + 95, difficulty=RICH)]


def facts(post: Post, summary: str) -> int:
    """Return how many facts of the post a summary states rightly."""
    return len(judge(post, summary).correct)


def _value(post: Post, name: str, draw: random.Random) -> str:
    true = post.truth()[name]
    if draw.random() >= WRONG:
        return true
    return draw.choice([value for value in ATTRIBUTES[name].values if value != true])


def _filled(post: Post, names: Sequence[str], noted: Mapping[str, str], length: int, draw: random.Random) -> str:
    """Return a summary of so many tokens with these facts, the rest remarks."""
    phrases = [noted[name] for name in post.topic.attributes if name in names]
    while True:
        remarks = draw.sample(REMARKS, draw.randint(1, len(REMARKS)))
        text = _text(post, _with_remarks(phrases, remarks, draw))
        if count_tokens(text) == length:
            return text


def _with_remarks(phrases: Sequence[str], remarks: Sequence[str], draw: random.Random) -> list[str]:
    found = list(phrases)
    for remark in remarks:
        found.insert(draw.randint(0, len(found)), remark)
    return found


def _text(post: Post, phrases: Sequence[str]) -> str:
    return f" {post.topic.title}: {', '.join(phrases)}."


def fact_spans(text: str) -> list[tuple[int, int]]:
    """Return where a text states facts, right or wrong: `--entities bench/density_worlds.py:fact_spans`."""
    return [fact.phrase for fact in read_facts(text)]
