"""Tasks: one definition of correct, from true answers, from a verifier, and from a class of one's own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tokenq.data.prompts import Prompt
from tokenq.errors import UserError
from tokenq.judge.answers import last_number
from tokenq.judge.tasks import AnswerTask, ReasoningGymTask


def test_true_answers_are_read_as_responses_are():
    prompts = [Prompt("a", "2 + 2?", "row 1", values={"answer": "It is 2 + 2 = 4.\n#### 4"})]
    task = AnswerTask(prompts, "answer", last_number)
    assert [task.correct("a", text) for text in ("so 4", "5", "none", "$4.00")] == [1, 0, 0, 1]
    assert task.examples() == prompts
    with pytest.raises(UserError, match="no prompt 'b'"):
        task.correct("b", "4")


@pytest.mark.parametrize(
    ("values", "says"), [({}, "row 1 has no column 'answer'"), ({"answer": "none"}, "no answer is found in 'answer'")]
)
def test_a_row_without_a_true_answer(values, says):
    task = AnswerTask([Prompt("a", "?", "row 1", values=values)], "answer", last_number)
    with pytest.raises(UserError, match=says):
        task.answers  # noqa: B018 (reading it is what raises)


def test_the_task_of_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    code = re.search(r"## A task\n.*?```python\n(.*?)```", page, re.S)[1]
    names = {"dataclass": dataclass, "Sequence": Sequence, "Prompt": Prompt, "last_number": last_number}
    exec(code, names)  # the page's own words
    task = names["Sums"]()
    assert len(task.examples()) == 100
    assert (task.correct("3+9", " 12."), task.correct("3+9", "13")) == (1.0, 0.0)


def test_a_verifier_of_its_own():
    pytest.importorskip("reasoning_gym")
    task = ReasoningGymTask("chain_sum", size=3, seed=1)
    first = task.examples()[0]
    answer = first.values["answer"]
    assert task.correct("1", f"<answer>{answer}</answer>") == task.correct("1", answer) == 1.0
    assert task.correct("1", "no idea") < 1.0
    with pytest.raises(UserError, match="Did you mean 'chain_sum'"):
        ReasoningGymTask("chain_sums").examples()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(UserError, match="reasoning-gym need that package") as caught:
        ReasoningGymTask("chain_sum").examples()
    assert "tokenq[reasoning]" in caught.value.hint
