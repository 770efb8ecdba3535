"""Traces at rest: there and back without loss, what is refused, and a JSON Schema that says what stands in them."""

import copy
import json
from dataclasses import fields, replace
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator

from tokenq.errors import UserError
from tokenq.records.schema import SCHEMA
from tokenq.records.trace_columns import TABLE_SCHEMA, batch_of, traces_of
from tokenq.records.trace_files import frame_of, read_traces, rows_of_frame, write_traces
from tokenq.records.trace_records import Alternative, Span, TraceToken
from tokenq.records.traces import GAUGE, TokenTrace, Totals
from tokenq.score.spans import LEVELS

OTHER = Alternative(7, " so", -0.25, -1.5, 0.125)
TRACE = TokenTrace(
    id="data.jsonl, row 1/chosen",
    prompt="Is it? 😀",
    response=" é</script>\n",
    side="chosen",
    beta=0.1,
    gauge=GAUGE,
    terminal=True,
    policy={"path": "p", "weights": "ab12", "adapter": None},
    reference={"path": "r", "weights": "cd34", "adapter": None},
    tokens=(
        TraceToken(
            id=5,
            text=" é</script>",
            start=0,
            end=11,
            logp=-0.5,
            ref_logp=-1.25,
            implicit_reward=0.075,
            prefix_value=0.075,
            advantage=-0.05,
            centred_advantage=0.1,
            rank=1,
            ref_rank=3,
            entropy=1.5,
            ref_entropy=1.625,
            kl=0.25,
            likely=(OTHER, replace(OTHER, id=8)),
            ref_likely=(replace(OTHER, id=8), OTHER),
            favoured=(OTHER,),
        ),
        TraceToken(id=None, text="\n", start=11, end=12, written=False, prefix_value=0.075),
    ),
    spans=(
        Span("word", 0, 11, 0, 1, 1, 0.075, 0.075, 0.075, 0.075, 0.075),
        Span("step", 11, 12, 1, 2, 0, 0.0, None, None, None, 0.075, label=False),
    ),
    totals=Totals(0.075, -0.5, -1.25, 1),
    warnings=("mind the gap",),
    label=True,
    score=4.0,
)
PLAIN = replace(
    TRACE, id="data.jsonl, row 2", side=None, tokens=(), spans=(), totals=Totals(0.0, 0.0, 0.0, 0), warnings=(),
    label=None, score=None,
)  # fmt: skip
FORMAT = json.loads(files("tokenq.records").joinpath("trace.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(FORMAT)


def as_json(trace):
    return json.loads(json.dumps(trace.to_dict(), allow_nan=False))


@pytest.mark.parametrize("trace", [TRACE, PLAIN], ids=["full", "empty"])
def test_a_trace_is_the_same_after_a_round_trip(trace):
    assert TokenTrace.from_dict(as_json(trace)) == trace
    assert TokenTrace.from_dict(trace.to_dict()) == trace


def test_a_dict_is_what_json_has_of_it():
    """No tuple and no dataclass is left, and the version comes first."""
    assert as_json(TRACE) == TRACE.to_dict()
    assert list(TRACE.to_dict())[:2] == ["schema", "id"]
    assert TRACE.to_dict()["schema"] == SCHEMA
    assert TRACE.to_dict()["tokens"][0]["likely"][1]["id"] == 8


def test_changing_a_dict_does_not_change_the_trace():
    record = TRACE.to_dict()
    record["tokens"][0]["logp"], record["policy"]["path"], record["spans"][0]["sum"] = 9.0, "else", 9.0
    record["tokens"][0]["likely"][0]["logp"] = 9.0
    assert TRACE.tokens[0].logp == -0.5
    assert TRACE.policy["path"] == "p"
    assert TRACE.spans[0].sum == 0.075
    assert OTHER.logp == -0.25


@pytest.mark.parametrize("name", ["traces.jsonl", "traces.parquet"])
def test_a_file_gives_its_traces_back(name, tmp_path):
    write_traces(tmp_path / name, [batch_of([TRACE, PLAIN])])
    assert list(read_traces(tmp_path / name)) == [TRACE, PLAIN]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_trace_of_a_newer_version_is_refused():
    with pytest.raises(UserError, match=f"part.jsonl, line 3 has schema {SCHEMA + 1}") as caught:
        TokenTrace.from_dict({**as_json(TRACE), "schema": SCHEMA + 1}, "part.jsonl, line 3")
    assert caught.value.hint == "Update tokenq."


@pytest.mark.parametrize("record", [{}, {"schema": "1"}, {"schema": True}, {"schema": None}, [1], "text", None])
def test_what_is_no_trace_is_refused(record):
    with pytest.raises(UserError, match="it has no schema version"):
        TokenTrace.from_dict(record)


def damaged(**changes):
    """Return the JSON of a trace with something else at a path such as tokens__0__logp; ... takes it out."""
    record = as_json(TRACE)
    for path, value in changes.items():
        *way, last = [int(step) if step.isdigit() else step for step in path.split("__")]
        place = record
        for step in way:
            place = place[step]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return record


DAMAGES = {
    "a field is missing": {"response": ...},
    "a nullable field is missing": {"label": ...},
    "an unknown field": {"colour": "red"},
    "an unknown side": {"side": "winner"},
    "beta is text": {"beta": "0.1"},
    "terminal is a number": {"terminal": 1},
    "tokens are missing": {"tokens": ...},
    "tokens are null": {"tokens": None},
    "tokens are text": {"tokens": "abc"},
    "a token is a number": {"tokens__0": 5},
    "a token lacks its text": {"tokens__0__text": ...},
    "a token lacks a list": {"tokens__0__likely": ...},
    "a log-prob is text": {"tokens__0__logp": "-0.5"},
    "a log-prob is true": {"tokens__0__logp": True},
    "a rank is half": {"tokens__0__rank": 0.5},
    "an unknown field of a token": {"tokens__0__colour": "red"},
    "an alternative lacks its id": {"tokens__0__likely__0__id": ...},
    "an alternative without a log-prob": {"tokens__0__favoured__0__logp": None},
    "a span is null": {"spans__0": None},
    "a span lacks its level": {"spans__0__level": ...},
    "a span without a sum": {"spans__0__sum": None},
    "totals are a list": {"totals": [1, 2]},
    "totals lack the count": {"totals__tokens": ...},
    "warnings are a number": {"warnings": 3},
    "the policy is a number": {"policy": 3},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_trace_is_refused_and_says_where(damage):
    with pytest.raises(UserError, match=r"^part.jsonl, line 3 is no trace: "):
        TokenTrace.from_dict(damaged(**damage), "part.jsonl, line 3")


def test_a_whole_number_is_a_number():
    assert TokenTrace.from_dict(damaged(beta=1, tokens__0__kl=0)).beta == 1


def test_a_broken_file_names_its_line(tmp_path):
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps(TRACE.to_dict()) + "\n" + json.dumps(TRACE.to_dict())[:50] + "\n")
    traces = read_traces(path)
    assert next(traces) == TRACE
    with pytest.raises(UserError, match="line 2: not valid JSON"):
        next(traces)
    with pytest.raises(UserError, match="No file"):
        next(read_traces(tmp_path / "none.jsonl"))


# The JSON Schema -----------------------------------------------------------------------------------------------------


def test_the_schema_is_one():
    Draft202012Validator.check_schema(FORMAT)
    assert FORMAT["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert FORMAT["properties"]["schema"]["const"] == SCHEMA


@pytest.mark.parametrize("trace", [TRACE, PLAIN], ids=["full", "empty"])
def test_the_schema_holds_for_a_trace(trace):
    VALIDATOR.validate(as_json(trace))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_the_schema_rejects_what_is_refused(damage):
    assert not VALIDATOR.is_valid(damaged(**damage))


@pytest.mark.parametrize(
    "damage",
    [{"schema": SCHEMA + 1}, {"tokens__0__start": -1}, {"tokens__0__kl": -0.1}, {"spans__0__level": "chapter"}],
)
def test_the_schema_rejects_what_makes_no_sense(damage):
    assert not VALIDATOR.is_valid(damaged(**damage))


OBJECTS = {
    "TokenTrace": (TokenTrace, FORMAT),
    "TraceToken": (TraceToken, FORMAT["$defs"]["token"]),
    "Alternative": (Alternative, FORMAT["$defs"]["alternative"]),
    "Span": (Span, FORMAT["$defs"]["span"]),
    "Totals": (Totals, FORMAT["$defs"]["totals"]),
}


@pytest.mark.parametrize(("kind", "said"), OBJECTS.values(), ids=OBJECTS.keys())
def test_the_schema_lists_the_fields_and_says_what_each_is(kind, said):
    names = [field.name for field in fields(kind)]
    if kind is TokenTrace:
        names = ["schema", *names]
    assert list(said["properties"]) == names
    assert said["required"] == names
    assert said["additionalProperties"] is False
    for name, field in said["properties"].items():
        described = field if "$ref" not in field else FORMAT["$defs"][field["$ref"].rpartition("/")[2]]
        assert len(described["description"]) > 8, name
    assert len(said["description"]) > 8


def test_the_schema_knows_the_levels():
    levels = FORMAT["$defs"]["span"]["properties"]["level"]["enum"]
    assert levels == [*LEVELS, "regex", "given"]


def test_damages_are_of_a_copy():
    before = copy.deepcopy(TRACE)
    damaged(tokens__0__logp=3.0)
    assert before == TRACE


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 and what was cut", b"\x00\xff junk"])
def test_a_table_that_was_cut_or_is_none_is_named(tmp_path, content):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.parquet cannot be read"):
        list(read_traces(tmp_path / "t.parquet"))


@pytest.mark.parametrize("alternatives", [True, False])
def test_a_table_gives_what_lines_give(tmp_path, alternatives):
    """With alternatives or without; lists of other lengths at every token."""
    many = replace(TRACE, tokens=tuple(replace(one, likely=(OTHER,) * n) for n, one in enumerate(TRACE.tokens)))
    for name in ("t.jsonl", "t.parquet"):
        write_traces(tmp_path / name, [batch_of([TRACE, many]), batch_of([PLAIN])])
    lines, table = (list(read_traces(tmp_path / name, alternatives=alternatives)) for name in ("t.jsonl", "t.parquet"))
    assert table == lines
    assert [len(one.likely) for one in table[1].tokens] == [n * alternatives for n in range(len(many.tokens))]


SPOILT = {
    "a side that is none": (lambda row: row | {"side": "winner"}, "'side' is 'winner'"),
    "a token too many": (lambda row: row | {"logps": [*row["logps"], -1.0]}, "'logps' has not one number a token"),
    "a span too few": (lambda row: row | {"span_sums": row["span_sums"][1:]}, "its spans are not of one length"),
    "an alternative too few": (lambda row: row | {"alternative_ids": [1]}, "not as many as their counts"),
    "a list too few": (lambda row: row | {"likely_counts": [2]}, "its lists of 'likely' are not one a token"),
    "a place too many": (lambda row: row | {"favoured_places": [0, 1]}, "its lists of 'favoured' are not one a token"),
    "a place that is none": (lambda row: row | {"favoured_places": [7]}, "its lists of 'favoured' name others"),
    "outputs of half a token": (lambda row: row | {"outputs": [1.0]}, "is no trace"),
    "no tokens": (lambda row: row | {"token_ids": None}, "has not one number a token"),
    "a model that is no object": (lambda row: row | {"policy": "1,2"}, "is no trace"),
    "no text": (lambda row: row | {"response": None}, "it has no 'response'"),
}


@pytest.mark.parametrize(("spoil", "says"), SPOILT.values(), ids=SPOILT)
def test_a_table_of_something_else_is_no_trace(tmp_path, spoil, says):
    (row,) = batch_of([TRACE]).to_pylist()
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist([spoil(row)], batch_of([TRACE]).schema), path)
    with pytest.raises(UserError, match=r"t\.parquet, row 1 is no trace") as caught:
        list(read_traces(path))
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("table", "says", "hint"),
    [
        ({"id": ["a"]}, "has no column 'schema'", "Score the data again."),
        ({"schema": [TABLE_SCHEMA], "id": ["a"]}, "has no column 'prompt'", "Score the data again."),
        ({"schema": [TABLE_SCHEMA + 1], "id": ["a"]}, f"has schema {TABLE_SCHEMA + 1}", "Update tokenq."),
        ({"schema": [3], "tokens": [[{"id": 1}]]}, "as tables did until schema 3", "Score the data again."),
    ],
    ids=["another table", "a column too few", "of a newer version", "of an older version"],
)
def test_a_table_of_another_version_is_refused(tmp_path, table, says, hint):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(table), path)
    with pytest.raises(UserError, match=r"t\.parquet") as caught:
        list(read_traces(path))
    assert says in caught.value.message
    assert caught.value.hint == hint


