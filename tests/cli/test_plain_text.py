"""What reaches a terminal: text, one line a message, on every console."""

import contextlib
import io
import sys

import pytest

from tokenq.cli.main import COMMANDS, main
from tokenq.errors import UserError
from tokenq.report.outcome import brief, tables
from tokenq.stats.outcome import Table
from tokenq.terminal.console import messages, screen
from tokenq.terminal.plain_text import one_line, printable

HOSTILE = "a\x1b[31mred\x1b]0;title\x07\r\x9b2Jb\u202ec"
SHOWN = r"a\x1b[31mred\x1b]0;title\x07\x0d\x9b2Jb\u202ec"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, SHOWN),
        ("tab\tand\nline", "tab\tand\nline"),
        ("\x00\x08\x7f\x85", r"\x00\x08\x7f\x85"),
        ("\ud800", r"\ud800"),
        ("\u2028\u2066\ufeff", r"\u2028\u2066\ufeff"),
        ("π − é 🙂 日本", "π − é 🙂 日本"),
        ("👩\u200d🔬", "👩\u200d🔬"),
    ],
)
def test_what_acts_on_a_terminal_is_written_out(text, shown):
    assert printable(text) == shown


def test_a_message_is_one_line_of_text(capsys):
    messages().print(f"done: in {HOSTILE}[bold]\nerror: not mine")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert r"[bold]\nerror: not mine" in err


@pytest.mark.parametrize("name", ["exp[lr]t.jsonl", "exp[/b]t.jsonl", "[/]", "pip install 'tokenq[plots]'", ":smile:"])
def test_names_are_text_and_no_markup(name, capsys):
    messages().print(f"page: {name}")
    assert capsys.readouterr().err == f"page: {name}\n"
    screen().print(name)
    assert capsys.readouterr().out == f"{name}\n"
    table = Table(name, ("subset", name), [[name, 1.0]], name)
    for one in (*tables([table]), brief(table)):
        screen().print(one)
    # Title, head and cell of both, and the note of the one that has it.
    assert capsys.readouterr().out.count(name) == 7


def test_tables_and_texts_keep_their_lines_and_lose_what_acts(capsys):
    screen().print(f"one\ntwo {HOSTILE}")
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "one"
    assert "\x1b" not in out
    screen().print(*tables([Table(HOSTILE, ("a", "b"), [[HOSTILE, HOSTILE]])]))
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(capsys.readouterr().out)


def test_an_error_is_its_message_and_its_hint_whatever_they_hold(monkeypatch, capsys):
    def fail(_):
        raise UserError(f"No file {HOSTILE}\ntokenq: error: forged", "Check\nit.")

    monkeypatch.setitem(COMMANDS, "compare", COMMANDS["compare"]._replace(run=fail))
    assert main(["compare", "a", "b"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert "\x1b" not in err
    assert err.endswith("\n  Check\\nit.\n")


@pytest.mark.parametrize(
    "words", [["\x1b[2Jx"], ["score", "--policy", "m", "--data", "no\x1b[2Jfile", "--output", "o.jsonl"]]
)
def test_words_of_the_command_line_come_back_harmless(words, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err


ENCODINGS = ("cp1252", "ascii")


def shown_by(encoding, folder, work):
    """Return what is printed, and what is complained of, redirected to files of an encoding as Windows does it."""
    out, err = folder / f"{encoding}.out", folder / f"{encoding}.err"
    with (
        open(out, "w", encoding=encoding) as printed,
        open(err, "w", encoding=encoding, errors="backslashreplace") as complained,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(complained),
    ):
        work()
    return out.read_text(encoding), err.read_text(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_help_page_can_be_shown_on_every_console(encoding, tmp_path):
    """A stream of that encoding stands in for a console that lacks most of Unicode."""

    def helped():
        for name in [*COMMANDS, ""]:
            try:
                code = main([*name.split(), "--help"])
            except SystemExit as done:
                code = done.code
            sys.stdout.write(f"{name} {code}\n")
        sys.stdout.write("−πβ … é 🙂 \ud800 ─\n")

    shown, _ = shown_by(encoding, tmp_path, helped)
    assert all(f"{name} 0" in shown for name in COMMANDS)
    last = shown.splitlines()[-1]
    accent, dots = ("e", "...") if encoding == "ascii" else ("é", "…")
    assert last == rf"-pibeta {dots} {accent} \U0001f642 \ud800 -"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_results_on_a_console_that_is_not_utf_8(encoding, tmp_path):
    """An evaluation with its table, and an error."""
    (tmp_path / "p.json").write_text('[{"preference": 1, "system": "π − β"}, {"preference": 0, "system": "π − β"}]')
    words = ["--preferences", str(tmp_path / "p.json"), "--output", str(tmp_path / "won.json")]

    def evaluated():
        assert main(["eval", "win-rate", *words]) == 0
        assert main(["eval", "win-rate", "--preferences", "π−.json"]) == 2

    out, err = shown_by(encoding, tmp_path, evaluated)
    assert "pi - beta" in out
    assert "No file pi-.json" in err


def test_streams_that_are_no_files_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert main(["--version"]) == 0
    assert one_line("a\nb") == r"a\nb"
