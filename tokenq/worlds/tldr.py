"""A world of posts and summaries whose true reward is known: facts right, facts wrong, words wasted.

A post states four to six facts of one topic among asides about the same attributes of something else ("Right now I
earn 400 a week."). A summary earns by each fact that it reports rightly and pays for each that it gets wrong or says
twice, and for its length. Where every fact stands, in the post and in any text that is read back, is known to the
character. Everything is drawn from the seed alone; nothing here trains a model or measures one.
"""

import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tokenq.errors import UserError
from tokenq.worlds.wording import ATTRIBUTES, FILLERS, POST, QUESTIONS, REMARKS, TOPICS, Topic

Span = tuple[int, int]
"""First character and one past the last."""


@dataclass(frozen=True)
class Fact:
    """An attribute with its value, and where a text says so.

    Attributes:
        attribute: a key of `tokenq.worlds.wording.ATTRIBUTES`.
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


@lru_cache(maxsize=1)
def _phrases() -> re.Pattern[str]:
    """Return one expression for every phrase of every attribute, longer phrases first."""
    pieces = []
    for name, attribute in ATTRIBUTES.items():
        values = "|".join(map(re.escape, attribute.values))
        for number, template in enumerate(attribute.noted):
            before, after = (r"\s+".join(map(re.escape, part.split())) for part in template.split("{}"))
            text = rf"{before}\s+" * bool(before) + rf"(?P<{name}_{number}>{values})" + rf"\s+{after}" * bool(after)
            pieces.append((len(template), rf"\b(?:{text})\b"))
    return re.compile("|".join(piece for _, piece in sorted(pieces, key=lambda row: -row[0])), re.IGNORECASE)


def read_facts(text: str) -> tuple[Fact, ...]:
    """Return the facts that any text reports, in order, with spans into `text`.

    A fact is a known phrase with a known value of that attribute ("pays 450"); capitals and runs of spaces do not
    matter, everything else in the text is passed over. Facts do not overlap.
    """
    facts = []
    for match in _phrases().finditer(text):
        group = match.lastgroup or ""
        name = group.rpartition("_")[0]
        said = match.group(group).lower()
        value = next(value for value in ATTRIBUTES[name].values if value.lower() == said)
        facts.append(Fact(name, value, match.span(group), match.span()))
    return tuple(facts)


def count_tokens(text: str) -> int:
    """Return the number of words and marks, which is what the demonstration tokenizer makes of the text."""
    return len(re.findall(r"\w+|[^\w\s]", text))


@dataclass(frozen=True)
class Verdict:
    """What a summary got right and wrong about its post.

    Attributes:
        correct: facts that the post states, at their first mention.
        wrong: facts with another value than the post's, or about an attribute that the post does not state.
        repeated: further mentions of correct facts.
        n_tokens: words and marks of the summary.
    """

    correct: tuple[Fact, ...]
    wrong: tuple[Fact, ...]
    repeated: tuple[Fact, ...]
    n_tokens: int


def judge(post: Post, summary: str) -> Verdict:
    """Return the verdict on any text as a summary of the post."""
    truth = post.truth()
    correct: list[Fact] = []
    wrong: list[Fact] = []
    repeated: list[Fact] = []
    seen: set[str] = set()
    for fact in read_facts(summary):
        if truth.get(fact.attribute) != fact.value:
            wrong.append(fact)
        elif fact.attribute in seen:
            repeated.append(fact)
        else:
            correct.append(fact)
            seen.add(fact.attribute)
    return Verdict(tuple(correct), tuple(wrong), tuple(repeated), count_tokens(summary))


@dataclass(frozen=True)
class GoldReward:
    """The true reward of a summary, a sum over its facts and tokens.

    Attributes:
        correct: for each correct fact.
        wrong: for each wrong fact.
        repeated: for each further mention of a correct fact.
        token: for each token.
        length_bonus: for each token, on top: the taste of a labeller who likes long summaries. Judge by a reward
            without it what such a labeller has done.
    """

    correct: float = 1.0
    wrong: float = -1.0
    repeated: float = -0.5
    token: float = -0.05
    length_bonus: float = 0.0

    def __call__(self, post: Post, summary: str) -> float:
        """Return the reward of any text as a summary of the post."""
        verdict = judge(post, summary)
        facts = self.correct * len(verdict.correct) + self.wrong * len(verdict.wrong)
        return facts + self.repeated * len(verdict.repeated) + (self.token + self.length_bonus) * verdict.n_tokens


@dataclass(frozen=True)
class Corruption:
    """A summary in which one fact was made wrong.

    Attributes:
        text: the corrupted summary.
        fact: the fact as it now stands, with its spans in `text`.
        original: the value that it had.
    """

    text: str
    fact: Fact
    original: str


def corrupt(post: Post, summary: str, *, seed: int = 0) -> Corruption:
    """Return the summary with one correct fact given the value of the post's distractor for it.

    Raises:
        UserError: when the summary reports no fact for which the post has a distractor.
    """
    asides = {aside.attribute: aside.value for aside in post.asides}
    facts = [fact for fact in judge(post, summary).correct if fact.attribute in asides]
    if not facts:
        raise UserError(
            "No fact of this summary has a distractor in its post.", "Raise `Difficulty.asides` or omit fewer facts."
        )
    fact = dice("corrupt", seed, post.prompt, summary).choice(facts)
    value = asides[fact.attribute]
    start, stop = fact.span
    grown = len(value) - (stop - start)
    changed = Fact(fact.attribute, value, (start, stop + grown), (fact.phrase[0], fact.phrase[1] + grown))
    return Corruption(summary[:start] + value + summary[stop:], changed, summary[start:stop])
