"""Local files to rows: values exactly as written, and damage named by file and line."""

import gzip
import json

import pytest

from tokenq.data.files import READERS, data_suffix, read_file
from tokenq.errors import UserError

VALUES = [
    {"prompt": "When?", "chosen": "2024-01-01", "rejected": "007"},
    {"prompt": 'Who, "then"?\nSay.', "chosen": "None", "rejected": "NA"},
]


def write(path, content):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def as_csv(separator):
    cells = [list(VALUES[0]), *(list(one.values()) for one in VALUES)]
    return "\n".join(separator.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in cells) + "\n"


def as_parquet():
    import io

    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(VALUES), buffer)
    return buffer.getvalue()


LINES = "".join(json.dumps(one) + "\n" for one in VALUES)
CONTENT = {
    ".jsonl": LINES,
    ".ndjson": LINES,
    ".json": json.dumps(VALUES, indent=2),
    ".csv": as_csv(","),
    ".tsv": as_csv("\t"),
    ".parquet": as_parquet(),
}


def test_every_type_is_tried_here():
    assert set(CONTENT) == set(READERS)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("suffix", CONTENT)
def test_values_come_out_as_they_were_written(tmp_path, suffix, packed):
    """No dates, numbers or nulls out of text, whatever it looks like."""
    path = write(tmp_path / f"train{suffix}{packed}", CONTENT[suffix])
    rows = read_file(path, "train")
    assert [row.values for row in rows] == VALUES
    assert [row.where for row in rows] == ["train, row 1", "train, row 2"]


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        json.dumps(VALUES),
        json.dumps({"data": VALUES}),
        json.dumps({"data": VALUES}, indent=1),
        "\ufeff" + LINES,
        "\ufeff" + json.dumps(VALUES),
    ],
    ids=["lines", "array", "object", "pretty object", "lines with mark", "array with mark"],
)
def test_json_in_its_forms(tmp_path, content):
    assert [row.values for row in read_file(write(tmp_path / "a.json", content), "a.json")] == VALUES


def test_one_object_is_one_row(tmp_path):
    assert [row.values for row in read_file(write(tmp_path / "a.json", json.dumps(VALUES[0])), "a")] == VALUES[:1]
    pretty = json.dumps(VALUES[0], indent=2)
    assert [row.values for row in read_file(write(tmp_path / "b.json", pretty), "b")] == VALUES[:1]


def test_rows_of_json_lines_are_numbered_by_line(tmp_path):
    path = write(tmp_path / "a.jsonl", f"\n{json.dumps(VALUES[0])}\n  \n{json.dumps(VALUES[1])}")
    assert [row.where for row in read_file(path, "a.jsonl")] == ["a.jsonl, row 2", "a.jsonl, row 4"]


def test_rows_may_differ_in_their_columns(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n{"b": "x"}\n{"a": "y"}\n')
    assert [row.values for row in read_file(path, "a")] == [{"a": 1}, {"b": "x"}, {"a": "y"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 1,}\n', r"a\.jsonl, line 3: broken JSON: .* at column 9 of '{\"a\": 1,}'"),
        ("a.jsonl", '{"a": 1}\n{"a": "x\n', r"a\.jsonl, line 2: broken JSON"),
        ("a.jsonl.gz", '{"a": 1}\n{"a"\n', r"a\.jsonl\.gz, line 2: broken JSON"),
        ("a.jsonl", '{"a": 1}\n[1, 2]\n', r"a\.jsonl, line 2: holds \[1, 2\], not an object"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl, line 2: not UTF-8"),
        ("a.json", '[{"a": 1},\n {"a": }]', r"a\.json, line 2: broken JSON"),
        ("a.json", '{"a": 1}\n{"a": }\n', r"a\.json, line 2: broken JSON"),
        ("a.json", '{"a": 1\n{"a": 2}\n', r"a\.json, line 1: broken JSON"),
        ("a.json", "[1]", r"a\.json, row 1: holds 1, not an object"),
        ("a.json", "3", "holds no table"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", r"a\.csv, line 3: 3 cells, but the header has 2"),
        ("a.csv", 'a,b\n"1,2\n', r"a\.csv, line 2: broken CSV"),
        ("a.csv", b"a,b\n1,2\n1,\xff\n", r"a\.csv, line 3: not UTF-8"),
        ("a.parquet", "PAR1", r"a\.parquet is not a whole parquet file"),
        ("a.jsonl", "", "holds no rows"),
        ("a.json", "", "holds no rows"),
        ("a.csv", "a,b\n", "holds no rows"),
        ("a.txt", "x", r"not a data file that can be read \(suffix '\.txt'\)"),
    ],
)
def test_damage_is_named_by_file_and_line(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_file(write(tmp_path / name, content), name)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"no gzip at all", gzip.compress(LINES.encode())[:-12]], ids=["other", "cut"])
def test_a_damaged_gzip_file(tmp_path, content):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jsonl\.gz is damaged"):
        read_file(path, "a.jsonl.gz")


def test_a_long_cell_is_read_whole(tmp_path):
    path = write(tmp_path / "a.csv", f"a,b\n{'x' * 200_000},y\n")
    assert len(read_file(path, "a")[0].values["a"]) == 200_000


@pytest.mark.parametrize(("name", "suffix"), [("a.JSONL.GZ", ".jsonl"), ("a.b.csv", ".csv"), ("a.gz", ""), ("a", "")])
def test_suffix(tmp_path, name, suffix):
    assert data_suffix(tmp_path / name) == suffix
