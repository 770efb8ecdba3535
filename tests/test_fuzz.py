"""No nonsense gives a traceback, hangs, or passes for sense: seeded cases, each in a process of its own.

Sixty by default, six hundred and more with `-m slow`. The processes are forked from one that has imported everything.
"""

import contextlib
import io
import os
import re
import resource
import signal

import pytest
from forked import done
from fuzz_cases import KINDS, MAKERS, PAIRS, STEPS, case
from tiny import CHATML, tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.files import write_json_lines
from tokenq.records.results import Candidate, Cost, SearchResult

SEED = 17
CPU_SECONDS = 20
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models, rows, stored answers and two finished runs."""
    root = tmp_path_factory.mktemp("fuzz")
    for name, family in (("policy", "llama"), ("reference", "gpt_neox")):
        tiny_model(family, layers=1, vocab_size=320).save_pretrained(root / name)
        tokenizer = tiny_tokenizer("bpe")
        tokenizer.chat_template = CHATML
        tokenizer.save_pretrained(root / name)
    write_json_lines(root / "pairs.jsonl", PAIRS)
    write_json_lines(root / "steps.jsonl", STEPS)
    write_json_lines(root / "questions.jsonl", [{"prompt": f"{n}?", "answer": f"#### {n}"} for n in (1, 2)])
    answers = [
        SearchResult(str(n), f"{n}?", "greedy", "likelihood", (made,), Cost(9, 3, 0, 1.0, 1))
        for n, made in enumerate([Candidate(text, (1, 2), 0.0, (-1.0, -1.0), None, True) for text in "13"], 1)
    ]
    write_json_lines(root / "answers.jsonl", [answer.to_dict() for answer in answers])
    for name in ("run", "run2"):
        words = ["train", "--model", str(root / "policy"), "--data", str(root / "pairs.jsonl"), "--batch-size", "2"]
        words += ["--eval-data", str(root / "pairs.jsonl"), "--learning-rate", "1e-3", "--device", "cpu"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main([*words, "--output", str(root / name)]) == 0
    return root


def tried(words, folder):
    """Return (exit code, minus the signal of a hang, and what was printed) of a command in a process of its own."""

    def work():
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        with open("/proc/self/statm", encoding="ascii") as sizes:  # of a process that has loaded much already
            most = int(sizes.read().split()[0]) * resource.getpagesize() + (8 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        signal.alarm(6 * CPU_SECONDS)
        return main(words)

    return done(work, folder / "printed")


def wrong(one, place, folder):
    """Return what is wrong with how a case ended, None where all is well."""
    folder.mkdir()
    words = one.make(place, folder)
    code, text = tried(words, folder)
    shown = f"{one.name}: tokenq {' '.join(word[:80] for word in words)!a}\n{text[-1500:]!a}"
    if code < 0:
        return f"HANGS {shown}"
    if "Traceback" in text or code not in (0, 1, 2):
        return f"TRACEBACK ({code}) {shown}"
    if one.refused and code != 2:
        return f"ACCEPTED {shown}"
    if code == 2 and "error:" not in text:
        return f"WORDLESS {shown}"
    if CONTROL.search(text):
        return f"CONTROL CHARACTERS {shown}"
    return None


@pytest.mark.parametrize("kind", MAKERS)
def test_a_sample_of_nonsense_ends_in_words(kind, place, tmp_path):
    _hold(kind, range(15), place, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("kind", MAKERS)
def test_nonsense_ends_in_words(kind, part, place, tmp_path):
    """Twenty cases a part, ten parts a kind, beyond those of the sample."""
    _hold(kind, range(15 + 20 * part, 35 + 20 * part), place, tmp_path)


def _hold(kind, numbers, place, folder):
    """Fail with the whole of what is wrong."""
    found = [wrong(case(kind, number, SEED), place, folder / str(number)) for number in numbers]
    if any(found):
        pytest.fail("\n\n".join(one for one in found if one), pytrace=False)


def test_every_kind_of_rows_works_as_it_is(place, tmp_path):
    """Nonsense is only told from sense where the sense of it would have gone through."""
    for loss, rows in KINDS.items():
        write_json_lines(tmp_path / "rows.jsonl", rows)
        words = ["train", "--model", str(place / "policy"), "--data", str(tmp_path / "rows.jsonl"), "--loss", loss]
        folder = tmp_path / loss
        folder.mkdir()
        code, text = tried([*words, "--output", str(folder / "out"), "--device", "cpu"], folder)
        assert code == 0, text
