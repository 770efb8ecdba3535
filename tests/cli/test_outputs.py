"""What commands write: whole or not there, by one writer at a time, over nothing that they did not write themselves."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from examples import cases
from forked import done
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.errors import UserError
from tokenq.frames import Frames
from tokenq.locks import hold_file, hold_folder
from tokenq.records.results import read_results
from tokenq.records.trace_files import read_traces

pytestmark = pytest.mark.integration

ROWS = [
    {"prompt": f"{i} and {i + 1} make" * (1 + i % 3), "chosen": f" {2 * i + 1}." * (1 + i % 4), "rejected": " no"}
    for i in range(12)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A policy, a reference, rows and prompts with answers."""
    root = tmp_path_factory.mktemp("outputs")
    for name, family in (("policy", "llama"), ("reference", "gpt_neox")):
        tiny_model(family, layers=1, vocab_size=320).save_pretrained(root / name)
        tiny_tokenizer("bpe").save_pretrained(root / name)
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    prompts = [{"prompt": row["prompt"], "answer": "7"} for row in ROWS]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    return root


def models(place):
    return ["--policy", str(place / "policy"), "--reference", str(place / "reference"), "--device", "cpu"]


def score(place, output, *more):
    return ["score", *models(place), "--data", str(place / "rows.jsonl"), "--output", str(output), *more]


def search(place, output, *more):
    words = ["search", *models(place), "--prompts", str(place / "prompts.jsonl"), "--output", str(output)]
    return [*words, "--method", "sample", "--n", "2", "--max-new-tokens", "5", "--batch-size", "5", *more]


def sweep(place, output, *more):
    words = ["sweep", *models(place), "--prompts", str(place / "prompts.jsonl"), "--output", str(output), *more]
    return [
        *words,
        "--answer",
        "last_number",
        "--gold",
        "answer",
        "--settings",
        "greedy",
        "--pool",
        "2",
        "--max-new-tokens",
        "3",
    ]


def preferences(place, output, *more):
    (place / "p.json").write_text('[{"preference": 1}, {"preference": 0}]')
    return ["eval", "win-rate", "--preferences", str(place / "p.json"), "--output", str(output), *more]


def without_cost(results):
    return [{**one.to_dict(), "cost": None} for one in results]


COMMANDS = {"score": score, "search": search, "eval": preferences}
NAMES = {"score": "out.jsonl", "search": "out.jsonl", "eval": "out.json"}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_others_made_is_refused_before_anything_runs_and_replaced_when_asked_to(name, place, tmp_path, capsys):
    output = tmp_path / NAMES[name]
    output.write_text("mine\n")
    words = COMMANDS[name](place, output)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert f"{output} is there already" in err
    assert "--overwrite" in err
    assert output.read_text() == "mine\n"
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    assert main([*words, "--overwrite"]) == 0
    assert output.read_text() != "mine\n"
    assert main(words) == 0  # now it is the command's own


def test_pages_and_figures_are_told_by_what_stands_in_them(place, tmp_path, capsys):
    page, figure = tmp_path / "page.html", tmp_path / "figure.svg"
    words = score(place, tmp_path / "a.jsonl", "--html", str(page), "--figure", str(figure))
    for path in (page, figure):
        path.write_text("<html>mine</html>")
        assert main(words) == 2
        assert f"{path} is there already" in capsys.readouterr().err
        assert path.read_text() == "<html>mine</html>"
        path.unlink()
    for _ in range(2):
        assert main(words) == 0
    assert main(search(place, tmp_path / "b.jsonl", "--html", str(page))) == 2
    assert "tokenq search did not write it" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", cases(["svg", "png", "pdf"], ["svg"]))
def test_a_figure_of_every_form_is_known_again(place, tmp_path, suffix):
    """By default one: the others differ in what matplotlib writes."""
    figure = tmp_path / f"figure.{suffix}"
    for _ in range(2):
        assert main(score(place, tmp_path / "a.jsonl", "--figure", str(figure))) == 0


