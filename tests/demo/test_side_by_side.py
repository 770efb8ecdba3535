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

from tokenq.demo.processes import After, in_turn, side_by_side
from tokenq.errors import Interrupted, UserError

pytestmark = pytest.mark.integration


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


def test_tasks_meet_and_what_they_say_is_shown(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with side_by_side() as together:
        found = together({"a": partial(told, "a", tmp_path, "b"), "b": partial(told, "b", tmp_path, "a")})
    assert [name for name, *_ in found] == ["a!", "b!"]
    assert len({os.getpid(), *(process for _, process, _ in found)}) == 3
    assert {threads for *_, threads in found} == {1}
    said = capfd.readouterr()
    assert sorted(said.out.splitlines()) == ["a out", "b out"]
    assert {"a err", "b err"} <= set(said.err.splitlines())


def met(folder, other, *needed):
    """Return what was needed, having met the other task."""
    (folder / str(len(needed))).touch()
    while not (folder / other).exists():
        time.sleep(0.01)
    return [*needed, len(needed)]


@pytest.mark.parametrize("cores", [1, 2])
def test_a_task_takes_what_it_needs(tmp_path, monkeypatch, cores):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    with side_by_side() as together:
        first, second = partial(met, tmp_path, "0"), partial(met, tmp_path, "0", "given")
        found = together({"a": first, "b": second, "c": After(("b", "a"), first), "d": After(("c",), tuple)})
    assert found == [[0], ["given", 1], [["given", 1], [0], 2], (["given", 1], [0], 2)]


def test_a_task_begins_when_what_it_needs_is_there(tmp_path, monkeypatch):
    """Whatever else goes on: here a task that lasts until the one behind it has run."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with side_by_side() as together:
        found = together(
            {"long": partial(met, tmp_path, "1"), "a": os.getpid, "b": After(("a",), partial(met, tmp_path, "0"))}
        )
    assert found[0] == [0]
    assert found[2] == [found[1], 1]


def test_an_error_is_raised_as_it_was_and_ends_the_others(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    began = time.monotonic()
    with pytest.raises(UserError, match="Nothing can be done") as caught, side_by_side() as together:
        together({"refused": refused, "asleep": partial(asleep, tmp_path)})
    assert caught.value.hint == "Give up."
    assert time.monotonic() - began < 300
    assert "what was said before" in capfd.readouterr().out


def deaf(folder, name="deaf"):
    """Sleep through a polite request to end."""
    signal.signal(signal.SIGTERM, lambda *_: (folder / "asked").touch())
    (folder / name).touch()
    while True:
        time.sleep(600)


def late(folder, number):
    (folder / f"late{number}").touch()


def refused_beside(folder):
    while not (folder / "deaf").exists():
        time.sleep(0.01)
    return refused()


def test_after_an_error_nothing_that_waits_is_begun(tmp_path, monkeypatch):
    """Whatever others do with a request to end: a training ends its step, and its process would take what is next."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    tasks = {"deaf": partial(deaf, tmp_path), "refused": partial(refused_beside, tmp_path)}
    waiting = {str(number): After(("refused",), partial(late, tmp_path)) for number in range(3)}
    with pytest.raises(UserError, match="Nothing can be done"), side_by_side() as together:
        together({**tasks, **waiting})
    assert {path.name for path in tmp_path.iterdir()} == {"deaf"}


def test_an_interrupt_ends_all_of_them(tmp_path):
    """Of a whole group, as a terminal sends it: no task says anything of its own."""
    code = (
        "import os, sys; os.cpu_count = lambda: 2\n"
        "from functools import partial; from pathlib import Path\n"
        "from test_side_by_side import deaf, late; from tokenq.demo.processes import side_by_side\n"
        "if __name__ == '__main__':\n"
        "    folder = Path(sys.argv[1])\n"
        "    try:\n"
        "        with side_by_side() as together:\n"
        "            both = {name: partial(deaf, folder, name) for name in ('one', 'two')}\n"
        "            together({**both, 'late': partial(late, folder, 1)})\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit('ended')\n"
    )
    script, note = tmp_path / "run.py", tmp_path / "work"
    note.mkdir()
    script.write_text(code)
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, str(script), str(note)],
        env=os.environ | {"PYTHONPATH": here},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        while {path.name for path in note.iterdir()} != {"one", "two"}:
            assert command.poll() is None
            time.sleep(0.02)
        os.killpg(command.pid, signal.SIGINT)
        assert command.communicate(timeout=120)[1] == "ended\n"
    assert {path.name for path in note.iterdir()} == {"one", "two"}


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
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_task_outlives_the_command(tmp_path, how):
    code = (
        "import os, signal, sys; os.cpu_count = lambda: 2\n"
        "from functools import partial; from pathlib import Path\n"
        "from test_side_by_side import asleep; from tokenq.demo.processes import side_by_side\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, stop)\n"
        "    with side_by_side() as together:\n"
        "        together({'asleep': partial(asleep, Path(sys.argv[1]))})\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=os.environ | {"PYTHONPATH": here}, stderr=subprocess.DEVNULL
    ) as command:
        note = tmp_path / "asleep"
        while not (note.exists() and note.read_text()):
            assert command.poll() is None
            time.sleep(0.02)
        command.send_signal(how)
        command.wait()
    process = Path("/proc") / note.read_text()
    for _ in range(1500):
        if not process.exists() or "\nState:\tZ" in (process / "status").read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"process {process.name} still sleeps")
