"""The `--data` language, folders, slices, mixtures and the hub (whose library is replaced here: no network)."""

import bz2
import functools
import json
import lzma
import os

import datasets
import pyarrow
import pyarrow.feather
import pytest

from tokenq.data import sources
from tokenq.data.examples import read_examples
from tokenq.data.files import folders
from tokenq.data.files import local as files
from tokenq.data.files.source_language import parse_source
from tokenq.data.sources import load_examples, read_rows
from tokenq.errors import UserError

read_text = functools.partial(read_examples, selection="responses")


def write(path, count, start=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": f"t{index}"}) + "\n" for index in range(start, start + count)))
    return path


def texts(rows):
    return [row.values["text"] for row in rows]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "location", "config", "split", "weight"),
    [
        ("train.jsonl", "train.jsonl", None, None, 1),
        ("train.jsonl@0.5", "train.jsonl", None, None, 0.5),
        ("train.jsonl:[100:200]", "train.jsonl", None, "[100:200]", 1),
        ("train.jsonl[100:200]", "train.jsonl", None, "[100:200]", 1),
        ("train.jsonl[:10%]@2", "train.jsonl", None, "[:10%]", 2),
        ("a/b/train.jsonl.gz:train[:1%]@.25", "a/b/train.jsonl.gz", None, "train[:1%]", 0.25),
        ("./folder:test", "./folder", None, "test", 1),
        (r"C:\data\train.jsonl", r"C:\data\train.jsonl", None, None, 1),
        (r"C:\data\train.jsonl:[5:9]@2", r"C:\data\train.jsonl", None, "[5:9]", 2),
        ("C:train.jsonl", "C:train.jsonl", None, None, 1),
        ("D:/data/folder:train", "D:/data/folder", None, "train", 1),
        ("org/name", "org/name", None, None, 1),
        ("name", "name", None, None, 1),
        ("org/name:train[:1%]", "org/name", None, "train[:1%]", 1),
        ("org/name/config:split", "org/name", "config", "split", 1),
        ("org/name/config:train+test[:10]@1.5", "org/name", "config", "train+test[:10]", 1.5),
        ("org/name/deep/folder", "org/name", "deep/folder", None, 1),
        ("me@home/x.jsonl", "me@home/x.jsonl", None, None, 1),
    ],
)
def test_the_language(text, location, config, split, weight):
    source = parse_source(text)
    assert (source.location, source.config, source.split, source.weight) == (location, config, split, weight)
    assert source.text == text


def test_what_exists_is_meant(here):
    odd = here / "odd:train[1:2]@2"
    write(odd / "x.jsonl", 1)
    source = parse_source(odd.name)
    assert (source.location, source.split, source.weight) == (odd.name, None, 1)
    write(here / "a" / "b" / "c" / "x.jsonl", 1)
    assert parse_source("a/b/c").config is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), (" ", "is empty"), ("x.jsonl@0", "is zero"), ("https://x.org/y.jsonl", "is a URL")],
)
def test_what_the_language_does_not_have(text, message):
    with pytest.raises(UserError, match=message):
        parse_source(text)


def test_a_missing_file_names_its_neighbour(here):
    write(here / "data" / "train.jsonl", 1)
    with pytest.raises(UserError, match=r"no file or folder 'data/trian.jsonl'") as caught:
        read_rows(parse_source("data/trian.jsonl"))
    assert caught.value.hint == "Did you mean 'data/train.jsonl'?"
    with pytest.raises(UserError) as caught:
        read_rows(parse_source("dat/train.jsonl"))
    assert caught.value.hint == "Did you mean 'data'?"


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("", range(10)),
        (":[2:4]", [2, 3]),
        ("[2:4]", [2, 3]),
        (":train[8:]", [8, 9]),
        (":[-3:]", [7, 8, 9]),
        (":[:20%]", [0, 1]),
        (":[:2]+[8:]", [0, 1, 8, 9]),
        (":[:100]", range(10)),
    ],
)
def test_slices_of_a_local_file_keep_the_line(here, split, expected):
    write(here / "x.jsonl", 10)
    rows = read_rows(parse_source(f"x.jsonl{split}"))
    assert texts(rows) == [f"t{index}" for index in expected]
    assert [row.where for row in rows] == [f"x.jsonl, row {index + 1}" for index in expected]


@pytest.mark.parametrize(
    ("split", "message"), [(":test", "Unknown split"), (":[a:b]", "cannot be taken"), (":[5:2]", "holds no rows")]
)
def test_slices_that_cannot_be_taken(here, split, message):
    write(here / "x.jsonl", 10)
    with pytest.raises(UserError, match=message):
        read_rows(parse_source(f"x.jsonl{split}"))


