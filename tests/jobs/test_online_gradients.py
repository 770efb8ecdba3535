"""`tokenq online` by policy gradients: what a round ends in, what a kill costs, what is refused, and that it learns."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from forked import done, two_ranks
from jobs.test_online import files_of, lines_of, moments, rollouts, watched
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.files import JsonLines
from tokenq.records.rollouts import read_advantages
from tokenq.rollout.methods import METHODS

pytestmark = pytest.mark.integration

ROWS = [{"prompt": f"What is {n} and {n}?", "answer": "What"} for n in range(6)]
OTHERS = [{"prompt": f"What is {n} and 9?", "answer": "What"} for n in range(5)]
SHORT = ["--rounds", "2", "--samples", "4", "--max-new-tokens", "8", "--learning-rate", "3e-3", "--device", "cpu"]
SHORT += ["--batch-size", "6", "--prompts-per-batch", "3"]
JUDGED = ["--answer", "regex:What", "--gold", "answer"]  # a random model says it in four responses of ten
GRADIENTS = [name for name, row in METHODS.items() if row.learns == "advantages"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("gradients")
    for seed, name in enumerate(("model", "other")):
        tiny_model("llama", seed=seed, vocab_size=32).save_pretrained(root / name)
        tiny_tokenizer("words", texts=("What is and ? 0 1 2 3 4 5 6 7 8 9 .",)).save_pretrained(root / name)
    (root / "length.py").write_text(
        "def score(prompts, responses):\n    return [float(len(one)) for one in responses]\n"
    )
    for name, rows in (("prompts", ROWS), ("others", OTHERS), ("never", [{**row, "answer": "77"} for row in ROWS])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def words(place, output, *more, judged=JUDGED, prompts=None):
    named = ["--model", place / "model", "--prompts", prompts or place / "prompts.jsonl", "--output", output]
    return [str(word) for word in ("online", *named, *SHORT, *judged, *more)]


def rounds_of(run):
    return [line for line in lines_of(run) if "round" in line]


def steps_of(run):
    return [line for line in lines_of(run) if line.get("loss") is not None]


PPO = ["--method", "ppo", "--reference-sync-steps", "1", "--reference-mixup-alpha", "0.5", "--truncated", "bootstrap"]
PPO += ["--lam", "1", "--beta", "0.01", "--loss", "ppo+0.5*clipped_value", "--eval-size", "1", "--save-steps", "1"]


@pytest.fixture(scope="module")
def whole(place):
    """A run of PPO with all that it can keep beside the policy, and how many writes it takes."""
    counted = done(lambda: watched(lambda _: None, words(place, place / "whole", *PPO)), place / "printed")
    assert counted.code == 0, counted.text
    return place / "whole", int(counted.text.rsplit("writes: ", 1)[1])


def test_advantages_are_those_of_the_values_on_disk(whole):
    """γ = λ = 1: returns are sums of R − β d to go, advantages returns − V, whitened; cut responses go on in V."""
    run, _ = whole
    for number in (1, 2):
        named = {(row["id"], row["number"]): row for row in rollouts(run, number)}
        path = run / "rounds" / f"{number:04d}" / "advantages.jsonl"
        lines = JsonLines(path).read()
        assert sum(len(group.responses) for group in read_advantages(path)) == len(lines) == 20
        for one in lines:
            row = named[one["id"], one["number"]]
            assert one["token_ids"] == row["token_ids"]
            assert one["old_logps"] == pytest.approx(row["logps"], abs=1e-6)
        columns = {
            name: np.concatenate([one[name] for one in lines]) for name in ("returns", "old_values", "advantages")
        }
        raw, given = columns["returns"] - columns["old_values"], columns["advantages"].tolist()
        if number == 1:  # no reference has moved: d = 0, and V = 0 everywhere
            rewards = np.repeat([one["reward"] for one in lines], [len(one["token_ids"]) for one in lines])
            assert columns["returns"].tolist() == pytest.approx(rewards.tolist(), abs=1e-5)
        expected = (np.array(raw) - np.mean(raw)) / np.sqrt(np.var(raw) + 1e-8)
        assert given == pytest.approx(expected.tolist(), abs=1e-4)
    first, second = rounds_of(run)
    assert (first["round/kl_k1"], first["round/value"]) == (pytest.approx(0, abs=1e-5), 0)
    assert second["round/kl_k3"] > 1e-3
    assert second["round/value"] != 0
    assert np.isfinite(second["round/explained_variance"])


def test_a_kill_at_any_moment_costs_nothing(place, whole, tmp_path):
    """Policy, value network, moving reference: weights, files and numbers come out the same to the last bit."""
    run, writes = whole
    expected, lines, policy = files_of(run)
    for moment in moments(writes)[3::4]:
        output = tmp_path / str(moment)
        asked = words(place, output, *PPO)

        def killed(moment=moment, asked=asked):
            watched(lambda n: n == moment and os._exit(9), asked)

        assert done(killed, tmp_path / "printed").code == 9
        again = done(lambda asked=asked: main([*asked, "--resume"]), tmp_path / "printed")
        assert again.code == 0, (moment, again.text)
        found, found_lines, found_policy = files_of(output)
        assert found == expected, moment
        assert found_policy == policy, moment
        assert found_lines == lines, moment
        shutil.rmtree(output)


SLOW = {"rloo", "grpo", "dapo", "ppo", "prime"}
"""Methods whose recipes run in the fast tests."""


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in GRADIENTS if name != "rto"],
)
def test_every_method_runs(method, place, tmp_path):
    assert main(words(place, tmp_path / "run", "--method", method)) == 0
    groups = read_advantages(tmp_path / "run" / "rounds" / "0001" / "advantages.jsonl")
    assert sum(len(group.responses) for group in groups) == 24
    assert len(steps_of(tmp_path / "run")) == 8  # twice 24 responses in batches of 6
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy")


def test_the_values_of_a_dpo_run_are_a_baseline_and_its_rewards_may_be_added(place, tmp_path):
    pairs = [{"prompt": f"{n}?", "chosen": f" {n}.", "rejected": f" {n + 1}."} for n in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    trained = ["train", "--model", place / "model", "--data", tmp_path / "pairs.jsonl", "--output", tmp_path / "dpo"]
    trained += ["--learning-rate", "1e-2", "--max-steps", "2", "--device", "cpu"]
    assert main([str(word) for word in trained]) == 0
    for name, more in (("rto", []), ("grpo", ["--credit", "implicit"])):
        asked = ["--method", name, "--credit-run", tmp_path / "dpo", "--rounds", "1", *more]
        assert main(words(place, tmp_path / name, *asked)) == 0
        (first,) = rounds_of(tmp_path / name)
        assert first["round/token_reward_std"] > 0
    group = read_advantages(tmp_path / "grpo" / "rounds" / "0001" / "advantages.jsonl")[0]
    column = next(one.token_columns["advantages"] for one in group.responses if len(one.ids) > 1)
    assert len(set(column.tolist())) > 1  # one for each token


def test_the_judge_itself_rewards_every_token(place, tmp_path):
    """A potential of the text's length: each token is credited with the characters that it and those after it add."""
    asked = ["--method", "reinforce", "--token-rewards", "judge", "--token-reward-form", "potential", "--rounds", "1"]
    judged = ["--judge", f"{place / 'length.py'}:score"]
    assert main(words(place, tmp_path / "run", *asked, judged=judged)) == 0
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    lines = JsonLines(tmp_path / "run" / "rounds" / "0001" / "advantages.jsonl").read()
    for line in lines:
        count, ids = len(line["token_ids"]), [*line["prompt_ids"], *line["token_ids"]]
        texts = [tokenizer.decode(ids[: len(ids) - left], skip_special_tokens=True) for left in range(count + 1)]
        assert line["advantages"][::-1] == [len(texts[0]) - len(text) for text in texts[1:]]
        assert line["advantages"][0] == line["reward"] == len(line["response"])
    assert rounds_of(tmp_path / "run")[0]["round/judgements"] == len(lines) == 24
    assert main(words(place, tmp_path / "no", *asked, judged=["--judge", "ask"])) == 2


