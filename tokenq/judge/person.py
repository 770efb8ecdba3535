"""A person as a judge: comparisons go to a file, and whoever runs the command waits until it is filled in.

A line of the file is a comparison: `preferred`, which is null until somebody writes "a", "b" or "tie", the prompt, and
the two responses in an order that does not tell which is which. What stands there is never taken away: a kill, a
mistake or a lost file costs no answer, and nothing is asked twice.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenq.errors import UserError
from tokenq.files import append_bytes, json_line
from tokenq.judge.judging import Comparison, Judgement, Verdict

PAUSE = 1.0
"""Seconds between two looks at the file."""

ANSWERS = ("a", "b", "tie")


@dataclass
class Sheet:
    """What a file of comparisons says.

    Attributes:
        answers: by the key of a comparison.
        keys: of all comparisons that are in it.
        problems: what is wrong with rows, each with its file and row.
        unreadable: whether a row is no JSON, so that its comparison is not known.
        foreign: the first row that is of another kind; empty where there is none.
    """

    answers: dict[str, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    unreadable: bool = False
    foreign: str = ""


@dataclass(frozen=True)
class PersonJudge:
    """Asks a person, and waits.

    Attributes:
        path: the file of comparisons; made where there is none, else added to.
        say: told where the file is, and what is wrong with it.
        seed: of the order in which the two responses are shown.
        heed: called while waiting; raises where nobody is to wait any longer.
    """

    path: Path
    say: Callable[[str], None]
    seed: int = 0
    heed: Callable[[], None] = lambda: None

    def ask(self, comparisons: Sequence[Comparison]) -> dict[str, str]:
        """Add the comparisons that are not in the file, and return the answers that are, by their keys.

        Raises:
            UserError: the file is of another kind.
        """
        sheet = read_sheet(self.path)
        if sheet.foreign:
            raise UserError(f"{sheet.foreign}.", "Mend the row, or name another file.")
        self._add(comparisons, sheet, {})
        return sheet.answers

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Judgement]:
        """Return one judgement a comparison, when all are answered; two responses that read the same are a tie.

        Raises:
            UserError: the file is of another kind.
        """
        wanted, known, told = self._rows(comparisons).keys(), self.ask(comparisons), set[str]()
        if left := len(wanted - known.keys()):
            self.say(
                f'{left} comparisons wait in {self.path}: write "a", "b" or "tie" behind "preferred" in each row, and '
                "save the file"
            )
        seen = done = None
        while not wanted <= known.keys():
            self.heed()
            now = _stamp(self.path)
            if now != seen or now == done:  # under the hands of an editor, or nothing new
                seen = now
                time.sleep(PAUSE)
                continue
            done, sheet = now, read_sheet(self.path)
            known |= sheet.answers
            for problem in sheet.problems:
                if problem not in told:
                    self.say(f"warning: {problem}; mend the row and save the file")
            told = {*sheet.problems}
            self._add(comparisons, sheet, known)
        return [self._judged(one, known) for one in comparisons]

    def _add(self, comparisons: Sequence[Comparison], sheet: Sheet, known: Mapping[str, str]) -> None:
        """Add the comparisons that are not in the file, with the answers that were there before a row was lost."""
        if sheet.unreadable:  # the row that cannot be read may be one of these
            return
        rows = {key: row for key, row in self._rows(comparisons).items() if key not in sheet.keys}
        if rows:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = b"".join(json_line({"preferred": known.get(key), **row}) for key, row in rows.items())
            append_bytes(self.path, lines if _ends_a_line(self.path) else b"\n" + lines)

    def _rows(self, comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
        """Return the rows of the file by their keys, without answers."""
        rows = {}
        for one in comparisons:
            if one.first != one.second:
                key, (a, b) = self._shown(one)
                rows[key] = {"prompt": one.prompt_text, "a": a, "b": b, "key": key}
        return rows

    def _shown(self, one: Comparison) -> tuple[str, tuple[str, str]]:
        """Return the key of a comparison and its responses as they are shown: a function of the texts and the seed."""
        a, b = sorted((one.first, one.second))
        digest = hashlib.sha256(json.dumps([self.seed, one.prompt_text, a, b]).encode()).hexdigest()
        return digest[:12], (b, a) if int(digest[12:], 16) % 2 else (a, b)

    def _judged(self, one: Comparison, known: Mapping[str, str]) -> Judgement:
        key, (a, _) = self._shown(one)
        if one.first == one.second or known[key] == "tie":
            return Judgement(one.id, "tie")
        better: Verdict = "first" if (known[key] == "a") == (one.first == a) else "second"
        return Judgement(one.id, better)


def read_sheet(path: Path) -> Sheet:
    """Return what a file of comparisons says; nothing where there is none.

    Raises:
        UserError: it is a folder.
    """
    sheet = Sheet()
    if path.is_dir():
        raise UserError(f"{path} is a folder.", "Name a file for the comparisons.")
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        where = f"{path}, row {number}"
        try:
            row = json.loads(line.decode("utf-8-sig")) if line.strip() else None
        except ValueError as problem:
            row = problem
        if row is None:
            continue
        if isinstance(row, ValueError):
            sheet.problems.append(f"{where} is no JSON ({row})")
            sheet.unreadable = True
        elif not isinstance(row, dict) or not isinstance(row.get("key"), str) or "preferred" not in row:
            sheet.problems.append(f'{where} is no comparison: it has no "preferred" or no "key"')
            sheet.foreign = sheet.foreign or sheet.problems[-1]
        else:
            _note(sheet, row, where)
    return sheet


def _note(sheet: Sheet, row: Mapping[str, Any], where: str) -> None:
    said = row["preferred"]
    sheet.keys.add(row["key"])
    if isinstance(said, str) and said.strip().lower() in ANSWERS:
        sheet.answers[row["key"]] = said.strip().lower()
    elif said not in (None, ""):
        sheet.problems.append(f'{where}: "preferred" is {json.dumps(said)}, and not "a", "b" or "tie"')


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def _ends_a_line(path: Path) -> bool:
    return not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
