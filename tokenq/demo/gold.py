"""The true reward of the world of posts: facts right, facts wrong, words wasted.

Any text is read for the facts that it reports, each with its place to the character, and judged against the post. A
summary earns by each fact that it reports rightly and pays for each that it gets wrong or says twice, and for its
length. One fact can be made wrong on purpose, so that there is something to find. No model has a say here.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tokenq.demo.tldr import Fact, Post, dice
from tokenq.demo.wording import ATTRIBUTES
from tokenq.errors import UserError


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


GOLD: Final = GoldReward()
"""The reward by which the world is judged."""


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
