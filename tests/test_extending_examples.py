"""The worked examples of docs/extending.md, run as they stand there."""

import re
from pathlib import Path

import numpy as np
import pytest

from tokenq.doctor.finding import Finding
from tokenq.runs.record import RunRecord
from tokenq.search.branches import Branch
from tokenq.search.rerank import RANKINGS, find_ranking
from tokenq.traces import GAUGE, TokenTrace, Totals, TraceToken

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def run_example(title, **given):
    """Run the Python under a heading of the page, and return its names."""
    section = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)
    text = next(part for part in section if part.startswith(f"{title}\n"))
    names = dict(given)
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)), names)
    return names


def trace(name, ranks):
    """Return a trace of one-letter tokens with these ranks under the policy, and nothing else known of them."""
    tokens = tuple(TraceToken(0, "x", i, i + 1, rank=rank, logp=-1.0, ref_logp=-1.0) for i, rank in enumerate(ranks))
    totals = Totals(0.0, -1.0 * len(ranks), -1.0 * len(ranks), len(ranks))
    text = "x" * len(ranks)
    return TokenTrace(name, "Q", text, None, 0.1, GAUGE, True, {}, {}, tokens, (), totals, ())


def test_a_read_out(monkeypatch):
    monkeypatch.setattr(
        "tokenq.evaluation.readouts.READOUTS", {"implicit_reward": lambda one: np.zeros(len(one.tokens))}
    )
    traces = [trace("a", [0, 7, 1]), trace("b", [3, 0, 0])]
    labels = [np.array([False, True, False]), np.array([False, True, False])]
    rows = {row.readout: row for row in run_example("A read-out", traces=traces, labels=labels)["found"][0].rows}
    assert rows["rank"].per_example["auroc"] == (1.0, 0.25)


def test_a_ranking(monkeypatch):
    monkeypatch.setattr("tokenq.search.rerank.RANKINGS", dict(RANKINGS))
    run_example("A ranking")
    branch = Branch((5, 6), (-0.5, -2.0))
    assert find_ranking("worst_token", 0.1)([branch]) == [-2.0]


def test_a_judge():
    assert [one.preference for one in run_example("A judge")["judgements"]] == ["first"]


@pytest.mark.parametrize(("steps", "found"), [(5, True), (50, False)])
def test_a_check_of_the_doctor(steps, found):
    record = RunRecord("run", {"loss": "dpo", "max_steps": steps})
    assert isinstance(run_example("A check of the doctor")["few_steps"](record), Finding) == found
