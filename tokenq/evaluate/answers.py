"""The answer of a response: what a vote counts, and what is compared with the truth."""

import re
from collections.abc import Callable

from tokenq.errors import UserError, unknown_name

Extract = Callable[[str], str | None]
"""(text of a response) → its answer, None where it has none."""

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+")


def last_number(text: str) -> str | None:
    """Return the number after the last `####`, else the last number of a text, in its shortest form (GSM8K).

    Commas between thousands and a dollar sign are left out, and so are zeros behind the point: "$1,250.00" is "1250".
    """
    marked = text.rsplit("####", 1)
    found = _NUMBER.findall(marked[1]) if len(marked) == 2 else []
    found = found[:1] or _NUMBER.findall(marked[0])[-1:]
    if not found:
        return None
    digits = found[0].replace(",", "").replace("$", "")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    whole, point, rest = digits.lstrip("-").partition(".")
    digits = (whole.lstrip("0") or "0") + point + rest
    return f"-{digits}" if found[0].startswith("-") and digits != "0" else digits


def boxed(text: str) -> str | None:
    r"""Return what stands in the last `\boxed{…}`, braces matched, without blanks around it."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[begin:place].strip()
    return None


def whole_text(text: str) -> str | None:
    """Return the text without blanks around it, None for an empty one."""
    return text.strip() or None


EXTRACTORS: dict[str, Extract] = {"last_number": last_number, "boxed": boxed, "text": whole_text}


def find_extractor(name: str) -> Extract:
    """Return the function of a name, or of `regex:PATTERN`: its last match, the first group where it has one.

    Raises:
        UserError: an unknown name, or a pattern that is none.
    """
    if not name.startswith("regex:"):
        if name not in EXTRACTORS:
            raise unknown_name("answer", name, [*EXTRACTORS, "regex:PATTERN"])
        return EXTRACTORS[name]
    try:
        pattern = re.compile(name.removeprefix("regex:"), re.DOTALL)
    except re.error as problem:
        raise UserError(f"{name}: the pattern is not valid: {problem}.", "Mend the pattern.") from problem

    def matched(text: str) -> str | None:
        matches = list(pattern.finditer(text))
        if not matches:
            return None
        said = matches[-1].group(1 if pattern.groups else 0)
        return None if said is None else said.strip() or None

    return matched