def test_the_files_of_a_run_are_no_ones_output(place, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--model", str(place / "policy"), "--data", str(place / "rows.jsonl"), "--output", str(run)]
    assert main(["train", *words, "--max-steps", "1", "--device", "cpu", "--reference-store", "off"]) == 0
    for name in ("metrics.jsonl", "provenance.json", "config.yaml"):
        before = (run / name).read_bytes()
        assert main(["doctor", str(run), "--depth", "record", "--output", str(run / name)]) == 2
        assert f"{name} is there already" in capsys.readouterr().err
        assert (run / name).read_bytes() == before
    for _ in range(2):
        assert main(["doctor", str(run), "--depth", "record", "--output", str(run / "doctor.json")]) in (0, 1)
    assert json.loads((run / "doctor.json").read_text())["made_by"] == "tokenq doctor"


def test_a_sweep_takes_its_own_folder_again_and_no_other(place, tmp_path, capsys):
    for name in ("sweep.json", "sweep.md", "results/greedy.jsonl"):
        folder = tmp_path / Path(name).name
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("{}")
        assert main(sweep(place, folder)) == 2
        assert f"{name} is there already" in capsys.readouterr().err
        assert (folder / name).read_text() == "{}"
    first = tmp_path / "sweep"
    assert main(sweep(place, first)) == 0
    points = json.loads((first / "sweep.json").read_text())["points"]
    capsys.readouterr()
    assert main(sweep(place, first)) == 0
    assert "already" in capsys.readouterr().err
    assert json.loads((first / "sweep.json").read_text())["points"] == points


@pytest.mark.parametrize("name", [*COMMANDS, "sweep"])
def test_a_second_writer_is_refused_by_name(name, place, tmp_path, capsys):
    output = tmp_path / NAMES.get(name, "folder")
    hold = hold_file if name in COMMANDS else hold_folder
    words = {**COMMANDS, "sweep": sweep}[name](place, output)
    with hold(output):
        assert main(words) == 2
    assert f"is being written by another process: process {os.getpid()} on" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


CUTS = [(name, cut) for name in ("score", "search") for cut in ("half", "line", "empty", "byte")]
EACH_CUT = [("search", "half"), ("search", "line"), ("score", "empty"), ("score", "byte")]


@pytest.mark.parametrize(("name", "cut"), cases(CUTS, EACH_CUT))
def test_a_file_that_was_cut_or_changed_is_not_taken_for_whole(name, cut, place, tmp_path, capsys):
    """By default each cut of one command: how a file is found whole is the same for both."""
    output, read = tmp_path / "out.jsonl", {"score": read_traces, "search": read_results}[name]
    assert main(COMMANDS[name](place, output)) == 0
    whole, text = list(read(output)), output.read_text()
    capsys.readouterr()
    assert main(COMMANDS[name](place, output)) == 0
    assert "already" in capsys.readouterr().err
    cuts = {
        "half": text[: len(text) // 2],
        "line": "".join(text.splitlines(keepends=True)[:5]),
        "empty": "",
        "byte": text.replace("make", "bake", 1),
    }
    output.write_text(cuts[cut])
    if cut in ("half", "line", "empty"):
        with pytest.raises(UserError, match=r"not valid JSON|holds [05] of the (12|24) records"):
            list(read(output))
    assert main(COMMANDS[name](place, output)) == 0
    assert "already" not in capsys.readouterr().err
    again = list(read(output))
    assert again == whole if name == "score" else without_cost(again) == without_cost(whole)


def killed_after(records, words):
    """Run a command that is killed once it has written so many records."""
    append, left = Frames.append, [records]

    def dying(self, record):
        append(self, record)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    Frames.append = dying
    return main(words)


@pytest.mark.parametrize("name", ["score", "search"])
def test_what_goes_on_after_a_kill_is_the_same_to_the_last_bit(name, place, tmp_path):
    """Killed after the third row, in the middle of a batch, with batches that hold rows from everywhere."""
    more = ["--tokens-per-batch", "60"] if name == "score" else []
    read = {"score": read_traces, "search": read_results}[name]
    assert main(COMMANDS[name](place, tmp_path / "whole.jsonl", *more)) == 0
    words = COMMANDS[name](place, tmp_path / "out.jsonl", *more)
    assert done(lambda: killed_after(4, words), tmp_path / "printed").code == -signal.SIGKILL
    (tmp_path / "printed").unlink()
    assert not (tmp_path / "out.jsonl").exists()
    assert main(words) == 0
    one, two = (list(read(tmp_path / file)) for file in ("whole.jsonl", "out.jsonl"))
    assert one == two if name == "score" else without_cost(one) == without_cost(two)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{file}.jsonl{end}" for file in ("whole", "out") for end in ("", ".provenance.json")}


def test_the_provenance_beside_says_what_the_file_is(place, tmp_path):
    assert main(score(place, tmp_path / "a.jsonl")) == 0
    record = json.loads((tmp_path / "a.jsonl.provenance.json").read_text())
    assert (record["made_by"], record["records"]) == ("tokenq score", 24)
    assert len(record["sha256"]) == 64
    shutil.copy(tmp_path / "a.jsonl", tmp_path / "b.jsonl")  # without its provenance it is read as it is
    assert len(list(read_traces(tmp_path / "b.jsonl"))) == 24
