"""Files: whole or as they were, whatever happens while they are written."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from tokenq.errors import UserError
from tokenq.files import (
    JsonLines,
    disk_errors,
    folder_aside,
    plain,
    read_json,
    write_json,
    write_text,
    write_yaml,
    written_aside,
)
from tokenq.frames import Frames
from tokenq.leftovers import clear_leftovers, discard, half_of


@dataclass(frozen=True)
class Point:
    x: float
    path: Path


def fail_with(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def test_plain_values_are_what_json_knows():
    value = {
        1: (np.float32(0.5), np.int64(3), np.bool_(True)),
        "nan": float("nan"),
        "inf": [np.float64("inf")],
        "point": Point(1.5, Path("a/b")),
        "text": "é",
        "none": None,
    }
    assert plain(value) == {
        "1": [0.5, 3, True],
        "nan": None,
        "inf": [None],
        "point": {"x": 1.5, "path": "a/b"},
        "text": "é",
        "none": None,
    }


def test_written_values_are_read_back(tmp_path):
    value = {"zeta": 1, "alpha": [1e-6, None, "no"], "ü": {"off": True}}
    write_json(tmp_path / "a.json", value)
    write_yaml(tmp_path / "a.yaml", value)
    assert read_json(tmp_path / "a.json") == value
    assert yaml.safe_load((tmp_path / "a.yaml").read_text()) == value
    assert list(yaml.safe_load((tmp_path / "a.yaml").read_text())) == ["zeta", "alpha", "ü"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.yaml"]


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path, monkeypatch, call):
    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, call, fail_with(errno.ENOSPC))
    with pytest.raises(UserError) as caught:
        write_text(tmp_path / "a", "new")
    assert "disk is full" in caught.value.message
    assert str(tmp_path / "a") in caught.value.message
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_disk_that_is_really_full():
    with pytest.raises(UserError, match="disk is full"), disk_errors(Path("x")):
        Path("/dev/full").write_text("more")


def test_a_forbidden_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", fail_with(errno.EACCES))
    with pytest.raises(UserError, match="could not be written") as caught:
        write_text(tmp_path / "a", "new")
    assert "--output" in caught.value.hint


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(ZeroDivisionError), disk_errors(tmp_path):
        1 / 0  # noqa: B018 (raises)
    with pytest.raises(OSError, match="Input/output"), disk_errors(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_full_disk_in_the_words_of_a_library_is_understood(tmp_path):
    with pytest.raises(UserError, match="disk is full"), disk_errors(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


def test_a_full_disk_without_words_is_told_by_the_space_that_is_left(tmp_path, monkeypatch):
    def fail(free, error):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        with disk_errors(tmp_path / "sub" / "a"):
            raise error

    with pytest.raises(UserError, match="disk is full"):
        fail(4096, RuntimeError("unexpected pos 576 vs 534"))
    with pytest.raises(RuntimeError, match="unexpected pos"):
        fail(2**30, RuntimeError("unexpected pos 576 vs 534"))
    with pytest.raises(ValueError, match="a defect"):
        fail(4096, ValueError("a defect"))


def test_read_json_names_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


def test_a_folder_appears_whole_and_replaces_the_older_one(tmp_path):
    target = tmp_path / "sub" / "policy"
    for text in ("one", "two"):
        with folder_aside(target) as aside:
            (aside / "deep").mkdir()
            (aside / "deep" / "file").write_text(text)
            assert not target.exists() or (target / "deep" / "file").read_text() == "one"
        assert (target / "deep" / "file").read_text() == text
    assert [p.name for p in target.parent.iterdir()] == ["policy"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_folder_that_fails_leaves_the_older_one(tmp_path, error):
    with folder_aside(tmp_path / "policy") as aside:
        (aside / "file").write_text("old")

    def interrupted():
        with folder_aside(tmp_path / "policy") as aside:
            (aside / "file").write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert (tmp_path / "policy" / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_a_half_written_folder_of_a_killed_process_is_not_mixed_in(tmp_path):
    (tmp_path / ".policy.partial").mkdir()
    (tmp_path / ".policy.partial" / "stale").write_text("half")
    with folder_aside(tmp_path / "policy") as aside:
        (aside / "file").write_text("new")
    assert [p.name for p in (tmp_path / "policy").iterdir()] == ["file"]


HALF = re.compile(r"\.policy\.[0-9a-f]{6}-\d+-[0-9a-f]{6}\.partial")


@pytest.mark.parametrize("moment", [1, 2])
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "failed"])
def test_no_moment_of_a_replacement_loses_the_only_copy(tmp_path, moment, kill):
    """The process ends, or fails, at one of the two renames; whoever writes or resumes next finds a whole folder."""
    program = """