def test_a_changed_file_is_read_anew_even_with_its_old_date(here):
    path = write(here / "x.jsonl", 2)
    before = os.stat(path)
    assert texts(read_rows(parse_source("x.jsonl"))) == ["t0", "t1"]
    write(path, 2, start=5)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size
    assert texts(read_rows(parse_source("x.jsonl"))) == ["t5", "t6"]
    assert texts(read_rows(parse_source("."))) == ["t5", "t6"]


def test_a_folder_of_files_has_splits_by_their_names(here):
    write(here / "data" / "train-1.jsonl", 2, start=2)
    write(here / "data" / "train-0.jsonl", 2)
    write(here / "data" / "test.jsonl", 1, start=9)
    rows = read_rows(parse_source("data"))
    assert texts(rows) == ["t0", "t1", "t2", "t3"]
    assert rows[2].where == os.path.join("data", "train-1.jsonl") + ", row 1"
    assert texts(read_rows(parse_source("data:test"))) == ["t9"]
    assert texts(read_rows(parse_source("data:test+train[1:3]"))) == ["t9", "t1", "t2"]
    with pytest.raises(UserError, match="Unknown split of 'data' 'tset'") as caught:
        read_rows(parse_source("data:tset"))
    assert "Did you mean 'test'?" in caught.value.hint


def test_a_folder_with_one_split_or_several_but_no_train(here):
    write(here / "one" / "test.jsonl", 1)
    assert texts(read_rows(parse_source("one"))) == ["t0"]
    write(here / "two" / "test.jsonl", 1)
    write(here / "two" / "validation.jsonl", 1)
    with pytest.raises(UserError, match="'two' has no split 'train'") as caught:
        read_rows(parse_source("two"))
    assert "validation" in caught.value.hint


def test_a_copy_of_a_hub_data_set_with_configurations(here):
    write(here / "data" / "a.jsonl", 1)
    write(here / "data" / "b.jsonl", 2)
    card = ["configs:", *(f"- config_name: {name}\n  data_files: {name[0]}.jsonl" for name in ("afar", "before"))]
    (here / "data" / "README.md").write_text("\n".join(["---", *card, "---", ""]))
    assert len(read_rows(parse_source("data/afar"))) == 1
    assert len(read_rows(parse_source("data/before:[1:]"))) == 1
    with pytest.raises(UserError, match="cannot be read as data: Config name is missing"):
        read_rows(parse_source("data"))


def test_a_pattern_names_all_files_that_match_it(here):
    write(here / "data" / "b.jsonl", 2, start=2)
    write(here / "data" / "a.jsonl", 2)
    write(here / "data" / "deep" / "c.jsonl", 1, start=9)
    rows = read_rows(parse_source("data/*.jsonl"))
    assert texts(rows) == ["t0", "t1", "t2", "t3"]
    assert rows[2].where == os.path.join("data", "b.jsonl") + ", row 1"
    assert texts(read_rows(parse_source("data/*.jsonl:[1:3]"))) == ["t1", "t2"]
    assert texts(read_rows(parse_source("data/*.jsonl[:-3]"))) == ["t0"]
    assert texts(read_rows(parse_source("data/[ab].jsonl:train[2:]"))) == ["t2", "t3"]
    assert texts(read_rows(parse_source("data/**/*.jsonl"))) == ["t0", "t1", "t2", "t3", "t9"]
    assert texts(read_rows(parse_source("data/?.json*"))) == ["t0", "t1", "t2", "t3"]
    assert numbers(load_examples(["data/*.jsonl@2"], read_text)) == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(here):
    write(here / "a[1].jsonl", 1)
    write(here / "a1.jsonl", 1, start=5)
    assert texts(read_rows(parse_source("a[1].jsonl"))) == ["t0"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("data/*.csv", r"No file matches 'data/\*\.csv'\."),
        ("da*", r"No file matches 'da\*' \(1 folders do"),
        ("data/*", r"'data/\*' matches data/notes\.md, which is no data file"),
    ],
)
def test_patterns_that_do_not_name_data(here, pattern, message):
    write(here / "data" / "a.jsonl", 1)
    (here / "data" / "notes.md").write_text("x")
    with pytest.raises(UserError, match=message) as caught:
        read_rows(parse_source(pattern))
    assert caught.value.hint


