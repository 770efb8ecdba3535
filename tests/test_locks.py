"""One writer an output: the second is told who the first is, and a dead one does not stand in the way."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tokenq.errors import UserError
from tokenq.locks import hold_file, hold_folder

HOLD = """
import sys, time
from pathlib import Path
from tokenq.locks import hold_file, hold_folder
hold = {"file": hold_file, "folder": hold_folder}[sys.argv[1]]
with hold(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(kind, path):
    """Return a process that holds an output, once it does."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, kind, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "hold"), [("file", hold_file), ("folder", hold_folder)])
def test_a_second_writer_is_told_who_writes_and_a_killed_one_is_forgotten(tmp_path, kind, hold):
    path = tmp_path / "deep" / "out[1].jsonl"
    first = holder(kind, path)
    try:
        begin = time.monotonic()
        with pytest.raises(UserError) as caught, hold(path):
            pass
        assert time.monotonic() - begin < 5
        for said in (str(path), f"process {first.pid} on", "since 20", "-c"):
            assert said in caught.value.message
        assert "--output" in caught.value.hint
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
        first.stdout.close()
    with hold(path):
        notes = [json.loads(note.read_text()) for note in tmp_path.rglob("*.lock.json")]
        assert [note["pid"] for note in notes] == [os.getpid()]
    assert not list(tmp_path.rglob(".*"))


ROUNDS = """
import sys, time
from pathlib import Path
from tokenq import locks
from tokenq.errors import UserError
from tokenq.locks import hold_file
locks.PATIENCE = 0.05  # how long the second waits is of no matter here
place, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def wait(name, seconds, pause=0.0005):
    end = time.monotonic() + seconds
    while not (place / name).exists() and time.monotonic() < end:
        time.sleep(pause)
for turn in range(20):
    (place / f"ready-{turn}-{me}").touch()
    wait(f"ready-{turn}-{other}", 60, pause=0)
    try:
        with hold_file(place / f"out{turn}"):
            wait(f"refused-{turn}-{other}", 5)
            print(1)
    except UserError as error:
        assert "is being written by another process" in error.message, error
        print(0)
        (place / f"refused-{turn}-{me}").touch()
"""


@pytest.mark.integration
def test_of_two_that_start_at_one_instant_one_writes(tmp_path):
    """Twenty rounds, both at the start of each; the winner keeps the output until the other has been refused."""
    both = [
        subprocess.Popen([sys.executable, "-c", ROUNDS, tmp_path, *names], stdout=subprocess.PIPE, text=True)
        for names in ("ab", "ba")
    ]
    wins = [list(map(int, process.communicate(timeout=120)[0].split())) for process in both]
    assert all(process.returncode == 0 for process in both)
    assert [sum(pair) for pair in zip(*wins, strict=True)] == [1] * 20


def test_an_output_is_free_again_after_an_error_and_a_folder_that_got_nothing_goes(tmp_path):
    def failing(hold, path):
        with hold(path):
            raise ValueError

    for hold in (hold_file, hold_folder):
        for _ in range(2):
            with pytest.raises(ValueError):  # noqa: PT011 (ours)
                failing(hold, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with hold_folder(tmp_path / "out"):
        (tmp_path / "out" / "file").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"), hold_folder(tmp_path / "file"):
        pass
    for hold in (hold_file, hold_folder):
        with pytest.raises(UserError, match="could not be written"), hold(tmp_path / "file" / "below"):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="could not be written"), hold_file(tmp_path / "out"):
        pass


@pytest.mark.integration
def test_a_disk_without_locks_falls_back_to_the_number_of_the_process(tmp_path, monkeypatch):
    import errno

    import filelock

    def refuse(self, *_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    taken = pytest.raises(UserError, match=f"process {os.getpid()} on")
    with hold_file(tmp_path / "out"), taken, hold_file(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []
