"""What policies say of pairs in an audit: those of folds, and a run that may have learnt them."""

import json

import pytest
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.files import JsonLines

pytestmark = pytest.mark.integration

ROWS = [{"prompt": f"Say {n}.", "chosen": f" {n} yes.", "rejected": f" no {n}."} for n in range(12)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("audit")
    tiny_model("llama", layers=1).save_pretrained(home / "model")
    tiny_tokenizer("bytes").save_pretrained(home / "model")
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    tokenq.train(home / "model", home / "rows.jsonl", home / "run", device="cpu", max_steps=2, batch_size=4, beta=0.3)
    return home


def test_folds_are_trained_as_the_run_was_and_written_down(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    words = ["audit", "rows.jsonl", "--run", "run", "--folds", "2", "--device", "cpu", "--top", "3"]
    words += ["--output", "audit.json", "--html", "audit.html"]
    assert main([*words, "--fail-on", "contradiction"]) == 0
    assert "policies that never saw the pairs" in capsys.readouterr().out
    found = json.loads((home / "audit.json").read_text())
    lines = list(JsonLines(home / "audit.folds" / "margins.jsonl").read())
    assert found["margins"]["unseen"] is True
    assert found["margins"]["pairs"] == 12
    assert found["margins"]["negative"] == sum(line["margin"] < 0 for line in lines) / 12
    recorded = (home / "audit.folds" / "fold-1" / "config.yaml").read_text()
    assert "beta: 0.3" in recorded
    assert "max_steps: 2" in recorded
    page = (home / "audit.html").read_text()
    least = sorted(lines, key=lambda line: line["margin"])[:3]
    assert [page.index(line["where"] + "</b>") for line in least] == sorted(
        page.index(line["where"] + "</b>") for line in least
    )
    assert page.count('<div class="side"') == 6
    assert "script-src" in page
    assert "<script" not in page


def test_a_runs_own_margins_are_named_so(home):
    found = tokenq.audit(ROWS, run=home / "run", device="cpu", top=4)
    assert found.margins["unseen"] is False
    assert "may have learnt" in found.margins["of"]
    assert "wrong_labels" not in found.margins
    traces = tokenq.load(home / "run", device="cpu").score_all(ROWS)
    rewards = [trace.totals.implicit_reward for trace in traces]
    margins = [a - b for a, b in zip(rewards[::2], rewards[1::2], strict=True)]
    suspects = [(one.rows[0], one.numbers["margin"]) for one in found.findings if one.kind == "suspect"]
    expected = sorted((m, n) for n, m in enumerate(margins) if m < 0)[:4]
    assert suspects == [(n, pytest.approx(m, rel=1e-5)) for m, n in expected]


def test_the_command_fails_at_what_it_is_told_to(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    (home / "twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, ROWS[3]]))
    assert main(["audit", "twice.jsonl", "--fail-on", "contradiction", "duplicate", "--output", "twice.json"]) == 1
    found = json.loads((home / "twice.json").read_text())["findings"]
    assert [(one["kind"], one["rows"], one["where"], one["drop"]) for one in found if one["kind"] == "duplicate"] == [
        ("duplicate", [3, 12], ["twice.jsonl, row 4", "twice.jsonl, row 13"], [12])
    ]
    assert main(["audit", "twice.jsonl", "--fail-on", "any"]) == 1
    assert main(["audit", "twice.jsonl"]) == 0
    assert main(["audit", "twice.jsonl", "--fail-on", "duplicates"]) == 2
    assert "Did you mean 'duplicate'?" in capsys.readouterr().err


def test_an_empty_file_and_too_many_folds_are_refused(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    (home / "empty.jsonl").write_text("")
    assert main(["audit", "empty.jsonl"]) == 2
    assert "holds no rows" in capsys.readouterr().err
    assert main(["audit", "rows.jsonl", "--model", "model", "--folds", "13", "--fold-dir", "f"]) == 2
    assert "--folds is 13, and the pairs have 12 different prompts" in capsys.readouterr().err


def test_demonstrations_have_no_pairs_for_a_policy(home):
    heard = []

    class Listener:
        def __call__(self, event):
            pass

        def say(self, text):
            heard.append(text)

    rows = [{"prompt": "1?", "completion": "One."}, {"prompt": "1?", "completion": "One."}]
    found = tokenq.audit(rows, run=home / "run", device="cpu", listener=Listener())
    assert found.counts == {"duplicate": 1}
    assert found.margins == {}
    assert heard == ["note: there are no pairs, so that no policy says anything of them"]


def test_tokens_are_counted_where_a_tokenizer_is_named(home):
    rows = [{"prompt": f"{n}?", "chosen": ("x" * n)[:80] + "y" * 60, "rejected": "no"} for n in range(200)]
    found = tokenq.audit(rows, tokenizer=home / "model")
    limits = [one for one in found.findings if one.kind == "truncated" and "tokens" in one.numbers]
    assert [one.numbers for one in limits] == [{"tokens": 140, "responses": 120}]
    assert limits[0].rows == tuple(range(80, 200))
