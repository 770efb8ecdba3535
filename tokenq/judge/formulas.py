r"""Formulas without what only sets them: \left and \right, thin spaces, \dfrac, \text around words, units of a number.

Two formulas that read the same then are the same text. Nothing is calculated but numbers.
"""

import re

from tokenq.judge.quantities import quantity, shortest

_SETTING: tuple[tuple[str, str], ...] = (
    (r"[−﹣－]", "-"),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])|\\[!,;: ]|~", ""),
    (r"(?<=\d)\s*\\(?:text|mathrm|mbox|textrm)\s*\{\s*[A-Za-z][^{}]*\}(?:\s*\^\s*(?:\{\d\}|\d))?\s*\Z", ""),  # a unit
    (r"\\(?:text|mathrm|mbox|textrm|textbf|mathbf|operatorname)\s*\{([^{}]*)\}", r"\1"),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])|°", ""),
    (r"\\([%$&#])", r"\1"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    (r"π", r"\\pi "),
    (r"∞", r"\\infty "),
    (r"\A\s*[A-Za-z]\s*=\s*(?=[^=\s])", ""),  # "x = 5" answers 5
    (r"(?<=\d)\s+[A-Za-z]{2,}(?:[ /·^²³\d]*[A-Za-z²³\d]*)*\Z", ""),  # "5 cm", "3 apples"
    (r"\s+(?![A-Za-z])|(?<![A-Za-z\s])\s+", ""),  # but between letters
    (r"\s+", " "),
)
_WORDS = re.compile(r"[^\W\d_]+(?:[\s,;:'’-]+[^\W\d_]+)+[.!?]?")


def plain_formula(text: str) -> str:
    """Return a formula as short as it can be written without calculating; numbers and words too."""
    text = _bare(text)
    if _WORDS.fullmatch(text):
        return " ".join(text.rstrip(".").split())
    for look in range(2):
        value = quantity(text)
        if value is not None:
            return shortest(value)
        if not look:
            for pattern, instead in _SETTING:
                text = re.sub(pattern, instead, text)
            text = _bare(text)
    return text


def _bare(text: str) -> str:
    """Return a formula without the marks of mathematics around it and the full stop behind it."""
    text = text.strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    return text.removesuffix(".").strip() if not text.endswith("..") else text
