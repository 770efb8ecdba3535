"""Local files to rows: values exactly as written, and damage named by file and line."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import sys
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from tokenq.data.files import json_rows, row_bounds, separated_rows, unpacking
from tokenq.data.files import local as files
from tokenq.data.files.local import READERS, read_file, read_standard_input, whole
from tokenq.data.files.unpacking import PACKED, plain_suffix
from tokenq.errors import UserError

VALUES = [
    {"prompt": "When?", "chosen": "2024-01-01", "rejected": "007"},
    {"prompt": 'Who, "then"?\nSay.', "chosen": "None", "rejected": "NA"},
]


def write(path, content):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(packed(data, path.suffix))
    return path


def packed(data, suffix):
    if suffix == ".zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("data/inside.part", data)
            archive.writestr("__MACOSX/data/._inside.part", b"x")
        return buffer.getvalue()
    codecs = {".zst": "zstd", ".lz4": "lz4"}
    if suffix in codecs:
        buffer = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(buffer, codecs[suffix]) as stream:
            stream.write(data)
        return buffer.getvalue().to_pybytes()
    plain = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    return plain[suffix](data) if suffix in plain else data


def as_csv(separator):
    cells = [list(VALUES[0]), *(list(one.values()) for one in VALUES)]
    return "\n".join(separator.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in cells) + "\n"


def as_parquet():
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(VALUES), buffer)
    return buffer.getvalue()


def as_arrow(kind):
    table, buffer = pyarrow.Table.from_pylist(VALUES), io.BytesIO()
    if kind == "feather":
        pyarrow.feather.write_feather(table, buffer)
        return buffer.getvalue()
    new = {"file": pyarrow.ipc.new_file, "stream": pyarrow.ipc.new_stream}[kind]
    with new(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


LINES = "".join(json.dumps(one) + "\n" for one in VALUES)
CONTENT = {
    ".jsonl": LINES,
    ".ndjson": LINES,
    ".json": json.dumps(VALUES, indent=2),
    ".csv": as_csv(","),
    ".tsv": as_csv("\t"),
    ".parquet": as_parquet(),
    ".arrow": as_arrow("stream"),
    ".ipc": as_arrow("file"),
    ".feather": as_arrow("feather"),
}


def test_every_type_is_tried_here():
    assert set(CONTENT) == set(READERS)


@pytest.mark.parametrize("more", ["", *PACKED])
@pytest.mark.parametrize("suffix", CONTENT)
def test_values_come_out_as_they_were_written(tmp_path, suffix, more):
    """No dates, numbers or nulls out of text, whatever it looks like."""
    path = write(tmp_path / f"train{suffix}{more}", CONTENT[suffix])
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


TABLE = {"prompt": ["When?", "Who?"], "chosen": ["2024-01-01", "Ada"], "rating": [1, None]}
ROWS = [
    {"prompt": "When?", "chosen": "2024-01-01", "rating": 1},
    {"prompt": "Who?", "chosen": "Ada", "rating": None},
]
NUMBERED = {name: dict(zip(["0", "1"], cells, strict=True)) for name, cells in TABLE.items()}
BY_COLUMNS = {
    "a list for each column": TABLE,
    "pandas.to_json": NUMBERED,
    "orient=index": {"0": ROWS[0], "1": ROWS[1]},
    "orient=split": {"columns": list(TABLE), "index": [0, 1], "data": [list(row.values()) for row in ROWS]},
    "orient=table": {"schema": {"fields": [{"name": "prompt"}], "primaryKey": ["index"]}, "data": ROWS},
    "an array under a name": {"version": "0.1", "data": ROWS},
    "an array alone": {"pairs": ROWS},
}


@pytest.mark.parametrize("indent", [None, 2], ids=["on a line", "pretty"])
@pytest.mark.parametrize("form", BY_COLUMNS)
def test_json_by_columns(tmp_path, form, indent):
    path = write(tmp_path / "a.json", json.dumps(BY_COLUMNS[form], indent=indent))
    assert [row.values for row in read_file(path, "a.json")] == ROWS


def test_columns_of_other_numbers_keep_their_order(tmp_path):
    path = write(tmp_path / "a.json", json.dumps({"text": {"7": "g", "3": "c"}, "id": {"7": 7, "3": 3}}))
    assert [row.values for row in read_file(path, "a")] == [{"text": "g", "id": 7}, {"text": "c", "id": 3}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"chosen": [{"from": "human", "value": "q"}], "rejected": [{"from": "human", "value": "q"}]},
        {"chosen": {"role": "assistant", "content": "c"}, "rejected": {"role": "assistant", "content": "r"}},
        {"prompt": "q", "chosen": ["a"], "rejected": ["b"]},
        {"question": {"full_text": "q", "id": "1"}, "answer": "a"},
    ],
    ids=["messages", "pair of turns", "single turns", "lists beside text", "a record"],
)
@pytest.mark.parametrize("indent", [None, 2], ids=["on a line", "pretty"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_one_row_that_looks_like_a_table(tmp_path, row, indent, suffix):
    path = write(tmp_path / f"a{suffix}", json.dumps(row, indent=indent))
    assert [row.values for row in read_file(path, "a")] == [row]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson"])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(VALUES),
        json.dumps(VALUES, indent=1),
        "\n\n" + json.dumps(VALUES, indent=1),
        "".join(json.dumps(one, indent=2) + "\n" for one in VALUES),
        json.dumps(VALUES[:1]) + "\n" + json.dumps(VALUES[1:]),
    ],
    ids=["array", "pretty array", "blank lines first", "pretty objects one after the other", "two arrays"],
)
def test_documents_whatever_they_are_called(tmp_path, suffix, content):
    assert [row.values for row in read_file(write(tmp_path / f"a{suffix}", content), "a")] == VALUES


MARKED = {
    "utf-16": LINES.encode("utf-16"),
    "utf-16, big end first": b"\xfe\xff" + LINES.encode("utf-16-be"),
    "utf-32": LINES.encode("utf-32"),
    "utf-8 with a mark": LINES.encode("utf-8-sig"),
    "files put together": b"".join(json.dumps(one).encode("utf-8-sig") + b"\r\n" for one in VALUES),
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("name", MARKED)
def test_marks_say_the_encoding(tmp_path, name, suffix):
    assert [row.values for row in read_file(write(tmp_path / f"a{suffix}", MARKED[name]), "a")] == VALUES


def test_a_table_in_utf_16(tmp_path):
    path = write(tmp_path / "a.csv", "a;b\n1;ü\n".encode("utf-16"))
    assert [row.values for row in read_file(path, "a")] == [{"a": "1", "b": "ü"}]


CSV = {
    "semicolons": "a;b\n1;2,5\n",
    "tabs": "a\tb\n1\t2,5\n",
    "bars": "a|b\n1|2,5\n",
    "said": "sep=;\na;b\n1;2,5\n",
    "blank lines first": '\n,,\na,b\n1,"2,5"\n',
    "blanks in the header": 'a , "b"\n1,"2,5"\n',
    "an index without a name": ',a,b\n0,1,"2,5"\n',
    "mark": '\ufeffa,b\r\n1,"2,5"\r\n',
}


@pytest.mark.parametrize("name", CSV)
def test_csv_in_its_forms(tmp_path, name):
    path = write(tmp_path / "a.csv", CSV[name])
    if name == "blanks in the header":
        path.write_text('a , b\n1,"2,5"\n')
    assert [(row.values, row.where) for row in read_file(path, "a.csv")] == [({"a": "1", "b": "2,5"}, "a.csv, row 1")]


def test_a_tsv_file_with_commas(tmp_path):
    assert read_file(write(tmp_path / "a.tsv", "a,b\n1,2\n"), "a")[0].values == {"a": "1", "b": "2"}


def test_cells_of_text_keep_blanks_and_missing_ones_are_none(tmp_path):
    """pandas writes NaN where a cell is missing; None, NA and the like are text."""
    path = write(tmp_path / "a.csv", "a, b\n x ,NaN\nNA,None\nnan, NaN\n")
    cells = [list(row.values.values()) for row in read_file(path, "a")]
    assert cells == [[" x ", None], ["NA", "None"], [None, " NaN"]]


def faults(rows):
    return [(row.where, row.fault.detail) for row in rows if row.fault]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 1,}\n{"a": 2}\n', "row 3: broken JSON: .* at column 9 of '{\"a\": 1,}'"),
        ("a.jsonl", '{"a": 1}\n{"a": "x\n{"a": 2}\n', "row 2: broken JSON"),
        ("a.jsonl.gz", '{"a": 1}\n{"a"\n{"a": 2}\n', "row 2: broken JSON"),
        ("a.jsonl", '{"a": 1}\n[1, 2]\n{"a": 2}\n', r"row 2: holds \[1, 2\], not an object"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n{"a": 2}\n', "row 2: not UTF-8 text: convert the file, as with iconv"),
        ("a.jsonl", '{"a": 1}\n{"b": ' + "9" * 5000 + '}\n{"a": 2}\n', "row 2: .* a number has thousands of digits"),
        ("a.jsonl", '{"a": 1}\n{"b": ' + "[" * 100_000 + '\n{"a": 2}\n', "row 2: .* it is nested too deep"),
        ("a.jsonl", '{"a": 1}\n{"b": 1, "b": 2}\n{"a": 2}\n', "row 2: the name 'b' stands twice"),
        ("a.json", '{"a": 1}\n{"a": }\n{"a": 2}\n', "row 2: broken JSON"),
        ("a.json", '{"a": 1\n{"a": 2}\n{"a": 3}\n', "row 1: broken JSON"),
        ("a.json", '[{"a": 1}, 1, {"a": 2}]', "row 2: holds 1, not an object"),
        ("a.csv", "a,b\n1,2\n1,2,3\n3,4\n", "row 2: line 3 has 3 cells, but the header has 2"),
        ("a.csv", "a;b\n1;2\n3\n3;4\n", "row 2: line 3 has 1 cells, but the header has 2"),
        ("a.csv", "a,b\n1,2\n\ufeffa,b\n3,4\n", "row 2: line 3 is the header once more"),
        ("a.csv", b"a,b\n1,2\n1,\xff\n3,4\n", "row 2: not UTF-8 text: convert the file"),
    ],
)
def test_what_is_wrong_with_one_row_is_its_fault(tmp_path, name, content, message):
    rows = read_file(write(tmp_path / name, content), name)
    assert len(rows) == 3
    ((where, detail),) = faults(rows)
    assert re.match(f"{re.escape(name)}, {message}", f"{where}: {detail}")
    with pytest.raises(UserError, match=f"{re.escape(name)}, {message}"):
        whole(rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"a": 1},\n {"a": }]', r"a\.json, line 2: broken JSON"),
        ("a.json", '\n\n{"a": [\n1,]}', r"a\.json, line 4: broken JSON"),
        ("a.json", "[" * 100_000, r"a\.json: .* nested too deep"),
        ("a.json", '[{"a": ' + "9" * 5000 + "}]", r"a\.json: .* thousands of digits"),
        ("a.json", '[{"a": 1, "a": 2}]', "the name 'a' stands twice"),
        ("a.json", json.dumps({"train": ROWS, "test": ROWS[:1]}), "holds several tables: train, test"),
        ("a.json", '{"columns": ["a", "b"], "data": [[1]]}', "has not the 2 cells of the columns"),
        ("a.json", b'[{"a": 1},\n{"a": "\xff"}]', r"a\.json, line 2: not UTF-8"),
        ("a.json", "3", "holds no table"),
        ("a.jsonl", LINES.encode("utf-16-le"), "looks like UTF-16 text without a byte order mark"),
        ("a.jsonl", b"\xff\xfe" + LINES.encode("utf-16-le")[:-1], "is not whole UTF-16 text"),
        ("a.csv", 'a,b\n"1,2\n', r"a\.csv, line 2: broken CSV"),
        ("a.csv", "a;\rb;c\n1;2;3\n", r"a\.csv, line 1: broken CSV"),
        ("a.csv", "a,b,a\n1,2,3\n", "the column 'a' stands twice in the header"),
        ("a.csv", ",".join(f"c{i}" for i in range(100_000)) + "\n1\n", "has 100,000 columns, and at most 1,000"),
        ("a.parquet", "PAR1", r"a\.parquet is not a whole parquet file"),
        ("a.arrow", "ARROW1", r"a\.arrow is not a whole Arrow file"),
        ("a.feather", CONTENT[".feather"][:-30], r"a\.feather is not a whole Arrow file"),
        ("a.jsonl", "", "holds no rows"),
        ("a.json", "", "holds no rows"),
        ("a.json", "[]", "holds no rows"),
        ("a.csv", "a,b\n", "holds no rows"),
        ("a.csv", "", "holds no rows"),
        ("a.txt", "x", r"not a data file that can be read \(suffix '\.txt'\)"),
        ("a.xlsx", "x", r"suffix '\.xlsx'"),
        ("a", "x", "suffix ''"),
    ],
)
def test_damage_is_named_by_file_and_line(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_file(write(tmp_path / name, content), name)
    assert caught.value.hint


def test_what_can_be_read_is_said(tmp_path):
    with pytest.raises(UserError) as caught:
        read_file(write(tmp_path / "a.dat", "x"), "a.dat")
    assert all(suffix in caught.value.hint for suffix in [*READERS, *PACKED])


@pytest.mark.parametrize("suffix", PACKED)
def test_damaged_packed_files(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    for content in (b"not packed at all", packed(LINES.encode() * 50, suffix)[:-12]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"a\.jsonl\{suffix} is damaged"):
            read_file(path, path.name)


def test_a_zip_file_of_several_files_or_with_a_password(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b.jsonl", LINES)
    assert [row.values for row in read_file(path, "a.zip")] == VALUES
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("c.jsonl", LINES)
    with pytest.raises(UserError, match=r"holds 2 files: b\.jsonl, c\.jsonl"):
        read_file(path, "a.zip")


@pytest.mark.integration
def test_a_packed_file_that_grows_without_end_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "FREE_GROWTH", 2**16)
    path = write(tmp_path / "a.jsonl.gz", b"\n" * 2**24)
    with pytest.raises(UserError, match=r"unpacks to more than 200 times its [\d,]+ bytes"):
        read_file(path, "a.jsonl.gz")
    path = write(tmp_path / "b.csv.gz", b"\0" * 2**24)
    with pytest.raises(UserError, match="unpacks to more than 200 times"):
        read_file(path, "b.csv.gz")


def test_reading_stops_before_the_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "_LEAST_MEMORY", 1.1)
    monkeypatch.setattr(files, "_ROWS_BETWEEN_LOOKS", 10)
    path = write(tmp_path / "a.jsonl", LINES * 10)
    with pytest.raises(UserError, match="too large for the memory of this machine: it was left after 10 rows"):
        read_file(path, "a.jsonl")


LONG = {
    "a.jsonl": '{"a": "x"}\n{"a": "' + "y" * 100 + '"}\n{"a": "z"}\n',
    "b.jsonl": '{"a": "x"}\n{"a": "' + "y" * 3_000_000 + '"}\n{"a": "z"}\n',
    "a.json": '[{"a": "x"}, {"a": ["' + "y" * 100 + '"]}, {"a": "z"}]',
    "a.csv": 'a,b\nx,x\n"' + "y" * 50 + '\n",' + "y" * 100 + '\nz,"\nz"\n',
    "b.csv": 'a,b\nx,x\n1,"' + "y" * 50 + "\n" + "y" * 3_000_000 + '"\nz,"\nz"\n',
    "c.csv": "a,b\nx,x\n1," + "y" * 100 + '\nz,"\nz"\n',
    "d.csv": 'a,b\nx,x\n1,"' + "y" * 100 + '\n2"\nz,"\nz"\n',
}


@pytest.mark.parametrize("name", LONG)
def test_a_row_that_is_too_long_is_a_fault_and_the_others_are_read(tmp_path, name, monkeypatch):
    for module in (row_bounds, json_rows, separated_rows):
        monkeypatch.setattr(module, "LONGEST_ROW", 60)
    rows = read_file(write(tmp_path / name, LONG[name]), name)
    assert [row.fault is None for row in rows] == [True, False, True]
    assert re.search(r"the row has (1\d\d|3,0\d\d,\d\d\d) bytes, and at most 60 are read", rows[1].fault.detail)


def test_a_row_with_too_many_columns(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps({str(i): i for i in range(1001)}) + '\n{"a": 1}\n')
    assert faults(read_file(path, "a")) == [("a, row 1", "the row has 1,001 columns, and at most 1,000 are read")]


def test_pipes_and_devices_are_refused(tmp_path):
    pipe = tmp_path / "a.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="is a pipe, not a file") as caught:
        read_file(pipe, "a.jsonl")
    assert caught.value.hint == "Give standard input instead: --data - < a.jsonl"
    with pytest.raises(UserError, match="is a device"):
        read_file(Path("/dev/zero"), "/dev/zero")


@pytest.fixture
def piped(monkeypatch):
    files._input_bytes.cache_clear()

    def pipe(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    yield pipe
    files._input_bytes.cache_clear()


@pytest.mark.parametrize(
    "content", [LINES, json.dumps(VALUES, indent=1), "\ufeff" + LINES], ids=["lines", "array", "mark"]
)
def test_standard_input(piped, content):
    piped(content.encode())
    rows = read_standard_input()
    assert [(row.values, row.where) for row in rows] == [
        (values, f"standard input, row {number}") for number, values in enumerate(VALUES, 1)
    ] or content.startswith("[")
    assert [row.values for row in read_standard_input()] == VALUES  # a pipe is read once, and kept


def test_standard_input_that_holds_nothing_or_has_no_end(piped, monkeypatch):
    piped(b"")
    with pytest.raises(UserError, match="holds no rows"):
        read_standard_input()
    files._input_bytes.cache_clear()
    monkeypatch.setattr(files, "_MOST_INPUT", 10)
    piped(LINES.encode())
    with pytest.raises(UserError, match="Standard input has more than 10 bytes"):
        read_standard_input()
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="Nothing is piped"):
        read_standard_input()


def test_several_processes_cannot_share_standard_input(piped, monkeypatch):
    piped(LINES.encode())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="Several processes"):
        read_standard_input()


def test_columns_of_arrow_that_are_no_plain_text(tmp_path):
    """Categories and views are their text, maps are records, nested turns lists of records."""
    table = pyarrow.table(
        {
            "category": pyarrow.array(["a", "b", "a"]).dictionary_encode(),
            "view": pyarrow.array(["u", "v", None], pyarrow.string_view()),
            "map": pyarrow.array([[("kind", 4)], [], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
            "turns": pyarrow.array([[{"role": "user", "content": "q"}]] * 3),
            "binary": pyarrow.array([b"x"] * 3),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pyarrow.feather.write_feather(table, tmp_path / "a.feather")
    for name in ("a.parquet", "a.feather"):
        rows = [row.values for row in read_file(tmp_path / name, name)]
        assert [row["category"] for row in rows] == ["a", "b", "a"]
        assert [row["view"] for row in rows] == ["u", "v", None]
        assert [row["map"] for row in rows] == [{"kind": 4}, {}, None]
        assert rows[0]["turns"] == [{"role": "user", "content": "q"}]
        assert rows[0]["binary"] == b"x"


def test_a_column_that_stands_twice_in_arrow(tmp_path):
    table = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["chosen", "chosen"])
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match="the column 'chosen' stands twice in the file"):
        read_file(tmp_path / "a.arrow", "a.arrow")


def test_a_long_cell_is_read_whole(tmp_path):
    path = write(tmp_path / "a.csv", f"a,b\n{'x' * 200_000},y\n")
    assert len(read_file(path, "a")[0].values["a"]) == 200_000


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.JSONL.GZ", ".jsonl"), ("a.b.csv", ".csv"), ("a.gz", ""), ("a", ""), ("a.csv.zst", ".csv"), ("a.zip", "")],
)
def test_suffix(tmp_path, name, suffix):
    assert plain_suffix(tmp_path / name) == suffix
