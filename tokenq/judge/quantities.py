"""Numbers as people and models write them: signs, thousands, fractions, powers, money, units.

One grammar for all texts, exact: a number is a `Fraction`. What looks like a sign and is none (in a range, a compound,
a subtraction) is told by what stands before it; what looks like a number and is none (the exponent of a unit, the digit
of a name) counts only in a text without any other. A percent sign is a unit: "50 %" is 50.
"""

import re
from fractions import Fraction
from typing import NamedTuple

_MINUS = "-−﹣－–‐‑"
_GROUP = r"(?:,\\!|\{,\}|\\[,;:!\ ]|[,\u00a0\u2009\u202f])"  # between thousands
_PLAIN = rf"(?:[1-9]\d{{0,2}}(?:{_GROUP}\d{{2,3}})*{_GROUP}\d{{3}}(?!\d)|\d+)(?:\.\d+)?|(?<!\w)\.\d+"
_SIMPLE = r"\d+(?:\.\d+)?"
_POWER = rf"\^\s*(?:\{{\s*[{_MINUS}+]?\s*\d{{1,3}}\s*\}}|[{_MINUS}+]?\d{{1,3}})|[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{{1,3}}"
_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_PARTS = tuple("1/4 1/2 3/4 1/7 1/9 1/10 1/3 2/3 1/5 2/5 3/5 4/5 1/6 5/6 1/8 3/8 5/8 7/8".split(" "))  # noqa: SIM905 (one line)

_NUMBER = re.compile(
    rf"""
    (?P<sign>[{_MINUS}+](?P<apart>\s*))?  (?:\\?[$€£¥₹₩]\s?)?  (?P<inner>[{_MINUS}])?
    (?:
        (?:(?P<whole>\d+)\s*)?
        (?: \\[dtc]?frac\s*(?P<over>\{{[^{{}}]+\}}|\d)\s*(?P<under>\{{[^{{}}]+\}}|\d)  |  (?P<vulgar>[{_VULGAR}]) )
      | (?:(?P<before>\d+)\s+)?  (?<![\d/.])(?P<top>{_SIMPLE})\s?[/⁄]\s?(?P<bottom>{_SIMPLE})  (?![\d.]*\d|\s?/)
      | (?P<plain>{_PLAIN})
        (?: [eE](?P<tens>[{_MINUS}+]?\d{{1,3}})(?!\w)  |  \s*(?:\\times|\\cdot|[×·x*])\s*10\s*(?P<ten_to>{_POWER}) )?
        (?P<power>{_POWER})?
    )
    """,
    re.VERBOSE,
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_NAME = re.compile(r"(?<!\\)\b(?!USD|EUR|GBP|INR|Rs\b)[^\W\d_]+[_^{\d]*\Z")
_UNIT = re.compile(r"\s*(?:\\?%|per\s?cent|\^?\\?(?:circ|degree)|°)?\s*[.,;]?\s*", re.IGNORECASE)


_MOST_DIGITS = 1000
"""Digits of a number that is still one; more are a string of digits, and arithmetic on them would take its time."""


class Quantity(NamedTuple):
    """A number in a text.

    Attributes:
        value: the number.
        start: where it begins, with its sign and its currency.
        end: one past its last character.
    """

    value: Fraction
    start: int
    end: int


def quantities(text: str) -> list[Quantity]:
    """Return the numbers of a text in order; digits glued to a name ("H2O", "m^2") only where there are no others."""
    free: list[Quantity] = []
    glued: list[Quantity] = []
    for match in _NUMBER.finditer(text):
        found = _quantity(match, text)
        if found is not None:
            # A name is short: what stands further away does not matter, and long texts stay cheap.
            behind_name = _NAME.search(text[max(0, found.start - 40) : found.start])
            (glued if behind_name else free).append(found)
    return free or glued


def quantity(text: str) -> Fraction | None:
    """Return the number that a text consists of, but for its sign, currency, percent sign or degrees; or None."""
    text = text.strip()
    match = _NUMBER.match(text)
    found = None if match is None else _quantity(match, text)
    if found is None or found.start or not _UNIT.fullmatch(text, found.end):
        return None
    return found.value


def shortest(value: Fraction) -> str:
    """Return a number as digits where they end, else as a fraction: 1250, 0.5, 1/3."""
    rest, places = value.denominator, 0
    while rest % 10 == 0 or rest % 2 == 0 or rest % 5 == 0:
        rest //= 10 if rest % 10 == 0 else 2 if rest % 2 == 0 else 5
        places += 1
    if rest > 1:
        return f"{value.numerator}/{value.denominator}"
    if not places:
        return str(value.numerator)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")


def _quantity(match: re.Match[str], text: str) -> Quantity | None:
    """Return the number of a match; None for one that is divided by 0, or has digits without end."""
    value = None if match.end() - match.start() > _MOST_DIGITS else _magnitude(match)
    if value is None:
        return None
    start, negative = match.start(), False
    if match["sign"] is not None:
        negative = _is_sign(text[:start], bool(match["apart"]))
        start += 0 if negative else len(match["sign"])
        negative = negative and match["sign"][0] != "+"
    negative = negative != (match["inner"] is not None)
    return Quantity(-value if negative else value, start, match.end())


def _is_sign(before: str, apart: bool) -> bool:
    """Return whether a minus (or plus) behind a text belongs to the number that follows it, perhaps apart from it."""
    if apart:  # "x = - 5" has a sign, "10 - 5" a subtraction, and a line that begins with "- 5" a bullet
        return before.rstrip()[-1:] in tuple("=<>≈≤≥([{")
    return not (before[-1:].isalnum() or before[-1:] in tuple(f")]}}%°._{_MINUS}"))


def _magnitude(match: re.Match[str]) -> Fraction | None:
    if match["plain"] is not None:
        value = _decimal(match["plain"])
        ten_to = match["tens"] or match["ten_to"]
        if ten_to is not None:
            value *= Fraction(10) ** _whole(ten_to)
        power = 1 if match["power"] is None else _whole(match["power"])
        digits = len(match["plain"]) * abs(power)
        return None if digits > _MOST_DIGITS or (not value and power < 0) else value**power
    if match["vulgar"] is not None:
        part: Fraction | None = Fraction(_PARTS[_VULGAR.index(match["vulgar"])])
    elif match["over"] is not None:
        part = _divided(quantity(match["over"].strip("{}")), quantity(match["under"].strip("{}")))
    else:
        part = _divided(_decimal(match["top"]), _decimal(match["bottom"]))
    whole = match["whole"] or match["before"]
    return part if whole is None or part is None or not 0 < part < 1 else int(whole) + part


def _divided(top: Fraction | None, bottom: Fraction | None) -> Fraction | None:
    return top / bottom if top is not None and bottom else None


def _decimal(digits: str) -> Fraction:
    whole, _, rest = re.sub(_GROUP, "", digits).partition(".")
    return Fraction(int(whole + rest or "0"), 10 ** len(rest))


def _whole(written: str) -> int:
    """Return the whole number of a power, however it is raised."""
    digits = re.sub(r"[\s^{}]", "", written.translate(_RAISED))
    return -int(digits[1:]) if digits[0] in _MINUS else int(digits)
