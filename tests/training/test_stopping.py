"""A signal ends a run after its step, with a checkpoint; what is resumed is the run that was never stopped."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import small_runs
from forked import ended, started
from small_runs import lines_of, random_pairs, train_small, weights_of
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.errors import Interrupted
from tokenq.training import stopping
from tokenq.training.job import Job
from tokenq.training.stopping import Request, catch_signals

pytestmark = pytest.mark.integration

HELD_OUT = random_pairs(5, seed=7)


@pytest.fixture
def signal_at(monkeypatch):
    """Return a function that has a signal sent to this process at an event (stage, done)."""

    def arrange(number, stage, done):
        def job(**fields):
            def send(event):
                if (event.stage, event.done) == (stage, done):
                    os.kill(os.getpid(), number)

            return Job(**{**fields, "listener": small_runs.Hears(send)})

        monkeypatch.setattr(small_runs, "Job", job)

    return arrange


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_step_16_of_a_run_that_saves_at_20_resumes_at_17(tmp_path, signal_at, number):
    options = {"max_steps": 24, "save_steps": 20, "eval_steps": 8, "held_out": HELD_OUT}
    whole, _ = train_small(tmp_path / "whole", **options)
    signal_at(number, "train", 16)
    with pytest.raises(Interrupted, match="Stopped after step 16 of 24, with a checkpoint of it") as stop:
        train_small(tmp_path / "run", **options)
    assert stop.value.signum == number
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-16"]
    assert lines_of(tmp_path / "run")[-1]["step"] == 16
    signal_at(number, "never", 0)
    again, summary = train_small(tmp_path / "run", resume=True, **options)
    assert summary.steps == 24
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")  # the evaluation at 16, too
    for name, value in weights_of(whole).items():
        assert (weights_of(again)[name] == value).all(), name


def test_an_evaluation_is_given_up_for_a_signal(tmp_path, signal_at):
    options = {"max_steps": 6, "save_steps": 20, "eval_steps": 3, "held_out": HELD_OUT, "tokens_per_batch": 20}
    whole, _ = train_small(tmp_path / "whole", **options)
    signal_at(signal.SIGTERM, "eval", 2)
    with pytest.raises(Interrupted, match="before the first step"):
        train_small(tmp_path / "run", **options)
    assert not (tmp_path / "run" / "checkpoints").exists()
    signal_at(signal.SIGTERM, "train", 99)
    again, _ = train_small(tmp_path / "run", resume=True, **options)
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")
    assert all((weights_of(again)[name] == value).all() for name, value in weights_of(whole).items())


def test_without_checkpoints_none_is_written(tmp_path, signal_at):
    signal_at(signal.SIGINT, "train", 2)
    with pytest.raises(Interrupted, match=r"after step 2 of 6, without a checkpoint \(--keep-checkpoints 0\)"):
        train_small(tmp_path / "run", keep_checkpoints=0)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_second_signal_stops_at_once_and_an_echo_of_the_first_does_not(monkeypatch):
    clock = iter([10.0, 10.5, 12.0])
    monkeypatch.setattr(stopping.time, "monotonic", lambda: next(clock))
    before, said = signal.getsignal(signal.SIGINT), []  # ignored where the tests run in the background

    def three_times():
        with catch_signals(Request(), said.append) as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.signum == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)  # a launcher passes on what the terminal has sent
            assert len(said) == 1
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="at once"):
        three_times()
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_signals_are_left_alone():
    found = []

    def work():
        with catch_signals(Request(), found.append) as request:
            found.append(request)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [Request()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    tiny_model("gpt_neox", layers=1).save_pretrained(folder / "model")
    tiny_tokenizer("bytes").save_pretrained(folder / "model")
    rows = [{"prompt": f"{i}?", "chosen": f" {i}.", "rejected": f" {i + 1}."} for i in range(200)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def words(place, output):
    named = ["--model", str(place / "model"), "--data", str(place / "rows.jsonl"), "--output", str(output)]
    return [*named, "--device", "cpu", "--max-steps", "4000", "--batch-size", "4", "--logging-steps", "10000"]


def fresh(words):
    """Run a command in an interpreter of its own, which takes the place of this process."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    os.execve(sys.executable, [sys.executable, "-m", "tokenq", *words], env)


@pytest.mark.parametrize(("command", "number", "code"), [(fresh, signal.SIGINT, 130), (main, signal.SIGTERM, 143)])
def test_the_command_says_how_to_go_on_and_exits_as_shells_expect(place, tmp_path, command, number, code):
    run, printed = tmp_path / "run", tmp_path / "printed"
    child = started(lambda: command(["train", *words(place, run)]), printed)
    for _ in range(600):
        time.sleep(0.1)
        if (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_bytes().splitlines()) >= 3:
            break
    os.kill(child, number)
    ended_with, said = ended(child, printed)
    assert ended_with == code
    assert "stopping after this step, with a checkpoint" in said
    assert "Traceback" not in said
    assert f"Continue with: tokenq train --config {run}/config.yaml --resume" in said
    (checkpoint,) = (run / "checkpoints").iterdir()
    steps = len((run / "metrics.jsonl").read_text().splitlines())
    assert checkpoint.name == f"step-{steps}"
    again = ["train", "--config", str(run / "config.yaml"), "--resume", "--max-steps", str(steps + 2)]
    assert main(again) == 0


def test_a_command_that_is_terminated_before_it_trains_says_so(place, tmp_path, capsys, monkeypatch):
    import tokenq.jobs.training.prepared as command

    monkeypatch.setattr(command, "load_tokenizer", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["train", *words(place, tmp_path / "run")]) == 143
    said = capsys.readouterr().err
    assert "Terminated. Nothing was trained yet; start again with the same command." in said
    assert signal.getsignal(signal.SIGTERM) is before
