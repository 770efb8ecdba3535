"""The loop gives the same weights however its work is cut up, stopped, resumed or spread over processes."""

import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.train.small_runs import random_pairs, small_config, small_policy, train_small
from tokenq.core.packing import pack
from tokenq.errors import UserError
from tokenq.train.loop import step_places, total_steps
from tokenq.train.optim import learning_rate


def weights_of(policy):
    return {name: value.clone() for name, value in policy.state_dict().items()}


def assert_equal_weights(got, want, tolerance):
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def lines_of(output):
    return [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]


COST = {"tokens_per_second", "seconds", "peak_memory_gb"}


def test_accumulation_changes_nothing(tmp_path):
    whole, _ = train_small(tmp_path / "whole", tokens_per_batch=10_000)
    start = weights_of(small_policy())
    parts, _ = train_small(tmp_path / "parts", tokens_per_batch=25)
    assert any((whole.state_dict()[name] - start[name]).abs().max() > 1e-3 for name in start)
    assert_equal_weights(weights_of(parts), weights_of(whole), 1e-6)  # norms are taken in float32
    for a, b in zip(lines_of(tmp_path / "whole"), lines_of(tmp_path / "parts"), strict=True):
        for name in a.keys() - COST:
            assert a[name] == pytest.approx(b[name], abs=1e-6), name


@pytest.mark.parametrize("loss", ["dpo", "ipo", "hinge"])
def test_the_first_step_is_where_policy_and_reference_are_one(tmp_path, loss):
    """At π = π_ref: dpo −log σ(0) = ln 2; ipo (0 − 1/(2·0.1))² = 25; hinge max(0, 1 − 0) = 1."""
    train_small(tmp_path, loss=loss, max_steps=1)
    first = lines_of(tmp_path)[0]
    assert first["loss"] == pytest.approx({"dpo": math.log(2), "ipo": 25.0, "hinge": 1.0}[loss], abs=1e-5)
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("stop", [2, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, lora, stop):
    """Checkpoints are written every second step; the run is stopped mid-epoch (epochs have three steps)."""
    options = {"lora": lora, "save_steps": 2, "keep_checkpoints": 1}
    straight, _ = train_small(tmp_path / "straight", **options)
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "broken", stop_at=stop + 1, **options)
    again, summary = train_small(tmp_path / "broken", resume=True, **options)
    assert summary.steps == 6
    assert_equal_weights(weights_of(again), weights_of(straight), 1e-12)
    a, b = lines_of(tmp_path / "straight"), lines_of(tmp_path / "broken")
    assert [line["step"] for line in b] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in a] == pytest.approx([line["loss"] for line in b], abs=1e-10)


def test_a_checkpoint_of_an_adapter_holds_the_adapter_alone(tmp_path):
    from safetensors.torch import load_file

    train_small(tmp_path, lora=True, max_steps=2)
    (file,) = tmp_path.glob("checkpoints/step-*/model.safetensors")
    assert all("lora_" in name for name in load_file(file))


def test_a_torn_checkpoint_is_passed_over(tmp_path):
    train_small(tmp_path, max_steps=2, save_steps=1, keep_checkpoints=2)
    newest = sorted(tmp_path.glob("checkpoints/step-*"))[-1]
    (newest / "tokenq_state.json").unlink()
    _, summary = train_small(tmp_path, max_steps=2, resume=True, save_steps=1)
    assert summary.steps == 2
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    train_small(tmp_path, max_steps=5, save_steps=1, keep_checkpoints=2)
    assert [path.name for path in sorted(tmp_path.glob("checkpoints/*"))] == ["step-00000004", "step-00000005"]


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_row(tmp_path):
    groups = random_pairs(10)
    policy = small_policy()
    poisoned = step_places(small_config(tmp_path), 10, 1)[2]

    def break_logps(module, args, output):
        batch = args[0]
        hit = torch.tensor([place == poisoned for place, _ in batch.members])[batch.responses]
        return output.masked_fill(hit, torch.nan) if torch.is_grad_enabled() else output

    handle = policy.register_forward_hook(break_logps)
    with pytest.raises(UserError, match=rf"step 2 is not finite: {groups[poisoned].where}\.") as caught:
        train_small(tmp_path, policy=policy)
    handle.remove()
    assert "step-00000001" in str(caught.value)
    resumed, _ = train_small(tmp_path, resume=True)
    straight, _ = train_small(tmp_path / "straight")
    assert_equal_weights(weights_of(resumed), weights_of(straight), 1e-12)


