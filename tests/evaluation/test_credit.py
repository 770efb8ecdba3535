"""The figure of credit: which tokens are wrong, who finds them, and what is said of it."""

import numpy as np
import pytest
from scored_traces import make_trace

from tokenq.figures.credit import SHOWN, Errors, credit, locate
from tokenq.figures.section import HeatMap

RNG = np.random.default_rng(0)
PIECES = ["one", " two", " three", " four", " five"]


def errors(name, falls, count=12):
    """Return responses whose third token is wrong; the policy thinks `falls` nats less of it than the reference."""
    traces = []
    for number in range(count):
        reference = RNG.normal(scale=0.1, size=(len(PIECES), 4))
        policy = reference.copy()
        policy[2, 0] -= falls
        traces.append(make_trace(f"{name}{number}", PIECES, logits=(policy, reference)))
    start = len("one two ")
    return Errors(name, traces, [[(start, start + len("three"))]] * count, list(range(count)))


def test_the_wrong_token_is_found_by_what_fell():
    found = {row.readout: row for row in locate(errors("put in", 3.0)).rows}
    assert list(found) == list(SHOWN)
    assert found["implicit_reward"].metrics["auroc"].value == 1.0
    assert found["implicit_reward"].metrics["top_1"].value == 1.0
    assert found["reference_surprisal"].metrics["auroc"].value < 0.8


@pytest.mark.parametrize(("falls", "verdict"), [(3.0, "reproduced"), (-3.0, "not reproduced")])
def test_the_verdict_is_about_the_first_kind(falls, verdict):
    section = credit([errors("put in", falls), errors("own", -3.0)])
    assert section.verdict == verdict
    assert section.reading.count("AUROC") == 2
    assert "Put in: AUROC" in section.reading
    assert [table.title for table in section.tables] == ["put in", "own"]


def test_better_than_chance_but_not_than_the_reference_is_in_part():
    """Policy and reference both find the wrong token at once; the log-ratio is noise that leans the right way."""
    traces = []
    for number in range(40):
        reference = RNG.normal(scale=0.01, size=(len(PIECES), 4))
        reference[2, 0] -= 5.0
        policy = reference.copy()
        policy[:, 0] += RNG.normal(scale=0.5, size=len(PIECES))
        policy[2, 0] -= 0.6
        traces.append(make_trace(f"x{number}", PIECES, logits=(policy, reference)))
    place = [[(len("one two "), len("one two three"))]] * 40
    section = credit([Errors("put in", traces, place, list(range(40)))])
    assert section.verdict == "in part"
    assert "reference surprisal 1.000 (better)" in section.reading


def test_a_kind_without_examples_is_left_out_and_nothing_at_all_is_not_tested():
    nothing = Errors("none", [], [], [])
    kept = errors("put in", 3.0)
    section = credit([kept, nothing], [HeatMap("one", kept.traces[0])])
    assert [curve.name for curve in section.charts[0].curves] == ["put in"]
    assert len(section.heat_maps) == 1
    assert credit([nothing]).verdict == "not tested"


def test_the_chart_has_a_point_for_every_kind_and_read_out():
    section = credit([errors("put in", 3.0), errors("own", 1.0)])
    auroc, top = section.charts
    assert auroc.labels == [name.replace("_", " ") for name in SHOWN]
    assert [curve.name for curve in auroc.curves] == ["put in", "own"]
    assert list(auroc.curves[0].x) == [0, 1, 2, 3, 4]
    assert auroc.curves[0].y[0].value == 1.0
    assert (auroc.y, top.y) == ("AUROC", "top-1")
