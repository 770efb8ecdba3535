"""Losses by name: parameters, what is refused and how, and sums."""

import inspect
from dataclasses import fields

import pytest
import torch
from loss_builders import rows

from tokenq.core.losses import ALIASES, LOSSES, alone, find_loss, find_sum
from tokenq.core.losses.inputs import INPUTS
from tokenq.core.losses.units import UNITS
from tokenq.core.tensors import PairLogps
from tokenq.data.layouts.ratings import TOKEN_NUMBERS
from tokenq.data.selection import SELECTIONS
from tokenq.data.summary import DataSummary
from tokenq.errors import UserError

POLICY = PairLogps(rows([-1.0, -2.0]), rows([-1.5] * 4))
REFERENCE = PairLogps(rows([-2.0, -3.0]), rows([-1.25] * 4))


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_says_what_its_function_takes(name):
    row = LOSSES[name]
    kinds = inspect.signature(row.function).parameters.values()
    positional = [p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD]
    models = ["policy", *(["reference"] if row.reference else [])]
    if row.output == "rewards":
        models = ["chosen", "rejected"] if row.unit == "pairs" else ["rewards"]
    assert positional == [*models, *row.inputs]
    assert all(isinstance(value, float) for value in row.parameters().values())
    free = name == "sft" or row.output == "rewards" or UNITS[row.unit].asks in ("rollouts", "weighted")
    assert {"beta", "odds_weight"} & row.parameters().keys() or free
    assert row.function.__doc__.startswith("Return ")
    assert row.sources.keys() <= row.choices().keys()
    assert row.output in UNITS[row.unit].readings
    assert find_sum(name).selection in SELECTIONS


def test_every_kind_of_row_can_be_asked_of_the_data():
    assert {unit.asks for unit in UNITS.values()} <= SELECTIONS.keys()
    assert {name for name, unit in UNITS.items() if unit.name != name} == set()
    counts = {field.name for field in fields(DataSummary)}
    assert {unit.account for unit in UNITS.values()} <= counts


def test_a_kind_of_row_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setitem(LOSSES, "odd", LOSSES["dpo"]._replace(unit="pair"))
    with pytest.raises(UserError, match="Unknown kind of row of loss 'odd' 'pair'"):
        find_sum("odd")


def test_the_defaults_are_the_documented_ones():
    assert LOSSES["dpo"].parameters() == {"beta": 0.1}
    assert LOSSES["cdpo"].parameters() == {"beta": 0.1, "label_smoothing": 0.1}
    assert LOSSES["sft"].parameters() == {}
    assert LOSSES["simpo"].parameters() == {"beta": 2.0, "gamma": 1.0}
    assert LOSSES["kto"].parameters() == {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    # β h = 0.3 with the default β: −log σ(0.3).
    assert LOSSES["dpo"].function(POLICY, REFERENCE).item() == pytest.approx(0.5543552444685271, abs=1e-12)


def test_find_loss_binds_parameters_and_leaves_the_table_alone():
    bound = find_loss("dpo", {"beta": 0.5})
    assert bound.function(POLICY, REFERENCE).item() == pytest.approx(0.20141327798275246, abs=1e-12)
    assert LOSSES["dpo"].function(POLICY, REFERENCE).item() != pytest.approx(0.2014, abs=1e-3)
    assert (bound.unit, bound.reference, bound.parameters()) == ("pairs", True, {"beta": 0.5})
    assert find_loss("dpo", {"beta": "5e-1"}).parameters() == {"beta": 0.5}  # as a command line says it


def test_spellings_of_other_trainers():
    assert ALIASES["sigmoid"] == "dpo"
    assert find_loss("prm") == LOSSES["process"]
    for alias, name in ALIASES.items():
        if LOSSES[name].unit != "pairs" or LOSSES[name].output == "rewards":
            assert find_loss(alias) == LOSSES[name]
            continue
        torch.testing.assert_close(
            find_loss(alias).function(POLICY, REFERENCE), LOSSES[name].function(POLICY, REFERENCE)
        )


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(UserError, match=r"Unknown loss 'dop'.\n  Did you mean '(dpo|dpop)'\?.*hinge"):
        find_loss("dop")
    with pytest.raises(
        UserError, match=r"'hinge' has no parameter 'label_smoothing'.\n  It takes beta\. .*: cdpo, robust, exo\.$"
    ):
        find_loss("hinge", {"label_smoothing": 0.1})
    with pytest.raises(UserError, match=r"'simpo' has no parameter 'gama'.\n  Did you mean 'gamma'\? It takes"):
        find_loss("simpo", {"gama": 0.1})
    with pytest.raises(UserError, match=r"It takes no parameters\.$"):
        find_loss("sft", {"beta": 0.1})
    for value in ("nan", "inf", float("-inf")):
        with pytest.raises(UserError, match=r"gamma of loss 'simpo' is .*\n  Give a finite number"):
            find_loss("simpo", {"gamma": value})
    with pytest.raises(UserError, match="beta of loss 'dpo' takes a number, not 'much'"):
        find_loss("dpo", {"beta": "much"})
    with pytest.raises(UserError, match=r"Unknown source of calibration 'chose'.\n  Did you mean 'chosen'"):
        find_loss("vpo_online", {"calibration": "chose"})


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        *(("dpo", "beta", value) for value in (0.0, -0.1)),
        *(("cdpo", "label_smoothing", value) for value in (-0.1, 0.6)),
        ("robust", "label_smoothing", 0.5),  # 1 − 2ε = 0
        ("exo", "label_smoothing", 0.0),  # an infinite loss
        ("ld_dpo", "alpha", 1.1),
        ("fdpo_alpha", "alpha", 1.0),
        ("simpo", "gamma", -1.0),
        ("kto", "desirable_weight", -1.0),
        ("discopop", "tau", 0.0),
    ],
)
def test_a_value_that_a_parameter_cannot_have_is_refused(name, parameter, value):
    with pytest.raises(UserError, match=f"{parameter} = .*in loss '{name}' it must be"):
        find_loss(name, {parameter: value})


