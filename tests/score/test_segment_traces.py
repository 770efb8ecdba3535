"""Traces of a policy with strengths by segment: rewards, stretches and sums by hand, from a run's settings."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.models.load import ModelSpec
from tokenq.models.run_models import recorded_models
from tokenq.report.terminal import card

ROWS = [{"prompt": f"{n}?", "chosen": f" {n} cat#01{n}", "rejected": f" dog#1{n}0"} for n in range(4)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has learnt words at 0.1 and an image, which begins with #, at 0.02."""
    folder = tmp_path_factory.mktemp("traces")
    tiny_model("gpt_neox", layers=1).save_pretrained(folder / "model")
    tiny_tokenizer("bytes").save_pretrained(folder / "model")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = ["--model", str(folder / "model"), "--data", str(folder / "pairs.jsonl"), "--output", str(folder / "run")]
    words += ["--device", "cpu", "--max-steps", "2", "--learning-rate", "1e-2", "--reference-store", "off"]
    words += ["--eval-data", str(folder / "pairs.jsonl")]
    assert main(["train", *words, "--segments", "words=.1,image=.02", "--segment-starts", "image=#"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def traces(run):
    return list(tokenq.load(run, device="cpu").score_all(str(run.parent / "pairs.jsonl")))


def test_a_token_is_rewarded_at_the_strength_of_its_segment(traces):
    """Behind # everything is image, EOS too: byte by byte " 0 cat" are 6 tokens of words, "#010" and EOS 5 of image."""
    tokens = traces[0].tokens.columns
    ratios = tokens["logp"] - tokens["ref_logp"]
    assert np.abs(ratios).min() > 0
    strengths = tokens["implicit_reward"] / ratios
    assert strengths.tolist() == pytest.approx([0.1] * 6 + [0.02] * 5)
    assert (tokens["advantage"] / tokens["logp"]).tolist() == pytest.approx([0.1] * 6 + [0.02] * 5)


def test_segments_are_levels_that_add_up(traces):
    trace = traces[0]
    words, image = (trace.spans.of(f"segment {name}").columns for name in ("words", "image"))
    assert (words["first"].tolist(), words["last"].tolist(), words["start"].tolist(), words["end"].tolist()) == (
        [0],
        [6],
        [0],
        [6],
    )
    assert (image["first"].tolist(), image["last"].tolist(), image["tokens"].tolist()) == ([6], [11], [5])
    assert words["sum"][0] + image["sum"][0] == pytest.approx(trace.totals.implicit_reward)
    assert image["end_value"][0] == pytest.approx(trace.totals.implicit_reward)
    assert any("words 0.1, image 0.02" in warning for warning in trace.warnings)


def test_margins_are_those_of_the_training(traces, run):
    """The held-out margin of the last evaluation, of all and of each segment, in the mean over pairs."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "eval_rewards/margins" in line][-1]
    sides = {side: [trace for trace in traces if trace.side == side] for side in ("chosen", "rejected")}
    means = {side: np.mean([one.totals.implicit_reward for one in found]) for side, found in sides.items()}
    assert means["chosen"] - means["rejected"] == pytest.approx(last["eval_rewards/margins"], abs=1e-5)
    for name in ("words", "image"):
        own = {s: np.mean([t.spans.of(f"segment {name}").columns["sum"].sum() for t in f]) for s, f in sides.items()}
        assert own["chosen"] - own["rejected"] == pytest.approx(last[f"eval_rewards/margins/{name}"], abs=1e-5)


def test_the_terminal_shows_the_sum_of_each_segment(traces):
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as told:
        console.print(card(traces[0]))
    image = traces[0].spans.of("segment image").columns["sum"].sum()
    assert f"segment image: implicit reward {image:+.3f}, 5 tokens" in told.get()


def test_another_beta_scales_all_strengths():
    config = {"model": "m", "segments": {"words": 0.1, "image": 0.02}, "segment_starts": {"image": "#"}}
    made = recorded_models(Path("policy"), {"config": config, "beta": 0.1}, ModelSpec("policy"))
    assert made.parts_at(0.1).segments == config["segments"]
    assert made.parts_at(0.5).segments == pytest.approx({"words": 0.5, "image": 0.1})
    assert made.parts_at(0.5).segment_starts == {"image": "#"}