import os, sys
from pathlib import Path
from tokenq.files import folder_aside
place, moment, kill = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
replace, calls = os.replace, []
def stopping(*paths):
    calls.append(paths)
    if len(calls) == moment:
        if kill:
            os._exit(9)
        raise OSError(5, "Input/output error")
    replace(*paths)
with folder_aside(place) as aside:
    (aside / "file").write_text("old")
os.replace = stopping
with folder_aside(place) as aside:
    (aside / "file").write_text("new")
"""
    place = tmp_path / "policy"
    done = subprocess.run([sys.executable, "-c", program, place, str(moment), str(kill)], stderr=subprocess.DEVNULL)
    assert done.returncode == (9 if kill else 1)
    if kill:
        assert place.exists() == (moment == 1)
        assert any(HALF.fullmatch(path.name) for path in tmp_path.iterdir())
    clear_leftovers(tmp_path)
    assert (place / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_writer_puts_back_what_the_killed_one_before_had_moved_away(tmp_path):
    (tmp_path / ".policy.old.partial").mkdir()
    (tmp_path / ".policy.old.partial" / "file").write_text("old")

    def failing():
        with folder_aside(tmp_path / "policy") as aside:
            (aside / "file").write_text("half")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 (ours)
        failing()
    assert (tmp_path / "policy" / "file").read_text() == "old"


def test_halves_of_the_dead_are_cleared_and_those_of_the_living_stay(tmp_path):
    living = half_of(tmp_path / "a.json")
    dead = tmp_path / living.name.replace(f"-{os.getpid()}-", "-4194305-")
    foreign, stale = (tmp_path / f".a.json.000000-{number}-abcdef.partial" for number in (1, 2))
    for path in (living, dead, foreign, stale):
        path.write_text("half")
    os.utime(stale, (0, 0))
    write_text(tmp_path / "a.json", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", living.name, foreign.name}
    assert living.read_text() == "half"


def test_two_writers_of_one_path_do_not_touch_each_others_half(tmp_path):
    path = tmp_path / "a"
    with written_aside(path) as one, written_aside(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    with folder_aside(tmp_path / "f") as one, folder_aside(tmp_path / "f") as other:
        (one / "x").write_text("one")
        (other / "x").write_text("other")
    assert (tmp_path / "f" / "x").read_text() == "one"


def test_a_discarded_folder_is_gone_at_once(tmp_path, monkeypatch):
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "file").write_text("x")
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed before anything was deleted
    discard(tmp_path / "step")
    assert not (tmp_path / "step").exists()
    assert [path.name[:6] for path in tmp_path.iterdir()] == [".step."]


def test_half_a_surrogate_pair_is_written_as_json_escapes_it(tmp_path):
    value = {"a\udc00": "b\ud800"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    JsonLines(tmp_path / "a.jsonl").append(value)
    assert JsonLines(tmp_path / "a.jsonl").read() == [value]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"\xff\xfe\x00junk", "is no text"), (b"[" * 200_000, "not valid JSON"), (None, "cannot be read")],
    ids=["binary", "deep", "folder"],
)
def test_what_is_no_json_is_named_whatever_it_is(tmp_path, content, says):
    path = tmp_path / "a.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_json(path)
    if content is None:
        with pytest.raises(UserError, match=says):
            JsonLines(path).read()
        return
    path.write_bytes(content + b"\n")
    with pytest.raises(UserError, match="line 1: not valid JSON"):
        JsonLines(path).read()


@pytest.mark.parametrize("line", ["5", "[]", '"x"', "null", "true"])
def test_a_line_that_is_no_object_is_an_error_with_its_number(tmp_path, line):
    (tmp_path / "m.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(UserError, match="line 2: no JSON object"):
        JsonLines(tmp_path / "m.jsonl").read()


def test_a_file_that_grows_beyond_what_is_allowed_is_a_full_disk(tmp_path):
    program = """
