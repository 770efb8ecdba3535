"""The order of examples: the worst first, and what has no number last."""

import math

from tokenq.stats.outcome import ListedExample, titled, worst_first


def test_examples_without_a_number_come_last():
    """As AUROC is where a response has no wrong token; sorting by NaN would disorder the rest."""
    numbers = [0.9, math.nan, 0.2, None, 0.5, math.nan, 0.1]
    examples = [ListedExample(str(place), "", {"AUROC": number}) for place, number in enumerate(numbers)]
    assert [one.id for one in worst_first(examples, "AUROC")] == ["6", "2", "4", "0", "1", "3", "5"]


def test_an_example_is_called_by_its_row_and_the_end_of_its_prompt():
    assert titled("rows.jsonl, row 3", "What\n is 2?") == "rows.jsonl, row 3: What is 2?"
    long = titled("row 3", "a " * 100 + "the question?")
    assert long.startswith("row 3: … ")
    assert long.endswith("the question?")
    assert titled("row 3", "") == "row 3"
