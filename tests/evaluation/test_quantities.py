"""Numbers in texts, with values told by hand."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenq.judge.quantities import quantities, quantity, shortest


@pytest.mark.parametrize(
    ("text", "values"),
    [
        # signs, and what only looks like one
        ("−5 and -5 and –5", ["-5", "-5", "-5"]),
        ("10-15, 10–15 and 10 - 15", ["10", "15", "10", "15", "10", "15"]),
        ("x = - 5, f(-5)", ["-5", "-5"]),
        ("- 5 apples\n- 6 pears", ["5", "6"]),
        ("COVID-19, a 5-year-old", ["19", "5"]),
        ("20 -15", ["20", "-15"]),
        ("--5 +7", ["5", "7"]),
        # money, units, percent
        ("$1,250.00, -$5, $-5, 5€, £3", ["1250", "-5", "-5", "5", "3"]),
        ("$5-$7", ["5", "7"]),
        ("50%, 12.5 %, 5kg, −3°C", ["50", "12.5", "5", "-3"]),
        ("25 m^2, 25 cm², 8 m_1", ["25", "25", "8"]),
        ("Rs.500 USD500", ["500", "500"]),
        # thousands and lists
        ("12,345,678.90", ["12345678.9"]),
        ("1,2 and 3,45", ["1", "2", "3", "45"]),
        ("1\u202f250, 1{,}250, 1,\\!250, 1\\,250", ["1250"] * 4),
        ("1,00,000", ["100000"]),
        # decimals
        ("So 5. Or .50? 3.14.", ["5", "0.5", "3.14"]),
        ("007 and 0.10", ["7", "0.1"]),
        # fractions
        ("1/2, 1 1/2, 3 / 4, 8/10", ["1/2", "3/2", "3/4", "4/5"]),
        ("\\frac{1}{2} \\dfrac34 -\\tfrac{2}{3} 1\\frac12", ["1/2", "3/4", "-2/3", "3/2"]),
        ("½, 1½, -¾", ["1/2", "3/2", "-3/4"]),
        ("12/25/2024", ["12", "25", "2024"]),
        ("1/0 is none, \\frac{3}{0} neither", []),
        # powers
        ("1.5e3, 2E-2, 3 \\times 10^{5}, 3×10⁵, 2 x 10^-2", ["1500", "0.02", "300000", "300000", "0.02"]),
        ("2^{10}, 5², 10^{-3}", ["1024", "25", "0.001"]),
        # digits of names count where nothing else does
        ("H2O has 3 atoms", ["3"]),
        ("H2O", ["2"]),
        ("٣ and ４", ["3", "4"]),
        ("9" * 5000 + " and 7", ["7"]),
        ("99999^{999} and 7", ["7"]),
    ],
)
def test_numbers_of_a_text(text, values):
    assert [one.value for one in quantities(text)] == [Fraction(value) for value in values]


@pytest.mark.parametrize(
    ("text", "value"),
    [("50%", "50"), ("50\\%.", "50"), (" -$1,250 ", "-1250"), ("90^\\circ", "90"), ("5 cm", None), ("1,2", None)],
)
def test_a_text_that_is_one_number(text, value):
    assert quantity(text) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(
    ("value", "text"),
    [("1250", "1250"), ("1/2", "0.5"), ("-1/8", "-0.125"), ("1/3", "1/3"), ("0", "0"), ("7/50", "0.14")],
)
def test_the_shortest_form(value, text):
    assert shortest(Fraction(value)) == text


@given(st.fractions(max_denominator=10**6))
def test_the_shortest_form_is_read_back(value):
    assert quantity(shortest(value)) == value


@given(st.integers(-(10**12), 10**12))
def test_a_number_with_commas_is_read_back(value):
    assert [one.value for one in quantities(f"It is {value:,}.")] == [value]


@given(st.decimals(-(10**6), 10**6, places=3))
def test_a_decimal_is_read_back(value):
    assert quantity(str(value)) == Fraction(value)
