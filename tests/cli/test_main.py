"""The command: what it prints, what it exits with, and that asking for help is instant."""

import dataclasses
import errno
import importlib
import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import tokenq
from tokenq.cli.main import COMMANDS, main
from tokenq.cli.told import Told
from tokenq.demo.config import DemoConfig
from tokenq.errors import UserError
from tokenq.training.config import TrainConfig

FLAGS = Path(__file__).parent / "train_flags.txt"
NEEDED = ["--model", "m", "--data", "d", "--output", "runs/none"]


@pytest.fixture
def stand_in(monkeypatch):
    """Replace what a command does; returns the list of configurations that it was called with."""

    def replace(name, action=lambda config: 0):
        called = []
        monkeypatch.setitem(COMMANDS, name, COMMANDS[name]._replace(run=lambda c: called.append(c) or action(c)))
        return called

    return replace


def raiser(error):
    def action(_):
        raise error

    return action


def test_train_gets_its_configuration(stand_in):
    called = stand_in("train")
    assert main(["train", *NEEDED, "--beta", "0.2", "--data", "e"]) == 0
    assert called == [TrainConfig(model="m", data=("d", "e"), output="runs/none", beta=0.2)]


def test_demo_gets_its_configuration(stand_in):
    called = stand_in("demo")
    assert main(["demo", "--quick"]) == 0
    assert called == [DemoConfig(quick=True)]


def test_no_command_prints_the_overview_and_fails(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_the_overview_names_every_command(word, capsys):
    assert main([word]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed and command.summary in printed for name, command in COMMANDS.items())


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tokenq {tokenq.__version__}\n"


@pytest.mark.parametrize(
    ("words", "first", "second"),
    [
        (
            ["trian"],
            "tokenq: error: Unknown command 'trian'.",
            "Did you mean 'train'? Available: audit, cache, compare, demo, densify, doctor, draw",
        ),
        (["train", "--bta", "1"], "tokenq train: error: Unknown flag: --bta.", "Did you mean --beta?"),
        (["train"], "tokenq train: error: --model is missing.", "Give the flag"),
        (["demo", "--seed", "x"], "tokenq demo: error: --seed takes a whole number, not 'x'.", "whole number"),
    ],
)
def test_usage_errors_are_one_short_block_and_exit_with_2(words, first, second, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 2
    assert lines[0] == first
    assert second in lines[1]


def test_a_user_error_has_no_traceback_and_exits_with_2(stand_in, capsys):
    stand_in("train", raiser(UserError("The disk is full.", "Free some space.")))
    assert main(["train", *NEEDED]) == 2
    assert capsys.readouterr().err == "tokenq train: error: The disk is full.\n  Free some space.\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "a" * 5000),
            f"{'a' * 200}… cannot be used: File name too long",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x cannot be used: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "A file cannot be used: No space left on device"),
        (MemoryError(), "There is not enough memory"),
    ],
)
def test_what_the_machine_refuses_is_told_in_words(stand_in, capsys, error, says):
    stand_in("train", raiser(error))
    assert main(["train", *NEEDED]) == 2
    assert says in capsys.readouterr().err


def test_a_file_that_is_missing_where_none_may_be_is_a_defect(stand_in):
    stand_in("train", raiser(FileNotFoundError(errno.ENOENT, "No such file", "/x")))
    with pytest.raises(FileNotFoundError):
        main(["train", *NEEDED])


def test_a_reader_that_has_gone_is_no_defect():
    """As in `tokenq --help | head -1`, with a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "tokenq", "--help"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""


def test_a_defect_keeps_its_traceback(stand_in):
    stand_in("train", raiser(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["train", *NEEDED])


def test_an_interruption_exits_with_130_and_says_how_to_go_on(stand_in, capsys, tmp_path):
    stand_in("train", raiser(KeyboardInterrupt()))
    words = ["train", "--model", "m", "--data", "d", "--output", str(tmp_path)]
    assert main(words) == 130
    assert "start again with the same command" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("model: m\n")
    assert main(words) == 130
    assert f"tokenq train --config {tmp_path}/config.yaml --resume" in capsys.readouterr().err
    stand_in("demo", raiser(KeyboardInterrupt()))
    assert main(["demo", "--output", "runs/d"]) == 130
    assert "runs/d" in capsys.readouterr().err


def test_questions_are_answered_without_torch():
    """In a fresh process, one after the other, and with nothing else that takes long to import."""
    asked = [["--help"], ["--version"], *([name, "--help"] for name in ("train", "demo", "verify"))]
    asked += [["train", "--print-config"], ["train", "--x"]]
    program = (
        "import sys\nfrom tokenq.cli.main import main\n"
        "heavy = {'torch', 'transformers', 'peft', 'accelerate', 'datasets', 'scipy', 'pandas', 'jaxtyping'}\n"
        f"for words in {asked}:\n"
        "    try:\n        main(words)\n    except SystemExit:\n        pass\n"
        "    print('HEAVY', words, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    told = [line for line in done.stdout.splitlines() if line.startswith("HEAVY")]
    assert told == [f"HEAVY {words} []" for words in asked]


def test_python_dash_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "tokenq", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"tokenq {tokenq.__version__}\n"
    failed = subprocess.run([sys.executable, "-m", "tokenq", "nothing"], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr


def test_the_list_of_flags_is_frozen(capsys):
    """A new flag is a decision: add it to the file in the same change, and say in CHANGELOG.md why it is needed."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    flags = [line.split()[0].rstrip(",") for line in printed.splitlines() if line.startswith("  --")]
    assert flags == FLAGS.read_text().split()


def test_a_first_word_without_a_flag(stand_in):
    called = stand_in("doctor")
    assert main(["doctor", "runs/first", "--seed", "3"]) == 0
    assert (called[0].run, called[0].seed) == ("runs/first", 3)


@pytest.mark.parametrize("name", [name for name in COMMANDS if not name.startswith("eval ")])
def test_every_command_has_what_runs_its_configuration(name):
    """The table imports it only when it is called, so a wrong name would show as late as that."""
    run, config = COMMANDS[name].run, COMMANDS[name].config
    if isinstance(run, Told):
        keywords = {one.name for one in dataclasses.fields(config)} | {"listener"}
        assert keywords <= {*inspect.signature(run.job).parameters}
        return
    own = inspect.unwrap(run).__module__  # rooms of commands hold their functions themselves
    module = importlib.import_module(f"tokenq.cli.{name}" if own == "tokenq.cli.main" else own)
    assert typing.get_type_hints(module.run)["config"] is COMMANDS[name].config
