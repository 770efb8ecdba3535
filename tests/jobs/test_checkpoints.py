"""A checkpoint is a policy: read, it gives the numbers that the run logged at its step; transformers loads it."""

import functools
import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.errors import UserError
from tokenq.jobs.run import Checkpoint
from tokenq.jobs.score import score
from tokenq.models.load import add_lora
from tokenq.models.reward_model import RewardModel

# accelerate and transformers tell that tied weights are written once.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:.*shared tensor")]

PAIRS = [{"prompt": f"{n}?", "chosen": f" {n}.", "rejected": f" {n + 1}."} for n in range(8)]
HELD_OUT = [{"prompt": f"{n}!", "chosen": f" {n}.", "rejected": f" {n + 2}, {n}"} for n in range(5)]
REWARDED = [{"prompt": f"{n}?", "completion": f" {n}.", "reward": float(n % 3)} for n in range(8)]
HELD_REWARDED = [{"prompt": f"{n}!", "completion": f" {n}.", "reward": float(n % 3)} for n in range(5)]
SHORT = {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "keep_checkpoints": 9, "batch_size": 4, "device": "cpu"}
SHORT |= {"learning_rate": 1e-2, "schedule": "constant", "beta": 0.3}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, and an adapter on it that has learnt something."""
    root = tmp_path_factory.mktemp("checkpoints")
    tiny_model("llama", layers=1).save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(root / "model")
        adapted = add_lora(base, rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    adapted.save_pretrained(root / "adapter")
    tiny_tokenizer().save_pretrained(root / "adapter")
    (root / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HELD_OUT))
    return root


KINDS = {
    "full": ("model", {}),
    "lora": ("model", {"lora_rank": 2}),
    "adapter trained further": ("model", {"adapter": "adapter"}),
    "on an adapter that is merged": ("adapter", {}),
    "new adapter on a merge": ("adapter", {"lora_rank": 2}),
}


def trained(place, output, kind):
    """Return a run of a kind."""
    model, more = KINDS[kind]
    more = {name: str(place / value) if name == "adapter" else value for name, value in more.items()}
    return tokenq.train(place / model, PAIRS, output, eval_data=HELD_OUT, **SHORT, **more)


@pytest.fixture(scope="module")
def run_of(place, tmp_path_factory):
    """Return a run by its kind, trained when it is first asked for; it is read and not changed."""
    root = tmp_path_factory.mktemp("runs")
    return functools.cache(lambda kind: trained(place, root / kind, kind))


def logged(run, step):
    """Return the evaluation of a step, as metrics.jsonl has it."""
    (found,) = (row for row in run.metrics if row["step"] == step and "eval_loss" in row)
    return found


def means(traces, side):
    """Return the mean over responses of the sum of a token's implicit rewards."""
    sums = [sum(token.implicit_reward for token in trace.tokens if token.written) for trace in traces]
    of_side = [value for value, trace in zip(sums, traces, strict=True) if trace.side == side]
    return sum(of_side) / len(of_side)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_checkpoint_gives_the_held_out_rewards_that_the_run_logged(run_of, kind):
    run = run_of(kind)
    for step in (2, 4):
        traces = score(run.checkpoint(step), HELD_OUT, device="cpu")
        for side in ("chosen", "rejected"):
            assert means(traces, side) == pytest.approx(logged(run, step)[f"eval_rewards/{side}"], abs=1e-5)
    assert logged(run, 2)["eval_rewards/margins"] != pytest.approx(logged(run, 4)["eval_rewards/margins"], abs=1e-3)


def test_on_the_command_line_it_brings_its_reference_and_its_beta(place, run_of, tmp_path):
    run = run_of("full")
    words = ["--data", str(place / "held.jsonl"), "--device", "cpu"]
    folder = run.checkpoint(2).folder
    outputs = []
    for name, models in {"policy": ["--policy", str(folder)], "run": ["--run", str(folder)]}.items():
        outputs.append(tmp_path / f"{name}.jsonl")
        assert main(["score", *models, *words, "--output", str(outputs[-1])]) == 0
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in outputs]
    assert lines[0] == lines[1]
    found = [sum(token["implicit_reward"] for token in one["tokens"]) for one in lines[0] if one["side"] == "chosen"]
    assert sum(found) / len(found) == pytest.approx(logged(run, 2)["eval_rewards/chosen"], abs=1e-5)
    search = ["search", "--policy", str(folder), "--prompt", "1?", "--method", "beam", "--objective", "reward"]
    assert main([*search, "--max-new-tokens", "2", "--device", "cpu"]) == 0


def test_a_value_network_is_no_part_of_the_policy(place, tmp_path):
    run = tokenq.train(place / "model", REWARDED, tmp_path / "run", loss="dro", eval_data=HELD_REWARDED, **SHORT)
    rows = [{"prompt": row["prompt"], "response": row["completion"]} for row in HELD_REWARDED]
    for step in (2, 4):
        traces = score(run.checkpoint(step), rows, device="cpu")
        assert means(traces, None) == pytest.approx(logged(run, step)["eval_rewards/responses"], abs=1e-5)
        AutoModelForCausalLM.from_pretrained(run.checkpoint(step))


