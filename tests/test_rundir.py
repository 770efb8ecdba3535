"""Run directories: refused twice, resumed once, honest about where a run comes from, silent about secrets."""

import json
import subprocess
import sys

import pytest

import tokenq
from tokenq.errors import UserError
from tokenq.rundir import RunDir, create_run, provenance, record_start, resume_run, write_config


def test_create_run_makes_the_folder_and_its_parents(tmp_path):
    run = create_run(tmp_path / "a" / "b")
    assert run.path.is_dir()
    assert not run.holds_run()
    places = (run.config, run.provenance, run.metrics, run.held_out, run.checkpoints, run.policy)
    assert [p.name for p in places] == [
        "config.yaml",
        "provenance.json",
        "metrics.jsonl",
        "held_out.jsonl",
        "checkpoints",
        "policy",
    ]


TRACES = ["config.yaml", "provenance.json", "metrics.jsonl", "held_out.jsonl", "checkpoints", "policy"]


@pytest.mark.parametrize("trace", TRACES)
def test_create_run_refuses_a_folder_with_any_trace_of_a_run(tmp_path, trace):
    (tmp_path / trace).mkdir()
    with pytest.raises(UserError) as caught:
        create_run(tmp_path)
    assert trace in caught.value.message
    assert "--resume" in caught.value.hint
    assert "--output" in caught.value.hint


def test_create_run_takes_a_folder_with_other_files(tmp_path):
    (tmp_path / "log.txt").write_text("a shell's log")
    assert create_run(str(tmp_path)).path == tmp_path
    assert (tmp_path / "log.txt").read_text() == "a shell's log"


@pytest.mark.parametrize("start", [create_run, resume_run])
def test_an_output_that_is_a_file_is_an_error(tmp_path, start):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        start(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_an_output_below_a_file_is_an_error(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="could not be written"):
        create_run(tmp_path / "out" / "run")


def test_resume_run_starts_anew_where_nothing_is_and_keeps_what_is_there(tmp_path):
    run = resume_run(tmp_path / "run")
    assert not run.holds_run()
    run.metrics.write_text('{"step": 1}\n')
    assert resume_run(tmp_path / "run") == run
    assert run.metrics.read_text() == '{"step": 1}\n'


def test_resume_run_sweeps_what_a_kill_left_half_written(tmp_path):
    run = create_run(tmp_path)
    (run.checkpoints / "step-10").mkdir(parents=True)
    (run.checkpoints / ".step-20.partial").mkdir()
    (run.checkpoints / ".step-20.partial" / "model.safetensors").write_text("half")
    (tmp_path / ".config.yaml.partial").write_text("half")
    resume_run(tmp_path)
    assert [p.name for p in run.checkpoints.iterdir()] == ["step-10"]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


def test_provenance_says_what_ran_where_on_what(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/tokenq", "train", "--seed", "7"])
    record = provenance({"seed": 7, "data": ("a.jsonl",)}, 7, {"model": {"path": "m", "sha256": "00"}})
    assert record["command"] == ["tokenq", "train", "--seed", "7"]
    assert record["seed"] == 7
    assert record["config"] == {"seed": 7, "data": ["a.jsonl"]}
    assert record["model"] == {"path": "m", "sha256": "00"}
    assert record["versions"]["tokenq"] == tokenq.__version__
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["versions"]["torch"].startswith("2.")
    assert record["started"].endswith("+00:00")
    assert record["git"] is None
    json.dumps(record, allow_nan=False)


def test_provenance_names_the_commit_that_the_run_was_started_in(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True)

    git("init", "-q")
    monkeypatch.chdir(tmp_path)
    assert provenance({}, 0, {})["git"] is None  # there is no commit yet
    (tmp_path / "notes").write_text("one")
    git("add", "notes")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert provenance({}, 0, {})["git"] == {"commit": commit, "clean": True}
    (tmp_path / "notes").write_text("two")
    assert provenance({}, 0, {})["git"] == {"commit": commit, "clean": False}


def test_python_dash_m_is_recorded_as_the_command_that_it_stands_for(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/tokenq/__main__.py", "train"])
    assert provenance({}, 0, {})["command"] == ["tokenq", "train"]


def test_later_starts_are_added_and_the_first_is_kept(tmp_path):
    run = create_run(tmp_path)
    first = provenance({"beta": 0.1}, 0, {"model": {"path": "m"}})
    record_start(run, first)
    record_start(run, {**first, "command": ["tokenq", "again"], "config": {"beta": 0.2}})
    record_start(run, {**first, "command": ["tokenq", "once more"]})
    kept = json.loads(run.provenance.read_text())
    assert kept["config"] == {"beta": 0.1}
    assert kept["command"] == first["command"]
    assert [start["command"] for start in kept["resumed"]] == [["tokenq", "again"], ["tokenq", "once more"]]


TOKEN = "hf_" + "Ab1" * 10


def test_no_secret_of_environment_or_command_line_reaches_the_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(sys, "argv", ["tokenq", "train", "--model", f"https://u:{TOKEN}@hub/m", "0123456789abcdef"])
    run = create_run(tmp_path)
    config = {"model": f"x-{TOKEN}", "run_name": "0123456789abcdef"}
    write_config(run, config)
    record_start(run, provenance(config, 0, {"data": {"path": TOKEN}}))
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert TOKEN not in written
    assert "0123456789abcdef" not in written
    assert written.count("[secret]") == 7


def test_runs_compare_by_place(tmp_path):
    assert RunDir(tmp_path) == RunDir(tmp_path)
