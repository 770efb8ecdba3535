"""Entities: rules on sentences marked by hand, spaCy where it is not, functions, and what is counted once."""

import re
import sys
from pathlib import Path

import pytest

from tokenq.density.backends import checked, mentions, named
from tokenq.density.rules import entities, has_capitals
from tokenq.errors import UserError

MARKED = Path(__file__).with_name("marked_sentences.txt")


def marked():
    """Return (sentence, its entities by hand) of the file; what is to be found stands in square brackets."""
    found = []
    for line in MARKED.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            text, spans = "", []
            for part in re.split(r"(\[[^\]]*\])", line):
                if part.startswith("["):
                    part = part[1:-1]
                    spans.append((len(text), len(text) + len(part)))
                text += part
            found.append((text, spans))
    return found


def overlaps(one, others):
    return any(one[0] < end and start < one[1] for start, end in others)


def test_rules_on_a_hundred_marked_sentences():
    """145 of 153 are found, whole or in part, and 145 of 147 finds are ones: recall .948, precision .986."""
    sentences = marked()
    assert len(sentences) == 100
    known = [(own, entities(text)) for text, own in sentences]
    by_hand = [overlaps(one, found) for own, found in known for one in own]
    by_rules = [overlaps(one, own) for own, found in known for one in found]
    exact = sum(len(set(own) & set(found)) for own, found in known)
    assert (sum(by_hand), len(by_hand), exact) == (145, 153, 132)
    assert len(by_rules) - sum(by_rules) == 2


def said(text):
    return [text[start:end] for start, end in entities(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "The Bank of England raised rates to 5.25 percent on Thursday.",
            ["Bank of England", "5.25 percent", "Thursday"],
        ),
        ("Apple's CEO Tim Cook met President Emmanuel Macron.", ["Apple", "Tim Cook", "Emmanuel Macron"]),
        ("dogs bark, and nothing else happens.", []),
        ("", []),
        ("lyon lost 3 ships in 1999", ["3", "1999"]),
        ("腾讯公司2023年3月发布《王者荣耀》。", ["腾讯公司", "2023年3月", "王者荣耀"]),
    ],
)
def test_rules_by_hand(text, expected):
    assert said(text) == expected


def test_texts_without_capitals_are_told():
    assert not has_capitals("Nothing here. but dots.")
    assert has_capitals("It rained in Lyon.")


def test_an_entity_counts_once_whatever_its_capitals():
    found = mentions("Lyon won. LYON's fans sang in Lyon.", named("rules"))
    assert found.keys == (("lyon",),)
    assert found.names == ("Lyon",)


def test_spacy_is_asked_for_where_it_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match="need spaCy") as refused:
        named("spacy:en_core_web_sm")
    assert "pip install 'tokenq[spacy]'" in refused.value.hint


def test_a_model_of_spacy_is_called_with_the_text(monkeypatch):
    class Ent:
        start_char, end_char = 0, 4

    class Spacy:
        @staticmethod
        def load(model):
            if model != "known":
                raise OSError("[E050] Can't find model")
            return lambda text: type("Doc", (), {"ents": [Ent]})

    monkeypatch.setitem(sys.modules, "spacy", Spacy)
    assert named("spacy:known")("Lyon.") == [(0, 4)]
    for name, hint in {"other": "python -m spacy download other", "./other": "Name a folder"}.items():
        with pytest.raises(UserError, match=f"spaCy has no model '{name}'") as refused:
            named(f"spacy:{name}")
        assert refused.value.hint.startswith(hint)


@pytest.mark.parametrize("name", ["nltk", "spacy:", "rule"])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="nothing of this name finds entities"):
        named(name)


def test_a_function_is_held_to_its_word():
    with pytest.raises(UserError, match="gave \\(0, 9\\) for a text of 3 characters"):
        checked(lambda text: [(0, 9)], "f.py:f")("abc")
    with pytest.raises(UserError, match="failed on 'abc'"):
        checked(lambda text: [1], "f.py:f")("abc")
