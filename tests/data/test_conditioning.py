"""The control string: where it stands, what its levels may be, and that a policy's tokenizer keeps what it says."""

import pytest
from tiny import tiny_tokenizer
from transformers import AutoTokenizer

from tokenq.data.bad_rows import BadRowsError
from tokenq.data.conditioning.asked import UNRATED, asked_levels, conditioned_examples, conditioned_prompts
from tokenq.data.conditioning.control import (
    Control,
    checked_control,
    control_of,
    marked,
    with_control,
)
from tokenq.data.prompts import encode_prompts, load_prompts
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.records.examples import Example, Message, Response

CONTROL = Control(("helpfulness", "verbosity"))
LEVELS = {"helpfulness": 4, "verbosity": 1}
SAID = "[helpfulness: 4, verbosity: 1]"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Name a prime.", f"Name a prime. {SAID}"),
        ("\n\nHuman: Hi\n\nAssistant:", f"\n\nHuman: Hi\n\nAssistant: {SAID}"),
        ("Q: 2?\nA: ", f"Q: 2?\nA: {SAID} "),
        ("Answer:\n", f"Answer: {SAID}\n"),
        ("", SAID),
    ],
)
def test_in_a_text_it_stands_before_the_blanks_at_the_end(text, want):
    assert with_control(text, LEVELS) == want
    assert with_control(text, {}) == text


def test_in_a_conversation_it_ends_the_last_turn_of_the_user():
    turns = (Message("system", "S"), Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "And?"))
    found = with_control((*turns, Message("tool", "7")), LEVELS)
    assert [turn.content for turn in found] == ["S", "Hi", "Ho", f"And?\n\n{SAID}", "7"]
    with pytest.raises(BadRow, match="no user's turn"):
        with_control((Message("system", "S"),), LEVELS)


def test_levels_are_the_nearest_whole_numbers_in_the_order_of_the_control():
    assert list(CONTROL.rated({"verbosity": 0.5, "helpfulness": 3.4, "other": 9}, {}).items()) == [
        ("helpfulness", 3),
        ("verbosity", 1),
    ]
    assert CONTROL.rated({"verbosity": 2}, {"helpfulness": 4}) == {"helpfulness": 4, "verbosity": 2}
    assert CONTROL.rated({"verbosity": 2}, {}) is None
    assert CONTROL.rated({"verbosity": 2, "helpfulness": float("nan")}, {}) is None


@pytest.mark.parametrize("value", [5, -1, "4", True, float("inf")])
def test_a_rating_off_the_scale_is_a_bad_row(value):
    with pytest.raises(BadRow, match=r"helpfulness is .*, and its scale is 0 to 4"):
        CONTROL.rated({"helpfulness": value, "verbosity": 1}, {})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"helpfulnes": 4}, r"Unknown attribute in --condition 'helpfulnes'.\n  Did you mean 'helpfulness'\?"),
        ({"helpfulness": 5}, "--condition helpfulness=5: levels are whole numbers from 0 to 4"),
        ({"helpfulness": 1.5}, "whole numbers from 0 to 4"),
        ({"helpfulness": "4"}, "whole numbers from 0 to 4"),
        ({"helpfulness": float("nan")}, "whole numbers from 0 to 4"),
    ],
)
def test_what_cannot_be_asked_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        CONTROL.asked(given)
    assert CONTROL.asked({"verbosity": 1.0, "helpfulness": 4}) == LEVELS


@pytest.mark.parametrize(
    ("names", "scale", "said"),
    [
        (["a", "a"], [], "twice"),
        (["a:b"], [], r"none of \[ \] : , ="),
        ([" a"], [], "none of"),
        (["a"], [1], "no scale"),
        (["a"], [4, 0], "no scale"),
        (["a"], [0, 0.5], "no scale"),
        (["a"], [0, 1000], "no scale"),
        ([], [0, 4], "without --condition-on"),
    ],
)
def test_what_cannot_be_conditioned_on_is_refused(names, scale, said):
    with pytest.raises(UserError, match=said):
        checked_control(names, scale)
    assert checked_control([], []) is None
    assert checked_control(["a"], [1, 5]) == Control(("a",), 1, 5)
    assert checked_control(["a"], []).levels == 5


