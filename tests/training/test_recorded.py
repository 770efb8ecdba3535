"""Files of a run directory that are broken in every way are answered in words that name them, never by a traceback."""

import json
import shutil

import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.errors import UserError
from tokenq.rundir import RunDir
from tokenq.training.recorded import read_config, read_metrics, read_provenance

pytestmark = pytest.mark.integration

READERS = {"config.yaml": read_config, "provenance.json": read_provenance, "metrics.jsonl": read_metrics}

JUNK = {
    "empty": b"",
    "binary": b"\x00\xff\xfe\x80junk\n",
    "list": b"[]\n",
    "object": b"{}\n",
    "number": b"5\n",
    "text": b'"x"\n',
    "null": b"null\n",
    "brace": b"{\n",
    "deep": b"[" * 50_000 + b"\n",
    "nan": b'{"step": NaN}\n',
    "word": b'{"step": "x", "schema": "x", "config": "x", "model": []}\n',
    "nested": b'{"step": 1, "loss": [1], "schema": 1, "config": {"model": 5, "data": "x", "output": []}}\n',
    "truth": b'{"step": true, "schema": true, "config": []}\n',
}


def junk_of(name, kind):
    """Return junk for a file: on one line brackets cost YAML a second, which looks for the key that each may begin."""
    return b"[\n" * 50_000 if (name, kind) == ("config.yaml", "deep") else JUNK[kind]


UNREAD = ("empty", "binary", "object", "nested")
"""Kinds of junk enough for a file that a command does not look at."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded")
    tiny_model("llama", layers=1).save_pretrained(root / "model")
    tiny_tokenizer("bytes").save_pretrained(root / "model")
    rows = [{"prompt": f"{i}?", "chosen": f" {i}.", "rejected": f" {i + 1}."} for i in range(6)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model", str(root / "model"), "--data", str(root / "rows.jsonl"), "--eval-size", "2", "--device", "cpu"]
    words += ["--max-steps", "2", "--batch-size", "2", "--reference-store", str(root / "store")]
    for name in ("run", "other"):
        assert main(["train", *words, "--output", str(root / name)]) == 0
    return root


@pytest.mark.parametrize("name", READERS)
def test_what_was_written_is_read(trained, name):
    assert READERS[name](RunDir(trained / "run"))


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_names_what_is_broken(tmp_path, name, junk):
    (tmp_path / name).write_bytes(junk_of(name, junk))
    if (name, junk) == ("metrics.jsonl", "empty"):
        assert read_metrics(RunDir(tmp_path)) == []
        return
    if (name, junk) == ("metrics.jsonl", "brace"):
        (tmp_path / name).write_bytes(b"{\n{}\n")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        READERS[name](RunDir(tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"beta": "much"}, "beta is 'much'"),
        ({"data": "rows.jsonl"}, "data is 'rows.jsonl'"),
        ({"lora_rank": [8]}, r"lora_rank is \[8\]"),
        ({"loss_options": []}, r"loss_options is \[\]"),
        ({"seed": 0.5}, r"seed is 0\.5"),
        ({"model": None}, "model is None"),
        ({"resume": "no"}, "resume is 'no'"),
        ({"schedule": "steep"}, "schedule is 'steep'"),
    ],
)
def test_a_setting_of_another_type_is_named(trained, tmp_path, change, says):
    record = read_provenance(RunDir(trained / "run"))
    record["config"] |= change
    (tmp_path / "provenance.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=says):
        read_provenance(RunDir(tmp_path))


COMMANDS = {
    "doctor": lambda root, run: ["doctor", str(run), "--depth", "data", "--device", "cpu"],
    "compare": lambda root, run: ["compare", str(run), str(root / "other")],
    "score": lambda root, run: ["score", "--run", str(run), "--prompt", "1?", "--response", " 1.", "--device", "cpu"],
    "resume": lambda root, run: ["train", "--config", str(run / "config.yaml"), "--output", str(run), "--resume"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", [*READERS, "held_out.jsonl"])
def test_no_command_answers_a_broken_file_with_a_traceback(trained, tmp_path, command, name, capsys):
    """A command that does not read the file does its work; one that does exits with 2 and names it."""
    run = tmp_path / "run"
    reads = {
        "doctor": ("config.yaml", "provenance.json", "metrics.jsonl"),
        "compare": ("config.yaml", "provenance.json", "metrics.jsonl", "held_out.jsonl"),
        "score": ("provenance.json",),
        "resume": ("config.yaml", "provenance.json", "metrics.jsonl"),
    }[command]
    for junk in JUNK if name in reads else UNREAD:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(trained / "run", run)
        (run / name).write_bytes(junk_of(name, junk))
        code = main(COMMANDS[command](trained, run))
        err = capsys.readouterr().err
        assert code in (0, 1, 2), (junk, err)
        if name in reads and junk not in ("empty", "brace"):
            assert code == 2, (junk, err)
            assert name in err or (command, name) == ("resume", "config.yaml"), (junk, err)


POLICY = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("name", POLICY)
def test_a_broken_policy_of_a_run_is_answered_in_words(trained, tmp_path, name, capsys):
    run = tmp_path / "run"
    for content in (b"", b"[]", b"5", b'"x"', b"\x00\xff\xfejunk", None):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(trained / "run", run)
        path = run / "policy" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
        code = main(COMMANDS["score"](trained, run))
        err = capsys.readouterr().err
        assert code == 2 or (code == 0 and name == "generation_config.json"), (content, err)
        assert code == 0 or "policy" in err, (content, err)
