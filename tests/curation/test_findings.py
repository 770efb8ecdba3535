"""What an audit finds, on rows in which the truth is known."""

import json
import random
from contextlib import closing

import numpy as np
import pytest

import tokenq
from bench.planted_faults import PLANTS, clean_rows, compared, edited, planted, text
from tokenq.curation.audit.likeness import Likenesses, jaccard, word_pairs
from tokenq.curation.audit.texts import language_of, normalised, script_of, words
from tokenq.curation.audit.truncation import find_limit, is_cut
from tokenq.errors import UserError


def pair(prompt, chosen, rejected, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def found(rows, kind, **settings):
    return [list(one.rows) for one in tokenq.audit(rows, **settings).findings if one.kind == kind]


@pytest.mark.integration
def test_planted_faults_are_found_and_nothing_else():
    data = planted(clean_rows(500, 7), 6, 7)
    result = compared(data, tokenq.audit(data.rows, eval_data=data.held_out).findings)
    assert set(result) == {*PLANTS, "shared_prompt"}
    for name in ("duplicate", "contradiction", "cycle", "identical", "empty", "shared_prompt"):
        assert result[name].hits == [1] * 6, name
        assert all(result[name].right), name
    assert sum(result["truncated"].hits) >= 4  # one word behind a sentence may be a name
    assert all(result["truncated"].right)
    near = {name: np.mean(one.hits) for name, one in result.items() if name.startswith("near_duplicate")}
    assert min(near[f"near_duplicate {share:g}"] for share in (0.02, 0.05, 0.1)) == 1
    assert near["near_duplicate 0.3"] == 0
    assert all(result["near_duplicate 0.02"].right)


def test_rows_without_faults_have_none():
    result = tokenq.audit(clean_rows(300, 3))
    assert result.counts == {}
    assert result.numbers["pairs"] == 300
    assert len(result.shortcuts) == 4
    assert all(abs(one.accuracy.value - 0.5) < 0.09 for one in result.shortcuts)  # three standard errors of 300 pairs


@pytest.mark.integration
def test_banded_signatures_find_what_comparing_all_finds():
    draw = random.Random(0)
    rows = [[text(draw, 2), text(draw, 3)] for _ in range(60)]
    rows += [[edited(draw, said, draw.choice((0.02, 0.08, 0.2))) for said in row] for row in rows for _ in range(2)]
    asked, said = ([words(normalised(row[side])) for row in rows] for side in (0, 1))
    with closing(Likenesses()) as likenesses:
        for prompt, response in zip(asked, said, strict=True):
            likenesses.add(prompt, [(0, response)])
        found = {(one.first, one.second): one.likeness for one in likenesses.pairs(0.6)}
    both = [(i, j) for i in range(len(rows)) for j in range(i)]
    expected = {}
    for i, j in both:
        sets = [[set(zip([None, *part[n]], [*part[n], None], strict=True)) for n in (i, j)] for part in (asked, said)]
        likeness = min(len(a & b) / len(a | b) for a, b in sets)
        if likeness >= 0.6:
            expected[j, i] = likeness
    assert len(expected) > 60
    assert found.items() <= {places: pytest.approx(value) for places, value in expected.items()}.items()
    assert len(found) >= 0.95 * len(expected)


def test_the_jaccard_index_is_of_word_pairs_and_salts_part():
    one, other = words("a b c d"), words("a b c e")
    assert jaccard(word_pairs(one), word_pairs(other)) == pytest.approx(3 / 7)  # ^a ab bc of ^a ab bc cd d$ ce e$
    assert jaccard(word_pairs(one, 1), word_pairs(one, 2)) == 0
    assert len(word_pairs(words(""))) == 1


def test_contradictions_need_no_equal_letters_and_name_both_rows():
    rows = [pair("Q?", "Yes, it is.", "No."), pair("P?", "a", "b"), pair(" q?", "no.", "yes,  it IS.")]
    assert found(rows, "contradiction") == [[0, 2]]
    assert found(rows[:2], "contradiction") == []


def test_a_label_that_is_given_both_ways_is_a_contradiction():
    rows = [{"prompt": "Q?", "completion": "Yes", "label": label} for label in (True, False)]
    rows.append({"prompt": "P?", "completion": "Yes", "label": False})
    assert found(rows, "contradiction") == [[0, 1]]


@pytest.mark.parametrize(
    ("edges", "rows"),
    [
        (["ab", "bc", "ca"], [[0, 1, 2]]),
        (["ab", "bc", "ac"], []),
        (["ab", "ba"], []),  # a contradiction
        (["ab", "ba", "bc", "cb"], []),  # two of them: a tree whose edges go both ways
        (["ab", "ba", "bc", "ca"], [[0, 1, 2, 3]]),  # a over b over c over a, through one of them
        (["ab", "bc", "cd", "da", "xy"], [[0, 1, 2, 3]]),
        (["ab", "bc", "ca", "de", "ef", "fd"], [[0, 1, 2], [3, 4, 5]]),
    ],
)
def test_cycles(edges, rows):
    assert found([pair("Q?", chosen, rejected) for chosen, rejected in edges], "cycle") == rows


def test_circles_of_other_prompts_do_not_meet():
    rows = [pair("Q?", "a", "b"), pair("Q?", "b", "c"), pair("P?", "c", "a")]
    assert found(rows, "cycle") == []


def test_rated_responses_in_rows_of_their_own_contradict_pairs_of_another_block():
    def rated(prompt, response, score):
        return {"prompt": prompt, "response": response, "score": score}

    rows = [rated("Q?", "a", 3), rated("Q?", "b", 1), rated("P?", "x", 1), rated("Q?", "b", 2), rated("Q?", "a", 0)]
    result = tokenq.audit(rows)
    assert [list(one.rows) for one in result.findings if one.kind == "contradiction"] == [[0, 1, 3, 4]]
    assert result.numbers["pairs"] == 2


def test_copies_within_and_across_splits():
    rows = [pair("Q?", "a", "b"), pair("P?", "a", "b"), pair("Q?", "a", "b", id=7)]
    result = tokenq.audit(rows, eval_data=[pair("P?", "a", "b"), pair("Q?", "x", "y")])
    copies = [(one.rows, one.drop) for one in result.findings if one.kind == "duplicate"]
    assert copies == [((0, 2), (2,)), ((1, 3), (1,))]
    shared = [(one.rows, one.drop) for one in result.findings if one.kind == "shared_prompt"]
    assert shared == [((0, 2, 4), (0, 2)), ((1, 3), (1,))]


def test_a_prompt_with_many_responses_is_no_near_duplicate():
    prompt = " ".join(f"word{n}" for n in range(60))
    rows = [pair(prompt, f"answer {n} is {n * n} or so", f"never {n} nor {n + 1}") for n in range(20)]
    assert found(rows, "near_duplicate") == []


def test_ids_that_stand_twice():
    rows = [pair("Q?", "a", "b", id="x"), pair("P?", "a", "b", id="x"), pair("R?", "a", "b", id="y")]
    assert found(rows, "repeated_id") == [[0, 1]]
    assert found([rows[0], rows[0]], "repeated_id") == []


def test_demonstrations_have_copies_and_no_preferences():
    rows = [{"prompt": f"{n % 3}?", "completion": "It is so."} for n in range(4)]
    result = tokenq.audit(rows)
    assert [list(one.rows) for one in result.findings] == [[0, 3]]
    assert result.numbers["pairs"] == 0
    assert result.shortcuts == []


def test_one_pair_is_audited():
    result = tokenq.audit([pair("Q?", "Yes.", "No.")])
    assert (result.counts, result.numbers["pairs"], result.shortcuts) == ({}, 1, [])


@pytest.mark.integration
def test_shortcuts_are_found_and_told():
    rng = np.random.default_rng(0)
    rows = []
    for n in range(400):
        short, long = (" ".join(["so"] * int(count)) + "." for count in (rng.integers(3, 9), rng.integers(10, 20)))
        right = rng.random() < 0.8
        rows.append(pair(f"{n}?", *((long, short) if right else (short, long))))
    result = tokenq.audit(rows)
    told = {one.name: one for one in result.shortcuts}
    assert told["length"].accuracy.value == pytest.approx(result.numbers["chosen_longer"])
    assert 0.75 < told["length"].accuracy.low < 0.8 < told["length"].accuracy.high < 0.85
    assert told["first_token"].accuracy.value == 0.5  # all begin alike: ties
    assert [one.kind for one in result.findings if one.kind.endswith("bias")] == ["length_bias"]
    assert found(rows, "length_bias", bias_above=0.9) == []


def test_the_first_word_and_the_bag_of_words_name_their_words():
    rows = [pair(f"{n}?", f"Sorry, {n} it is.", f"Sure, {n} it was.") for n in range(60)]
    told = {one.name: one for one in tokenq.audit(rows).shortcuts}
    assert told["first_token"].accuracy.value == told["bag_of_words"].accuracy.value == 1
    assert dict(told["first_token"].telling).keys() == {"sorry", "sure"}
    assert dict(told["first_token"].telling)["sorry"] > 0


@pytest.mark.parametrize(
    ("said", "cut"),
    [
        ("It is so. And then it was never seen again by", True),
        ("It is so. And then it was never seen again by anyone.", False),
        ("Paris", False),
        ("The sum of both", False),
        ("It is so:\n- one\n- two", False),
        ("Here you are.\n```\nprint(1)\n", True),
        ("Here you are.\n```\nprint(1)\n```", False),
        ("这是对的。然后我们", False),  # one run of letters is no long line
        ("First this. Then,", True),
        ("It is so. Thanks", False),
        ("", False),
    ],
)
def test_responses_that_were_cut(said, cut):
    assert is_cut(said) is cut


def test_responses_that_pile_up_at_a_length_were_cut():
    rng = np.random.default_rng(1)
    lengths = rng.lognormal(5, 0.6, 2000).astype(int)
    assert find_limit(lengths) is None
    cut = find_limit(np.minimum(lengths, 256))
    assert cut.length == 256
    assert cut.count == (lengths >= 256).sum()


def test_scripts_and_languages():
    assert [script_of(said) for said in ("It is", "это так", "これは本です", "是这样", "123", "هذا")] == [
        *("Latin", "Cyrillic", "Kana", "Han", "none", "Arabic"),
    ]
    said = [
        "this is the one that you have",
        "das ist nicht der eine und die",
        "c'est le chat et les chiens",
        "lorem ipsum",
    ]
    assert [language_of(one) for one in said] == ["English", "German", "French", "unknown"]


def test_places_are_those_of_messages(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(pair("Q?", "a", "b")), "", json.dumps(pair("Q?", "x", "X ")), "{broken", json.dumps({"a": 1})]
    path.write_text("\n".join(lines))
    result = tokenq.audit(path)
    places = [(one.kind, one.rows, [result.where[row] for row in one.rows]) for one in result.findings]
    assert places == [
        ("unusable", (2,), [f"{path}, row 4"]),
        ("unusable", (3,), [f"{path}, row 5"]),
        ("identical", (1,), [f"{path}, row 3"]),
    ]
    with pytest.raises(UserError, match=r"rows.jsonl, row 4: broken JSON.*2 of 4 rows"):
        tokenq.audit(path, bad_rows="error")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"fail_on": ["duplicat"]}, "Unknown kind of finding 'duplicat'"),
        ({"folds": 3}, "--folds trains policies, and nothing says of what"),
        ({"folds": 1, "model": "m", "output": "a.json"}, "--folds is 1"),
        ({"folds": 2, "model": "m"}, "no place for it"),
        ({"model": "m"}, "--model is for trainings"),
        ({"folds": 2, "model": "m", "run": "r"}, "both given"),
        ({"similarity": 0.2}, "--similarity is 0.2"),
    ],
)
def test_settings_that_cannot_be_meant(settings, says):
    with pytest.raises(UserError, match=says):
        tokenq.audit([pair("Q?", "a", "b")], **settings)