def test_a_policy_that_is_not_its_reference_is_refused_at_the_start(tmp_path):
    policy = small_policy()
    noise = policy.register_forward_hook(
        lambda module, args, output: output + 1e-3 if torch.is_grad_enabled() else output
    )
    with pytest.raises(UserError, match=r"does not start equal to its reference: .* differs by 0\.001 nats \(pairs"):
        train_small(tmp_path, policy=policy)
    noise.remove()


def test_the_supervised_loss_is_the_mean_over_the_tokens_of_the_step(tmp_path):
    groups = [replace(pair, responses=pair.responses[:1], is_pair=False) for pair in random_pairs(4)]
    policy = small_policy()
    with torch.no_grad():
        want = -policy(pack(groups)).mean().item()
    train_small(tmp_path, loss="sft", groups=groups, policy=policy, tokens_per_batch=20, max_steps=1)
    assert lines_of(tmp_path)[0]["loss"] == pytest.approx(want, abs=1e-10)


def test_the_gradient_is_clipped_to_the_norm_asked_for(tmp_path):
    """With SGD of rate 1 the weights move by the gradient, so their distance is its norm."""
    options = {"optimizer": "sgd", "learning_rate": 1.0, "max_steps": 1, "schedule": "constant"}
    start = weights_of(small_policy())
    for limit in (0.0, 0.01):
        policy, summary = train_small(tmp_path / str(limit), max_grad_norm=limit, **options)
        moved = math.sqrt(sum((policy.state_dict()[n] - start[n]).square().sum().item() for n in start))
        assert moved == pytest.approx(limit or summary.last["grad_norm"], rel=1e-4)
        assert summary.last["grad_norm"] > 0.1


def test_every_epoch_takes_every_example_once(tmp_path):
    config = small_config(tmp_path, batch_size=4)
    epochs = [[place for step in range(3) for place in step_places(config, 10, 3 * e + step)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert total_steps(config, 10) == 6
    assert len(step_places(config, 10, 2)) == 2


@pytest.mark.parametrize(
    ("schedule", "want"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0, 0.5, 1, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)]),
        ("constant_with_warmup", [0, 0.5, 1, 1, 1, 1]),
    ],
)
def test_schedules(tmp_path, schedule, want):
    """Two warm-up steps of six, peak 1: the fall begins at step 2 and ends at 0 at step 6."""
    config = small_config(tmp_path, schedule=schedule, learning_rate=1.0, warmup_steps=2)
    assert [learning_rate(config, step, 6) for step in range(6)] == pytest.approx(want)


def test_two_processes_give_what_one_gives(tmp_path):
    """Five pairs a step over two processes: uneven shares, one process with more micro-batches' worth of work."""
    one, _ = train_small(tmp_path / "one", batch_size=5, tokens_per_batch=60, max_steps=3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parents[2]
    runs = []
    for rank in range(2):
        env = os.environ | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(root),
        }  # fmt: skip
        words = [sys.executable, "-m", "tests.train.two_processes", str(tmp_path / "two"), str(tmp_path / "two.pt")]
        runs.append(subprocess.Popen(words, env=env, cwd=root, stderr=subprocess.PIPE, text=True))
    for process in runs:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]
    assert_equal_weights(torch.load(tmp_path / "two.pt", weights_only=True), weights_of(one), 1e-9)
    for a, b in zip(lines_of(tmp_path / "one"), lines_of(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-9)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], abs=1e-9)
        assert a["tokens"] == b["tokens"]
