"""`tokenq train --segments`: from flags and data to a policy, and equal strengths that change no byte of it."""

import json

import pytest
import yaml
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main

pytestmark = pytest.mark.integration

ROWS = [{"prompt": f"{n}?", "chosen": f" {n} cat#01{n}", "rejected": f" {n} dog#1{n}0"} for n in range(6)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model of bytes on disk, and pairs whose image begins with #."""
    folder = tmp_path_factory.mktemp("segments")
    tiny_model("gpt_neox", layers=1).save_pretrained(folder / "model")
    tiny_tokenizer("bytes").save_pretrained(folder / "model")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def train(place, output, *words):
    command = ["train", "--model", str(place / "model"), "--data", str(place / "pairs.jsonl"), "--device", "cpu"]
    command += ["--output", str(output), "--max-steps", "3", "--batch-size", "3", "--learning-rate", "1e-3"]
    code = main([*command, "--reference-store", str(place / "store"), *words])
    if code:
        return code
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


SPLIT = ("--segment-starts", "image=#", "--segments")


def test_equal_strengths_are_dpo_to_the_last_byte(place, tmp_path):
    train(place, tmp_path / "plain")
    train(place, tmp_path / "split", *SPLIT, "words=.1,image=.1")
    weights = [(tmp_path / run / "policy" / "model.safetensors").read_bytes() for run in ("plain", "split")]
    assert weights[0] == weights[1]


def test_metrics_are_split_and_strengths_are_recorded(place, tmp_path):
    lines = train(place, tmp_path / "run", *SPLIT, "words=0.1", "image=0.02", "--eval-size", "2")
    last = [line for line in lines if "rewards/margins" in line][-1]
    parts = [last[f"rewards/margins/{name}"] for name in ("words", "image")]
    assert sum(parts) == pytest.approx(last["rewards/margins"], abs=1e-6)
    assert last["kl/words"] + last["kl/image"] == pytest.approx(last["kl"], abs=1e-4)
    assert last["rewards/margin_sd/words"] > 0
    held_out = [line for line in lines if "eval_rewards/accuracies/image" in line]
    assert len(held_out) >= 2
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["segments"] == {"words": 0.1, "image": 0.02}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--segments", "words=.1,image=-1"], "the strength of 'image' is -1.0"),
        (["--segments", "words=.1,image=nan"], "--segments image is nan"),
        (["--segments", "words=.1,image=inf"], "--segments image is inf"),
        (["--segments", "words=0,image=0"], "every strength is 0"),
        (["--segments", "words=x"], "--segments words takes a number, not 'x'"),
        (["--segments", "words"], "--segments takes name=value"),
        (["--segment-starts", "image=#"], "--segment-starts is given without --segments"),
        (["--segments", "words=.1,image=.1", "--segment-starts", "imge=#"], "Did you mean 'image'"),
        (["--segments", "words=.1,image=.1", "--segment-starts", "image=##"], "'##' is 2 tokens"),
        (["--segments", "words=.1,image=.1", "--segment-starts", "image=@"], "No row has a token of segment 'image'"),
        (["--segments", "words=.1,image=.1", "--loss", "sft"], "loss 'sft' has no strengths by segment"),
        (["--segments", "words=.1,image=.1", "--loss", "orpo"], "loss 'orpo' has no strengths by segment"),
    ],
)
def test_what_is_refused(words, said, place, tmp_path, capsys):
    assert train(place, tmp_path / "run", *words) == 2
    assert said in capsys.readouterr().err
