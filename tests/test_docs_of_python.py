"""What the documentation shows of Python runs as it stands, from the first block to the last."""

import re
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer

import tokenq

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parent.parent / "docs" / "python.md"


@pytest.fixture
def names(tmp_path, monkeypatch):
    """Return the names that the blocks may use, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    tiny_model("llama", layers=1).save_pretrained("model")
    tiny_tokenizer("bytes").save_pretrained("model")
    return {"NAME": "model"}


def test_every_block_runs(names):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 2
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    assert names["run"].policy == Path("runs/python/policy").absolute()
    assert list(names["curve"]["step"]) == [1, 2]
    assert len(names["losses"].values) == 2
    assert len(names["rewards"]) == 2
    assert names["last"].folder == Path("runs/tuned/checkpoints/step-2").absolute()
    assert names["held_out"] == max(row.get("eval_rewards/margins") or -9 for row in names["tuned"].metrics[1:])
    assert (names["folder"] / "README.md").exists()
    assert len(names["tokens"]) == len(names["reader"].score("1 + 1 =", " 2").tokens)
    assert names["found"][0].candidates
    assert len(names["table"]) == 2
    assert names["page"].read_text().startswith("<!doctype html>")
    assert names["margin"] == names["accuracy"].numbers["margin"]["mean"]
    assert list(names["quality"]["system"]) == ["greedy", "beam"]
    assert len(names["findings"]) == len(names["examination"].findings)
    assert names["report"].read_text().startswith("<!doctype html>")
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 10


def test_a_function_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        tokenq.trian  # noqa: B018
    assert "train" in dir(tokenq)