def test_a_process_reward_model_learns_beside_the_policy_and_its_rewards_are_read_before_it_does(place, tmp_path):
    """It begins as the reference: rewards of tokens are 0 in the first round, and not in the second."""
    asked = words(place, tmp_path / "run", "--method", "prime", "--save-steps", "1")
    assert main(asked) == 0
    first, second = rounds_of(tmp_path / "run")
    assert (first["round/token_reward"], second["round/token_reward"]) == (
        pytest.approx(0, abs=1e-6),
        pytest.approx(0, abs=1),
    )
    assert second["round/token_reward_std"] > 1e-4
    assert all(line["prm/grad_norm"] > 0 for line in steps_of(tmp_path / "run"))
    lines = JsonLines(tmp_path / "run" / "rounds" / "0001" / "advantages.jsonl").read()
    assert {line["outcomes"] for line in lines} == {0.0, 1.0}
    assert all(line["outcomes"] == line["reward"] for line in lines)


def test_a_process_reward_model_learns_from_outcomes_alone(place, tmp_path, capsys):
    judged = ["--judge", f"{place / 'length.py'}:score"]
    assert main(words(place, tmp_path / "run", "--method", "prime", judged=judged)) == 2
    assert "learns from outcomes between 0 and 1" in capsys.readouterr().err


