"""`tokenq online` and `tokenq doctor` with a real server as their writer: weights go out, texts come in."""

import json

import pytest
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main

pytestmark = pytest.mark.integration

ADMIN_KEY = "the-admin-key-of-the-house"
SHORT = ["--rounds", "2", "--samples", "4", "--max-new-tokens", "8", "--learning-rate", "1e-2", "--device", "cpu"]
SHORT += ["--batch-size", "2", "--prompts-per-batch", "3", "--answer", "regex:What", "--gold", "answer"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("writer")
    tiny_model("llama", layers=1, seed=0, vocab_size=32).save_pretrained(root / "model")
    tiny_tokenizer("words", texts=("What is and ? 0 1 2 3 4 5 6 7 8 9 .",)).save_pretrained(root / "model")
    rows = [{"prompt": f"What is {n} and {n}?", "answer": "What"} for n in range(6)]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture
def server(place, monkeypatch):
    """A server of the model, which takes weights from whoever has the admin key."""
    monkeypatch.setenv("TOKENQ_ADMIN_KEY", ADMIN_KEY)
    monkeypatch.setenv("VLLM_API_KEY", ADMIN_KEY)
    session = tokenq.load(place / "model", place / "model", device="cpu")
    with tokenq.serve(session, port=0) as found:
        yield found


def words(place, output, *more):
    named = ["--model", place / "model", "--prompts", place / "prompts.jsonl", "--output", output]
    return [str(word) for word in ("online", *named, *SHORT, *more)]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_adapters_go_out_and_what_they_write_comes_in(place, server, tmp_path):
    """After each publication the server's log-probs are held against the trainer's own: to 1e-3 at the worst token."""
    assert main(words(place, tmp_path / "run", "--lora-rank", "2", "--writer", server.url)) == 0
    sent = lines(tmp_path / "run" / "rounds" / "writer.jsonl")
    assert [(line["version"], line["has"], line["sync"]) for line in sent] == [(0, 0, "lora"), (3, 3, "lora")]
    assert max(line["worst"] for line in sent) < 1e-4
    written = lines(tmp_path / "run" / "rounds" / "0002" / "rollouts.jsonl")
    assert {(one["version"], one["logps_of"]) for one in written} == {(3, "model")}
    assert len(written) == 24


@pytest.mark.slow
def test_rounds_are_those_of_the_local_writer(place, server, tmp_path):
    """Whole weights are reloaded; nearly greedy, both writers write the same and learn the same."""
    greedy = ["--method", "selm", "--samples", "2", "--temperature", "0.0001"]
    for name, more in (("local", []), ("remote", ["--writer", server.url])):
        assert main(words(place, tmp_path / name, *greedy, *more)) == 0
    sent = lines(tmp_path / "remote" / "rounds" / "writer.jsonl")
    assert [(line["version"] > 0, line["version"] == line["has"], line["sync"]) for line in sent] == [
        (False, True, "reload"),
        (True, True, "reload"),
    ]
    for number in ("0001", "0002"):
        own, other = (lines(tmp_path / name / "rounds" / number / "rollouts.jsonl") for name in ("local", "remote"))
        assert [one["token_ids"] for one in own] == [one["token_ids"] for one in other]
        assert [one["reward"] for one in own] == [one["reward"] for one in other]


@pytest.mark.slow
def test_the_doctor_finds_the_writer_in_agreement(place, server, tmp_path):
    asked = ["doctor", "--writer", server.url, "--policy", place / "model", "--device", "cpu"]
    assert main([*map(str, asked), "--output", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in found["findings"]] == ["writer-agrees"]


@pytest.mark.slow
def test_without_the_admin_key_no_weights_go_out(place, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VLLM_API_KEY", "a-key-of-somebody-else")
    assert main(words(place, tmp_path / "run", "--lora-rank", "2", "--writer", server.url)) == 2
    said = capsys.readouterr().err
    assert "needs the admin key" in said
    assert "Traceback" not in said
