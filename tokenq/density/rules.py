"""Entities by rules, without a model: what is written like a name, a number with its unit, a date, a title in quotes.

What counts follows OntoNotes: people, groups, places, organisations, products, works, dates, times, money, percentages,
quantities, ordinals and numbers. Names are found by their capitals, so that a text without any has numbers and dates
alone; of Chinese and Japanese, which have none, titles in brackets, numbers with their counters, katakana, Latin words
and names that end as places and organisations do.
"""

import re
from collections.abc import Iterator

from tokenq.density.text import Span, sentences
from tokenq.density.wording import COMMON, CONNECTORS, COUNTS, MONTHS, OPENERS, SCALES, TITLES, UNITS, VERBS, WEEKDAYS

_NUMBER = r"\d+(?:[.,]\d+)*"
_COUNT = rf"(?:{_NUMBER}|(?:{COUNTS})(?:[- ](?:{COUNTS}))*)"
_MONTH = rf"(?:{MONTHS})"
_YEAR = r"(?:1[0-9]|20)\d\d"

_DATED = re.compile(
    "|".join(
        (
            rf"\b{_YEAR}-\d\d-\d\d\b",
            r"\b\d{1,2}/\d{1,2}/\d{2,4}\b",
            rf"\b\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH}\b\.?(?:,? {_YEAR}\b)?",
            rf"\b{_MONTH}\b\.? \d{{1,2}}(?:st|nd|rd|th)?\b(?:,? {_YEAR}\b)?",
            rf"\b(?:[Ee]arly |[Ll]ate |[Mm]id-)?{_MONTH}\b,? {_YEAR}\b",
            r"\b(?:1[0-9]|20)\d0s\b",
            r"\b\d{1,2}:\d\d(?: ?[ap]\.?m\b\.?)?",
            r"\b\d{1,2} ?[ap]\.?m\b\.?",
            rf"\b(?:{WEEKDAYS})\b(?: (?:morning|afternoon|evening|night)\b)?",
            rf"\b{_YEAR}\b(?![,.]?\d)",
        )
    ),
    re.IGNORECASE,
)
_MONTH_ALONE = re.compile(rf"\b(?:{MONTHS})\b")  # with its capital: may and march are words as well
_MEASURED = re.compile(
    "|".join(
        (
            rf"(?:US|A|C)?[$€£¥₹] ?{_NUMBER}(?: ?(?:{SCALES}|[bmk]n?)\b)?",
            rf"\b{_COUNT}(?: (?:{SCALES}))?(?:[- ](?:dollars?|euros?|pounds?|yen|rupees|cents?)\b)",
            rf"\b{_NUMBER} ?(?:%|per ?cent\b)",
            rf"\b{_COUNT}(?: (?:{SCALES}))?[- ]?(?:{UNITS})\b(?:[- ](?:old|long|tall)\b)?",
            rf"\b(?:{_NUMBER} ?|(?:{COUNTS}) )(?:{SCALES})\b",
            rf"\b{_NUMBER}(?:st|nd|rd|th)\b",
            r"\b(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)\b(?! of all)",
            rf"\b{_COUNT}\b",
        )
    ),
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[“\"]([^“”\"\n]{2,60})[”\"]|(?<!\w)‘([^‘’\n]{2,60})’(?!\w)")
_DOTTED = re.compile(r"(?<![\w'’])(?:[A-Z]\.){2,}(?! [A-Z][a-z])")
_ACRONYM = re.compile(r"\b[A-Z][A-Z0-9&]*(?:-?[A-Z0-9]+)+\b")

_CAPITAL = r"(?:[^\W\d_a-z](?=[\w'’-])(?:[\w-]|[’'](?=[A-Z]))*|[a-z]{1,2}[A-Z]\w+|[A-Z]\.)"
_NAME = re.compile(
    rf"(?<![\w@]){_CAPITAL}(?:(?: |(?: (?:{CONNECTORS})){{1,2}} (?:the )?|& ){_CAPITAL}"
    rf"|(?<=\w) \d+\b)*"
)
_CJK = re.compile(
    "|".join(
        (
            r"(?<=《)[^《》]+(?=》)|(?<=「)[^「」]{2,20}(?=」)|(?<=『)[^『』]{2,20}(?=』)|(?<=“)[^“”]{2,12}(?=”)",
            r"[0-9０-９一二三四五六七八九十百千两]+(?:[.,．]\d+)?(?:万|亿|億)?(?:年代|年|月|日|号|時|时|分|％|%|元|円|美元|人|名"
            r"|个|個|公里|キロ|米|メートル|吨|トン|岁|歳|次|回|家|ヵ月|世纪|世紀|周|週間)+(?:[0-9０-９一二三四五六七八九十]+(?:月|日|号))*",
            r"[\u30a1-\u30f4ー・]{3,}",
            r"[A-Za-z][A-Za-z0-9&.-]+(?: [A-Z0-9][A-Za-z0-9]*)*",
            r"(?<![\u4e00-\u9fff])[\u4e00-\u9fff]{2,6}?(?:公司|集团|大学|银行|銀行|医院|省|市|县|縣|県|国|國|州|区|區|都|府)",
        )
    )
)
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
_POSSESSIVE = re.compile(r"['’]s?$")


def entities(text: str) -> list[Span]:
    """Return the entities of a text as spans that do not overlap, in order."""
    if _IDEOGRAPH.search(text):
        return _apart((match.span() for match in _CJK.finditer(text)), [])
    found = _apart(_spans(_DATED, text), [])
    found = _apart((match.span(1 if match[1] else 2) for match in _QUOTED.finditer(text) if _is_title(match)), found)
    found = _apart(_spans(_MEASURED, text), found)
    found = _apart(_spans(_DOTTED, text), found)
    found = _apart(_names(text), found)
    acronyms = (one for one in _spans(_ACRONYM, text) if text[slice(*one)].casefold() not in TITLES)
    return _apart((*acronyms, *_spans(_MONTH_ALONE, text)), found)


def has_capitals(text: str) -> bool:
    """Return whether a text has capitals to know names by, other than those at the beginning of its sentences."""
    begins = {start for start, _ in sentences(text)}
    return any(character.isupper() and place not in begins for place, character in enumerate(text))


def _spans(pattern: re.Pattern[str], text: str) -> Iterator[Span]:
    return (match.span() for match in pattern.finditer(text))


def _is_title(match: re.Match[str]) -> bool:
    """Return whether what stands in quotes is a title, and no speech: short, and every long word with a capital."""
    said = match[1] or match[2]
    large = [word for word in said.split() if len(word) > 3]
    return said[:1].isupper() and all(word[:1].isupper() for word in large) and said[-1] not in ",.!?"


def _names(text: str) -> Iterator[Span]:
    """Yield runs of capitalised words; the first word of a sentence counts where something else says it is a name."""
    begins = {start for start, _ in sentences(text)} | {
        match.end() for match in re.finditer(r"(?:^|[\s(])[\"“‘'(]+|[:;] (?=[A-Z])", text)
    }
    shouted = text.isupper()
    for match in _NAME.finditer(text):
        start, end = match.span()
        begin = start in begins
        start = _without_lead(text, start, end)
        said = _POSSESSIVE.sub("", text[start:end])
        end = start + len(said)
        if shouted or not said or said in ("I", "A") or said.casefold() in COMMON:
            continue
        if begin and start == match.start() and " " not in said and not _is_known(text, said, end):
            continue
        yield start, end


def _without_lead(text: str, start: int, end: int) -> int:
    """Return where a name begins behind words that only stand before it: "The", "In", "President"."""
    while True:
        word = re.match(r"[\w.’'-]+ ?", text[start:end])
        if word is None or word[0].strip().rstrip(".").casefold() not in OPENERS | TITLES:
            return start
        start += word.end()


def _is_known(text: str, word: str, end: int) -> bool:
    """Return whether the one capitalised word that begins a sentence is a name by what follows, or stands elsewhere."""
    if any(character.isupper() for character in word[1:]):
        return True
    if re.search(rf"(?<=[\w,;] ){re.escape(word)}\b", text) or text[end : end + 2] in ("'s", "’s"):
        return True
    follows = re.match(r",? (\w+)", text[end:])
    return follows is not None and follows[1] in VERBS


def _apart(new: Iterator[Span] | tuple[Span, ...], known: list[Span]) -> list[Span]:
    """Return spans that are known, and new ones that overlap none of them, the earlier and longer first, in order."""
    found = list(known)
    for start, end in sorted(new, key=lambda one: (one[0], -one[1])):
        if start < end and all(end <= first or last <= start for first, last in found):
            found.append((start, end))
    return sorted(found)
