"""`tokenq verify` as a user types it."""

import json

import pytest

from tokenq.cli.main import main
from tokenq.verify import table
from tokenq.verify.claim import Claim


@pytest.mark.integration
def test_the_table_is_printed_and_written(tmp_path, capsys):
    assert (
        main(["verify", "--topic", "value curve", "--worlds", "2", "--seed", "5", "--output", str(tmp_path / "v.json")])
        == 0
    )
    printed = capsys.readouterr().out
    assert "E_ref[exp(R/β) | y≤t]" in printed
    assert "fails, as it must" in printed
    assert "4 of 4 claims came out as they must, in 2 worlds each (seeds 5 to 6)." in printed
    record = json.loads((tmp_path / "v.json").read_text())
    assert [row["as_expected"] for row in record["claims"]] == [True] * 4
    assert record["seed"] == 5
    assert record["claims"][0]["tolerance"] == 1e-10


def test_a_claim_that_fails_fails_the_command(monkeypatch, capsys):
    claim = Claim("Bellman", "the moon is made of cheese", "hearsay", lambda case: 1.0)
    monkeypatch.setattr(table, "CLAIMS", (claim,))
    assert main(["verify", "--worlds", "1"]) == 1
    assert "0 of 1 claims came out as they must" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--topic", "Belman"], "Did you mean 'Bellman'?"),
        (["--worlds", "0"], "--worlds is 0.\n  It must be from 1 to 10,000."),
    ],
)
def test_bad_input(words, says, capsys):
    assert main(["verify", *words]) == 2
    assert says in capsys.readouterr().err