import resource, sys
from pathlib import Path
from tokenq.errors import UserError
from tokenq.files import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
try:
    write_text(Path(sys.argv[1]), "x" * 100_000)
except UserError as error:
    print(error.message)
"""
    (tmp_path / "a").write_text("old")
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert "disk is full" in done.stdout
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_lines_are_appended_and_read(tmp_path):
    lines = JsonLines(tmp_path / "m.jsonl")
    assert lines.read() == []
    lines.append({"step": 1, "loss": np.float32(0.5)})
    lines.append({"step": 2, "loss": float("nan"), "note": "a\nb"})
    assert lines.read() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None, "note": "a\nb"}]
    assert len((tmp_path / "m.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("torn", ['{"step": 3', '{"step": 3}', "{", '{"step": 3, "x": "é'])
def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path, torn):
    """A line without its newline may lack anything, so it never counts, even where it happens to parse."""
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + torn.encode()[:-1])
    lines = JsonLines(path)
    assert lines.read() == [{"step": 1}, {"step": 2}]
    lines.keep(lambda record: True)
    lines.append({"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_keep_cuts_at_the_first_record_that_is_not_wanted(tmp_path):
    lines = JsonLines(tmp_path / "m.jsonl")
    for step in range(1, 6):
        lines.append({"step": step})
    lines.keep(lambda record: record["step"] <= 3)
    assert lines.read() == [{"step": 1}, {"step": 2}, {"step": 3}]
    lines.keep(lambda record: False)
    assert (tmp_path / "m.jsonl").read_bytes() == b""
    JsonLines(tmp_path / "none").keep(lambda record: True)
    assert not (tmp_path / "none").exists()


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        JsonLines(tmp_path / "m.jsonl").read()


def test_a_line_that_the_disk_takes_only_in_part_is_taken_back(tmp_path):
    """A limit on the file size stands in for a full disk: the kernel writes what fits, then refuses."""
    program = """
import resource, signal, sys
from pathlib import Path
from types import SimpleNamespace
from tokenq.errors import UserError
from tokenq.files import JsonLines
lines = JsonLines(Path(sys.argv[1]))
lines.append({"step": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
try:
    lines.append({"step": 2, "text": "x" * 100})
except UserError as error:
    print(error.message)
"""
    path = tmp_path / "m.jsonl"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert "disk is full" in done.stdout
    assert path.read_text() == '{"step": 1}\n'


def test_what_is_appended_survives_a_kill(tmp_path):
    program = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from tokenq.files import JsonLines
JsonLines(Path(sys.argv[1])).append({"step": 1})
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", program, tmp_path / "m.jsonl"], check=False)
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"step": 1}


def test_frames_give_back_what_was_written(tmp_path):
    frames = Frames(tmp_path / "f")
    assert list(frames) == []
    for data in (b"key", b"", b"\x00" * 300):
        frames.append(data)
    assert list(frames) == [b"key", b"", b"\x00" * 300]


@pytest.mark.parametrize("left", range(8 + 3 + 1, 8 + 3 + 8 + 5))
def test_a_torn_frame_is_left_out_and_cut(tmp_path, left):
    """Two frames of 3 and 5 bytes behind 8 bytes of length each: whatever is left of the second, the first is whole."""
    frames = Frames(tmp_path / "f")
    frames.append(b"key")
    frames.append(b"hello")
    os.truncate(frames.path, left)
    assert list(frames) == [b"key"]
    assert frames.keep(lambda _: True) == 1
    assert frames.path.stat().st_size == 8 + 3
    frames.append(b"again")
    assert list(frames) == [b"key", b"again"]


def test_frames_are_cut_at_the_first_that_is_refused(tmp_path):
    frames = Frames(tmp_path / "f")
    for data in (b"a", b"b", b"a"):
        frames.append(data)
    assert frames.keep(lambda data: data != b"b") == 1
    assert list(frames) == [b"a"]
    assert Frames(tmp_path / "none").keep(lambda _: True) == 0


def test_what_is_no_file_of_frames_has_none(tmp_path):
    (tmp_path / "f").write_text('{"key": "of an older version"}\n')
    assert list(Frames(tmp_path / "f")) == []
