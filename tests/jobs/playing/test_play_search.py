"""`tokenq play --search`: what real models choose, in one command and from Python."""

import pytest
from jobs.playing.test_play import SHORT, place, words

import tokenq
from tokenq.cli.main import main
from tokenq.errors import UserError

pytestmark = pytest.mark.integration

__all__ = ["place"]


def first_rewards(found):
    """Return the sum of implicit rewards of the first action of each episode."""
    return [sum(one.turns[0].implicit) for one in found]


def test_the_best_of_n_has_the_highest_implicit_reward(place):
    """What is written without a search is its first candidate, and more candidates hold fewer ones."""
    both = {"policy": str(place / "policy"), "reference": str(place / "reference")} | SHORT
    plain, three, eight = (
        first_rewards(tokenq.play(**both, **more))
        for more in ({}, {"search": "best_of_n", "candidates": 3}, {"search": "best_of_n", "candidates": 8})
    )
    assert all(a <= b + 1e-6 and b <= c + 1e-6 for a, b, c in zip(plain, three, eight, strict=True))
    assert sum(plain) < sum(eight)


def test_returns_lead_where_there_is_no_reference(place, tmp_path):
    plain = tokenq.play(policy=str(place / "policy"), **SHORT)
    path = tmp_path / "tree.jsonl"
    assert main(words(place, path, search="tree", candidates=6, simulations=6, environment_options={"map": "S.G"})) == 0
    found = tokenq.play(policy=str(place / "policy"), search="tree", candidates=6, simulations=6, **SHORT)
    assert all(after.return_ >= before.return_ for after, before in zip(found, plain, strict=True))
    assert next(iter(found)).sampling["search"]["value"] == "return"
    assert path.read_text().count('"method": "tree"') == 5


def test_what_does_not_go_together(place):
    for more, said in (
        ({"temperature": 0.0, "search": "tree"}, "proposes one action"),
        ({"when_full": "cut", "search": "tree"}, "when-full cut"),
        ({"search_value": "implicit", "search": "tree"}, "needs a reference"),
    ):
        with pytest.raises(UserError, match=said):
            tokenq.play(policy=str(place / "policy"), **(SHORT | more))
