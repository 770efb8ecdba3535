"""The model card: what it says, that its code runs, and that nothing in it acts."""

import re

import pytest
import yaml
from tiny import tiny_model, tiny_tokenizer

from tokenq.jobs.training.card import UNKNOWN, Card, hub_id

PLAIN = Card(
    "policy",
    "mine",
    "me/mine",
    "some/base",
    "dpo",
    ["some/pairs:train[:10]@2", "/data/own.jsonl"],
    {"steps": 7, "beta": 0.1},
    {"eval_loss": 0.123456},
    {"tokenq": "9.9"},
    "mit",
)

HOSTILE = (
    'x|y\n---\nlicense: mit\n# <img src=x onerror=alert(1)> [a](javascript:b) `c` **d** \x1b[31m &amp; "quoted": {e}'
)


def parts(card):
    """Return the front matter, the code and the rest of a card."""
    _, front, body = card.split("---\n", 2)
    code = re.search(r"^```python\n(.*?)^```", body, re.MULTILINE | re.DOTALL)
    return yaml.safe_load(front), code[1], body.replace(code[0], "")


def test_it_says_of_what_it_was_made_and_how():
    head, code, body = parts(PLAIN.text())
    assert head == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "some/base",
        "base_model_relation": "finetune",
        "license": "mit",
        "datasets": ["some/pairs"],
        "tags": ["tokenq", "dpo"],
    }
    assert "# mine" in body
    for row in (
        "| data | some/pairs, own.jsonl |",
        "| loss | dpo |",
        "| steps | 7 |",
        "| beta | 0.1 |",
        "| eval\\_loss | 0.1235 |",
        "| licence of the base | mit |",
        "| versions | tokenq 9.9 |",
    ):
        assert row in body
    assert "name = 'me/mine'" in code


def test_what_is_here_is_no_id_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    assert hub_id("some/base") == "some/base"
    assert hub_id("gpt2") == "gpt2"
    for name in ("base", "/some/base", "./base", "~/base", "a/b/c.jsonl"):
        assert hub_id(name) is None
    assert hub_id("/home/me/hub/models--org--its-name/snapshots/abc") == "org/its-name"
    head, _, body = parts(Card("policy", "m", "m", "/some/where/base", "sft", [], {}, {}, {}, UNKNOWN).text())
    assert "base_model" not in head
    assert "license" not in head
    assert "/some" not in body
    assert "| licence of the base | not known |" in body


@pytest.mark.parametrize("kind", ["policy", "adapter", "reward model"])
def test_nothing_in_it_acts(kind):
    """Whatever names hold: the front matter has its fields, the table two columns, and no tag or link appears."""
    hostile = [HOSTILE] * 3
    card = Card(
        kind, *hostile, HOSTILE, ["a|b.jsonl"], {HOSTILE: HOSTILE}, {"eval_loss": 0.5}, {HOSTILE: HOSTILE}, HOSTILE
    )
    head, code, body = parts(card.text())
    assert list(head) == ["library_name", "pipeline_tag", "license", "tags"]
    assert (head["license"], head["tags"]) == (HOSTILE, ["tokenq", HOSTILE])
    assert f"name = {HOSTILE!r}\n" in code
    assert "\x1b" not in body
    assert "<" not in body
    lines = body.splitlines()
    assert sum(line.startswith("#") for line in lines) == 1
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 8
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3] * 8
    assert len(re.findall(r"(?<!\\)\[", body)) == 1  # tokenq's own link
    assert r"a\|b.jsonl" in body


def test_its_code_loads_a_policy_and_writes_with_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_model("llama", layers=1).save_pretrained("model")
    tiny_tokenizer("bytes").save_pretrained("model")
    _, code, _ = parts(Card("policy", "m", "model", "b", "dpo", [], {}, {}, {}).text())
    exec(compile(code, "card", "exec"), {})
    assert "Once upon a time" in capsys.readouterr().out
