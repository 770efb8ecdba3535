r"""The answer of a response: what a vote counts, and what is compared with the truth.

Answers are brought to one form before they are counted or compared, so that 0.5, 1/2, .50 and \frac12 are one answer.
`math` takes Hugging Face's Math-Verify instead, which also knows that x + 1 is 1 + x.
"""

import re
from collections.abc import Callable

from tokenq.errors import UserError, unknown_name
from tokenq.judge.formulas import plain_formula
from tokenq.judge.math_answers import equal_in_math, math_answer, math_verify
from tokenq.judge.quantities import quantities, quantity, shortest
from tokenq.patterns import read_pattern

Extract = Callable[[str], str | None]
"""(text of a response) → its answer, None where it has none."""

Equality = Callable[[str, str], bool]
"""(true answer, another one) → whether they are the same."""

_MARKED = re.compile(r"####([^\n]*)")
_BEFORE_NUMBER = re.compile(
    r"[\s*_`\"'=:$\\(\[{]*(?:boxed\{|(?:the\s+)?(?:final\s+)?answer(?:\s+is)?)?[\s*_`=:$]*", re.IGNORECASE
)
_SHORT = 100
"""Characters of a true answer that is given as it is, on one line; a longer text is a solution that lacks its mark."""


def last_number(text: str) -> str | None:
    """Return the number behind the first `####`, else the last number of a text, in its shortest form (GSM8K).

    The first mark counts, since models run on with further questions and answers; a heading ("#### Step 2") is none.
    """
    for line in _MARKED.findall(text):
        found = quantities(line)[:1]
        if found and _BEFORE_NUMBER.fullmatch(line, 0, found[0].start):
            return shortest(found[0].value)
    found = quantities(text)[-1:]
    return shortest(found[0].value) if found else None


def boxed(text: str) -> str | None:
    r"""Return what stands in the last `\boxed{…}` that is closed, braces matched, without blanks around it."""
    starts = [match.end() for match in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)]
    for begin in reversed(starts):
        depth = 1
        for brace in re.finditer(r"\\.|[{}]", text[begin:]):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if not depth:
                return text[begin : begin + brace.start()].strip()
    return None


def whole_text(text: str) -> str | None:
    """Return the text without blanks around it, None for an empty one."""
    return text.strip() or None


def settled(answer: str | None) -> str | None:
    """Return an answer in one form: a number in its shortest, a formula without what only sets it; None for none."""
    if answer is None:
        return None
    return plain_formula(answer) or None


EXTRACTORS: dict[str, Extract] = {
    "last_number": last_number,
    "boxed": lambda text: settled(boxed(text)),
    "math": math_answer,
    "text": whole_text,
}


def equal(truth: str, answer: str) -> bool:
    """Return whether two answers are the same text, the same number or the same formula but for how it is set."""
    if truth == answer:
        return True
    numbers = quantity(truth), quantity(answer)
    return numbers[0] == numbers[1] if None not in numbers else plain_formula(truth) == plain_formula(answer)


def find_equality(name: str) -> Equality:
    """Return how answers of an extractor are compared."""
    return equal_in_math if name == "math" else equal


def true_answer(text: str, extract: Extract) -> str | None:
    """Return the answer of a text of the truth: read as responses are, else the text itself where it is a plain answer.

    Args:
        text: a solution, or its answer alone.
        extract: how the answers of responses are found.
    """
    found = extract(text)
    if found is not None or extract is last_number:
        return found
    text = text.strip()
    plain = len(text) <= _SHORT and "\n" not in text and "####" not in text  # what GSM8K marks is a solution
    return settled(text) if plain else None


def find_extractor(name: str) -> Extract:
    """Return the function of a name, or of `regex:PATTERN`: its last match, the first group where it has one.

    Raises:
        UserError: an unknown name, a pattern that is none, or a package that is not installed.
    """
    if not name.startswith("regex:"):
        if name not in EXTRACTORS:
            raise unknown_name("answer", name, [*EXTRACTORS, "regex:PATTERN"])
        if name == "math":
            math_verify()  # a package that is missing is said now, and not behind the first response
        return EXTRACTORS[name]
    try:
        pattern = read_pattern(name.removeprefix("regex:"), over_lines=True)
    except UserError as problem:
        raise UserError(f"--answer {name}: {problem.message}", problem.hint) from None

    def matched(text: str) -> str | None:
        matches = pattern.matches(text)
        if not matches:
            return None
        said = matches[-1].group(1 if pattern.groups else 0)
        return None if said is None else settled(said.strip())

    return matched
