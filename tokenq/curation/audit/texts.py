"""Texts as an audit compares them: as they stand, and without what a reader would not see as a difference."""

import hashlib
import json
import re
import unicodedata
import zlib
from collections import Counter
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tokenq.records.examples import Text

Words = NDArray[np.uint32]
"""Words of a text, each by its hash, in their order."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that put no blanks between words: Thai, Lao, Burmese, Khmer, Kana, Han. Each of their signs is a word."""

_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")

_MOST_WORDS = 500_000
"""Words whose hashes are kept at hand."""


def plain(text: Text) -> str:
    """Return what a text says, turns one below the other."""
    return text if isinstance(text, str) else "\n".join(turn.content for turn in text)


def exact(text: Text) -> str:
    """Return a text with all that tells it from others: who says what, and which tools are called."""
    if isinstance(text, str):
        return text
    return json.dumps([turn.to_dict() for turn in text], sort_keys=True, default=str)


def normalised(text: str) -> str:
    """Return a text without differences of letter case, blanks, and forms of the same character."""
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def hash_of(*texts: str) -> int:
    """Return a hash of texts in their order, 64 bits."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        said = text.encode("utf-8", "surrogatepass")
        digest.update(len(said).to_bytes(8, "little"))
        digest.update(said)
    return int.from_bytes(digest.digest(), "little")


class _Hashes(dict[str, int]):
    """Hashes of words, 32 bits, the same on every machine."""

    def __missing__(self, word: str) -> int:
        """Return the hash of a word that was not asked for before."""
        found = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        if len(self) < _MOST_WORDS:
            self[word] = found
        return found


HASHES = _Hashes()
"""Words that were seen, with their hashes."""


def words(text: str) -> Words:
    """Return the words and marks of a normalised text, by their hashes."""
    return np.array([HASHES[word] for word in _WORD.findall(text)], np.uint32)


def first_word(text: str) -> str:
    """Return the first word, or mark, of a normalised text; "" without one."""
    found = _WORD.search(text)
    return "" if found is None else found[0]


_SCRIPTS = {"CJK": "Han", "HANGUL": "Hangul", "HIRAGANA": "Kana", "KATAKANA": "Kana"}
"""Names of scripts where the first word of the names of characters is another."""

_LETTERS = 400
"""Characters of a text by which its script is told."""


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> str:
    """Return the script of a letter, "" for what is none."""
    if not character.isalpha():
        return ""
    first = unicodedata.name(character, "").partition(" ")[0]
    return _SCRIPTS.get(first, first.capitalize() or "unknown")


def script_of(text: str) -> str:
    """Return the script of most letters at the beginning of a text; "none" without letters.

    What is counted is the first word of the Unicode names of its letters.
    """
    begin = text[:_LETTERS]
    if begin.isascii():
        return "Latin" if any(map(str.isalpha, begin)) else "none"
    counts = Counter(filter(None, map(_script, begin)))
    # One sign of Han or Kana says as much as a short word of letters.
    for name in ("Han", "Kana", "Hangul"):
        counts[name] *= 2
    return counts.most_common(1)[0][0] if +counts else "none"


_FUNCTION_WORDS = {
    "English": "the and of to is that it for you with are this not have be as what on can your",
    "German": "der die und das ist nicht ich ein zu sie es den mit auf eine für dass auch sind von",
    "French": "le la les et des est une que pas vous pour dans qui sur avec ce je du au sont",
    "Spanish": "el los las que una es por con para del como se su lo más pero está muy sus al",
    "Italian": "il che di è una per non sono con gli della questo anche del come più nel alla si lo",
    "Portuguese": "o os as que um uma não é para com por do da em se como mais dos você isso",
    "Dutch": "het een van en de niet dat is op te zijn voor met ik je aan ook maar wat om",
    "Polish": "nie się jest że na jak co ale czy po od dla przez są być tego było tak już może",
    "Turkish": "bir ve bu için ile de da çok ne gibi daha olarak var ben sen mi ama en değil kadar",
    "Swedish": "och att det är en som på av för inte jag med den ett har du till om vi kan",
    "Indonesian": "yang dan di untuk dengan ini itu tidak dari pada adalah anda saya akan dalam ke bisa atau oleh juga",
    "Vietnamese": "và của là có không cho một được trong người này với các bạn để những khi tôi thì ở",
}
"""The commonest function words of languages in Latin letters."""

_LANGUAGES: dict[str, list[str]] = {}
"""Function word → languages that have it."""
for _name, _said in _FUNCTION_WORDS.items():
    for _word in _said.split():
        _LANGUAGES.setdefault(_word, []).append(_name)

_LETTER_RUN = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> str:
    """Return the language of a normalised text in Latin letters by its function words, "unknown" where few or even.

    A guess: what it knows are a dozen languages, and it wants three function words, and more of one language.
    """
    hits = Counter(
        name for word in _LETTER_RUN.findall(text[: 2 * _LETTERS]) if word in _LANGUAGES for name in _LANGUAGES[word]
    )
    (name, most), (_, second) = [*hits.most_common(2), ("", 0), ("", 0)][:2]
    return name if most >= 3 and most > second else "unknown"
