"""Rows and prompts longer than a model, and tokens that it does not have, in every command that reads."""

import json

import pytest
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from tokenq.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore:.*shared tensor")

WORDS = " the cat"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """GPT-2 and Llama of 256 positions, one whose tokenizer has grown, and rows that are too long for them."""
    root = tmp_path_factory.mktemp("limits")
    for family in ("gpt2", "llama"):
        tiny_model(family).save_pretrained(root / family)
        tiny_tokenizer().save_pretrained(root / family)
    grown = tiny_tokenizer()
    grown.add_tokens([f"<new {n}>" for n in range(300)])
    tiny_model("llama", layers=1).save_pretrained(root / "grown")
    grown.save_pretrained(root / "grown")
    write(root / "long.jsonl", [{"prompt": "the cat", "chosen": WORDS * 140, "rejected": " the dog."}])
    write(root / "new.jsonl", [{"prompt": "the cat", "chosen": " <new 299>", "rejected": " the dog."}])
    write(root / "prompts.jsonl", [{"prompt": "the cat"}, {"prompt": WORDS * 140}])
    return root


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def commands(root, model, data):
    path, rows = str(root / model), str(root / data)
    return {
        "train": ["train", "--model", path, "--data", rows, "--output", str(root / f"run-{model}"), "--max-steps", "1"],
        "score": ["score", "--policy", path, "--reference", path, "--data", rows, "--output", str(root / "t.jsonl")],
        "eval": ["eval", "preference", "--policy", path, "--reference", path, "--data", rows],
    }


@pytest.mark.parametrize("command", ["train", "score", "eval"])
def test_rows_longer_than_the_positions_are_refused(command, place, capsys):
    assert main([*commands(place, "gpt2", "long.jsonl")[command], "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "has 284 tokens" in said
    assert "256 positions" in said
    assert "--max-length 256" in said


@pytest.mark.parametrize("command", ["score", "eval"])
def test_such_rows_are_dropped_where_bad_rows_are(command, place, capsys):
    rows = (place / "long.jsonl").read_text()
    short = json.dumps({"prompt": "the cat", "chosen": " the dog.", "rejected": " the cat."})
    (place / "mixed.jsonl").write_text(f"{rows}{short}\n")
    words = [*commands(place, "gpt2", "mixed.jsonl")[command], "--device", "cpu", "--bad-rows", "drop", "--overwrite"]
    assert main(words) == 0
    assert "1 longer than the model's context" in capsys.readouterr().err
    words[words.index(str(place / "mixed.jsonl"))] = str(place / "long.jsonl")
    assert main(words) == 2
    assert "All rows are longer than the model's context" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["score", "eval"])
def test_the_hint_works(command, place):
    words = [*commands(place, "gpt2", "long.jsonl")[command], "--device", "cpu", "--max-length", "256"]
    assert main(words) == 0


@pytest.mark.parametrize("command", ["train", "score", "eval"])
def test_tokens_that_the_embedding_has_not_are_refused(command, place, capsys):
    assert main([*commands(place, "grown", "new.jsonl")[command], "--device", "cpu"]) == 2
    assert "the embedding of" in (said := capsys.readouterr().err)
    assert "has 288 rows" in said


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_search_of_the_default_length_stops_at_the_limit_and_says_so(family, place, capsys):
    prompt = "the" + " cat" * 245
    limit = ["--prompt", prompt, "--method", "greedy", "--device", "cpu"]
    output = place / f"found-{family}.jsonl"
    assert main(["search", "--policy", str(place / family), *limit, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    ids = found["candidates"][0]["token_ids"]
    given = len(tiny_tokenizer()(prompt).input_ids)
    assert len(ids) == 256 - given or ids[-1] == 2
    assert found["stopped"] == ("context" if ids[-1] != 2 else None)
    model = AutoModelForCausalLM.from_pretrained(place / family)
    assert model.config.max_position_embeddings == 256
