"""The worked examples of docs/extending.md, run as they stand there."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.core.losses import LOSSES, find_sum
from tokenq.core.packing import pack
from tokenq.core.tensors import Outputs
from tokenq.data.signals import SIGNALS, SignalOptions
from tokenq.data.tokenize import TokenizedData
from tokenq.doctor.finding import Finding
from tokenq.envs.environment import copy_of
from tokenq.envs.guarded import guarded
from tokenq.envs.table import find_environment
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.trace_records import TraceToken
from tokenq.records.traces import GAUGE, TokenTrace, Totals
from tokenq.runs.record import RunRecord
from tokenq.search.branches import Branch
from tokenq.search.rerank import RANKINGS, find_ranking
from tokenq.training.objective import Objective

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


def test_a_loss_input(monkeypatch, tmp_path):
    """ρ = 1, 0 against −1, and −½ against 0, 1, ½; with weights 1, 0.9, 0.81: h = 0.1 · 2 and 0.1 · (−½ − 1.305).

    Then trained as any loss is, cut into micro-batches, with a part held out.
    """
    run_example("A loss input")
    try:
        batch = pack(SIGNALS["fade"].add(TokenizedData(two_pairs(), None), SignalOptions()))
        outputs = Outputs(torch.tensor([-1.0, -2.0, -4.0, -2.5, -1.5, -1.0, -1.0]))
        outputs = outputs._replace(ref_logps=torch.tensor([-2.0, -2.0, -3.0, -2.0, -1.5, -2.0, -1.5]))
        (losses,) = Objective(find_sum("faded")).judge(outputs, batch.actions).losses
        assert losses.tolist() == pytest.approx([math.log1p(math.exp(-0.2)), math.log1p(math.exp(0.1805))], abs=1e-6)
        pairs = [{"prompt": f"{i}?", "chosen": " yes, it is", "rejected": " no"} for i in range(8)]
        options = {"eval_data": pairs[:2], "batch_size": 4, "tokens_per_batch": 30, "learning_rate": 1e-2}
        model = tiny_model("gpt_neox", layers=1), tiny_tokenizer("bytes")
        run = tokenq.train(model, pairs, tmp_path / "run", loss="faded", device="cpu", epochs=2, **options)
        first, *_, last = (line["eval_loss"] for line in run.metrics if "eval_loss" in line)
        assert first == pytest.approx(math.log(2), abs=1e-5)
        assert last < first
        monkeypatch.delitem(SIGNALS, "fade")
        with pytest.raises(UserError, match="Loss 'faded' reads fade, and nothing adds it"):
            tokenq.train(model, pairs, tmp_path / "other", loss="faded", device="cpu")
    finally:
        LOSSES.pop("faded", None)
        SIGNALS.pop("fade", None)


def two_pairs():
    """Return two pairs: responses of 2 and 1 tokens, and of 1 and 3."""

    def response(n, role):
        return TokenResponse(np.arange(n, dtype=np.int32), np.ones(n, dtype=bool), True, role)

    sides = [(response(a, "chosen"), response(b, "rejected")) for a, b in ((2, 1), (1, 3))]
    return [TokenGroup(np.array([1], np.int32), both, True, "here") for both in sides]


@pytest.mark.parametrize(("steps", "found"), [(5, True), (50, False)])
def test_a_check_of_the_doctor(steps, found):
    record = RunRecord("run", {"loss": "dpo", "max_steps": steps})
    assert isinstance(run_example("A check of the doctor")["few_steps"](record), Finding) == found


def test_an_environment(tmp_path):
    """The number of seed 25 is 4 with most = 20; the class is found in its file as the page says."""
    page = PAGE.read_text(encoding="utf-8").split("## An environment\n")[1]
    (tmp_path / "guess.py").write_text(re.findall(r"```python\n(.*?)```", page, re.S)[0], encoding="utf-8")
    row = find_environment(f"{tmp_path / 'guess.py'}:Guess")
    assert (row.max_turns, dict(row.options)) == (7, {"most": 9})
    guess = guarded(row.make({"most": "20"}))
    assert guess.reset(25).endswith("from 0 to 20. Which?")
    said = [guess.step(action) for action in ("a lot", "10", "3")]
    assert [step.observation for step in said] == ["That is no number.", "Lower.", "Higher."]
    assert copy_of(guess).step("4")[:3] == ("Right.", 1.0, True)
