"""A policy gradient on a judge that is wrong: what it does to the truth with and without KL, and who says so."""

import json

import pytest
from jobs.test_online import lines_of
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main


def rows(path, numbers, **more):
    """Write questions to all of which 7 is the true answer."""
    found = [{"prompt": f"What is {n // 10} and {n % 10}?", "answer": "7", **more} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def curve(run, key):
    return [line[key] for line in lines_of(run) if key in line]


@pytest.mark.slow
def test_a_wrong_judge_is_hacked_without_kl_and_not_with_it(tmp_path):
    """The policy has learnt to answer 7, and the judge counts nines. Where rewards have no price, accuracy on questions
    that nothing is learnt from falls; a KL penalty of 10 a nat, twice the most that a response can earn, holds it.
    """
    tokenizer = tiny_tokenizer("words", texts=("What is and ? 0 1 2 3 4 5 6 7 8 9 .",))
    for thing in (tiny_model("llama", seed=0, vocab_size=len(tokenizer)), tokenizer):
        thing.save_pretrained(tmp_path / "model")
    judge = tmp_path / "nines.py"
    judge.write_text("def score(prompts, responses):\n    return [float(one.count('9')) for one in responses]\n")
    shown = rows(tmp_path / "shown.jsonl", range(100), response=" 7.")
    asked, held_out = rows(tmp_path / "asked.jsonl", range(24)), rows(tmp_path / "held_out.jsonl", range(70, 100))
    first = ["train", "--model", tmp_path / "model", "--data", shown, "--loss", "sft", "--learning-rate", "4e-3"]
    first += ["--batch-size", "10", "--device", "cpu", "--output", tmp_path / "sft"]
    assert main(list(map(str, first))) == 0
    online = ["online", "--model", tmp_path / "sft" / "policy", "--prompts", asked, "--eval-prompts", held_out]
    online += ["--answer", "last_number", "--gold", "answer", "--judge", f"{judge}:score", "--method", "rloo"]
    online += ["--rounds", "6", "--samples", "8", "--max-new-tokens", "5", "--learning-rate", "6e-3"]
    online += ["--batch-size", "64", "--schedule", "constant", "--device", "cpu"]
    free, held = tmp_path / "free", tmp_path / "held"
    assert main([*map(str, online), "--kl", "none", "--output", str(free)]) == 0
    assert main([*map(str, online), "--kl", "reward", "--beta", "10", "--output", str(held)]) == 0

    assert curve(free, "round/reward")[-1] > 2
    assert (curve(free, "eval/accuracy")[0], curve(held, "eval/accuracy")[0]) == (1.0, 1.0)
    assert curve(free, "eval/accuracy")[-1] < 0.2
    assert curve(free, "round/kl")[-1] > 10 > 1 > curve(held, "round/kl")[-1]
    assert curve(held, "eval/accuracy")[-1] > 0.8
    named = {run: {one.name: one for one in tokenq.examine(run, device="cpu").findings} for run in (free, held)}
    assert named[free]["reward-hacking"].severity == "error"
    assert "add a KL penalty (--kl reward" in named[free]["reward-hacking"].change
    assert "reward-hacking" not in named[held]
    page = (free / "report" / "index.html").read_text()
    for shown_there in ("samples", "answers, held out", "KL to the first reference"):
        assert shown_there in page
