"""Pairs out of first errors: what they share, which continuation is taken, and which solutions have none."""

import json

import pytest

import tokenq
from tokenq.cli.main import main
from tokenq.core.packing import pack
from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.stretches.steps import with_steps
from tokenq.data.tokenize import tokenize
from tokenq.errors import UserError

ROWS = [
    {"problem": "2+3+4?", "steps": ["2+3=5.", "5+4=8.", "So 8."], "label": 1, "generator": "a"},
    {"problem": "2+3+4?", "steps": ["2+3=5.", "5+4=9.", "So 9."], "label": -1, "generator": "b"},
    {"problem": "2+3+4?", "steps": ["2+3=5.", "5+4 is 9."], "label": -1, "generator": "a"},
    {"problem": "2+3+4?", "steps": ["2+3=6.", "6+4=10."], "label": 0, "generator": "a"},
    {"problem": "1+1?", "steps": ["1+1=3."], "label": 0, "generator": "a"},
    {"problem": "1+1?", "steps": ["One.", "1+1=4."], "label": 1, "generator": "a", "continuation": "1+1=2."},
]
WANT = [
    ("2+3+4?\n", "2+3=5.\n5+4 is 9.", "2+3=5.\n5+4=8.\nSo 8.", 1),
    ("2+3+4?\n", "2+3=5.\n5+4 is 9.", "2+3=6.\n6+4=10.", 0),
    ("1+1?\n", "One.\n1+1=2.", "One.\n1+1=4.", 1),
]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_pair_shares_all_before_the_first_wrong_step(tmp_path):
    """The right solution of the same writer, and what was given; the problem without either gives none. A text ends its
    question with a line, as it does in training.
    """
    found = tokenq.select(ROWS, tmp_path / "pairs.jsonl", rule="first_error", batch_size=1)
    rows = lines(tmp_path / "pairs.jsonl")
    assert [(row["prompt"], row["chosen"], row["rejected"], row["shared_steps"]) for row in rows] == WANT
    assert found.rows == (0, 3, 5)
    assert found.dropped == {"wrong without a right continuation": 1}
    record = json.loads((tmp_path / "pairs.jsonl.provenance.json").read_text())
    assert record["continuations"] == [2, 2, None]
    assert record["rows"] == [0, 3, 5]


def test_step_dpo_learns_where_they_part(tmp_path):
    from tiny import tiny_tokenizer

    tokenq.select(ROWS, tmp_path / "pairs.jsonl", rule="first_error", batch_size=1)
    read = read_examples([Row(row, f"row {n}") for n, row in enumerate(lines(tmp_path / "pairs.jsonl"))])
    data = tokenize(read.examples[:1], tiny_tokenizer("bytes"), max_length=200, with_texts=True)
    (group,) = with_steps(data)
    for response, text in zip(group.responses, ("5+4 is 9.", "5+4=8.\n"), strict=True):
        learnt = response.ids[response.token_columns["steps"] == 1]
        assert tiny_tokenizer("bytes").decode(learnt, skip_special_tokens=True) == text
    assert pack([group]).actions.token_columns["steps"].sum() > 0


def test_a_share_of_them_and_too_few(tmp_path):
    found = tokenq.select(ROWS, tmp_path / "pairs.jsonl", rule="first_error", batch_size=1, keep=0.7)
    assert len(found.rows) == 2
    with pytest.raises(UserError, match="3 of 3 pairs would be kept: fewer than two batches of 8"):
        tokenq.select(ROWS, tmp_path / "few.jsonl", rule="first_error")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--run", "run"], "--run is given, and --rule first_error goes by labels of steps"),
        (["--drop", "audit.json"], "--drop is given"),
    ],
)
def test_what_it_does_not_read_is_refused(words, said, tmp_path, capsys):
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    asked = ["select", str(tmp_path / "steps.jsonl"), "--rule", "first_error", "--output", str(tmp_path / "k.jsonl")]
    assert main([*asked, *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([ROWS[4]], "None of 1 wrong solutions has a right continuation"),
        ([ROWS[1]], "None of 0 wrong solutions"),
        ([{**ROWS[4], "continuation": 7}], "row 1: column 'continuation' is no text"),
        ([{"prompt": "q", "chosen": " a", "rejected": " b"}], "steps"),
    ],
)
def test_rows_without_what_is_needed(rows, said, tmp_path):
    with pytest.raises(UserError, match=said):
        tokenq.select(rows, tmp_path / "k.jsonl", rule="first_error")