def test_a_tokenizer_keeps_what_its_policy_can_be_asked_for(tmp_path):
    tokenizer = marked(tiny_tokenizer("bytes"), Control(("b", "a"), 1, 5))
    tokenizer.save_pretrained(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert control_of(found) == Control(("b", "a"), 1, 5)
    assert asked_levels(found, {"a": 2}, "P") == (Control(("b", "a"), 1, 5), {"a": 2})
    marked(found, None).save_pretrained(tmp_path)
    bare = AutoTokenizer.from_pretrained(tmp_path)
    assert control_of(bare) is None
    assert asked_levels(bare, {}, "P") == (None, {})
    with pytest.raises(UserError, match="--condition a=… is given, and P was not trained to be asked for it"):
        asked_levels(bare, {"a": 2}, "P")


def examples():
    """Three rows: two rated responses, one that lacks a rating, and a pair without any."""
    rated = [Response(" x", ratings=dict(zip(CONTROL.attributes, some, strict=True))) for some in ((4, 1), (0, 3))]
    sides = (Response(" y", role="chosen"), Response(" z", role="rejected"))
    return [
        Example("P", tuple(rated), False, "row 1"),
        Example("Q", (Response(" u", ratings={"helpfulness": 2}),), False, "row 2"),
        Example("R", sides, True, "row 3", margin=1.0),
    ]


def test_responses_stand_behind_their_own_ratings():
    found, lost = conditioned_examples(examples(), CONTROL, {}, "error")
    assert [(one.prompt, one.where, len(one.responses)) for one in found] == [
        (f"P {SAID}", "row 1, response 1", 1),
        ("P [helpfulness: 0, verbosity: 3]", "row 1, response 2", 1),
    ]
    assert lost == {UNRATED: 3}
    found, lost = conditioned_examples(examples(), CONTROL, {"verbosity": 0}, "error")
    assert [one.prompt for one in found][-1] == "Q [helpfulness: 2, verbosity: 0]"
    assert lost == {UNRATED: 2}


def test_where_all_levels_are_fixed_pairs_remain_pairs():
    found, lost = conditioned_examples(examples(), CONTROL, LEVELS, "error")
    assert [(one.prompt, one.is_pair, len(one.responses)) for one in found] == [
        (f"P {SAID}", False, 2),
        (f"Q {SAID}", False, 1),
        (f"R {SAID}", True, 2),
    ]
    assert not lost
    assert conditioned_examples(examples(), None, {}, "error") == (examples(), {})


def test_bad_rows_are_named_or_left_out_and_something_must_be_left():
    bad = Example("B", (Response(" b", ratings={"helpfulness": 7, "verbosity": 1}),), False, "row 0")
    with pytest.raises(BadRowsError, match="row 0: helpfulness is 7, and its scale is 0 to 4"):
        conditioned_examples([bad, *examples()], CONTROL, {}, "error")
    found, lost = conditioned_examples([bad, *examples()], CONTROL, {}, "drop")
    assert (len(found), lost["a rating outside its scale"]) == (2, 1)
    with pytest.raises(UserError, match=r"No response is rated on all of helpfulness, verbosity(.|\n)*--condition"):
        conditioned_examples(examples()[1:], CONTROL, {}, "error")


def test_prompts_say_their_own_levels_or_are_told():
    given = [{"prompt": "P", "helpfulness": 4, "verbosity": 1}, {"prompt": "Q", "ratings": {"helpfulness": 0}}]
    found = conditioned_prompts(load_prompts(given), CONTROL, {"verbosity": 1}, "error").prompts
    assert [one.condition for one in found] == [LEVELS, {"helpfulness": 0, "verbosity": 1}]
    assert [one.text for one in found] == ["P", "Q"]
    tokenizer = tiny_tokenizer("bytes")
    first, _ = encode_prompts(found, tokenizer)
    assert tokenizer.decode(first, skip_special_tokens=True) == f"P {SAID}"


def test_a_prompt_without_a_level_is_a_bad_row_with_what_to_do():
    given = [{"prompt": "P", "helpfulness": 4, "verbose": 1}, {"prompt": "Q", "helpfulness": 4, "verbosity": 1}]
    with pytest.raises(BadRowsError, match=r"which verbosity is asked for(.|\n)*verbosity=4(.|\n)*column 'verbose'"):
        conditioned_prompts(load_prompts(given), CONTROL, {}, "error")
    found = conditioned_prompts(load_prompts(given), CONTROL, {}, "drop")
    assert ([one.text for one in found.prompts], dict(found.dropped)) == (["Q"], {"a level is missing": 1})
    with pytest.raises(BadRowsError, match="row 1"):
        conditioned_prompts(load_prompts(given[:1]), CONTROL, {}, "drop")
