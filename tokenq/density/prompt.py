"""What a writer is asked: for a whole chain in one answer, or for one thing at a time.

The structure of the first is that of arXiv 2309.04269, in words of our own: two steps that are repeated, what a missing
entity is, how to make room, one length for all, a list of records as the answer. Models that cannot do that are asked
step by step. A template is a text with {article}, {summary}, {entities}, {steps} and {words} in it.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tokenq.errors import UserError, unknown_name

CHAIN = """\
Article: {article}

Your task is to summarise the article {steps} times, each time saying more in the same space.

Do these two steps, {steps} times over:
Step 1. Name one to three informative entities of the article, with ";" between them, that your last summary lacks.
Step 2. Write a new summary of exactly the same length that keeps every entity and detail of the last summary and adds
the missing entities.

A missing entity is
- relevant: it belongs to the main story;
- specific: it says something definite, in five words or fewer;
- novel: the last summary does not have it;
- faithful: the article has it;
- anywhere: it may stand in any part of the article.

How to go about it:
- Let the first summary be long (four to five sentences, about {words} words) and say very little: general words, and
phrases that only fill space, such as "this article discusses".
- Let every word count afterwards: rewrite the last summary so that it reads better and has room for the new entities.
- Make room by fusing sentences, by tightening, and by leaving out phrases that inform of nothing.
- Every summary must be dense and short, and yet be understood by somebody who has not seen the article.
- Never leave out an entity of the last summary. If there is no room, add fewer new ones.
- Use the same number of words in every summary.

Answer with JSON alone: a list of {steps} records with the keys "Missing_Entities" and "Denser_Summary".
"""
"""Asks for a whole chain; `recipes/prompts/chain_of_density.txt` is the same text, to be changed."""

FIRST = """\
Article: {article}

Summarise the article in about {words} words. Stay general: name as few people, places, dates and numbers as possible.

Summary:"""
"""Asks for the first summary of a chain."""

LACKING = """\
Article: {article}

Summary: {summary}

Name one to three people, places, dates, numbers or things that the article has and the summary lacks, with ";" between
them, and nothing else.

Missing:"""
"""Asks what a summary lacks."""

DENSER = """\
Article: {article}

Summary: {summary}

Missing: {entities}

Write the summary again in about {words} words. Keep everything that it names, add what is missing, and make room by
leaving out words that inform of nothing.

Denser summary:"""
"""Asks for the next summary of a chain."""

FIELDS = frozenset({"article", "summary", "entities", "steps", "words"})
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """What is asked, with places to fill in.

    Attributes:
        text: the text.
    """

    text: str

    def filled(self, **values: object) -> str:
        """Return the question; braces of an article are no places."""
        return _FIELD.sub(lambda match: str(values[match[1]]), self.text)


def read_template(path: Path, needs: Collection[str] = ("article",)) -> Template:
    """Return the template of a file.

    Raises:
        UserError: there is none, it has no place for the article, or one for something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"{path} cannot be read: {problem}.", "Name a text with {article} in it.") from problem
    places = set(_FIELD.findall(text))
    for name in sorted(places - FIELDS):
        raise unknown_name(f"place in {path}", name, sorted(FIELDS))
    for name in sorted(set(needs) - places):
        raise UserError(f"{path} has no place for the {name}.", f"Write {{{name}}} where it goes.")
    return Template(text)
