"""Reward models learn the reward that made the labels, on a world where it is known: letters are worth something."""

import json
import random

import numpy as np
import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.core.losses import LOSSES
from tokenq.records.trace_files import read_traces

pytestmark = pytest.mark.slow

WORTH = {"a": 1.0, "b": 0.5, "c": 0.0, "d": -0.5, "e": -1.0}
"""What a letter of a response adds to its reward, but twice that after a prompt that ends in "!"."""


def truth(prompt, text):
    return sum(WORTH[letter] for letter in text) * (2 if prompt.endswith("!") else 1)


def responses(draw, count):
    return ["".join(draw.choices("abcde", k=draw.randint(3, 6))) for _ in range(count)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pairs(count, seed, noisy):
    """Return pairs labelled by Bradley-Terry on the true reward, or by the true reward itself."""
    draw, rows = random.Random(seed), []
    while len(rows) < count:
        prompt, (one, other) = f"{draw.randint(0, 9)}{draw.choice('.!')}", responses(draw, 2)
        gap = truth(prompt, one) - truth(prompt, other)
        if one == other or (gap == 0 and not noisy):
            continue
        wins = draw.random() < 1 / (1 + np.exp(-gap)) if noisy else gap > 0
        chosen, rejected = (one, other) if wins else (other, one)
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, "margin": abs(gap)})
    return rows


def rated(count, seed):
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt, (text,) = f"{draw.randint(0, 9)}{draw.choice('.!')}", responses(draw, 1)
        known = {"worth": truth(prompt, text), "length": len(text)}
        rows.append(
            {"prompt": prompt, "response": text, "ratings": {k: v for k, v in known.items() if draw.random() < 0.8}}
        )
    return [row for row in rows if row["ratings"]]


def steps(count, seed):
    """Return responses in steps; a step is right when it holds more of a than of e."""
    draw, rows = random.Random(seed), []
    for number in range(count):
        made = responses(draw, 3)
        labels = [step.count("a") > step.count("e") for step in made]
        rows.append({"prompt": f"{number}?", "completions": made, "labels": labels})
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("letters")
    tiny_model("gpt_neox").save_pretrained(folder / "model")
    tiny_tokenizer("bytes").save_pretrained(folder / "model")
    write(folder / "pairs.jsonl", pairs(1600, 1, noisy=True))
    write(folder / "held_out_pairs.jsonl", pairs(300, 2, noisy=False))
    write(folder / "rated.jsonl", rated(1600, 3))
    write(folder / "held_out_rated.jsonl", rated(300, 4))
    write(folder / "steps.jsonl", steps(800, 5))
    write(folder / "held_out_steps.jsonl", steps(200, 6))
    return folder


def trained(place, output, data, loss, *words):
    arguments = ["train", "--model", str(place / "model"), "--data", str(place / f"{data}.jsonl"), "--loss", loss]
    arguments += ["--eval-data", str(place / f"held_out_{data}.jsonl"), "--output", str(output), "--device", "cpu"]
    arguments += ["--batch-size", "32", "--epochs", "6", "--learning-rate", "3e-3", "--schedule", "cosine", *words]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "eval_loss" in line]


@pytest.mark.parametrize(
    "loss", [name for name, row in LOSSES.items() if row.output == "rewards" and row.unit == "pairs"]
)
def test_pairs_teach_the_reward(loss, place, tmp_path):
    """Held-out pairs are ordered by the truth, and differences of rewards go with those of the truth."""
    before, after = trained(place, tmp_path / "run", "pairs", loss)
    assert before["eval_rewards/accuracies"] < 0.7
    assert after["eval_rewards/accuracies"] > 0.85
    words = ["score", "--reward-model", str(tmp_path / "run" / "reward_model"), "--device", "cpu"]
    words += ["--data", str(place / "held_out_pairs.jsonl"), "--output", str(tmp_path / "traces.jsonl")]
    assert main(words) == 0
    traces = list(read_traces(tmp_path / "traces.jsonl"))
    got = [a.totals.reward - b.totals.reward for a, b in zip(traces[::2], traces[1::2], strict=True)]
    rows = [json.loads(line) for line in (place / "held_out_pairs.jsonl").read_text().splitlines()]
    want = [truth(row["prompt"], row["chosen"]) - truth(row["prompt"], row["rejected"]) for row in rows]
    signs = np.resize([1, -1], len(want))  # chosen is always better: half of the pairs the other way round
    assert np.corrcoef(signs * got, signs * want)[0, 1] > 0.9


def test_ratings_teach_both_attributes(place, tmp_path):
    before, after = trained(place, tmp_path / "run", "rated", "regression")
    assert after["eval_loss"] < before["eval_loss"] / 5
    assert after["eval_pearson/worth"] > 0.95
    assert after["eval_spearman/worth"] > 0.95
    assert after["eval_pearson/length"] > 0.95


def test_labels_of_steps_teach_which_step_is_wrong(place, tmp_path):
    before, after = trained(place, tmp_path / "run", "steps", "process")
    assert before["eval_rewards/accuracies"] < 0.7
    assert after["eval_rewards/accuracies"] > 0.9