def test_a_pattern_that_matches_too_many_files(here, monkeypatch):
    monkeypatch.setattr(folders, "MOST_FILES", 3)
    for index in range(4):
        write(here / f"a{index}.jsonl", 1)
    assert len(read_rows(parse_source("a[0-2].jsonl"))) == 3
    with pytest.raises(UserError, match="matches more than 3 files"):
        read_rows(parse_source("*.jsonl"))


@pytest.mark.parametrize("text", ["-", "/dev/stdin", "-:[:2]", "-[1:]", "-@2", "/dev/stdin:[:2]@0.5"])
def test_standard_input_is_a_source(text, monkeypatch):
    rows = [files.Row({"text": f"t{index}"}, f"standard input, row {index}") for index in range(3)]
    monkeypatch.setattr(sources, "read_standard_input", lambda: rows)
    expected = {"[:2]": ["t0", "t1"], "[1:]": ["t1", "t2"], None: ["t0", "t1", "t2"]}
    source = parse_source(text)
    assert texts(read_rows(source)) == expected[source.split]


def test_a_folder_of_files_that_datasets_does_not_know(here):
    table = pyarrow.table({"text": ["a", "b"]})
    (here / "data").mkdir()
    pyarrow.feather.write_feather(table, here / "data" / "x.feather")
    assert texts(read_rows(parse_source("data"))) == ["a", "b"]


def test_a_folder_of_several_types_leaves_nothing_out_in_silence(here):
    write(here / "data" / "a.jsonl", 1)
    write(here / "data" / "b.jsonl", 1)
    (here / "data" / "c.csv").write_text("text\nt\n")
    with pytest.raises(UserError, match=r"holds files of several types, and data/c\.csv would be left out") as caught:
        read_rows(parse_source("data"))
    assert caught.value.hint == "Give the files: --data 'data/*.csv', one for each type."


def test_packed_files_in_a_folder(here):
    (here / "data").mkdir()
    (here / "data" / "train.jsonl.bz2").write_bytes(bz2.compress(b'{"text": "a"}\n'))
    (here / "data" / "test.jsonl.xz").write_bytes(lzma.compress(b'{"text": "b"}\n'))
    assert texts(read_rows(parse_source("data"))) == ["a"]
    assert texts(read_rows(parse_source("data:test"))) == ["b"]


def test_an_empty_folder(here):
    (here / "empty").mkdir()
    with pytest.raises(UserError, match="'empty' cannot be read as data"):
        read_rows(parse_source("empty"))


def test_folders_written_by_save_to_disk(here):
    table = datasets.Dataset.from_dict({"text": ["a", "b", "c"]})
    table.save_to_disk("saved")
    datasets.DatasetDict({"train": table, "test": table.select([2])}).save_to_disk("several")
    assert texts(read_rows(parse_source("saved"))) == ["a", "b", "c"]
    assert texts(read_rows(parse_source("saved:[1:2]"))) == ["b"]
    assert texts(read_rows(parse_source("several"))) == ["a", "b", "c"]
    (row,) = read_rows(parse_source("several:test"))
    assert (row.values, row.where) == ({"text": "c"}, "several, test, row 1")


def numbers(result):
    return [int(example.responses[0].content[1:]) for example in result.examples]


def test_weights_take_passes_and_a_seeded_sample(here):
    write(here / "x.jsonl", 40)
    half = load_examples(["x.jsonl@0.5"], read_text)
    assert len(half.examples) == 20
    assert numbers(half) == sorted(set(numbers(half)))
    assert half.rows == 40
    assert half.dropped == {"left out by the weight of its source": 20}
    assert numbers(load_examples(["x.jsonl@0.5"], read_text)) == numbers(half)
    assert numbers(load_examples(["x.jsonl@0.5"], read_text, seed=1)) != numbers(half)
    assert set(numbers(load_examples(["x.jsonl@0.25"], read_text))) < set(numbers(half))
    more = load_examples(["x.jsonl@2.5"], read_text)
    assert numbers(more) == [*range(40), *range(40), *numbers(half)]
    assert more.dropped == {}


def test_a_mixture_is_its_sources_one_after_the_other(here):
    write(here / "x.jsonl", 40)
    write(here / "y.jsonl", 2, start=100)
    both = load_examples(["y.jsonl@2", "x.jsonl@0.5"], read_text)
    assert numbers(both) == [100, 101, 100, 101, *numbers(load_examples(["x.jsonl@0.5"], read_text))]
    assert both.rows == 42


def test_sources_of_one_size_are_sampled_each_for_itself(here):
    write(here / "x.jsonl", 40)
    write(here / "y.jsonl", 40)
    first, second = (numbers(load_examples([f"{name}.jsonl@0.5"], read_text)) for name in "xy")
    assert first != second