def test_a_column_of_another_type_is_refused(tmp_path):
    (row,) = batch_of([TRACE]).to_pylist()
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist([row | {"logps": ["a", "b"]}]), path)
    with pytest.raises(UserError, match="from row 1 on: these are no traces"):
        list(read_traces(path))


def test_a_row_of_a_table_has_lists_of_numbers(tmp_path):
    """What another program finds in it; tokens that the policy did not write have null."""
    write_traces(tmp_path / "t.parquet", [batch_of([TRACE])])
    (row,) = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert (row["token_ids"], row["logps"], row["ref_logps"]) == ([5, None], [-0.5, None], [-1.25, None])
    assert (row["implicit_rewards"], row["prefix_values"]) == ([0.075, None], [0.075, 0.075])
    assert (row["ranks"], row["written"], row["starts"], row["ends"]) == ([1, None], [True, False], [0, 11], [11, 12])
    assert (row["alternative_counts"], row["alternative_ids"]) == ([2, 0], [7, 8])
    assert (row["alternative_texts"], row["likely_places"], row["ref_likely_places"]) == ([" so"] * 2, [0, 1], [1, 0])
    assert (row["span_levels"], row["span_labels"]) == (["word", "step"], [None, False])
    assert (row["total_logp"], row["total_tokens"], json.loads(row["policy"])["path"]) == (-0.5, 1, "p")


