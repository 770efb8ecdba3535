"""Density, what a step adds and drops, fusion and lead: by hand. And texts in tokens and sentences."""

import re
from pathlib import Path

import pytest

from tokenq.density.measures import density, measured, specific
from tokenq.density.prompt import CHAIN, Template, read_template
from tokenq.density.text import close, holds, key, sentences, tokens, words
from tokenq.errors import UserError


def capitals(text):
    return [match.span() for match in re.finditer(r"[A-Z][a-z]+", text)]


def test_tokens_are_words_and_marks():
    assert tokens("It's 1,000 km (co-op).") == ["It's", "1,000", "km", "(", "co-op", ")", "."]
    assert words("It's 1,000 km.") == ["It's", "1,000", "km"]
    assert tokens("東京は2024年") == ["東", "京", "は", "2024", "年"]
    assert tokens("") == []


def test_sentences_do_not_end_at_abbreviations():
    text = "Dr. Roth of the U.S. left. Why? 他走了。她来了。"
    assert [text[start:end] for start, end in sentences(text)] == [
        "Dr. Roth of the U.S. left.", "Why?", "他走了。", "她来了。"
    ]  # fmt: skip


def test_of_one_length():
    """20 and 21 tokens differ by 1/20 of the shorter one, 19 and 21 by more."""
    assert close("a " * 20, "a " * 21, 0.05)
    assert not close("a " * 19, "a " * 21, 0.05)
    assert close("", "", 0.0)


def test_words_side_by_side():
    assert holds(key("The Bank of England's rates"), key("bank of england"))
    assert not holds(key("The Bank in England"), key("bank of england"))
    assert not holds(key("a"), ())


def test_a_chain_by_hand():
    """Two entities in 4 tokens, then three in 6, of which one is new; then Lyon and Ann are gone."""
    first, second, third = measured(["in Lyon with Ann", "in Lyon with Ann on Monday", "it was Monday"], capitals)
    assert [one.density for one in (first, second, third)] == [2 / 4, 3 / 6, 1 / 3]
    assert (first.added, second.added, third.added) == (("Lyon", "Ann"), ("Monday",), ())
    assert (first.dropped, second.dropped, third.dropped) == ((), (), ("Lyon", "Ann"))
    assert first.faithful is first.fusion is first.lead is None


def test_an_entity_that_is_not_found_again_is_not_dropped():
    found = measured(["Ann left", "ann left"], capitals)
    assert found[1].dropped == ()


def test_a_text_without_tokens_or_entities():
    assert [one.density for one in measured(["", "rain"], capitals)] == [0.0, 0.0]
    assert density("Lyon rain", capitals) == 0.5


def test_fusion_lead_and_faith():
    """Words in common of five: with the first sentence 3, F1 6/8; with the third too 5, F1 10/12; with all 10/16."""
    article = "Ann saw Lyon. Nothing came of it. She came in May."
    (one,) = measured(["Ann saw Lyon in May."], capitals, article)
    assert one.fusion == 2
    assert one.lead == 0.5  # places 0 and 2 of 0 to 2
    assert one.faithful == 1.0
    (other,) = measured(["Ann saw Rome."], capitals, article)
    assert (other.faithful, other.fusion, other.lead) == (0.5, 1.0, 0.0)


def test_specific_entities_have_five_words_at_most():
    assert specific("the Old Man and Sea")
    assert not specific("the Old Man and the Sea")
    assert not specific("…")


def test_the_prompt_of_the_recipes_is_the_one_that_is_asked():
    path = Path(__file__).parents[2] / "recipes" / "prompts" / "chain_of_density.txt"
    assert read_template(path).text == CHAIN


def test_braces_of_an_article_are_no_places():
    asked = Template("{article} in {words}").filled(article="{words} {x}", words=3)
    assert asked == "{words} {x} in 3"


@pytest.mark.parametrize(
    ("text", "says"), [("Say it.", "no place for the article"), ("{article} {wrods}", "words")], ids=["none", "unknown"]
)
def test_a_template_without_its_places(text, says, tmp_path):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(UserError, match=says):
        read_template(tmp_path / "t.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_template(tmp_path / "none.txt")
