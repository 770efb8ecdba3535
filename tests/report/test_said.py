"""Numbers as pages and terminals show them: one minus, no −0, no noise beside a range."""

import math

import pytest

from tokenq.figures.searches import _gain
from tokenq.report.doctor_page import _rounded, _ticks
from tokenq.report.outcome import said
from tokenq.stats.bootstrap import Estimate


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (-1.5, "−1.500"),
        (-0.0001, "0.000"),
        (-1234.5, "−1234"),
        (-3, "−3"),
        ("a-b", "a-b"),
        (None, ""),
        (Estimate(-0.25, -0.5, 0.0, 9), "−0.250 [−0.500, 0.000]"),
        (Estimate(math.nan, 0.0, 0.0, 0), "–"),
    ],
)
def test_a_cell(cell, text):
    assert said(cell) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.5, -0.25, 1.25), "+0.50 [−0.25, +1.25]"),
        ((0.0003, -0.0001, 0.0007), "+0.00030 [−0.00010, +0.00070]"),
        ((0.0, 0.0, 0.0), "0.00 [0.00, 0.00]"),
    ],
)
def test_a_small_gain_keeps_its_digits(numbers, text):
    """ "+0.00 [-0.00, +0.00], better on 67 %" says that something is there and hides it."""
    assert _gain(Estimate(*numbers, 9)) == text


def test_rounding_noise_is_0_beside_the_range():
    assert _rounded(-8.941e-09, 0.8873) == 0.0
    assert str(_rounded(-8.941e-09, 0.8873)) == "0.0"
    assert _rounded(-8.941e-09, 2e-8) == pytest.approx(-8.941e-09, rel=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 0.8873, [0.0, 0.2, 0.4, 0.6, 0.8]),
        (-3.1, 12.0, [0.0, 5.0, 10.0]),
        (1.0, 1.0, []),
        (0.0, 60.0, [0.0, 20.0, 40.0, 60.0]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert _ticks(low, high) == pytest.approx(ticks)
