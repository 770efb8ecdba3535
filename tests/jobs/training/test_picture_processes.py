"""Two processes train pictures as one does: the noise is that of the row, on whatever process it lies."""

import json

import pytest
import torch
from drawn_pairs import write_pairs
from forked import two_ranks
from safetensors.torch import load_file

from tokenq.cli.main import main
from tokenq.rundir import RunDir


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dpo", "aot", "hybrid"])
def test_two_processes_give_what_one_gives(kind, tmp_path):
    place = write_pairs(tmp_path, 9)

    def words(output):
        model, data = ("lm", "drawn") if kind == "hybrid" else ("image", "pairs")
        found = ["train", "--model", str(place / model), "--data", str(place / f"{data}.jsonl")]
        found += ["--output", str(place / output), "--loss", "dpo" if kind == "hybrid" else kind, "--device", "cpu"]
        found += ["--max-steps", "3", "--batch-size", "3", "--learning-rate", "1e-4", "--images-per-batch", "4"]
        found += ["--eval-size", "2", "--image-learning-rate", "1e-4"] if kind == "hybrid" else ["--eval-size", "2"]
        return [*found, "--image-model", str(place / "image")] if kind == "hybrid" else found

    for code, said in two_ranks(lambda: main(words("two")), tmp_path):
        assert code == 0, said[-3000:]
    assert main(words("one")) == 0
    two, one = RunDir(place / "two"), RunDir(place / "one")
    for ours, theirs in ((two.policy, one.policy), (two.image_policy, one.image_policy)):
        if theirs.exists():
            mine = load_file(ours / "model.safetensors")
            for name, weight in load_file(theirs / "model.safetensors").items():
                torch.testing.assert_close(mine[name], weight, rtol=0, atol=1e-6, msg=lambda m, k=name: f"{k}: {m}")
    both = zip(*(map(json.loads, run.metrics.read_text().splitlines()) for run in (two, one)), strict=True)
    for mine, theirs in both:
        for name in ("loss", "rewards/margins", "kl", "noisy_pictures", "eval_loss", "eval_rewards/margins"):
            if theirs.get(name) is not None:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-4), name
