"""The table of online methods: every row resolves, and what a row promises holds for its draws."""

import pytest

from tokenq.errors import UserError
from tokenq.jobs.evaluation.judges import JUDGES
from tokenq.jobs.rollout.settings import filled_in, loss_of, refuse_loss
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.credits import CREDITS
from tokenq.rollout.methods import METHODS, compared, find_method, refuse_uncomparable
from tokenq.rollout.pairing import PAIRINGS

GIVEN = {"model": "m", "prompts": ["p"], "output": "o", "answer": "last_number", "gold": "answer", "reference": "r"}


def config(**changes):
    return OnlineConfig(**GIVEN | changes)


PAIRED = [name for name, row in METHODS.items() if row.learns == "pairs"]
ACTED = {"environment": "gridworld", "prompts": [], "answer": None, "gold": None}
NEEDED = {"rto": {"credit_run": "dpo"}, "eto": {**ACTED, "data": ["e.jsonl"]}, "branches": ACTED}
NEEDED |= {"steerlm": {"reference": "sft", "reward_model": "rm"}}


@pytest.mark.parametrize("name", METHODS)
def test_a_row_resolves(name):
    asked = config(method=name, **NEEDED.get(name, {}))
    asked.check()
    found, row = filled_in(asked)
    found.check()
    loss = loss_of(found, row)
    refuse_loss(found, loss, row)
    assert (found.pairs in PAIRINGS) == (name in PAIRED)
    assert (found.credit in CREDITS) == (row.learns == "advantages")
    assert found.judge in JUDGES
    assert filled_in(found) == (found, row)  # what is recorded means the same when it is read again
    assert (loss.selection == "calibrated") == row.calibrates


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("dpo", [("policy", 4, "compared", False)]),
        ("selm", [("policy", 1, "both", True), ("policy", 3, "compared", False), ("data", 2, "compared", False)]),
        ("vpo", [("policy", 4, "compared", False), ("reference", 1, "calibration", False)]),
        ("xpo", [("policy", 2, "compared", False), ("reference", 2, "both", False)]),
    ],
)
def test_who_writes_what(name, written):
    assert [(one.writer, one.count(4), one.use, one.greedy) for one in METHODS[name].draws] == written


def test_published_values():
    assert (METHODS["selm"].beta, METHODS["selm"].options["alpha"]) == (0.01, "1e-3")
    dice = METHODS["dice"]
    assert (dice.samples, dice.temperature, dice.replay, dice.reference_moves) == (16, 0.9, 0.5, "round")


def test_flags_replace_a_row():
    found, row = filled_in(config(method="dice", loss="ipo", pairs="all", replay=0.0, reference_moves="never"))
    assert (found.loss, found.pairs, found.replay, row.reference_moves) == ("ipo", "all", 0.0, "never")
    own, _ = filled_in(config(method="selm", loss_options={"alpha": "0"}))
    assert (own.loss_options, own.beta) == ({"alpha": "0"}, 0.01)
    other, _ = filled_in(config(method="selm", loss="dpo"))
    assert (other.loss_options, other.beta) == ({}, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 1}, "--samples 1"),
        ({"method": "selmm"}, "selmm"),
        ({"gold": None}, "nothing to judge"),
        ({"judge": "reward_model"}, "without a --reward-model"),
        ({"judge": "verifyer"}, "Did you mean 'verifier'"),
        ({"method": "dice", "reference": None}, "needs a --reference"),
        ({"max_steps": 4}, "--max-steps"),
        ({"eval_data": ["pairs.jsonl"]}, "--eval-data"),
        ({"eval_size": 4, "eval_prompts": ["more.jsonl"]}, "--eval-prompts and --eval-size"),
        ({"eval_size": 1.5}, "--eval-size 1.5"),
        ({"eval_size": 4, "keep_best": "eval_loss", "eval_steps": 2}, "before the first and after every one"),
        ({"prompts": []}, "no prompts"),
        ({"replay": 1.5}, "--replay"),
        ({"rounds": 0}, "--rounds"),
        ({"pairs": "worst"}, "worst"),
        ({"token_weights": "mine"}, "--token-weights mine: rounds are not scored in advance"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        config(**changes).check()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "kto"}, "does not learn from pairs"),
        ({"loss": "bradley_terry"}, "does not learn from pairs"),
        ({"loss": "selm"}, "responses to calibrate on"),
    ],
)
def test_a_loss_that_rounds_do_not_serve_is_refused(changes, said):
    found, row = filled_in(config(**changes))
    with pytest.raises(UserError, match=said):
        refuse_loss(found, loss_of(found, row), row)


def test_one_response_cannot_be_compared():
    for name in PAIRED:
        with pytest.raises(UserError, match="2 or more"):
            refuse_uncomparable(find_method(name), name, 1, stored=False)
    refuse_uncomparable(find_method("selm"), "selm", 1, stored=True)  # beside the two of a pair
    assert compared(find_method("selm"), 1, stored=True) == 3
