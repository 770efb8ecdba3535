"""Tasks in processes of their own: what they find, say and raise, and that none outlives the command."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from tokenq.demo import processes
from tokenq.demo.processes import in_turn, side_by_side
from tokenq.errors import Interrupted, UserError
from tokenq.training.stopping import Request, catch_signals


def told(name, folder, other):
    """Say something on both outputs, and meet the other task: neither ends before both have begun."""
    (folder / name).touch()
    while not (folder / other).exists():
        time.sleep(0.01)
    os.write(1, f"{name} out\n".encode())
    os.write(2, f"{name} err\n".encode())
    return f"{name}!", os.getpid(), torch.get_num_threads()


def refused():
    os.write(1, b"what was said before\n")
    raise UserError("Nothing can be done.", "Give up.")


def stopped():
    raise Interrupted(signal.SIGTERM, "Stopped after step 1 of 2.")


def asleep(folder):
    (folder / "asleep").write_text(str(os.getpid()))
    time.sleep(600)


def in_a_step(folder):
    """Take note of signals as a training does, and end with the step."""
    with catch_signals(Request(), print) as request:
        (folder / "asleep").write_text(str(os.getpid()))
        while not request.signum:
            time.sleep(0.02)
        time.sleep(0.1)
        raise Interrupted(request.signum, "Stopped after step 1 of 2.")


def test_tasks_meet_and_speak_in_their_order(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with side_by_side() as together:
        found = together({"a": partial(told, "a", tmp_path, "b"), "b": partial(told, "b", tmp_path, "a")})
    assert [name for name, *_ in found] == ["a!", "b!"]
    assert len({os.getpid(), *(process for _, process, _ in found)}) == 3
    assert {threads for *_, threads in found} == {1}
    said = capfd.readouterr()
    assert said.out == "a out\nb out\n"
    assert "a err\nb err\n" in said.err


def where(name, folder, other):
    return told(name, folder, other)[2], os.sched_getaffinity(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives a process its cores")
def test_tasks_of_several_threads_have_their_own_cores_and_later_ones_all_again(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    cores = os.sched_getaffinity(0)
    with side_by_side() as together:
        tasks = {"a": partial(where, "a", tmp_path, "b"), "b": partial(where, "b", tmp_path, "a")}
        (a, first), (b, second) = together(tasks, threads=3)
        later = together(tasks)
    assert (a, b) == (3, 3)
    assert first | second == cores
    assert not first & second or len(cores) == 1
    assert later == [(1, cores)] * 2
    assert os.sched_getaffinity(0) == cores


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives a process its cores")
def test_shares_of_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 2, 3})
    assert processes._shares(2, 2) == [{2, 7}, {3}]
    assert processes._shares(2, 1) == [{2, 3, 7}] * 2
    assert processes._shares(4, 2) == [{2, 3, 7}] * 4


def test_what_a_task_said_last_is_shown_while_it_is_waited_for(tmp_path):
    assert processes._last_line(tmp_path / "0") == "begins"
    (tmp_path / "0.err").write_text("one\nstep 2/3 \n\n")
    assert processes._last_line(tmp_path / "0") == "step 2/3"


def test_an_error_is_raised_as_it_was_and_ends_the_others(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    began = time.monotonic()
    with pytest.raises(UserError, match="Nothing can be done") as caught, side_by_side() as together:
        together({"refused": refused, "asleep": partial(asleep, tmp_path)})
    assert caught.value.hint == "Give up."
    assert time.monotonic() - began < 300
    assert "what was said before" in capfd.readouterr().out


def test_a_task_that_a_signal_stopped_stops_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(Interrupted) as caught, side_by_side() as together:
        together({"stopped": stopped, "asleep": partial(asleep, tmp_path)})
    assert (caught.value.signum, caught.value.said) == (signal.SIGTERM, "Stopped after step 1 of 2.")


def test_on_one_core_it_is_done_here(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with side_by_side() as together:
        assert together is in_turn
        assert together({"here": os.getpid, "there": os.getpid}) == [os.getpid()] * 2


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.parametrize(
    ("task", "how", "tell"),
    [
        ("asleep", signal.SIGKILL, os.kill),
        ("asleep", signal.SIGTERM, os.kill),
        ("in_a_step", signal.SIGTERM, os.kill),
        ("in_a_step", signal.SIGINT, os.killpg),  # as a terminal sends it: to all of them
    ],
)
def test_no_task_outlives_the_command(tmp_path, task, how, tell):
    code = (
        "import os, signal, sys; os.cpu_count = lambda: 2\n"
        "from functools import partial; from pathlib import Path\n"
        f"from test_side_by_side import {task}; from tokenq.demo.processes import side_by_side\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, stop)\n"
        "    with side_by_side() as together:\n"
        "        together({'task': partial(" + task + ", Path(sys.argv[1]))}, threads=2)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": here},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as command:
        note = tmp_path / "asleep"
        while not (note.exists() and note.read_text()):
            assert command.poll() is None
            time.sleep(0.02)
        tell(command.pid, how)
        command.wait(timeout=300)
    assert command.returncode == (-how if how == signal.SIGKILL else -signal.SIGINT)
    process = Path("/proc") / note.read_text()
    for _ in range(1500):
        if not process.exists() or "\nState:\tZ" in (process / "status").read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"process {process.name} still sleeps")
