"""`tokenq cache`: what is kept is found, measured and deleted, and nothing else is."""

import json
import os
import time

import numpy as np
import pytest

from tokenq.cache import cached
from tokenq.cli.main import main
from tokenq.models.identity import ModelIdentity
from tokenq.models.reference_store import ReferenceStore

MODEL = ModelIdentity("models/a", "LlamaForCausalLM", 12, "float32", "ab" * 32)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with 3 shards of 2 models, 2 identities and 1 proof."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TOKENQ_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "cache"
    store = ReferenceStore(root / "reference", MODEL)
    store.add({b"0" * 16: np.zeros(1000, np.float32)})
    store.add({b"1" * 16: np.zeros(1000, np.float32)})
    other = ReferenceStore(root / "reference", ModelIdentity("models/b", "X", 1, "bfloat16", "cd" * 32))
    other.add({b"0" * 16: np.zeros(10, np.float32)})
    for kind, number in (("identities", 1), ("identities", 2), ("proofs", 1)):
        cached(kind, {"number": number}, lambda: {"way": "x"}, decides=("way",))
    return root


def left(root):
    return {
        kind: len([p for p in (root / kind).rglob("*") if p.is_file()])
        for kind in ("reference", "identities", "proofs")
    }


def test_it_lists_and_deletes_nothing(cache, capsys):
    before = left(cache)
    assert main(["cache"]) == 0
    out = capsys.readouterr().out
    assert "models/a (float32)" in out
    assert "models/b (bfloat16)" in out
    size = sum(p.stat().st_size for p in cache.rglob("*") if p.is_file())
    assert f"{size / 1000:.1f} kB in {cache}" in out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert {row[0]: row[2] for row in rows if row[0]} == {
        "reference": "2",
        "identities": "2",
        "tokens": "0",
        "games": "0",
        "proofs": "1",
    }
    assert left(cache) == before == {"reference": 5, "identities": 2, "proofs": 1}


@pytest.mark.parametrize(
    ("words", "reference", "identities", "proofs"),
    [
        (["identities"], 5, 0, 1),
        (["reference"], 0, 2, 1),
        (["identities", "proofs"], 5, 0, 0),
        (["all"], 0, 0, 0),
    ],
)
def test_it_deletes_what_it_is_told(cache, capsys, words, reference, identities, proofs):
    assert main(["cache", "--clear", *words]) == 0
    gone = 8 - reference - identities - proofs
    assert f"deleted: {gone} files" in capsys.readouterr().out
    assert left(cache) == {"reference": reference, "identities": identities, "proofs": proofs}


def test_by_age_a_model_stands_or_falls_as_one(cache):
    old = time.time() - 10 * 86_400
    for file in cache.rglob("*"):
        if file.is_file():
            os.utime(file, (old, old))
    ReferenceStore(cache / "reference", MODEL)  # used just now
    assert main(["cache", "--clear", "all", "--older-than", "11"]) == 0
    assert left(cache) == {"reference": 5, "identities": 2, "proofs": 1}
    assert main(["cache", "--clear", "all", "--older-than", "9"]) == 0
    assert left(cache) == {"reference": 3, "identities": 0, "proofs": 0}


def test_strangers_and_links_are_left_alone(cache, tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.safetensors").write_bytes(b"mine")
    (outside / "model.json").write_text("{}")
    (cache / "reference" / ("0" * 32)).symlink_to(outside)
    (cache / "reference" / "thesis.safetensors").write_bytes(b"mine")
    (cache / "proofs" / "notes.json").write_text("mine")
    (cache / "identities" / f"{'0' * 32}.json").symlink_to(outside / "model.json")
    (cache / "other").mkdir()
    (cache / "other" / f"{'0' * 32}.json").write_text("mine")
    assert main(["cache", "--clear", "all"]) == 0
    assert (outside / "a.safetensors").read_bytes() == b"mine"
    assert (outside / "model.json").read_text() == "{}"
    assert (cache / "reference" / "thesis.safetensors").exists()
    assert (cache / "proofs" / "notes.json").exists()
    assert (cache / "other" / f"{'0' * 32}.json").exists()
    assert "deleted: 8 files" in capsys.readouterr().out


def test_a_kind_that_is_a_link_elsewhere_is_left_alone(cache, tmp_path):
    (cache / "proofs").rename(tmp_path / "elsewhere")
    (cache / "proofs").symlink_to(tmp_path / "elsewhere")
    assert main(["cache", "--clear", "proofs"]) == 0
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_nothing_is_there_or_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOKENQ_CACHE", str(tmp_path / "none"))
    assert main(["cache"]) == 0
    assert f"0 B in {tmp_path / 'none'}" in capsys.readouterr().out.replace("\n", "")
    assert main(["cache", "--clear", "all"]) == 0
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("TOKENQ_CACHE", "off")
    assert main(["cache"]) == 0
    assert "Nothing is kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--clear", "proof"], "Did you mean 'proofs'?"),
        (["--older-than", "-1"], "--older-than is -1.0"),
        (["--older-than", "nan"], "finite"),
    ],
)
def test_mistakes(cache, capsys, words, says):
    before = left(cache)
    assert main(["cache", *words]) == 2
    assert says in capsys.readouterr().err
    assert left(cache) == before


def test_a_damaged_account_of_a_model_is_no_error(cache, capsys):
    for file in cache.rglob("model.json"):
        file.write_text("{")
    assert main(["cache"]) == 0
    assert capsys.readouterr().out.count("a model that is not named") == 2


def test_a_store_that_is_emptied_while_a_run_writes_goes_on(cache):
    store = ReferenceStore(cache / "reference", MODEL)
    assert main(["cache", "--clear", "all"]) == 0
    store.add({b"2" * 16: np.ones(3, np.float32)})
    assert len(ReferenceStore(cache / "reference", MODEL)) == 1
    assert json.loads(next(cache.rglob("model.json")).read_text())["path"] == "models/a"