NUMBERS = [0.0, -0.0, 1.0, -1.0, 1e15, 1e16, 123456789.0, 0.1, 1e-4, 9.9e-5, -1.2e-5, 1e-300, 5e-324, 1.5e300, 2.0**53]


@pytest.mark.parametrize("numbers", [NUMBERS, [None] * 3, [1.5, None], np.random.default_rng(0).normal(size=999)])
def test_lines_are_what_json_says(tmp_path, numbers):
    tokens = tuple(
        TraceToken(i, "é", i, i + 1, logp=x if x is None else float(x), kl=0.5, outputs=(0.5, 2.0) if i % 2 else ())
        for i, x in enumerate(numbers)
    )
    other = replace(TRACE, response="é" * len(tokens), tokens=tokens, id='"\\\t', label=None, policy={}, score=1e-7)
    write_traces(tmp_path / "t.jsonl", [batch_of([other, TRACE]), batch_of([PLAIN])])
    want = [json.dumps(one.to_dict(), ensure_ascii=False) + "\n" for one in (other, TRACE, PLAIN)]
    assert (tmp_path / "t.jsonl").read_text(encoding="utf-8") == "".join(want)


def test_a_frame_gives_its_rows_back():
    assert list(traces_of(rows_of_frame(frame_of([TRACE, PLAIN])), str, alternatives=True)) == [TRACE, PLAIN]


def test_tokens_are_walked_as_records():
    """One by one, from the end, or some of them; what a token says is a piece of the response."""
    first, second = TRACE.tokens
    assert (TRACE.tokens[0], TRACE.tokens[-1], TRACE.tokens[:1], TRACE.tokens[::-1]) == (
        first, second, (first,), (second, first),
    )  # fmt: skip
    assert (first.likely, first.favoured, second.likely) == ((OTHER, replace(OTHER, id=8)), (OTHER,), ())
    assert (TRACE.spans[-1].level, TRACE.spans[1:]) == ("step", (TRACE.spans[1],))
    with pytest.raises(IndexError):
        TRACE.tokens[2]
    with pytest.raises(ValueError, match="is not its piece of the response"):
        replace(TRACE, tokens=(replace(first, text=" e"), second))


@pytest.mark.parametrize("name", ["traces.jsonl", "traces.parquet"])
def test_traces_that_no_policy_has_read_come_back(name, tmp_path):
    alone = replace(TRACE, policy={}, reference={}, reward_model={"path": "r", "outputs": {"reward": 1.0}})
    write_traces(tmp_path / name, [batch_of([alone, alone])])
    assert list(read_traces(tmp_path / name)) == [alone, alone]
