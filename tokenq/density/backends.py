"""What finds entities: the rules, a spaCy model that the user has, or a function of the user's own.

An entity back end is a function from a text to its spans. It is an argument, as a judge is; `named` gives those that
have a name, and whoever reports a density says which of them made it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenq.density import rules
from tokenq.density.text import Span, key
from tokenq.errors import UserError

Entities = Callable[[str], Sequence[Span]]
"""(text) → spans of its entities, (first character, one past the last)."""

INSTALL = "pip install 'tokenq[spacy]', and the model with: python -m spacy download en_core_web_sm"
_MISSING = re.compile(r"E050|Can't find model")


def is_file(name: str) -> bool:
    """Return whether a name stands for a function of the user's own, FILE.py:NAME."""
    return name.rpartition(":")[0].endswith(".py")


def named(name: str) -> Entities:
    """Return the back end of a name: rules, or spacy:MODEL.

    Raises:
        UserError: there is none of this name, or spaCy or its model is not installed.
    """
    if name == "rules":
        return rules.entities
    kind, _, model = name.partition(":")
    if kind != "spacy" or not model:
        raise UserError(
            f"--entities {name}: nothing of this name finds entities.",
            "Give rules, spacy:MODEL (a model that you have installed), or FILE.py:FUNCTION.",
        )
    return spacy_entities(model)


def spacy_entities(model: str) -> Entities:
    """Return what a spaCy model finds.

    Raises:
        UserError: spaCy or the model is not installed.
    """
    try:
        import spacy
    except ImportError as problem:
        raise UserError("Entities by spaCy need spaCy.", INSTALL) from problem
    try:
        pipeline = spacy.load(model)
    except OSError as problem:
        missing = f"spaCy has no model {model!r}." if _MISSING.search(str(problem)) else f"spaCy: {problem}."
        folder = "/" in model or "\\" in model
        get = "Name a folder that nlp.to_disk has written" if folder else f"python -m spacy download {model}"
        raise UserError(missing, f"{get}, or name a model that is installed.") from problem
    return lambda text: [(one.start_char, one.end_char) for one in pipeline(text).ents]


def checked(found: Entities, name: str) -> Entities:
    """Return a function of the user's that is held to its word: spans that lie in the text.

    Raises:
        UserError: when it is called, it raises, or gives something else.
    """

    def entities(text: str) -> list[Span]:
        try:
            spans = [(int(start), int(end)) for start, end in found(text)]
        except Exception as problem:
            raise UserError(f"--entities {name} failed on {text[:60]!r}: {problem!r}.", _SPANS) from problem
        odd = next((one for one in spans if not 0 <= one[0] < one[1] <= len(text)), None)
        if odd is not None:
            raise UserError(f"--entities {name} gave {odd} for a text of {len(text)} characters.", _SPANS)
        return spans

    return entities


_SPANS = "It takes a text, and returns (start, end) in characters for each entity, end excluded."


@dataclass(frozen=True)
class Mentions:
    """The entities of a text, each once.

    Attributes:
        names: as the text has them first, in its order.
        keys: what tells them from each other.
    """

    names: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]


def mentions(text: str, entities: Entities) -> Mentions:
    """Return the entities of a text, each once, whatever its capitals; what has no word in it is none."""
    found: dict[tuple[str, ...], str] = {}
    for start, end in sorted(entities(text)):
        words = key(text[start:end])
        if words:
            found.setdefault(words, text[start:end])
    return Mentions(tuple(found.values()), tuple(found))
