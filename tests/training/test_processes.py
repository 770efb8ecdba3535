"""Two processes give what one gives: weights, metrics, checkpoints of an adapter, and the end of a run that fails."""

import functools
import json
from pathlib import Path

import pytest
import torch
import two_processes
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from forked import two_ranks
from small_runs import lines_of, random_pairs, train_small, weights_of
from two_processes import RUNS

from tokenq.rundir import RunDir

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return the folder in which two processes have done every run, and what each of them found."""
    folder = tmp_path_factory.mktemp("two")
    for code, said in two_ranks(lambda: two_processes.main(folder), folder):
        assert code == 0, said[-3000:]
    return folder, [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return a function that gives the folder of a run in one process and its policy, made once."""

    @functools.cache
    def run(name):
        folder = tmp_path_factory.mktemp("alone")
        return folder, RUNS[name](folder)[0]

    return run


@pytest.mark.parametrize("name", RUNS)
def test_weights_and_metrics_are_those_of_one_process(name, two, alone):
    folder, found = two
    own, one = alone(name)
    for weights in (parts[name] for parts in found):
        for key, want in weights_of(one).items():
            torch.testing.assert_close(weights[key], want, rtol=0, atol=1e-10, msg=lambda m, k=key: f"{k}: {m}")
    got, want = lines_of(folder / name), lines_of(own)
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            assert mine[key] == pytest.approx(value, abs=1e-10), f"step {theirs['step']}: {key}"


@pytest.mark.parametrize("name", ["full", "coupled", "labelled"])
def test_held_out_responses_are_those_of_one_process(name, two, alone):
    folder, _ = two
    own, _ = alone(name)
    got, want = (
        [json.loads(line) for line in (place / "held_out.jsonl").read_text().splitlines()]
        for place in (folder / name, own)
    )
    assert len(got) == len(want) >= 7
    for mine, theirs in zip(got, want, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-9)


def test_a_resumed_adapter_is_that_of_an_uninterrupted_run(two):
    folder, found = two
    for parts in found:
        assert parts["resumed steps"] == 3
        for key, want in parts["adapter"].items():
            torch.testing.assert_close(parts["resumed"][key], want, rtol=0, atol=1e-12)
    assert lines_of(folder / "resumed") == lines_of(folder / "adapter")
    assert not list((folder / "resumed" / "checkpoints").glob(".*"))


def test_the_best_checkpoint_is_that_of_one_process(two, alone):
    folder, _ = two
    own, _ = alone("best")
    assert RunDir(folder / "best").steps() == RunDir(own).steps() == [1, 3]


def test_a_loss_that_is_no_number_in_one_process_stops_both(two):
    folder, found = two
    row = random_pairs(10)[3].where
    messages = [parts["error"] for parts in found]
    assert all("is not finite" in message for message in messages)
    assert sum(f"{row}." in message for message in messages) == 1
    assert sum("rows of another process" in message for message in messages) == 1
    assert len(list((folder / "poisoned" / "checkpoints").glob("step-*"))) == 1


def test_a_start_that_is_wrong_in_one_process_stops_both(two):
    """One that went on alone would wait for the other for ever."""
    _, found = two
    own, other = (parts["apart"] for parts in reversed(found))
    assert "does not start equal to its reference" in own
    assert other == "Another process has stopped.\n  Its message says why."


def test_a_signal_to_one_process_stops_both_after_the_same_step(two, tmp_path):
    folder, found = two
    assert [parts["stopped"] for parts in found] == ["Stopped after step 2 of 4, with a checkpoint of it."] * 2
    options = {"max_steps": 4, "batch_size": 5, "tokens_per_batch": 60, "held_out": random_pairs(7, seed=5)}
    one, _ = train_small(tmp_path, **options)
    for parts in found:
        for key, want in weights_of(one).items():
            torch.testing.assert_close(parts["terminated"][key], want, rtol=0, atol=1e-10)
    assert [line["step"] for line in lines_of(folder / "terminated")] == [0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ddp", DistributedType.MULTI_GPU),
        ("fsdp2", DistributedType.FSDP),
        ("deepspeed_zero2", DistributedType.DEEPSPEED),
    ],
)
def test_the_launcher_reads_the_configuration_files(name, kind):
    """What they do is put to the test in `test_launch.py`, which is slow."""
    config = load_config_from_file(str(ROOT / "recipes" / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == kind
    assert (config.num_machines, config.mixed_precision, config.use_cpu) == (1, "no", False)
