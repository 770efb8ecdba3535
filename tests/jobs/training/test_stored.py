"""Data on the disk: the same tokens, account, digest and weights as in memory, found again, and read row by row."""

import json
import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.core.losses import find_sum
from tokenq.data.digest import data_digest, group_digest
from tokenq.data.stored.texts import from_json, to_json
from tokenq.doctor.config import DoctorConfig
from tokenq.errors import UserError
from tokenq.jobs.doctor.material import material_of
from tokenq.jobs.training import stored
from tokenq.jobs.training.data import load_data
from tokenq.listener import SILENCE
from tokenq.records.examples import ContextMessage, Example, Message, Response
from tokenq.records.lazy_groups import LazyGroups
from tokenq.training.config import TrainConfig

ROWS = [
    {"prompt": f"{n // 10} {n % 10}?", "chosen": f" {n % 9}." + " 7" * (n % 4), "rejected": f" {n % 9 + 1} {n % 7}."}
    for n in range(60)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model in a folder and rows in a file."""
    root = tmp_path_factory.mktemp("stored")
    tiny_model("llama", layers=1).save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    write(root / "rows.jsonl", ROWS)
    write(root / "more.jsonl", ROWS[5:25])
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENQ_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    return tmp_path / "cache" / "tokens"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Heard(list):
    """A listener that keeps the lines."""

    def __call__(self, event):
        pass

    def say(self, text):
        self.append(text)


def both(monkeypatch, data, loss="dpo", listener=SILENCE, **changes):
    """Return the data in memory, and the same on the disk."""
    found = []
    for most in (2**24, 0):
        monkeypatch.setattr(stored, "MOST_IN_MEMORY", most)
        config = TrainConfig("m", [str(one) for one in data], "o", loss=loss, **changes)
        found.append(load_data(config, find_sum(loss), tiny_tokenizer(), listener))
    assert isinstance(found[1].data.groups, LazyGroups)
    return found


def same(one, other):
    """Hold two parts of data against each other, group by group."""
    assert [group_digest(group) for group in one.groups] == [group_digest(group) for group in other.groups]
    assert [group.where for group in one.groups] == [group.where for group in other.groups]
    assert one.summary == other.summary
    assert data_digest(one.groups) == data_digest(other.groups)


@pytest.mark.parametrize(
    ("data", "loss", "changes"),
    [
        (["rows.jsonl"], "dpo", {}),
        (["rows.jsonl"], "sft", {"max_length": 8}),
        (["rows.jsonl"], "sft", {"max_length": 7, "truncation": "both"}),
        (["rows.jsonl", "more.jsonl"], "dpo", {}),
        (["rows.jsonl@2.3", "more.jsonl@0.5"], "dpo", {"seed": 3}),
        (["rows.jsonl"], "dpo", {"eval_size": 0.2}),
        (["rows.jsonl"], "dpo", {"eval_data": ["more.jsonl"]}),
        (["rows.jsonl"], "bradley_terry", {}),
        (["rows.jsonl"], "dpo", {"columns": {"chosen": "rejected", "rejected": "chosen"}}),
    ],
)
def test_data_on_the_disk_are_those_in_memory(place, monkeypatch, data, loss, changes):
    monkeypatch.chdir(place)
    memory, disk = both(monkeypatch, data, loss, **changes)
    same(memory.data, disk.data)
    assert disk.data.digest == data_digest(memory.data.groups)
    assert len(memory.held_out.groups) == len(disk.held_out.groups)
    if memory.held_out.groups:
        same(memory.held_out, disk.held_out)
    groups = disk.data.groups
    assert groups.responses == sum(len(group.responses) for group in memory.data.groups)
    lengths = [len(g.prompt_ids) + max(len(r.ids) for r in g.responses) for g in memory.data.groups]
    tops = [max(ids.max() for ids in (g.prompt_ids, *(r.ids for r in g.responses))) for g in memory.data.groups]
    longest, highest = groups.extremes()
    assert len(longest.prompt_ids) + max(len(r.ids) for r in longest.responses) >= max(lengths)
    assert max(ids.max() for ids in (highest.prompt_ids, *(r.ids for r in highest.responses))) >= max(tops)


def test_held_out_rows_that_are_trained_on_are_counted_alike(place, monkeypatch):
    monkeypatch.chdir(place)
    heard = Heard()
    both(monkeypatch, ["rows.jsonl"], eval_data=["more.jsonl"], listener=heard)
    warnings = [line for line in heard if line.startswith("warning")]
    assert warnings == ["warning: 20 of 20 held-out rows are trained on as well"] * 2


def test_so_many_prompts_are_held_out_of_data_on_the_disk(place, monkeypatch):
    monkeypatch.chdir(place)
    _, disk = both(monkeypatch, ["rows.jsonl@2"], eval_size=7)
    rows = [{group.where for group in part.groups} for part in (disk.data, disk.held_out)]
    assert len(disk.held_out.groups) == 8  # each prompt has two: the eighth comes with the seventh
    assert [len(some) for some in rows] == [56, 4]
    assert not rows[0] & rows[1]


@pytest.mark.integration
@pytest.mark.parametrize("workers", [1, 2])
def test_the_weights_are_those_of_data_in_memory_and_the_next_run_finds_the_tokens(
    place, tmp_path, monkeypatch, cache, workers
):
    settings = {"batch_size": 4, "learning_rate": 1e-3, "device": "cpu", "max_steps": 20, "eval_size": 0.2}
    monkeypatch.setattr("tokenq.data.stored.store._TOGETHER", 16)

    def weights(name):
        heard = Heard()
        run = tokenq.train(
            place / "model", place / "rows.jsonl", tmp_path / name, listener=heard, dataset_num_proc=workers, **settings
        )
        return (run.policy / "model.safetensors").read_bytes(), sum("tokenising" in line for line in heard)

    environ, variables = os.environ, dict(os.environ)
    memory, said = weights("memory")
    assert said == 0
    monkeypatch.setattr(stored, "MOST_IN_MEMORY", 0)
    assert weights("first") == (memory, 1)
    assert len(list(cache.glob("*/*.arrow"))) == workers
    assert weights("second") == (memory, 0)
    assert os.environ is environ  # `datasets` puts a copy in its place
    assert dict(environ) == variables


@pytest.mark.integration
def test_a_loss_with_a_reference_and_a_part_of_the_data(place, tmp_path, monkeypatch):
    """The longest group is not among those that the weight takes: nobody asks for its log-probs."""
    write(tmp_path / "x.jsonl", [*ROWS[:40], {"prompt": "1?", "chosen": " 1" * 20, "rejected": " 2."}])
    settings = {"batch_size": 4, "learning_rate": 1e-3, "device": "cpu", "max_steps": 6, "seed": 1}
    found = []
    for number, most in enumerate((2**24, 0)):
        monkeypatch.setattr(stored, "MOST_IN_MEMORY", most)
        run = tokenq.train(place / "model", f"{tmp_path / 'x.jsonl'}@0.3", tmp_path / str(number), **settings)
        found.append((run.policy / "model.safetensors").read_bytes())
    assert found[0] == found[1]


def test_a_changed_file_tokenizer_or_option_is_tokenised_anew(place, tmp_path, monkeypatch, cache):
    monkeypatch.setattr(stored, "MOST_IN_MEMORY", 0)
    file = write(tmp_path / "x.jsonl", ROWS)
    tokenizer = tiny_tokenizer()

    def folders(loss="dpo", **changes):
        load_data(TrainConfig("m", [str(file)], "o", loss=loss, **changes), find_sum(loss), tokenizer, SILENCE)
        return len(list(cache.iterdir()))

    assert [folders(), folders(seed=5, eval_size=0.3)] == [1, 1]
    assert [folders(max_length=9), folders("sft"), folders(bad_rows="drop")] == [2, 3, 4]
    before = os.stat(file)
    write(file, [ROWS[1], ROWS[0], *ROWS[2:]])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folders() == 5
    tokenizer.chat_template = "{{ messages }}"
    assert folders() == 6


def test_bad_rows_are_named_or_counted(place, tmp_path, monkeypatch, cache):
    rows = [*ROWS[:4], {"prompt": "1?", "chosen": " 1.", "rejected": " 1."}, {"prompt": "2?"}, *ROWS[4:]]
    file = write(tmp_path / "bad.jsonl", rows)
    memory, disk = both(monkeypatch, [file], bad_rows="drop")
    same(memory.data, disk.data)
    with pytest.raises(UserError, match=r"bad.jsonl, row 5: chosen equals rejected\. In all, 2 of 62 rows cannot be"):
        both(monkeypatch, [file])
    assert len(list(cache.glob("*/meta.json"))) == 1
    config = TrainConfig("m", [str(file)], "o", bad_rows="drop", max_length=9, truncation="error")
    with pytest.raises(UserError, match="over the limit"):
        load_data(config, find_sum("dpo"), tiny_tokenizer(), SILENCE)
    with pytest.raises(UserError, match="No row is left: 60 prompt"):
        load_data(
            TrainConfig("m", [str(place / "rows.jsonl")], "o", max_length=2), find_sum("dpo"), tiny_tokenizer(), SILENCE
        )


def test_no_group_is_held_in_memory(place, monkeypatch):
    """Each is built when it is asked for, on pages of the file itself."""
    monkeypatch.setattr(stored, "MOST_IN_MEMORY", 0)
    config = TrainConfig("m", [str(place / "rows.jsonl")], "o", loss="sft")
    groups = load_data(config, find_sum("sft"), tiny_tokenizer(), SILENCE).data.groups
    before = pyarrow.total_allocated_bytes()
    first, again = groups[3], groups[3]
    assert first is not again
    assert np.array_equal(first.responses[0].ids, again.responses[0].ids)
    assert not first.prompt_ids.flags.owndata
    assert not first.prompt_ids.flags.writeable
    assert pyarrow.total_allocated_bytes() == before


def test_examples_go_to_other_processes_as_they_are():
    turns = (Message("user", "1?"), ContextMessage("assistant", "2"), Message("user", "3"))
    rated = Response((Message("assistant", "4"),), score=0.1, ratings={"good": 1.5}, scale=(0.0, 4.0), role="chosen")
    stepwise = Response("a b", label=True, steps=("a ", "b"), step_labels=(True, False), goes_on=True)
    examples = [
        (3, Example(turns, (rated, stepwise), True, "x, row 4", {"tools": [{"name": "f"}]}, margin=0.5)),
        (9, Example("5?", (Response("6"),), False, "x, row 10")),
    ]
    assert from_json(to_json(examples)) == examples


@pytest.mark.integration
@pytest.mark.parametrize("share", [0, 0.3])
def test_the_doctor_reads_the_tokens_that_are_there(place, tmp_path, monkeypatch, cache, share):
    settings = {"batch_size": 4, "device": "cpu", "max_steps": 3, "eval_size": share}
    tokenq.train(place / "model", place / "rows.jsonl", tmp_path / "run", **settings)

    def seen():
        record = material_of(DoctorConfig(run=str(tmp_path / "run"), depth="data"), {}, [], SILENCE).record
        return record.data, record.held_out

    memory = seen()
    assert not cache.exists()
    monkeypatch.setattr(stored, "MOST_IN_MEMORY", 0)
    assert seen() == memory
    assert (memory[1] is None) == (share == 0)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.integration
def test_the_doctor_reads_the_first_rows_of_a_stream(place, tmp_path):
    run = tokenq.train(
        place / "model", place / "rows.jsonl", tmp_path / "run", device="cpu", max_steps=3, streaming=True
    )
    record = material_of(DoctorConfig(run=str(run.folder), depth="data"), {}, [], SILENCE).record
    assert record.data.sha256 == record.provenance["data"]["sha256"]
    assert record.data.summary == record.provenance["data"]["summary"]


def test_the_cache_lists_measures_and_empties_it(place, tmp_path, monkeypatch, cache, capsys):
    monkeypatch.chdir(place)
    both(monkeypatch, ["rows.jsonl"])
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert main(["cache"]) == 0
    said = capsys.readouterr().out
    assert "rows.jsonl" in said
    assert f"{size / 1000:.0f} kB" in said
    assert main(["cache", "--clear", "tokens"]) == 0
    assert not list(cache.rglob("*.arrow"))


def test_without_a_cache_the_run_keeps_its_tokens(place, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENQ_CACHE", "off")
    monkeypatch.setattr(stored, "MOST_IN_MEMORY", 0)
    tokenq.train(place / "model", place / "rows.jsonl", tmp_path / "run", loss="sft", max_steps=1, device="cpu")
    assert len(list((tmp_path / "run" / "inputs" / "tokens").glob("*/tokens-00000.arrow"))) == 1


def test_tables_of_datasets_are_found_by_their_fingerprint(place, tmp_path, monkeypatch):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    memory, disk = both(monkeypatch, [tmp_path / "saved"])
    same(memory.data, disk.data)


def test_losses_that_read_more_of_the_data_have_them_in_memory(place, monkeypatch):
    monkeypatch.setattr(stored, "MOST_IN_MEMORY", 0)
    config = TrainConfig("m", [str(place / "rows.jsonl")], "o", loss="kto")
    assert isinstance(load_data(config, find_sum("kto"), tiny_tokenizer(), SILENCE).data.groups, list)


@pytest.mark.parametrize("harm", ["missing", "short", "no account"])
def test_a_folder_that_is_not_whole_is_written_again(place, monkeypatch, cache, harm):
    memory, _ = both(monkeypatch, [place / "rows.jsonl"])
    folder = next(cache.iterdir())
    file = folder / ("meta.json" if harm == "no account" else "tokens-00000.arrow")
    os.truncate(file, 100) if harm == "short" else file.unlink()
    _, disk = both(monkeypatch, [place / "rows.jsonl"])
    same(memory.data, disk.data)


def test_a_whole_folder_of_a_run_that_was_killed_is_written_again(place, monkeypatch, cache):
    memory, _ = both(monkeypatch, [place / "rows.jsonl"])
    folder = next(cache.iterdir())
    (folder / "meta.json").unlink()
    (folder / ".0.tmp").write_bytes(b"half")
    _, disk = both(monkeypatch, [place / "rows.jsonl"])
    same(memory.data, disk.data)
    assert sorted(path.name for path in Path(folder).iterdir() if path.name != ".lock") == [
        "meta.json",
        "tokens-00000.arrow",
    ]