NORMALISED = ["--method", "ppo", "--kl", "none", "--lam", "1", "--whiten-advantages", "false", "--normalise-values"]


def columns_of(run, number):
    """Return [returns, old values, advantages] of all tokens of a round, and the reward of the response of each."""
    lines = JsonLines(run / "rounds" / f"{number:04d}" / "advantages.jsonl").read()
    found = [np.concatenate([one[name] for one in lines]) for name in ("returns", "old_values", "advantages")]
    return found, np.repeat([float(one["reward"]) for one in lines], [len(one["token_ids"]) for one in lines])


def test_values_are_of_returns_by_their_moments_so_far(place, tmp_path):
    """γ = λ = 1 without KL: a token's return is R, its advantage R − V with V = mean + std · v of the rounds before."""
    asked = words(place, tmp_path / "run", *NORMALISED)
    counted = done(lambda: watched(lambda _: None, asked), tmp_path / "printed")
    assert counted.code == 0, counted.text
    moments = [(0.0, 1.0)]
    for number in (1, 2):
        (returns, values, advantages), rewards = columns_of(tmp_path / "run", number)
        every = np.concatenate([columns_of(tmp_path / "run", one)[1] for one in range(1, number + 1)])
        moments.append((every.mean(), every.std()))
        (mean, std), (new_mean, new_std) = moments[-2:]
        assert advantages == pytest.approx(rewards - (mean + std * values), abs=1e-6)
        assert returns == pytest.approx((rewards - new_mean) / new_std, abs=1e-6)
        (line,) = JsonLines(tmp_path / "run" / "rounds" / f"{number:04d}" / "returns.jsonl").read()
        assert line == pytest.approx({"size": len(every), "mean": new_mean, "std": new_std})
    assert np.abs(values).max() > 1e-3
    expected, moment = files_of(tmp_path / "run"), int(counted.text.rsplit("writes: ", 1)[1]) * 3 // 4
    shutil.move(tmp_path / "run", tmp_path / "whole")
    killed = done(lambda: watched(lambda n: n == moment and os._exit(9), asked), tmp_path / "printed")
    assert killed.code == 9
    assert done(lambda: main([*asked, "--resume"]), tmp_path / "printed").code == 0
    assert files_of(tmp_path / "run") == expected


