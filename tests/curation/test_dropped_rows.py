"""The rows that findings of an audit drop: one of each set that says the same stays."""

import json

import pytest

from tokenq.curation.selection.findings import dropped_rows
from tokenq.errors import UserError

NAMES = [f"pairs.jsonl, row {n + 1}" for n in range(8)]


def audit(folder, *findings, **more):
    path = folder / "audit.json"
    path.write_text(json.dumps({"findings": findings, **more}))
    return path


def one(kind, rows, **more):
    return {
        "kind": kind,
        "rows": rows,
        "where": [NAMES[row] if row < 8 else f"held.jsonl, row {row}" for row in rows],
        **more,
    }


def test_one_row_of_each_set_stays(tmp_path):
    path = audit(tmp_path, one("duplicate", [1, 4, 6]), one("near_duplicate", [0, 2]))
    assert dropped_rows(path, (), NAMES) == {"duplicate": {4, 6}, "near_duplicate": {2}}


def test_the_one_that_stays_is_none_that_something_else_drops(tmp_path):
    path = audit(tmp_path, one("duplicate", [1, 4, 6]), one("contradiction", [1, 3]), one("duplicate", [3, 5]))
    assert dropped_rows(path, (), NAMES) == {"contradiction": {1, 3}, "duplicate": {6}}


def test_sets_that_overlap_leave_one(tmp_path):
    path = audit(tmp_path, one("near_duplicate", [1, 2]), one("near_duplicate", [2, 3]))
    assert dropped_rows(path, (), NAMES) == {"near_duplicate": {2}}


def test_a_copy_of_a_held_out_row_goes(tmp_path):
    path = audit(tmp_path, one("duplicate", [2, 9], drop=[2]), numbers={"rows": 10, "held_out_rows": 2})
    assert dropped_rows(path, (), NAMES) == {"duplicate": {2}}


def test_the_audit_says_what_to_drop(tmp_path):
    path = audit(
        tmp_path, one("truncated", [1, 2], drop=[2]), one("repeated_id", [3, 4], drop=[]), one("length_bias", [])
    )
    assert dropped_rows(path, (), NAMES) == {"truncated": {2}}


def test_kinds_are_chosen(tmp_path):
    path = audit(tmp_path, one("duplicate", [1, 4]), one("identical", [3]))
    assert dropped_rows(path, ["identical"], NAMES) == {"identical": {3}}
    with pytest.raises(UserError, match="Did you mean 'identical'"):
        dropped_rows(path, ["identicl"], NAMES)


@pytest.mark.parametrize(
    ("finding", "more", "said"),
    [
        (one("identical", [3]), {"numbers": {"rows": 9}}, "an audit of 9 rows, and the data have 8"),
        ({"kind": "identical", "rows": [8], "where": []}, {}, "speaks of row 8, and there are 8"),
        ({"kind": "identical", "rows": [-1], "where": []}, {}, "speaks of row -1"),
        ({"kind": "identical", "rows": ["3"], "where": []}, {}, "speaks of row '3'"),
        ({"kind": "identical", "rows": [3], "where": ["other.jsonl, row 4"]}, {}, "speaks of other.jsonl, row 4"),
        ({"rows": [3]}, {}, "holds no findings"),
    ],
)
def test_an_audit_of_other_data_is_refused(finding, more, said, tmp_path):
    with pytest.raises(UserError, match=said):
        dropped_rows(audit(tmp_path, finding, **more), (), NAMES)


def test_what_is_no_audit_is_refused(tmp_path):
    (tmp_path / "audit.json").write_text("[]")
    with pytest.raises(UserError, match="holds no findings"):
        dropped_rows(tmp_path / "audit.json", (), NAMES)