def test_the_source_of_an_input_is_an_option():
    assert find_loss("vpo_online").choices() == {"calibration": "chosen"}
    assert find_loss("vpo_online").selection == "pairs"
    given = find_loss("vpo_offline", {"calibration": "given"})
    assert (given.selection, given.choices()) == ("calibrated", {"calibration": "given"})
    assert find_loss("selm").selection == "calibrated"
    assert find_loss("selm", {"calibration": "rejected"}).selection == "pairs"
    assert find_loss("kto", {"mismatched": "none"}).choices() == {"mismatched": "none"}


def test_every_input_is_of_some_loss():
    columns = {
        name for row in LOSSES.values() if row.unit in ("rollouts", "actions", "weighted") for name in row.inputs
    }
    assert columns - {"values", "candidates"} == set(TOKEN_NUMBERS)
    assert {name for row in LOSSES.values() for name in row.inputs} == set(INPUTS) | columns | {"outcomes"}


def test_a_sum_of_losses():
    found = find_sum("dpo + 0.2*sft", {"beta": 0.5})
    assert [(term.name, term.weight) for term in found.terms] == [("dpo", 1.0), ("sft", 0.2)]
    assert (found.unit.name, found.selection, found.reference, found.coupled, found.beta) == (
        "pairs",
        "pairs",
        True,
        False,
        0.5,
    )
    assert found.parameters() == {"dpo.beta": 0.5}
    assert find_sum("sft*2+1e-3*dpo").terms[1].weight == 1e-3
    assert [term.name for term in find_sum("plackett_luce+1e+1*sft").terms] == ["plackett_luce", "sft"]
    assert find_sum("0.5*ipo").terms[0].weight == 0.5


def test_one_loss_is_a_sum_of_one():
    assert find_sum("dpo").parameters() == {"beta": 0.1}
    assert find_sum("sft").unit.name == "responses"
    assert find_sum("sft").beta == 1.0
    assert alone(LOSSES["hinge"]).terms[0].loss is LOSSES["hinge"]


def test_parameters_of_a_sum_go_where_they_belong():
    both = find_sum("cdpo+hinge", {"beta": 0.3, "label_smoothing": 0.2})
    assert both.parameters() == {"cdpo.beta": 0.3, "cdpo.label_smoothing": 0.2, "hinge.beta": 0.3}
    one = find_sum("cdpo+hinge", {"hinge.beta": 0.7})
    assert one.parameters() == {"cdpo.beta": 0.1, "cdpo.label_smoothing": 0.1, "hinge.beta": 0.7}


def test_sums_that_cannot_be_meant():
    for text in ("dpo+", "+dpo", "dpo sft", "dpo-0.1*sft", "2*3*dpo", ""):
        with pytest.raises(UserError, match=r"(no loss with a weight|Unknown loss)"):
            find_sum(text)
    with pytest.raises(UserError, match="Unknown loss 'stf'"):
        find_sum("dpo+0.2*stf")
    with pytest.raises(UserError, match="no weight"):
        find_sum("dpo+0*sft")
    with pytest.raises(UserError, match="twice"):
        find_sum("dpo+dpo")
    with pytest.raises(UserError, match="adds losses of pairs and of responses with a label"):
        find_sum("dpo+kto")
    with pytest.raises(UserError, match=r"reads KL\(π_ref‖π\) at every position and log Σ π² at every position"):
        find_sum("tdpo2+wpo")
    assert find_sum("tdpo1+tdpo2").inputs == {"ref_kls": "vocabulary"}
    with pytest.raises(UserError, match="adds a loss of a reward model to one of a policy"):
        find_sum("bradley_terry+0.1*sft")
    with pytest.raises(UserError, match="adds a loss of a reward model to one of a policy"):
        find_sum("regression+kto")
    with pytest.raises(UserError, match=r"No loss of 'dpo\+0.2\*sft' has a parameter 'gama'"):
        find_sum("dpo+0.2*sft", {"gama": 1.0})
    with pytest.raises(UserError, match="'ipo' is no part"):
        find_sum("dpo+sft", {"ipo.beta": 1.0})
    with pytest.raises(UserError, match="'sft' has no parameter 'beta'"):
        find_sum("dpo+sft", {"sft.beta": 1.0})