def test_prompts_of_other_accuracy_are_left_out_and_counted(place, tmp_path):
    asked = ["--method", "grpo", "--filter-accuracy", "0.25", "0.8", "--seed", "3"]
    assert main(words(place, tmp_path / "run", *asked)) == 0
    rewards: dict[str, list[float]] = {}
    for row in rollouts(tmp_path / "run", 1):
        rewards.setdefault(row["id"], []).append(row["reward"])
    means = {name: sum(some) / 4 for name, some in rewards.items()}
    kept = {name for name, mean in means.items() if mean in (0.5, 0.75)}
    lines = JsonLines(tmp_path / "run" / "rounds" / "0001" / "advantages.jsonl").read()
    assert {line["id"] for line in lines} == kept
    assert 0 < len(kept) < 6
    line = rounds_of(tmp_path / "run")[0]
    easy, hard = (sum(mean in values for mean in means.values()) for values in ((1.0,), (0.0, 0.25)))
    assert (line["round/filtered_easy"], line["round/filtered_hard"]) == (easy, hard)
    assert line["round/without_signal"] == (6 - len(kept)) / 6
    assert "prompts that are left out by their accuracy" in (tmp_path / "run" / "report" / "index.html").read_text()


def test_the_accuracy_of_no_outcomes_is_refused(place, tmp_path, capsys):
    judged = ["--judge", f"{place / 'length.py'}:score"]
    asked = ["--method", "grpo", "--filter-accuracy", "0", "1"]
    assert main(words(place, tmp_path / "run", *asked, judged=judged)) == 2
    assert "takes the mean of outcomes between 0 and 1" in capsys.readouterr().err


def test_what_is_cut_is_masked_or_gets_nothing(place, tmp_path):
    """No response of three tokens ends but those with an EOS: the others are not learnt from, or are worth 0."""
    for how, said in (("mask", "masked"), ("zero", "zeroed"), ("drop", "dropped")):
        run = tmp_path / how
        asked = ["--method", "rloo", "--truncated", how, "--max-new-tokens", "3", "--samples", "8", "--rounds", "1"]
        assert main(words(place, run, *asked, judged=["--judge", f"{place / 'length.py'}:score"])) == 0
        rows = rollouts(run, 1)
        cut = [row for row in rows if row["finish"] == "length"]
        assert 0 < len(cut) < len(rows)
        assert rounds_of(run)[0][f"round/truncated_{said}"] == len(cut)
        groups = read_advantages(run / "rounds" / "0001" / "advantages.jsonl")
        learnt = [one for group in groups for one in group.responses]
        assert 0 < len(learnt) <= (len(rows) if how == "zero" else len(rows) - len(cut))
        assert all(one.terminal for one in learnt) == (how != "zero")


def test_a_round_of_ties_teaches_nothing(place, tmp_path, capsys):
    never = {"prompts": place / "never.jsonl"}
    for method in ("grpo", "ppo"):
        run = tmp_path / method
        assert main(words(place, run, "--method", method, **never)) == 0
        assert "warning: round 1 gives no advantage: the judge gave all responses" in capsys.readouterr().err
        assert [line["round/without_signal"] for line in rounds_of(run)] == [1.0, 1.0]
        same = [load_file(one / "model.safetensors") for one in (place / "model", run / "policy")]
        assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])
        assert not steps_of(run)
        tied = [one for one in tokenq.examine(run, device="cpu").findings if one.name == "everything-tied"]
        assert [one.severity for one in tied] == ["error"]
    assert main(words(place, tmp_path / "stop", "--method", "grpo", "--on-empty-round", "stop", **never)) == 2
    assert "Round 1 gives no advantage." in capsys.readouterr().err


def test_rewards_that_are_not_finite_stop_the_run_and_are_mended(place, tmp_path, capsys):
    judge = tmp_path / "judge.py"
    judge.write_text("def score(prompts, responses):\n    return [float('nan') for _ in responses]\n")
    asked = words(place, tmp_path / "run", "--method", "grpo", "--judge", f"{judge}:score", judged=())
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert "no finite number to response 0 of prompt" in said
    assert "Traceback" not in said
    judge.write_text("def score(prompts, responses):\n    return [float(len(one)) for one in responses]\n")
    assert main(asked) == 0


