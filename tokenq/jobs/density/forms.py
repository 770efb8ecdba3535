"""How a chain is asked for: whole, in steps, or guided by entities that are found in the article.

A form takes articles and asks for all of them side by side. What an answer lacks is counted by its name; where more
than one attempt is allowed, what cannot be read or misses the length is asked for again, and the best is kept.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tokenq.density import prompt
from tokenq.density.answer import BLANK, REPEATED, Answer, Unreadable, named, read_answer
from tokenq.density.backends import Entities, mentions
from tokenq.density.measures import specific
from tokenq.density.prompt import Template
from tokenq.density.text import holds, key, words
from tokenq.jobs.density.config import DensifyConfig
from tokenq.jobs.density.writers import Write

MOST = 3
"""Entities that a step adds at most."""

NONE_LEFT = "no entities left"


@dataclass
class Chain:
    """A chain as far as it is written.

    Attributes:
        summaries: one a step.
        missing: what each step was to add, as the writer or the entities said; nothing for the first of most forms.
        repairs: how answers strayed from what was asked for.
        asked: questions that it took.
        problem: why there is no chain, "" where there is one.
    """

    summaries: list[str] = field(default_factory=list)
    missing: list[list[str]] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Asking:
    """What a form goes by.

    Attributes:
        write: answers questions.
        config: steps, words, attempts.
        entities: finds entities.
        question: of a whole chain.
    """

    write: Write
    config: DensifyConfig
    entities: Entities
    question: Template

    def best(self, questions: Sequence[str], score: Callable[[int, str], float], chains: Sequence[Chain]) -> list[str]:
        """Return the best answer to each question.

        Args:
            questions: what is asked.
            score: (number of the question, answer) → how good it is; 0 is as good as it gets.
            chains: told how often they were asked for.
        """
        found = [""] * len(questions)
        scores = [float("-inf")] * len(questions)
        for attempt in range(self.config.attempts):
            left = [place for place, one in enumerate(scores) if one < 0]
            answers = self.write([questions[place] for place in left], attempt) if left else []
            for place, answer in zip(left, answers, strict=True):
                chains[place].asked += 1
                worth = score(place, answer)
                if worth > scores[place] or not found[place]:
                    found[place], scores[place] = answer, worth
        return found

    def off(self, text: str) -> float:
        """Return by what share of the words a summary misses the length, 0 where it counts as of that length."""
        off = abs(len(words(text)) - self.config.words) / self.config.words
        return 0.0 if off <= self.config.same_length else off


def whole(articles: Sequence[str], asking: Asking) -> list[Chain]:
    """Return chains that are asked for in one answer each."""
    config = asking.config
    chains = [Chain() for _ in articles]
    questions = [asking.question.filled(article=one, steps=config.steps, words=config.words) for one in articles]

    def score(place: int, answer: str) -> float:
        found = _read(answer, config.steps)
        if isinstance(found, str):
            return -1e6
        off = sum(asking.off(step.summary) for step in found.steps)
        return -10.0 * (config.steps - len(found.steps)) - off

    for chain, answer in zip(chains, asking.best(questions, score, chains), strict=True):
        found = _read(answer, config.steps)
        if isinstance(found, str):
            chain.problem = found
            continue
        chain.summaries = [step.summary for step in found.steps]
        chain.missing = [list(step.missing) for step in found.steps]
        chain.repairs = found.repairs
    return chains


def _read(answer: str, steps: int) -> Answer | str:
    try:
        return read_answer(answer, steps)
    except Unreadable as problem:
        return str(problem)


def stepwise(articles: Sequence[str], asking: Asking) -> list[Chain]:
    """Return chains in steps: the writer says what is missing, and then writes a summary with it."""

    def missing(live: Sequence[int], chains: Sequence[Chain]) -> list[list[str]]:
        ask = Template(prompt.LACKING)
        questions = [ask.filled(article=articles[one], summary=chains[one].summaries[-1]) for one in live]
        own = [chains[one] for one in live]

        def score(place: int, answer: str) -> float:
            return 0.0 if _taken(answer, articles[live[place]], own[place]) else -1.0

        answers = asking.best(questions, score, own)
        return [_taken(one, articles[at], chains[at]) for at, one in zip(live, answers, strict=True)]

    return _in_steps(articles, asking, missing)


def guided(articles: Sequence[str], asking: Asking) -> list[Chain]:
    """Return chains in steps: what is missing are the next entities of the article that no summary has."""

    def missing(live: Sequence[int], chains: Sequence[Chain]) -> list[list[str]]:
        return [_next(articles[one], chains[one].summaries[-1], asking.entities) for one in live]

    return _in_steps(articles, asking, missing)


def _in_steps(
    articles: Sequence[str], asking: Asking, missing: Callable[[Sequence[int], Sequence[Chain]], list[list[str]]]
) -> list[Chain]:
    config, chains = asking.config, [Chain() for _ in articles]
    first = Template(prompt.FIRST)
    questions = [first.filled(article=one, words=config.words) for one in articles]
    answers = asking.best(questions, lambda place, answer: _worth(asking, answer, ()), chains)
    for chain, answer in zip(chains, answers, strict=True):
        summary = cleaned(answer)
        if summary:
            chain.summaries, chain.missing = [summary], [[]]
        else:
            chain.problem = "the first summary is empty"
    for _ in range(config.steps - 1):
        live = [place for place, chain in enumerate(chains) if not chain.problem]
        wanted = dict(zip(live, missing(live, chains), strict=True))
        for place in live:
            if not wanted[place]:
                chains[place].repairs[NONE_LEFT] += 1
        _one_step(articles, asking, chains, {place: names for place, names in wanted.items() if names})
    return chains


def _one_step(
    articles: Sequence[str], asking: Asking, chains: Sequence[Chain], wanted: Mapping[int, Sequence[str]]
) -> None:
    """Add a summary to each chain that something is missing in."""
    denser, live = Template(prompt.DENSER), list(wanted)
    questions = [
        denser.filled(
            article=articles[place],
            summary=chains[place].summaries[-1],
            entities="; ".join(wanted[place]),
            words=asking.config.words,
        )
        for place in live
    ]
    answers = asking.best(
        questions, lambda number, answer: _worth(asking, answer, wanted[live[number]]), [chains[one] for one in live]
    )
    for place, answer in zip(live, answers, strict=True):
        chain, summary = chains[place], cleaned(answer)
        if not summary or summary.split() == chain.summaries[-1].split():
            chain.repairs[REPEATED if summary else BLANK] += 1
            continue
        chain.summaries.append(summary)
        chain.missing.append(list(wanted[place]))


def _worth(asking: Asking, answer: str, wanted: Sequence[str]) -> float:
    """Return 0 for a summary of the right length that has all that it was to have, and less for any other."""
    summary = cleaned(answer)
    here = key(summary)
    return -1e6 if not summary else -asking.off(summary) - sum(not holds(here, key(one)) for one in wanted)


def cleaned(answer: str) -> str:
    """Return the summary of an answer: its first paragraph, without a heading that it repeats and without quotes."""
    said = answer.strip()
    for heading in ("Denser summary:", "Summary:"):
        said = said.removeprefix(heading).strip()
    said = " ".join(said.split("\n\n")[0].split())
    return said[1:-1].strip() if len(said) > 1 and said[0] == said[-1] == '"' else said


def _taken(answer: str, article: str, chain: Chain) -> list[str]:
    """Return the entities of an answer that the article has and the last summary has not, short ones alone."""
    source, said = key(article), key(chain.summaries[-1])
    names = dict.fromkeys(named(answer.strip().split("\n")[0].removeprefix("Missing:")))
    return [one for one in names if specific(one) and holds(source, key(one)) and not holds(said, key(one))][:MOST]


def _next(article: str, summary: str, entities: Entities) -> list[str]:
    found, said = mentions(article, entities), key(summary)
    left = [name for name, one in zip(found.names, found.keys, strict=True) if not holds(said, one) and specific(name)]
    return left[: MOST - 1]


FORMS: Mapping[str, Callable[[Sequence[str], Asking], list[Chain]]] = {
    "chain": whole,
    "steps": stepwise,
    "guided": guided,
}
"""Every way to ask for a chain."""
