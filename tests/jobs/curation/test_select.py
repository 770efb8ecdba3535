"""`tokenq.select`: rows as they stood, chosen by margins that are read anew here, and what is refused."""

import json

import numpy as np
import pytest
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.errors import UserError

pytestmark = pytest.mark.integration

COUNT = 24
TRAINED = {
    "loss": "dpo",
    "batch_size": 4,
    "max_steps": 3,
    "learning_rate": 1e-2,
    "device": "cpu",
    "keep_checkpoints": 0,
}


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny model, pairs with columns of their own, and runs on them."""
    folder = tmp_path_factory.mktemp("select")
    tiny_model("gpt_neox", layers=1).save_pretrained(folder / "model")
    tiny_tokenizer("bytes").save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    words = ["ab", "no", "so", "zé", "1 2", "why", "else"]

    def said():
        return " " + " ".join(rng.choice(words, rng.integers(1, 5)))

    rows = [{"id": n, "prompt": f"q{n}?", "chosen": f"{said()} a", "rejected": said()} for n in range(COUNT)]
    write(folder / "pairs.jsonl", rows)
    write(folder / "other.jsonl", [{**row, "prompt": f"other {row['prompt']}"} for row in rows])
    shared = {"reference_store": str(folder / "store"), **TRAINED}
    for name, more in (("run", {}), ("held", {"eval_size": 6}), ("judged", {"eval_data": str(folder / "other.jsonl")})):
        tokenq.train(folder / "model", folder / "pairs.jsonl", folder / name, **shared, **more)
    tokenq.train(folder / "model", folder / "pairs.jsonl", folder / "sft", **{**TRAINED, "loss": "sft"})
    return folder


def margins(home, run, data="pairs.jsonl"):
    """Margins by `tokenq.score`, chosen and rejected in turn."""
    traces = list(tokenq.load(home / run, device="cpu").score_all(home / data))
    totals = [(trace.totals.implicit_reward, trace.totals.ref_logp) for trace in traces]
    table = np.array(totals).reshape(-1, 2, 2)
    return table[:, 0] - table[:, 1]


EXPECTED = {
    "large_margin": lambda table: -table[:, 0],
    "small_margin": lambda table: np.abs(table[:, 0]),
    "large_reference_margin": lambda table: -table[:, 1],
    "small_reference_margin": lambda table: np.abs(table[:, 1]),
}


@pytest.mark.parametrize("rule", EXPECTED)
def test_rows_are_those_of_the_margins_as_they_stood(rule, home, tmp_path):
    found = tokenq.select(
        home / "pairs.jsonl", tmp_path / "kept.jsonl", rule=rule, keep=0.5, run=home / "run", device="cpu"
    )
    want = sorted(np.argsort(EXPECTED[rule](margins(home, "run")), kind="stable")[: COUNT // 2].tolist())
    assert list(found.rows) == want
    stood = (home / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert (tmp_path / "kept.jsonl").read_text(encoding="utf-8").splitlines() == [stood[row] for row in want]
    record = json.loads((tmp_path / "kept.jsonl.provenance.json").read_text())
    told = json.loads((home / "run" / "provenance.json").read_text())
    assert (record["made_by"], record["rule"], record["rows"], record["pairs"]) == ("tokenq select", rule, want, COUNT)
    assert record["run"]["data"]["sha256"] == told["data"]["sha256"]
    assert record["seed"] == 0
    assert len(record["sha256"]) == len(record["data"]["sha256"]) == 64


def test_the_command_does_the_same(home, tmp_path, capsys):
    words = [str(home / "pairs.jsonl"), "--rule", "large_margin", "--keep", "0.5", "--run", str(home / "run")]
    assert main(["select", *words, "--output", str(tmp_path / "a.jsonl"), "--device", "cpu"]) == 0
    assert "12 of 24 pairs (the largest implicit margins) are in" in " ".join(capsys.readouterr().err.split())
    tokenq.select(
        home / "pairs.jsonl", tmp_path / "b.jsonl", rule="large_margin", keep=0.5, run=home / "run", device="cpu"
    )
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_folds_read_what_they_have_not_seen_and_are_kept(home, tmp_path):
    asked = {"keep": 0.5, "run": home / "run", "device": "cpu", "folds_output": tmp_path / "folds"}
    found = tokenq.select(home / "pairs.jsonl", tmp_path / "easy.jsonl", rule="easy", **asked)
    fitted = np.array([line["margin"] for line in lines(tmp_path / "folds" / "margins.jsonl")])
    assert list(found.rows) == sorted(np.argsort(-fitted, kind="stable")[:12].tolist())
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "folds").rglob("*.safetensors")}
    assert len(stamps) == 2
    agreed = tokenq.select(home / "pairs.jsonl", tmp_path / "agreed.jsonl", rule="agreement", **asked)
    assert agreed.found == {"share in agreement": (fitted > 0).mean()}
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_the_draw_is_of_the_seed_alone(home, tmp_path):
    def rows(seed, data):
        return tokenq.select(data, tmp_path / "kept.jsonl", keep=0.75, seed=seed).rows

    assert rows(0, home / "pairs.jsonl") == rows(0, lines(home / "pairs.jsonl")) != rows(1, home / "pairs.jsonl")


def test_rows_in_memory_and_models_by_name(home, tmp_path):
    rows = lines(home / "pairs.jsonl")
    asked = {"rule": "large_margin", "keep": 0.8, "device": "cpu"}
    models = {"policy": home / "run" / "policy", "reference": home / "model"}
    found = tokenq.select(rows, tmp_path / "kept.jsonl", **asked, **models)
    same = tokenq.select(home / "pairs.jsonl", tmp_path / "same.jsonl", **asked, run=home / "run")
    assert found.rows == same.rows
    assert lines(tmp_path / "kept.jsonl") == [rows[row] for row in found.rows]


def test_findings_of_an_audit_are_left_out_first(home, tmp_path):
    rows = [*lines(home / "pairs.jsonl"), *lines(home / "pairs.jsonl")[:2]]
    write(tmp_path / "twice.jsonl", rows)
    where = [f"twice.jsonl, row {n + 1}" for n in range(len(rows))]
    findings = [{"kind": "duplicate", "rows": [n, COUNT + n], "where": [where[n], where[COUNT + n]]} for n in (0, 1)]
    findings.append({"kind": "identical", "rows": [5], "where": [where[5]]})
    (tmp_path / "audit.json").write_text(json.dumps({"findings": findings}))
    data = str(tmp_path / "twice.jsonl")
    found = tokenq.select(data, tmp_path / "kept.jsonl", drop=tmp_path / "audit.json")
    assert found.rows == tuple(n for n in range(COUNT) if n != 5)
    assert found.dropped == {"identical": 1, "duplicate": 2}
    alone = tokenq.select(data, tmp_path / "kept.jsonl", drop=tmp_path / "audit.json", drop_kinds=["identical"])
    assert len(alone.rows) == COUNT + 1
    once = tokenq.select(data, tmp_path / "kept.jsonl", rule="deduplicated")
    assert once.rows == tuple(range(COUNT))


def test_held_out_rows_decide_nothing(home, tmp_path):
    """Those that a run held out of its own data are left out; what it was evaluated on is refused, as is no other."""
    asked = {"rule": "large_margin", "keep": 1, "device": "cpu"}
    found = tokenq.select(home / "pairs.jsonl", tmp_path / "kept.jsonl", run=home / "held", **asked)
    assert found.dropped == {"held out by the run": 6}
    said = json.loads((home / "held" / "provenance.json").read_text())
    held = {line["row"] for line in lines(home / "held" / "held_out.jsonl")}
    assert not {f"pairs.jsonl, row {row + 1}" for row in found.rows} & held
    assert said["data"]["summary"]["pairs"] == len(found.rows) == COUNT - 6
    alone = [row for n, row in enumerate(lines(home / "pairs.jsonl")) if n not in found.rows]
    for data, run in ((alone, "held"), (home / "other.jsonl", "judged"), (lines(home / "other.jsonl")[:9], "judged")):
        for rule in ("large_margin", "random"):
            with pytest.raises(UserError, match=r"row 1 is held out by .*decides nothing"):
                tokenq.select(data, tmp_path / "no.jsonl", run=home / run, **{**asked, "rule": rule})
    assert not (tmp_path / "no.jsonl").exists()


def test_rows_that_have_changed_since_the_run_are_refused(home, tmp_path):
    data, shared = tmp_path / "pairs.jsonl", {"reference_store": str(home / "store"), **TRAINED}
    write(data, lines(home / "pairs.jsonl"))
    tokenq.train(home / "model", data, tmp_path / "run", **shared)
    asked = {"rule": "large_margin", "keep": 1, "device": "cpu", "run": tmp_path / "run"}
    assert len(tokenq.select(data, tmp_path / "kept.jsonl", **asked).rows) == COUNT
    rows = lines(data)
    write(data, [*rows[:-1], {**rows[-1], "chosen": " other"}])
    with pytest.raises(UserError, match=r"have changed since .* learnt from them"):
        tokenq.select(data, tmp_path / "kept.jsonl", **asked)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rule", "large_margn", "--run", "run"], "Did you mean 'large_margin'"),
        (["--keep", "0"], "--keep is 0.0. It must be above 0 and at most 1"),
        (["--keep", "1.5"], "--keep is 1.5"),
        (["--keep", "nan"], "--keep is nan"),
        (["--keep", "0.3", "--batch-size", "4"], "7 of 24 pairs would be kept: fewer than two batches of 4"),
        (["--keep", "0.3"], "fewer than two batches of 8"),
        (["--rule", "large_margin"], "goes by margins, and there is no policy"),
        (["--rule", "agreement"], "trains policies, and nothing says how"),
        (["--rule", "large_margin", "--run", "sft"], "trained by 'sft', which has no reference"),
        (["--rule", "agreement", "--run", "sft"], "trained by 'sft', which has no reference"),
        (["--rule", "large_margin", "--keep", "1", "--policy", "model", "--reference", "model"], "are all 0"),
        (["--rule", "large_margin", "--run", "nowhere"], "nowhere"),
        (["--drop-kinds", "duplicate"], "Name what tokenq audit wrote"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, said, home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(home)
    assert main(["select", "pairs.jsonl", "--output", str(tmp_path / "k.jsonl"), "--device", "cpu", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "k.jsonl").exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (["pairs.jsonl", "pairs.jsonl"], "is read twice"),
        (["pairs.jsonl@2"], "a source has no weight there"),
        (["scored.jsonl"], "rows hold one response each"),
        (["nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_rows_that_cannot_be_chosen_among_are_refused(data, said, home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(home)
    scored = [{"prompt": "q", "completion": f" {n}", "score": n} for n in range(4)]
    write(home / "scored.jsonl", scored)
    assert main(["select", "--data", *data, "--output", str(tmp_path / "k.jsonl")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_file_of_other_making_is_not_replaced(home, tmp_path):
    write(tmp_path / "mine.jsonl", [{"a": 1}])
    with pytest.raises(UserError, match="tokenq select did not write it"):
        tokenq.select(home / "pairs.jsonl", tmp_path / "mine.jsonl", keep=1)
    assert tokenq.select(home / "pairs.jsonl", tmp_path / "mine.jsonl", keep=1, overwrite=True).pairs == COUNT
    with pytest.raises(UserError, match="is no file of JSON lines"):
        tokenq.select(home / "pairs.jsonl", tmp_path / "mine.csv", keep=1)