def test_a_page_and_a_doctor_read_the_run(whole):
    run, _ = whole
    page = (run / "report" / "index.html").read_text()
    for title in ("KL to the reference of the round", "variance that the values explain", "clipped tokens"):
        assert title in page
    assert "advantage" in page
    found = tokenq.examine(run, device="cpu")
    assert not found.unseen
    assert "stale-rollouts" not in {one.name for one in found.findings}


def test_a_policy_in_shards_is_refused(place, tmp_path, capsys, monkeypatch):
    sharding = SimpleNamespace(distributed_type=DistributedType.FSDP)
    monkeypatch.setattr("tokenq.jobs.training.opening.accelerator_for", lambda config: sharding)
    assert main(words(place, tmp_path / "run", "--method", "ppo")) == 2
    assert "A policy in shards (FSDP, DeepSpeed) cannot write here." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_adapter_learns_with_values_beside_it(place, tmp_path):
    more = ["--lora-rank", "2", "--method", "ppo", "--reference-sync-steps", "2"]
    assert main(words(place, tmp_path / "run", *more)) == 0
    assert (tmp_path / "run" / "policy" / "adapter_config.json").exists()
    assert rounds_of(tmp_path / "run")[1]["round/kl_k3"] > 0


@pytest.mark.slow
def test_two_processes_do_the_updates_of_one(place, tmp_path):
    """Four of plain gradient descent: AdamW's first steps are signs, which rounding turns where a slope is nearly 0."""
    asked = ["--method", "ppo", "--rounds", "1", "--optimizer", "sgd", "--learning-rate", "3e-2"]
    alone = done(lambda: main(words(place, tmp_path / "one", *asked)), tmp_path / "printed")
    assert alone.code == 0, alone.text
    ended = two_ranks(lambda: max(main(words(place, tmp_path / name, *asked)) for name in ("two", "again")), tmp_path)
    assert [one.code for one in ended] == [0, 0], ended
    two, again = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("two", "again"))
    assert all(torch.equal(two[name], again[name]) for name in two)  # in the group that the first run has formed
    own, other = ([row["token_ids"] for row in rollouts(tmp_path / name, 1)] for name in ("one", "two"))
    assert own == other
    one, two = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("one", "two"))
    start = load_file(place / "model" / "model.safetensors")
    assert max((one[name] - start[name]).abs().max().item() for name in one) > 1e-3
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-6


def learnt(tmp_path, method, seed, rows=64, rounds=12):
    """Return the mean rewards of the rounds of a run whose samples begin by being right one time in a hundred."""
    numbers = " ".join(str(number) for number in range(100))
    tokenizer = tiny_tokenizer("words", texts=(f"What is and ? {numbers}",))
    tiny_model("llama", seed=0, vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    prompts = [{"prompt": f"What is {n} and {n}?", "answer": "7"} for n in range(rows)]
    (tmp_path / "rare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    run = tmp_path / f"{method}-{seed}"
    asked = ["online", "--model", tmp_path / "model", "--prompts", tmp_path / "rare.jsonl", "--answer", "last_number"]
    asked += ["--gold", "answer", "--method", method, "--rounds", rounds, "--samples", "8", "--max-new-tokens", "4"]
    asked += ["--learning-rate", "3e-3", "--output", run, "--seed", seed, "--device", "cpu"]
    assert main([str(word) for word in asked]) == 0
    found = [[row["reward"] for row in rollouts(run, number)] for number in range(1, rounds + 1)]
    return [sum(some) / len(some) for some in found]


def test_it_learns(place, tmp_path):
    assert main(words(place, tmp_path / "run", "--method", "grpo", "--rounds", "3", "--learning-rate", "1e-2")) == 0
    rewards = [line["round/reward"] for line in rounds_of(tmp_path / "run")]
    assert rewards[2] > rewards[0] + 0.2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "rloo", "reinforce", "ppo"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_right_one_time_in_a_hundred_is_learnt(method, seed, tmp_path):
    means = learnt(tmp_path, method, seed)
    assert means[0] < 0.05
    assert sum(means[9:]) / 3 > sum(means[:2]) / 2