@pytest.mark.parametrize("rank", [0, 2], ids=["full", "adapter"])
def test_a_reward_model_gives_the_rewards_that_the_run_logged(place, tmp_path, rank):
    settings = {name: value for name, value in SHORT.items() if name != "beta"} | {"lora_rank": rank}
    run = tokenq.train(place / "model", PAIRS, tmp_path / "run", loss="bradley_terry", eval_data=HELD_OUT, **settings)
    for step in (2, 4):
        folder = run.checkpoint(step)
        AutoModelForSequenceClassification.from_pretrained(folder)
        reader = tokenq.load(reward_model=folder, device="cpu")
        for side in ("chosen", "rejected"):
            rewards = [reader.score(row["prompt"], row[side]).tokens[-1].reward for row in HELD_OUT]
            assert sum(rewards) / 5 == pytest.approx(logged(run, step)[f"eval_rewards/{side}"], abs=1e-5)
    for named in (run.checkpoint(2), run, str(run.folder)):
        with pytest.raises(UserError, match="holds a reward model and no policy"):
            tokenq.load(named, device="cpu")


@pytest.mark.parametrize("kind", list(KINDS))
def test_transformers_or_peft_loads_it_and_the_last_is_the_policy(run_of, kind):
    run = run_of(kind)
    load = AutoPeftModelForCausalLM if (run.policy / "adapter_config.json").exists() else AutoModelForCausalLM
    ids = torch.arange(4, 24)[None]
    logits = {name: load.from_pretrained(name)(ids).logits for name in (run.policy, run.checkpoint(4).folder)}
    with torch.no_grad():
        torch.testing.assert_close(*logits.values(), rtol=0, atol=2e-5)
    tokenizer = AutoTokenizer.from_pretrained(run.checkpoint(2))
    assert tokenizer("the cat").input_ids == tiny_tokenizer()("the cat").input_ids
    state, policy = run.checkpoint(4).folder, run.policy
    own = {path.name for path in policy.iterdir()}
    assert {path.name for path in state.iterdir()} == own | {"state", "tokenq_state.json"}


def test_from_python_it_goes_wherever_a_model_goes(place, tmp_path):
    run = tokenq.train(
        place / "model", PAIRS, tmp_path / "run", eval_data=HELD_OUT, keep_best="eval_rewards/margins", **SHORT
    )
    margins = {step: logged(run, step)["eval_rewards/margins"] for step in (2, 4)}
    best = max(margins, key=margins.get)
    assert (
        run.best
        == run.checkpoint(best)
        == Checkpoint(tmp_path / "run" / "checkpoints" / f"step-{best}", run.folder, best)
    )
    assert run.best.metrics["eval_rewards/margins"] == margins[best]
    assert tokenq.load(run.best, device="cpu").score("1?", " 1.").tokens
    assert tokenq.decode(run.best, "1?", method="greedy", max_new_tokens=2, device="cpu")[0].candidates
    found = tokenq.evaluate("preference", policy=run.best, data=HELD_OUT, resamples=50, device="cpu")
    assert found.numbers["margin"]["mean"] == pytest.approx(margins[best], abs=1e-5)
    tokenq.train(run.best, PAIRS, tmp_path / "further", max_steps=1, device="cpu", keep_checkpoints=0)
    with pytest.raises(UserError, match=r"no checkpoint of step 3\.\n  There are checkpoints of the steps 2, 4\."):
        run.checkpoint(3)


def test_a_checkpoint_that_is_not_there_is_answered_with_those_that_are(place, tmp_path, capsys):
    trained(place, tmp_path / "run", "full")
    words = ["--data", str(place / "held.jsonl"), "--output", str(tmp_path / "traces.jsonl"), "--device", "cpu"]
    for flag in ("--policy", "--run"):
        assert main(["score", flag, str(tmp_path / "run" / "checkpoints" / "step-3"), *words]) == 2
        assert "There are checkpoints of the steps 2, 4." in capsys.readouterr().err


def test_a_folder_that_was_copied_elsewhere_is_a_model_like_any_other(place, tmp_path):
    run = trained(place, tmp_path / "run", "full")
    copy = run.checkpoint(2).folder.rename(tmp_path / "taken")
    with pytest.raises(UserError, match="needs a --reference"):
        score(copy, HELD_OUT, device="cpu")
    assert means(score(copy, HELD_OUT, reference=place / "model", beta=0.3, device="cpu"), "chosen") == pytest.approx(
        logged(run, 2)["eval_rewards/chosen"], abs=1e-5
    )


def test_a_judge_may_be_one(place, tmp_path):
    settings = {name: value for name, value in SHORT.items() if name != "beta"}
    run = tokenq.train(place / "model", PAIRS, tmp_path / "run", loss="bradley_terry", **settings)
    from tokenq.models.load import ModelSpec

    one, last = (RewardModel(ModelSpec(str(folder))) for folder in (run.checkpoint(4), run.reward_model))
    assert one.score(["1?"], [" 1."]) == pytest.approx(last.score(["1?"], [" 1."]), abs=1e-6)