def test_sources_of_a_mixture_may_differ_in_format(here):
    (here / "p.jsonl").write_text('{"prompt": "q", "completion": "t7"}\n')
    write(here / "x.jsonl", 1)
    assert numbers(load_examples(["p.jsonl", "x.jsonl"], read_text)) == [7, 0]


def test_no_source_is_an_error():
    with pytest.raises(UserError, match="No data source"):
        load_examples([], read_text)


class Hub:
    """Stands for `datasets.load_dataset` and `get_dataset_split_names`: one data set with two splits."""

    def __init__(self, configs=(), splits=("train", "test")):
        self.configs, self.splits, self.calls = configs, splits, []

    def load_dataset(self, path, name=None, data_dir=None, split=None):
        self.calls.append((path, name, data_dir, split))
        if path != "org/name":
            raise ConnectionError(f"Couldn't reach {path!r} on the Hub (OfflineModeIsEnabled)\nmore")
        if name is not None and name not in self.configs:
            raise ValueError(f"BuilderConfig '{name}' not found. Available: {list(self.configs)}")
        if split.partition("[")[0] not in self.splits:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(self.splits)}.')
        return datasets.Dataset.from_dict({"text": [f"{name or data_dir} {split}"]})

    def get_dataset_split_names(self, path, config_name=None, data_dir=None):
        return list(self.splits)


@pytest.fixture
def hub(monkeypatch):
    def install(**options):
        found = Hub(**options)
        monkeypatch.setattr(datasets, "load_dataset", found.load_dataset)
        monkeypatch.setattr(datasets, "get_dataset_split_names", found.get_dataset_split_names)
        return found

    return install


@pytest.mark.parametrize(
    ("text", "options", "said", "where"),
    [
        ("org/name", {}, "None train", "org/name:train, row 1"),
        ("org/name:test[:1%]", {}, "None test[:1%]", "org/name:test[:1%], row 1"),
        ("org/name:[:10]", {}, "None train[:10]", "org/name:train[:10], row 1"),
        ("org/name/config:test", {"configs": ("config",)}, "config test", "org/name/config:test, row 1"),
        ("org/name/folder", {}, "folder train", "org/name/folder:train, row 1"),
        ("org/name", {"splits": ("train_prefs",)}, "None train_prefs", "org/name:train_prefs, row 1"),
        ("org/name:[:5]", {"splits": ("only",)}, "None only[:5]", "org/name:only[:5], row 1"),
    ],
)
def test_hub_ids(hub, text, options, said, where):
    hub(**options)
    (row,) = read_rows(parse_source(text))
    assert (row.values, row.where) == ({"text": said}, where)


def test_a_hub_data_set_without_the_asked_split_lists_what_it_has(hub):
    hub()
    with pytest.raises(UserError, match="Unknown split of 'org/name' 'tset'") as caught:
        read_rows(parse_source("org/name:tset"))
    assert "Did you mean 'test'?" in caught.value.hint
    hub(splits=("a", "b"))
    with pytest.raises(UserError, match="'org/name' has no split 'train'"):
        read_rows(parse_source("org/name"))


def test_a_hub_id_that_cannot_be_read_may_be_a_misspelt_folder(hub, here):
    hub()
    write(here / "data" / "hh" / "train.jsonl", 1)
    with pytest.raises(UserError, match=r"'data/hhh' is no local file or folder, and .*Couldn't reach") as caught:
        read_rows(parse_source("data/hhh"))
    assert caught.value.hint == "Did you mean 'data/hh'?"
    assert "more" not in caught.value.message


def test_an_unknown_configuration_is_reported_as_such():
    class Other(Hub):
        def load_dataset(self, path, name=None, data_dir=None, split=None):
            if data_dir:
                raise FileNotFoundError("no such folder")
            return super().load_dataset(path, name, data_dir, split)

        def get_dataset_split_names(self, path, config_name=None, data_dir=None):
            raise ValueError(f"BuilderConfig '{config_name}' not found. Available: ['a']")

    other = Other()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", other.load_dataset)
        patch.setattr(datasets, "get_dataset_split_names", other.get_dataset_split_names)
        with pytest.raises(UserError, match="BuilderConfig 'x' not found"):
            read_rows(parse_source("org/name/x"))


@pytest.mark.hub
def test_a_real_hub_data_set():
    rows = read_rows(parse_source("Anthropic/hh-rlhf/harmless-base:test[:5]"))
    assert len(read_examples(rows, bad_rows="drop").examples) == 5
