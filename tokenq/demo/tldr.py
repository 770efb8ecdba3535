"""A world of posts and summaries in which every fact is known: what a post states, where, and what only looks like it.

A post states four to six facts of one topic among asides about the same attributes of something else ("Right now I
earn 400 a week."). Writers of more or less care summarise it. Everything is drawn from the seed alone; what a summary
is worth is decided in `tokenq.demo.gold`.
"""

import random
from dataclasses import dataclass
from typing import Final

from tokenq.demo.wording import ATTRIBUTES, FILLERS, POST, QUESTIONS, REMARKS, TOPICS, Topic

Span = tuple[int, int]
"""First character and one past the last."""


@dataclass(frozen=True)
class Fact:
    """An attribute with its value, and where a text says so.

    Attributes:
        attribute: a key of `tokenq.demo.wording.ATTRIBUTES`.
        value: the word that it takes.
        span: characters of the value in the text.
        phrase: characters of the whole phrase or sentence.
    """

    attribute: str
    value: str
    span: Span
    phrase: Span


@dataclass(frozen=True)
class Post:
    """A prompt and what it states.

    Attributes:
        prompt: the post and the request for a summary.
        topic: what it is about.
        facts: what it states, in the order of the text, with spans into `prompt`.
        asides: the distractors, values of the same attributes that belong to something else.
    """

    prompt: str
    topic: Topic
    facts: tuple[Fact, ...]
    asides: tuple[Fact, ...]

    def truth(self) -> dict[str, str]:
        """Return the stated value of every stated attribute."""
        return {fact.attribute: fact.value for fact in self.facts}


@dataclass(frozen=True)
class Difficulty:
    """How hard the posts are to summarise; ranges include both ends.

    Attributes:
        facts: how many facts a post states.
        asides: how many of them have a distractor (at most one each).
        fillers: how many sentences state nothing.
        wordings: how many ways of saying each thing are in use, at least one.
    """

    facts: tuple[int, int] = (4, 6)
    asides: tuple[int, int] = (3, 4)
    fillers: tuple[int, int] = (0, 2)
    wordings: int = 3


@dataclass(frozen=True)
class Noise:
    """How careless a demonstration is: chances per fact, and per summary where said.

    Attributes:
        omit: a fact is left out.
        wrong: a fact gets the distractor's value, or another value where the post has no distractor for it.
        repeat: a fact is said again at the end.
        shuffle: per summary, facts come in any order.
        remark: per summary, a phrase that reports nothing is added.
    """

    omit: float = 0.0
    wrong: float = 0.0
    repeat: float = 0.0
    shuffle: float = 0.0
    remark: float = 0.0


CLEAN: Final = Noise()
"""Every fact, right, once, in order."""

CARELESS: Final = Noise(omit=0.12, wrong=0.3, repeat=0.15, shuffle=0.2, remark=0.25)
"""The demonstrations that leave something to learn from preferences."""


def dice(seed: object, *path: object) -> random.Random:
    """Return the random source of one place in the world, the same on every machine."""
    return random.Random("/".join(str(part) for part in (seed, *path)))


def make_posts(count: int, *, seed: int, difficulty: Difficulty = Difficulty()) -> tuple[Post, ...]:
    """Return `count` posts; a longer list with the same seed begins with a shorter one's posts."""
    return tuple(_make_post(dice("post", seed, index), difficulty) for index in range(count))


def _make_post(draw: random.Random, difficulty: Difficulty) -> Post:
    """Return one post: an opening, then facts, asides and fillers in any order, then a question."""
    topic = draw.choice(TOPICS)
    names = draw.sample(topic.attributes, min(draw.randint(*difficulty.facts), len(topic.attributes)))
    doubled = draw.sample(names, min(draw.randint(*difficulty.asides), len(names)))
    ways = difficulty.wordings
    sentences: list[tuple[str, str, str, bool]] = []
    for name in names:
        attribute = ATTRIBUTES[name]
        value, other = draw.sample(attribute.values, 2)
        sentences.append((draw.choice(attribute.stated[:ways]), name, value, True))
        if name in doubled:
            sentences.append((draw.choice(attribute.asides[:ways]), name, other, False))
    fillers = draw.sample(FILLERS, min(draw.randint(*difficulty.fillers), len(FILLERS)))
    sentences += [(filler, "", "", False) for filler in fillers]
    draw.shuffle(sentences)
    head, foot = POST.split("{}")
    text = head + draw.choice(topic.opening[:ways])
    facts: list[Fact] = []
    asides: list[Fact] = []
    for template, name, value, stated in sentences:
        text += " "
        start = len(text)
        text += template.format(value)
        if name:
            place = start + template.index("{}")
            fact = Fact(name, value, (place, place + len(value)), (start, len(text)))
            (facts if stated else asides).append(fact)
    text += " " + draw.choice(QUESTIONS[:ways]) + foot
    return Post(text, topic, tuple(facts), tuple(asides))


def write_summary(post: Post, noise: Noise = CLEAN, *, seed: int = 0, wordings: int = 3) -> str:
    """Return a summary of the post as a careless or careful writer would put it, beginning with a space.

    Args:
        post: what to summarise.
        noise: how careless the writer is.
        seed: of the writer; the same post, noise and seed give the same summary.
        wordings: how many ways of saying each fact are in use.
    """
    draw = dice("summary", seed, noise, post.prompt)
    truth = post.truth()
    names = [name for name in post.topic.attributes if name in truth and draw.random() >= noise.omit]
    if draw.random() < noise.shuffle:
        draw.shuffle(names)
    values = {name: _other_value(post, name, draw) if draw.random() < noise.wrong else truth[name] for name in names}
    names += [name for name in names if draw.random() < noise.repeat]
    phrases = [draw.choice(ATTRIBUTES[name].noted[:wordings]).format(values[name]) for name in names]
    if draw.random() < noise.remark:
        phrases.append(draw.choice(REMARKS))
    return f" {post.topic.title}: {', '.join(phrases)}." if phrases else f" {post.topic.title}."


def _other_value(post: Post, name: str, draw: random.Random) -> str:
    """Return a wrong value: the distractor's where the post has one, else any other."""
    for aside in post.asides:
        if aside.attribute == name:
            return aside.value
    return draw.choice([value for value in ATTRIBUTES[name].values if value != post.truth()[name]])
