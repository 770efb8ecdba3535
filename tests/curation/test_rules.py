"""Rules of selection: what each keeps of margins that were made up, ties, and evidence that says nothing."""

import numpy as np
import pytest

from tokenq.curation.selection.rules import MANY_FLIPS, RULES, Evidence, best, refuse_useless
from tokenq.errors import UserError

MARGINS = np.array([3.0, -4.0, 0.5, 1.0, -0.25])
REFERENCES = np.array([0.1, 7.0, -6.0, 0.0, 2.0])
FITTED = np.array([-1.0, 2.0, 0.5, -3.0, 4.0])
FIRSTS = np.array([0, 1, 0, 3, 1])
EVIDENCE = Evidence(5, MARGINS, REFERENCES, FITTED, FIRSTS)

KEPT = {
    "large_margin": [0, 3],
    "small_margin": [2, 4],
    "large_reference_margin": [1, 4],
    "small_reference_margin": [0, 3],
    "easy": [1, 4],
}


@pytest.mark.parametrize("rule", KEPT)
def test_what_a_rule_keeps(rule):
    assert best(RULES[rule].worth(EVIDENCE).numbers, 2, seed=0).tolist() == KEPT[rule]


def test_agreement_keeps_any_of_those_that_policies_agree_with():
    worth = RULES["agreement"].worth(EVIDENCE)
    assert worth.numbers.tolist() == [0, 1, 1, 0, 1]
    assert worth.found == {"share in agreement": 0.6}
    drawn = {tuple(best(worth.numbers, 1, seed)) for seed in range(40)}
    assert drawn == {(1,), (2,), (4,)}


def test_of_duplicates_only_the_first_is_ever_kept():
    worth = RULES["deduplicated"].worth(EVIDENCE)
    assert worth.found == {"duplicates": 2}
    assert best(worth.numbers, 5, seed=1).tolist() == [0, 1, 3]


def test_equal_ones_are_drawn_by_the_seed_and_by_nothing_else():
    worth = RULES["random"].worth(EVIDENCE).numbers
    assert best(worth, 3, seed=7).tolist() == best(worth, 3, seed=7).tolist()
    counts = np.zeros(5)
    for seed in range(400):
        counts[best(worth, 2, seed)] += 1
    assert (np.abs(counts / 400 - 0.4) < 0.1).all()  # sd 0.024
    assert best(np.array([1.0, 1.0, 2.0]), 1, seed=3).tolist() == [2]


def flipped(rate, count=6000, seed=0):
    """Margins of policies that are right with probability σ(2|m|), and labels of which a share is turned."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(0, 2, count))
    right = rng.random(count) < 1 / (1 + np.exp(-2 * size))
    turned = rng.random(count) < rate
    return np.where(right ^ turned, size, -size)


@pytest.mark.parametrize(
    ("rate", "side"), [(0.0, "agreement"), (0.25, "agreement"), (0.35, "agreement"), (0.47, "large")]
)
def test_the_side_follows_the_share_of_wrong_labels(rate, side):
    margins = flipped(rate)
    worth = RULES["flip_rate"].worth(Evidence(len(margins), fitted=margins))
    assert worth.found["side"] == side
    assert (worth.found["flip rate, at most"] >= MANY_FLIPS) == (side == "large")
    assert worth.found["flip rate, at least"] - 0.02 <= rate <= worth.found["flip rate, at most"] + 0.02
    kept = margins[best(worth.numbers, 1000, 0)]
    if side == "large":
        assert kept.min() == np.sort(margins)[-1000]
    else:
        assert kept.min() > 0
        assert kept.mean() == pytest.approx(margins[margins > 0].mean(), abs=0.1)  # drawn, of a deviation of 1.2


def test_where_little_is_known_large_margins_are_taken():
    """Of three pairs in agreement nobody can tell that not half of the labels are wrong."""
    worth = RULES["flip_rate"].worth(Evidence(3, fitted=np.array([1.0, 2.0, -0.1])))
    assert (worth.found["side"], worth.numbers.tolist()) == ("large", [1.0, 2.0, -0.1])


def test_flips_of_margins_that_say_nothing_are_not_made_up():
    margins = np.array([0.5, -0.5] * 4)
    with pytest.raises(UserError, match="say nothing about how many labels are wrong"):
        RULES["flip_rate"].worth(Evidence(8, fitted=margins))


@pytest.mark.parametrize("name", ["margins", "references", "fitted"])
def test_margins_that_are_all_the_same_are_refused(name):
    with pytest.raises(UserError, match="are all 0: a rule has nothing to go by"):
        refuse_useless(Evidence(3, **{name: np.zeros(3)}))
    with pytest.raises(UserError, match="pair 1 has nan"):
        refuse_useless(Evidence(3, **{name: np.array([0.0, np.nan, 1.0])}))


def test_every_rule_names_evidence_that_there_is():
    for rule in RULES.values():
        assert set(rule.needs) <= set(vars(EVIDENCE))
        assert (
            len(rule.worth(EVIDENCE if rule is not RULES["flip_rate"] else Evidence(60, fitted=flipped(0.3, 60)))) == 2
        )
