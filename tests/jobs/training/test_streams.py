"""Data of unknown number: the same weights as from a file, killed and resumed too, and an end to every bad stream."""

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
from examples import cases
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.core.losses import find_sum
from tokenq.data.sources import hold_out
from tokenq.data.streams.rows import GIVEN
from tokenq.errors import UserError
from tokenq.jobs.training.data import load_data
from tokenq.records.examples import Example
from tokenq.training.config import TrainConfig

pytestmark = pytest.mark.integration

ROWS = [
    {"prompt": f"{n // 10} {n % 10}?", "chosen": f" {n % 9}.", "rejected": f" {n % 9 + 1} {n % 7}."} for n in range(22)
]
SETTINGS = {"batch_size": 4, "learning_rate": 1e-3, "device": "cpu", "max_steps": 9, "loss": "sft"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model in a folder and rows in a file."""
    root = tmp_path_factory.mktemp("streams")
    tiny_model("llama", layers=1).save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return root


class Heard(list):
    """A listener that keeps the lines."""

    def __call__(self, event):
        pass

    def say(self, text):
        self.append(text)


def train(place, data, output, **changes):
    return tokenq.train(place / "model", data, output, **{**SETTINGS, **changes})


def weights(run):
    return (Path(run.folder) / "policy" / "model.safetensors").read_bytes()


def losses(run):
    return [line["loss"] for line in run.metrics if "loss" in line]


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """The run on the file: 22 rows give 5 batches of 4 and one of 2, so that 9 steps are a pass and a half."""
    return train(place, place / "rows.jsonl", tmp_path_factory.mktemp("whole") / "run")


def begun():
    yield from ROWS


def forms(place):
    return {
        "flag": (place / "rows.jsonl", {"streaming": True}),
        "data set": (datasets.Dataset.from_list(ROWS).to_iterable_dataset(), {}),
        "generator": (begun, {}),
        "shards": (datasets.IterableDataset.from_generator(begun), {}),
    }


@pytest.mark.parametrize("form", ["flag", "data set", "generator", "shards"])
def test_a_stream_gives_the_weights_of_the_same_rows_in_a_file(place, whole, tmp_path, form):
    """The buffer holds all of it: its passes are shuffled as those of a file are."""
    data, more = forms(place)[form]
    run = train(place, data, tmp_path / "run", **more)
    assert losses(run) == losses(whole)
    assert weights(run) == weights(whole)


FORMS_AND_BUFFERS = [(form, buffer) for form in ("flag", "data set", "generator", "shards") for buffer in (0, 8)]
EACH_FORM = [("flag", 8), ("data set", 8), ("generator", 0), ("shards", 0)]


@pytest.mark.parametrize(("form", "buffer"), cases(FORMS_AND_BUFFERS, EACH_FORM))
def test_stopped_and_resumed_it_gives_the_weights_of_one_that_was_not(place, tmp_path, form, buffer, monkeypatch):
    """By default each form with a buffer or without one."""
    monkeypatch.setattr("tokenq.training.source._STEPS_BETWEEN_PLACES", 2)
    monkeypatch.setattr("tokenq.data.streams.rows.MARK_EVERY", 3)
    data, more = forms(place)[form]
    straight = train(place, data, tmp_path / "straight", shuffle_buffer=buffer, **more)
    stopped = tmp_path / "stopped"

    class Stop(Heard):
        def __call__(self, event):
            if event.stage == "train" and event.done == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(place, data, stopped, shuffle_buffer=buffer, save_steps=2, listener=Stop(), **more)
    assert (stopped / "stream.jsonl").exists()
    resumed = train(place, forms(place)[form][0], stopped, shuffle_buffer=buffer, save_steps=2, resume=True, **more)
    assert losses(resumed) == losses(straight)
    assert weights(resumed) == weights(straight)


def test_without_a_buffer_the_order_is_that_of_the_rows(place, tmp_path):
    """One step of the first four rows is one step of a file of these, whatever the order within a step."""
    (tmp_path / "first.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:4]))
    file = train(place, tmp_path / "first.jsonl", tmp_path / "file", max_steps=1)
    stream = train(place, begun, tmp_path / "stream", max_steps=1, shuffle_buffer=0)
    assert losses(stream) == pytest.approx(losses(file), rel=1e-6)


def test_it_is_read_only_as_far_as_it_is_needed(place, tmp_path):
    asked = []

    def endless():
        for n in itertools.count():
            asked.append(n)
            yield {"prompt": f"{n % 7}?", "completion": f" {n % 9}."}

    train(place, endless, tmp_path / "run", max_steps=40, shuffle_buffer=0)
    assert max(asked) < 160 + 2 * 64  # what is tokenised together


def test_preferences_of_a_stream_are_those_of_a_file_whose_reference_is_computed_in_every_step(place, tmp_path):
    shared = {"loss": "dpo", "eval_size": 0.25}
    file = train(place, place / "rows.jsonl", tmp_path / "file", reference_store="off", **shared)
    stream = train(place, begun, tmp_path / "stream", **shared)
    assert losses(stream) == losses(file)
    assert weights(stream) == weights(file)
    evaluations = [[line for line in run.metrics if "eval_loss" in line] for run in (file, stream)]
    assert [one["eval_loss"] for one in evaluations[0]] == [one["eval_loss"] for one in evaluations[1]]
    assert len(evaluations[0]) == 2


def test_a_data_set_on_the_hub_is_asked_for_as_a_stream(place, whole, tmp_path, monkeypatch):
    asked = []

    def load_dataset(path, split, **how):
        asked.append((path, split, how))
        return datasets.Dataset.from_list(ROWS).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    run = train(place, "org/rows:train", tmp_path / "run", streaming=True)
    assert asked == [("org/rows", "train", {"streaming": True})]
    assert weights(run) == weights(whole)


def test_shares_of_a_mixture_hold_to_one_row_in_a_thousand(place, tmp_path):
    """Of weights 2, 1 and 0.5 the first 700 rows are 400, 200 and 100; a source that ends begins again."""
    for name, count in (("a", 50), ("b", 400), ("c", 30)):
        rows = [{"prompt": f"{n % 10}?", "completion": f" {name}."} for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [f"{tmp_path / name}.jsonl{weight}" for name, weight in (("a", "@2"), ("b", ""), ("c", "@0.5"))]
    config = TrainConfig("m", sources, "o", streaming=True, max_steps=1, shuffle_buffer=0, loss="sft")
    rows = load_data(config, find_sum("sft"), tiny_tokenizer(), Heard())
    taken = Counter()
    for count, (_, group) in enumerate(itertools.islice(rows.stream.read(), 1400), 1):
        taken[Path(group.where.split(",")[0]).stem] += 1
        for name, share in (("a", 4 / 7), ("b", 2 / 7), ("c", 1 / 7)):
            assert abs(taken[name] - share * count) <= 1
    assert taken == {"a": 800, "b": 400, "c": 200}


def test_a_mixture_is_gone_on_with_from_any_place(place, tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:7]))
    sources = [f"{place / 'rows.jsonl'}@2", str(tmp_path / "a.jsonl")]
    config = TrainConfig("m", sources, "o", streaming=True, max_steps=1, loss="sft")

    def stream():
        return load_data(config, find_sum("sft"), tiny_tokenizer(), Heard()).stream

    whole = [(places, group.where) for places, group in itertools.islice(stream().read(), 60)]
    for at in range(0, 60, 7):
        record = json.loads(json.dumps(stream().record(whole[at][0])))
        rest = [group.where for _, group in itertools.islice(stream().read(0, record), 60 - at)]
        assert rest == [where for _, where in whole[at:]]


def rank(text, seed):
    """SplitMix64's mixing of the hash of a text, behind an exclusive or with that of a seed."""
    text, seed = (int(hashlib.blake2b(one.encode(), digest_size=8).hexdigest(), 16) for one in (text, seed))
    mixed = text ^ seed
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
    return mixed ^ (mixed >> 31)


def test_what_is_held_out_of_a_stream_is_a_share_of_prompts_by_their_hash(place):
    """The same prompts as of a file, whatever else the data hold, and none of them is trained on."""
    prompts = [f"{n} {m} {k}?" for n in range(10) for m in range(10) for k in range(10)]
    rows = [{"prompt": prompt, "completion": f" {n % 10}."} for n in range(2) for prompt in prompts]
    config = TrainConfig("m", [GIVEN], "o", streaming=True, max_steps=1, loss="sft", eval_size=0.1)
    found = load_data(config, find_sum("sft"), tiny_tokenizer(), Heard(), lambda: iter(rows))
    held, trained = (
        {rows[int(group.where.split()[-1]) - 1]["prompt"] for group in groups}
        for groups in (found.held_out.groups, [group for _, group in found.stream.read()])
    )
    assert len(found.held_out.groups) == 2 * len(held)
    assert held == {prompt for prompt in prompts if rank(f'"{prompt}"', "0") < 2**64 // 10}
    assert trained == {*prompts} - held
    few = [Example(prompt, (), False, "") for prompt in prompts[:300]]
    every = [Example(prompt, (), False, "") for prompt in prompts]
    assert {one.prompt for one in hold_out(few, 0.1)[1]} == {one.prompt for one in hold_out(every, 0.1)[1]} & {
        *prompts[:300]
    }


def failing(rows, at):
    def begin():
        yield from rows[:at]
        raise ConnectionError("the hub is away")

    return begin


@pytest.mark.parametrize(
    ("data", "changes", "message", "steps"),
    [
        (lambda: failing(ROWS, 14), {}, "row 15: the stream fails: ConnectionError: the hub is away. Stopped after", 3),
        (lambda: iter(ROWS), {}, "has ended, and can be read only once. Stopped after step 6 of 9, with a check", 6),
        (lambda: lambda: [*ROWS[:9], {"prompt": "1?"}], {}, "row 10: column 'chosen.*' is missing", 2),
        (lambda: lambda: [*ROWS[:9], 7], {}, "row 10: the stream fails: TypeError: a int is no row", 2),
    ],
    ids=["fails", "ends", "bad row", "no row"],
)
def test_a_stream_that_cannot_go_on_leaves_a_checkpoint(place, tmp_path, monkeypatch, data, changes, message, steps):
    monkeypatch.setattr("tokenq.jobs.training.data.FIRST_ROWS", 4)
    monkeypatch.setattr("tokenq.data.streams.groups._TOGETHER", 1)
    with pytest.raises(UserError, match=message):
        train(place, data(), tmp_path / "run", shuffle_buffer=0, **changes)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{steps}"]
    run = train(place, begun, tmp_path / "run", shuffle_buffer=0, resume=True)
    assert losses(run) == losses(train(place, begun, tmp_path / "other", shuffle_buffer=0))


def test_bad_rows_are_counted_as_they_come(place, tmp_path):
    bad = {"prompt": "1?", "chosen": " 1.", "rejected": " 1."}
    rows = [*ROWS[:10], bad, *ROWS[10:], bad, bad]
    heard = Heard()
    run = train(place, lambda: rows, tmp_path / "run", loss="dpo", bad_rows="drop", listener=heard, max_steps=6)
    assert "data: left out of the stream: 3 chosen equals rejected" in heard
    assert losses(run) == losses(train(place, begun, tmp_path / "good", loss="dpo", max_steps=6))


def test_a_stream_that_changed_is_not_resumed(place, tmp_path):
    train(place, begun, tmp_path / "run", max_steps=2)
    with pytest.raises(UserError, match="began with other inputs: the data had SHA-256"):
        train(place, lambda: ROWS[1:], tmp_path / "run", max_steps=4, resume=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "The data are a stream, and nobody knows its end"),
        (["--max-steps", "2", "--eval-size", "3"], "--eval-size is a number of rows"),
        (["--max-steps", "2", "--reference-store", "x"], "--reference-store keeps log-probs of whole data"),
        (["--max-steps", "2", "--loss", "kto"], "reads mismatched, which is found from all of the data"),
    ],
)
def test_what_a_stream_cannot_do_is_said_at_once(place, tmp_path, capsys, words, message):
    run = ["train", "--model", str(place / "model"), "--data", str(place / "rows.jsonl"), "--output"]
    assert main([*run, str(tmp_path / "run"), "--streaming", "--device", "cpu", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_buffer_is_of_a_stream_and_a_slice_is_not(place, tmp_path, capsys):
    run = ["train", "--model", str(place / "model"), "--output", str(tmp_path / "run"), "--max-steps", "2", "--data"]
    assert main([*run, str(place / "rows.jsonl"), "--shuffle-buffer", "8"]) == 2
    assert "the data are not a stream" in capsys.readouterr().err
    assert main([*run, f"{place / 'rows.jsonl'}:[2:4]", "--streaming"]) == 2
    assert "is a slice, and the length of a stream is not known" in capsys.readouterr().err


def test_only_python_goes_on_with_a_stream_that_it_gave(place, tmp_path, capsys):
    train(place, begun, tmp_path / "run", max_steps=2)
    assert main(["train", "--config", str(tmp_path / "run" / "config.yaml"), "--resume", "--max-steps", "3"]) == 2
    assert "only Python can give it again" in capsys.readouterr().err
    assert len(losses(train(place, begun, tmp_path / "run", max_steps=3, resume=True))) == 3
