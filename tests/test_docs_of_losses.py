"""What the documentation says of losses: every one with its parameters, and an example that runs as it stands."""

import json
import os
import re
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest
from forked import done as done_by
from tiny import tiny_model, tiny_tokenizer

from tokenq.core.losses import LOSSES

ROOT = Path(__file__).parent.parent
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LOSSES)
def test_the_page_of_methods_has_a_row_for_every_loss_with_its_parameters(name):
    (row,) = re.findall(rf"^\| `{name}` \|(.*)$", METHODS, re.MULTILINE)
    said = row.split("|")[0]
    row_of_table = LOSSES[name]
    for parameter in {**row_of_table.parameters(), **row_of_table.choices()}:
        assert parameter in said
    for parameter, default in re.findall(r"(\w+) \(([\d.]+)\)", said):
        assert row_of_table.parameters()[parameter] == float(default)
    for parameter, choice in re.findall(r"(\w+) \(([a-z]+)\)", said):
        assert row_of_table.choices()[parameter] == choice


def test_the_loss_of_the_example_trains_from_outside_the_package(tmp_path):
    """As the page prints it, in fewer than 15 lines, in processes of their own."""
    code = EXTENDING.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) < 15
    (tmp_path / "exponential.py").write_text(code, encoding="utf-8")
    tiny_model("gpt_neox", layers=1).save_pretrained(tmp_path / "model")
    tiny_tokenizer("bytes").save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"{i}?", "chosen": " yes", "rejected": " no"} for i in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", "--loss", "exponential+0.5*dpo", "--beta", "0.5", "--model", "model", "--data", "pairs.jsonl"]
    words += ["--output", "run", "--device", "cpu", "--max-steps", "2", "--batch-size", "2", "--learning-rate", "1e-2"]

    def run(*more):
        os.chdir(tmp_path)
        sys.argv = ["exponential.py", *words, *more]
        runpy.run_path("exponential.py", run_name="__main__")

    code, said = done_by(run, tmp_path / "printed")
    assert code == 0, said[-2000:]
    first, last = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert first["loss/exponential"] == pytest.approx(1.0, abs=1e-5)  # exp(0)
    assert last["rewards/margins"] > 0

    code, said = done_by(partial(run, "--loss-options", "gama=1"), tmp_path / "printed")
    assert code == 2
    assert "has a parameter 'gama'" in said


def test_the_number_of_the_example():
    """h = 3 and β = ½: exp(−1.5)."""
    import torch

    from tokenq.core.losses import Loss, alone, margins
    from tokenq.core.tensors import PairLogps, TokenLogps

    def exponential(policy, reference, *, beta=0.1):
        return torch.exp(-beta * margins(policy, reference))

    def side(value):
        return TokenLogps(torch.tensor([[value]]), torch.ones(1, 1, dtype=torch.bool))

    row = alone(Loss(exponential, "pairs", reference=True)).terms[0].loss
    value = row.function(PairLogps(side(-1.0), side(-4.0)), PairLogps(side(-3.0), side(-3.0)), beta=0.5)
    assert value.item() == pytest.approx(0.22313, abs=1e-5)
