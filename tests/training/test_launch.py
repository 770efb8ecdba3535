"""The configuration files in recipes/accelerate, through the launcher, against one process; and kills in mid-run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_process import BESIDE, POLICIES, run
from small_runs import lines_of, weights_of
from tiny import SAMPLE, tiny_model, tiny_tokenizer

from tokenq.models.load import ModelSpec, is_adapter_folder, load_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*shared tensor")]

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes" / "accelerate"
PLACES = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
ENVIRONMENT = os.environ | {"PYTHONPATH": PLACES, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def launch(config, *words, **environment):
    """Run a program under `accelerate launch` with two processes."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{config}.yaml")]
    command += ["--num_processes", "2", "--main_process_port", "0", *map(str, words)]
    env = ENVIRONMENT | environment
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


def assert_equal_weights(got, want, tolerance):
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def assert_equal_lines(got, want, tolerance):
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, abs=tolerance), f"step {theirs['step']}: {name}"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Return the folder in which every run was done with fully sharded weights."""
    folder = tmp_path_factory.mktemp("fsdp2")
    launch("fsdp2", ROOT / "tests" / "training" / "sharded_process.py", folder, "float64", *POLICIES)
    return folder


@pytest.mark.parametrize("name", BESIDE)
def test_networks_in_shards_are_trained_and_clipped_as_in_one_process(name, sharded, tmp_path):
    """To a norm far below that of their gradients, and by the norm of the whole, not of a shard."""
    _, summary = run(tmp_path, name, torch.float64)
    want = lines_of(tmp_path)
    assert min(line["values/grad_norm"] for line in want if "loss" in line) > 0.05
    for output in (name, f"{name}-resumed"):
        assert_equal_lines(lines_of(sharded / output), want, 1e-6)
        assert_equal_weights(torch.load(sharded / f"{output}.pt", weights_only=True), weights_of(summary.policy), 1e-6)


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in BESIDE])
def test_fully_sharded_training_gives_what_one_process_gives(name, sharded, tmp_path):
    one, _ = run(tmp_path, name, torch.float64)
    tolerance = 1e-6  # norms in float32
    assert_equal_weights(torch.load(sharded / f"{name}.pt", weights_only=True), weights_of(one), tolerance)
    assert_equal_weights(torch.load(sharded / f"{name}-resumed.pt", weights_only=True), weights_of(one), tolerance)
    assert_equal_lines(lines_of(sharded / name), lines_of(tmp_path), tolerance)
    assert_equal_lines(lines_of(sharded / f"{name}-resumed"), lines_of(tmp_path), tolerance)
    # Every layer was sharded on its own, not the policy in one piece.
    layers = (sharded / f"{name}.layers").read_text().split()
    assert len(layers) == one.lm.config.num_hidden_layers + 1
    assert layers[0] == "FSDPPackedLM"


def test_a_policy_trained_in_shards_is_exported_whole(sharded):
    for name in ("gpt_neox", "gemma3"):
        loaded = load_model(ModelSpec(str(sharded / f"{name}-policy"))).state_dict()
        trained = torch.load(sharded / f"{name}.pt", weights_only=True)
        assert_equal_weights({f"model.{key}": value for key, value in loaded.items()}, trained, 0)
    assert is_adapter_folder(str(sharded / "adapter-policy"))
    stored = load_file(sharded / "adapter-policy" / "adapter_model.safetensors")
    trained = torch.load(sharded / "adapter.pt", weights_only=True)
    want = {k.removeprefix("model.").replace(".default", ""): v for k, v in trained.items() if "lora_" in k}
    assert_equal_weights(stored, want, 0)


def test_deepspeed_gives_what_one_process_gives(tmp_path):
    """ZeRO 2 in float32, which is what DeepSpeed computes in: the losses to six digits."""
    pytest.importorskip("deepspeed")
    program = ROOT / "tests" / "training" / "sharded_process.py"
    launch("deepspeed_zero2", program, tmp_path / "two", "float32", "gpt_neox", "adapter", DS_ACCELERATOR="cpu")
    for name in ("gpt_neox", "adapter"):
        run(tmp_path / name, name, torch.float32)
        want = lines_of(tmp_path / name)
        for output in (name, f"{name}-resumed"):
            got = lines_of(tmp_path / "two" / output)
            assert len(got) == len(want)
            for mine, theirs in zip(got, want, strict=True):
                for metric in {"loss", "eval_loss", "grad_norm", "rewards/margins", "learning_rate"} & theirs.keys():
                    assert mine[metric] == pytest.approx(theirs[metric], abs=1e-5), (theirs["step"], metric)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with a tiny model and forty pairs of sentences in its words."""
    folder = tmp_path_factory.mktemp("data")
    tiny_model("gpt_neox", layers=1, dtype=torch.float64).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    words = " ".join(SAMPLE).split()

    def text(start, n):
        return " ".join(words[(start + i) % len(words)] for i in range(n))

    rows = [
        {
            "prompt": text(i, 3 + i % 7),
            "chosen": f" {text(5 * i, 2 + i % 5)}",
            "rejected": f" {text(3 * i + 1, 1 + i % 6)}",
        }
        for i in range(40)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def words_of(data, output, *more):
    """Return the command line of a training run of twelve steps."""
    words = ["tokenq", "train", "--model", data / "model", "--data", data / "pairs.jsonl", "--output", output]
    words += ["--batch-size", 5, "--tokens-per-batch", 120, "--learning-rate", 1e-3, "--max-steps", 12]
    words += [
        "--eval-size",
        5,
        "--save-steps",
        1,
        "--device",
        "cpu",
        "--reference-store",
        Path(output).parent / "store",
    ]
    return [*map(str, words), *more]


def command(data, output, *more):
    return [sys.executable, "-m", *words_of(data, output, *more)]


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """Return the folder of a run that nothing has disturbed."""
    output = tmp_path_factory.mktemp("straight") / "run"
    subprocess.run(command(data, output), env=ENVIRONMENT, check=True, capture_output=True, timeout=120)
    return output


def assert_equal_runs(output, straight, tolerance):
    weights = (load_file(folder / "policy" / "model.safetensors") for folder in (output, straight))
    assert_equal_weights(*weights, tolerance)
    assert_equal_lines(lines_of(output), lines_of(straight), tolerance)


def test_the_command_line_with_two_processes(data, straight, tmp_path):
    launch("ddp", "-m", *words_of(data, tmp_path / "run"))
    assert_equal_runs(tmp_path / "run", straight, 1e-9)
    assert '"cpu:0 x 2"' in (tmp_path / "run" / "provenance.json").read_text()


def test_the_command_line_with_two_processes_and_a_value_network(data, tmp_path):
    """Pairs count as rewards 1 and 0; what is exported is the policy alone, whole."""
    more = ["--loss", "dro", "--loss-options", "values=tokens"]
    subprocess.run(
        command(data, tmp_path / "one", *more), env=ENVIRONMENT, check=True, capture_output=True, timeout=120
    )
    launch("ddp", "-m", *words_of(data, tmp_path / "two", *more))
    assert_equal_runs(tmp_path / "two", tmp_path / "one", 1e-9)
    assert "values/grad_norm" in lines_of(tmp_path / "two")[-2]


def kill_when(process, condition):
    """Kill a process without a warning, as soon as a condition holds."""
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(data, straight, tmp_path):
    """Killed before the first checkpoint, in the middle of writing one, and between two."""
    output = tmp_path / "run"
    checkpoints = output / "checkpoints"
    metrics = output / "metrics.jsonl"
    conditions = [
        lambda: metrics.exists() and '"loss"' in metrics.read_text(),  # before that no run has begun
        lambda: any(checkpoints.glob(".step-*.partial/*")),
        lambda: (checkpoints / "step-6").exists(),
        lambda: any(checkpoints.glob("*step-1*")),  # finished too: it is short, and the machine may be busy
    ]
    for i, condition in enumerate(conditions):
        more = ["--resume"] if i else []
        process = subprocess.Popen(command(data, output, *more), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        kill_when(process, condition)
        assert not (output / "policy").exists()
    subprocess.run(command(data, output, "--resume"), env=ENVIRONMENT, check=True, capture_output=True, timeout=120)
    assert_equal_runs(output, straight, 1e-12)
    assert [path.name for path in checkpoints.iterdir()] == ["step-12"]
    assert len(json.loads((output / "provenance.json").read_text())["resumed"]) == 4
