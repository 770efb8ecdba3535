"""`tokenq.evaluate`, `tokenq.examine` and `tokenq.compare` from Python, on names and on what they stand for."""

import inspect
import json
from dataclasses import MISSING, fields, replace
from typing import get_type_hints

import datasets
import pandas
import pytest
import torch
from hand_made_runs import FIRST, SECOND, write_run
from models.tiny_ranker import by_hand, write_ranker
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

import tokenq
from tokenq.cli.main import main
from tokenq.comparison.config import CompareConfig
from tokenq.doctor.config import DoctorConfig
from tokenq.errors import UserError
from tokenq.evaluation.config import TASKS
from tokenq.files import write_json_lines
from tokenq.jobs.evaluate import JUDGES
from tokenq.jobs.run import Run
from tokenq.jobs.score import score
from tokenq.records.results import Candidate, Cost, SearchResult

pytestmark = pytest.mark.integration

PAIRS = [
    {"prompt": f"{n} + {n} =", "chosen": f" {2 * n}", "rejected": f" {n}!", "kind": "odd" if n % 2 else "even"}
    for n in range(1, 7)
]
CPU = {"device": "cpu", "resamples": 200}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models, rows in a file, and a run."""
    root = tmp_path_factory.mktemp("python")
    for name, family in (("policy", "llama"), ("reference", "gpt_neox")):
        tiny_model(family, layers=1).save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    write_json_lines(root / "rows.jsonl", PAIRS)
    shared = {"max_steps": 2, "batch_size": 3, "eval_size": 2, "keep_checkpoints": 0, "device": "cpu"}
    tokenq.train(root / "policy", PAIRS, root / "run", **shared)
    return root


def pair(place):
    return {"policy": place / "policy", "reference": place / "reference"}


@pytest.mark.parametrize(
    ("job", "config", "own"),
    [(tokenq.examine, DoctorConfig, {"tokenizer", "listener"}), (tokenq.compare, CompareConfig, {"listener"})],
)
def test_the_keywords_of_a_job_are_the_flags_of_its_command(job, config, own):
    signature = inspect.signature(job).parameters
    assert {*signature} == {one.name for one in fields(config)} | own
    for one in fields(config):
        known = one.default if one.default is not MISSING else one.default_factory()
        default = signature[one.name].default
        assert default is inspect.Parameter.empty or default == known or dict(default) == dict(known)


def test_every_task_has_what_judges_it():
    asked = {name: get_type_hints(judge)["config"] for name, judge in JUDGES.items()}
    assert asked == TASKS


def test_every_form_of_models_and_rows_gives_the_numbers_of_the_command(place, tmp_path):
    words = ["--policy", str(place / "policy"), "--reference", str(place / "reference"), "--subset", "kind"]
    words += ["--data", str(place / "rows.jsonl"), "--device", "cpu", "--resamples", "200"]
    assert main(["eval", "preference", *words, "--output", str(tmp_path / "e.json")]) == 0
    record = json.loads((tmp_path / "e.json").read_text())
    shared = {"subset": "kind", **CPU}
    policy, reference = (
        (AutoModelForCausalLM.from_pretrained(place / name, dtype=torch.float32), tiny_tokenizer())
        for name in ("policy", "reference")
    )
    found = {
        "names": tokenq.evaluate("preference", **pair(place), data=place / "rows.jsonl", **shared),
        "rows": tokenq.evaluate("preference", **pair(place), data=PAIRS, **shared),
        "frame": tokenq.evaluate("preference", **pair(place), data=pandas.DataFrame(PAIRS), **shared),
        "set": tokenq.evaluate("preference", **pair(place), data=datasets.Dataset.from_list(PAIRS), **shared),
        "loaded": tokenq.evaluate("preference", policy=policy, reference=reference, data=PAIRS, **shared),
        "reader": tokenq.evaluate("preference", policy=tokenq.load(**pair(place), device="cpu"), data=PAIRS, **shared),
    }
    for one in found.values():
        assert one.numbers["margin"]["mean"] == pytest.approx(record["numbers"]["margin"]["mean"], abs=1e-6)
        subsets = one.numbers["rewards"]["implicit_reward"]["rewardbench"].subsets
        assert {name: estimate.n for name, estimate in subsets.items()} == {"odd": 3, "even": 3}
    assert found["loaded"].identities["policy"]["path"].endswith("(loaded)")
    assert found["rows"].settings["data"] == ["rows in memory"]
    table = found["rows"].to_frame()
    assert len(table) == len(next(iter(found["rows"].tables.values())))
    assert found["rows"].html(tmp_path / "e.html").read_text().startswith("<!doctype html>")
    assert "<table" in found["rows"]._repr_html_()


def test_traces_of_a_scoring_are_evaluated_without_the_models(place):
    traces = score(**pair(place), data=PAIRS, device="cpu")
    again = tokenq.evaluate("preference", traces=traces, resamples=200)
    first = tokenq.evaluate("preference", **pair(place), data=PAIRS, **CPU)
    assert again.numbers["margin"] == first.numbers["margin"]


def test_a_run_is_evaluated_and_what_it_was_trained_on_is_said(place):
    said = []
    listener = type("Told", (), {"say": staticmethod(said.append), "__call__": lambda self, event: None})()
    run = tokenq.train(place / "policy", PAIRS[:3], place / "short", max_steps=1, device="cpu", keep_checkpoints=0)
    by_run = tokenq.evaluate("preference", run=run, data=PAIRS, listener=listener, **CPU)
    assert any("3 of 6 rows were trained on" in line for line in said)
    as_policy = tokenq.evaluate("preference", policy=run, data=PAIRS, **CPU)
    assert as_policy.numbers["margin"] == by_run.numbers["margin"]


def answer(number, text):
    candidate = Candidate(text, (1, 2), 0.0, (-1.0, -1.0), (-1.5, -1.0), True)
    return SearchResult(str(number), f"{number}?", "greedy", "likelihood", (candidate,), Cost(9, 3, 0, 1.0, 1))


def test_answers_in_memory_are_judged_as_those_of_files_are(tmp_path):
    """Both questions right; one of them: half as good."""
    answers = {"ours": [answer(1, "1"), answer(2, "2")], "theirs": [answer(1, "1"), answer(2, "3")]}
    for name, found in answers.items():
        write_json_lines(tmp_path / f"{name}.jsonl", [one.to_dict() for one in found])
    questions = [{"prompt": f"{n}?", "answer": f"#### {n}"} for n in (1, 2)]
    files = {name: tmp_path / f"{name}.jsonl" for name in answers}
    for results in (answers, files, {"ours": files["ours"], "theirs": answers["theirs"]}):
        numbers = tokenq.evaluate(
            "generation", results=results, prompts=questions, answer="last_number", resamples=50
        ).numbers
        assert numbers["ours"]["quality"].value == 1.0
        assert numbers["theirs"]["gain"].value == -0.5


def test_stored_preferences_in_memory():
    rows = [{"preference": said} for said in ("first", "second", "tie", 0.75)]
    numbers = tokenq.evaluate("win-rate", preferences=rows, resamples=50).numbers
    assert numbers["system"]["raw"].win_rate == pytest.approx((1 + 0 + 0.5 + 0.75) / 4)


def test_with_an_output_everything_is_written_and_nothing_of_others_is_replaced(place, tmp_path):
    output = tmp_path / "e.json"
    tokenq.evaluate("preference", **pair(place), data=PAIRS, output=output, html=tmp_path / "e.html", **CPU)
    assert json.loads(output.read_text())["made_by"] == "tokenq eval preference"
    assert (tmp_path / "e.traces.parquet").exists()
    with pytest.raises(UserError, match="tokenq doctor did not write it"):
        tokenq.examine(place / "run", depth="record", output=output)


@pytest.mark.parametrize(
    ("task", "settings", "says"),
    [
        ("preferense", {}, "Did you mean 'preference'"),
        ("preference", {"polizy": "p"}, "Did you mean 'policy'"),
        ("preference", {"folds": 3}, "Unknown setting of preference 'folds'"),
        ("preference", {}, "There is nothing to evaluate"),
        ("preference", {"policy": 3, "data": PAIRS}, "A int is no model"),
        ("preference", {"policy": "p", "data": {"prompt": "a"}}, "The data is one dictionary"),
        ("first-error", {"traces": "t.jsonl", "folds": 1}, "--folds is 1"),
        ("generation", {"results": "nowhere.jsonl", "task": "chess:1"}, "--task chess:1 is not known"),
    ],
)
def test_what_cannot_be_meant(task, settings, says):
    with pytest.raises(UserError, match=says):
        tokenq.evaluate(task, **settings)


def test_rows_without_a_column_are_named(place):
    with pytest.raises(UserError, match="the data, row 1 has no column 'sort'"):
        tokenq.evaluate("preference", **pair(place), data=PAIRS, subset="sort", **CPU)


def test_an_examination_finds_what_the_command_finds(place, tmp_path):
    assert main(["doctor", str(place / "run"), "--device", "cpu", "--output", str(tmp_path / "d.json")]) in (0, 1)
    record = json.loads((tmp_path / "d.json").read_text())
    found = tokenq.examine(Run(place / "run"), device="cpu")
    assert [one.to_dict() for one in found.findings] == record["findings"]
    assert found.healthy == all(one["severity"] == "note" for one in record["findings"])
    assert list(found.to_frame()["finding"]) == [one["name"] for one in record["findings"]]
    assert set(found.numbers) == set(found.to_frame()["finding"])
    assert found.html(tmp_path / "d.html").read_text().startswith("<!doctype html>")
    assert found.findings[0].name in found._repr_html_()


def test_models_and_rows_in_memory_are_examined(place):
    by_name = tokenq.examine(**pair(place), data=place / "rows.jsonl", device="cpu")
    loaded = tuple(
        (AutoModelForCausalLM.from_pretrained(place / name, dtype=torch.float32), tiny_tokenizer())
        for name in ("policy", "reference")
    )
    in_memory = tokenq.examine(policy=loaded[0], reference=loaded[1], data=PAIRS, device="cpu")
    assert [replace(one, evidence=()) for one in in_memory.findings] == [
        replace(one, evidence=()) for one in by_name.findings
    ]
    scored = [one.material.record.scored.values["rewards/margins"] for one in (in_memory, by_name)]
    assert scored[0] == pytest.approx(scored[1], abs=1e-6)


def test_a_comparison_is_written_where_it_is_asked_for(tmp_path):
    runs = [write_run(tmp_path / name, drifts) for name, drifts in (("a", FIRST), ("b", SECOND))]
    found = tokenq.compare(runs, output=tmp_path / "c.json", html=tmp_path / "c.html", resamples=50)
    assert json.loads((tmp_path / "c.json").read_text())["config"]["baseline"] is None
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")
    assert len(found.to_frame()) == 2


def rate(**settings):
    answers = {"ours": [answer(1, "1"), answer(2, "22")], "theirs": [answer(1, "2"), answer(2, "2")]}
    return tokenq.evaluate("win-rate", results=answers, resamples=50, **settings).numbers["ours over theirs"]["raw"]


def test_a_win_rate_by_true_answers():
    """The first answer is right, the second one wrong; the other system has it the other way round."""
    for more in ({}, {"judge": "verifier"}):
        questions = [{"prompt": f"{n}?", "answer": str(n)} for n in (1, 2)]
        raw = rate(prompts=questions, answer="last_number", **more)
        assert (raw.win_rate, raw.wins, raw.losses, raw.ties) == (0.5, 1, 1, 0)


def test_a_win_rate_by_the_implicit_rewards_of_a_run(place):
    """β Σ log π/π_ref of each text, as the run reads it, decides."""
    reader = tokenq.load(place / "run")
    scores = [
        reader.score(f"{n}?", text).totals.implicit_reward for n, text in ((1, "1"), (2, "22"), (1, "2"), (2, "2"))
    ]
    raw = rate(judge_run=place / "run")
    assert raw.wins == sum(own > other for own, other in zip(scores[:2], scores[2:], strict=True))
    assert raw.losses == sum(own < other for own, other in zip(scores[:2], scores[2:], strict=True))


def test_a_win_rate_by_a_pairwise_ranker(tmp_path):
    write_ranker(tmp_path)
    raw = rate(reward_model=tmp_path)
    texts = [("1?", "1", "2"), ("2?", "22", "2")]
    odds = [by_hand(tmp_path, *one) - by_hand(tmp_path, one[0], one[2], one[1]) for one in texts]
    assert (raw.wins, raw.losses) == (sum(one > 0 for one in odds), sum(one < 0 for one in odds))


def test_a_win_rate_by_a_person(tmp_path):
    """All comparisons are in the file; once it is filled in, the same command gives the rate, and it stays as it is."""
    from tokenq.judge.judging import Comparison
    from tokenq.judge.person import PersonJudge

    path = tmp_path / "c.jsonl"
    PersonJudge(path, print).ask([Comparison("", "1?", "1", "2"), Comparison("", "2?", "22", "2")])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    filled = [{**row, "preferred": "tie" if row["prompt"] == "2?" else "a" if row["a"] == "1" else "b"} for row in rows]
    write_json_lines(path, filled)
    raw = rate(judge="ask", answers=path)
    assert (raw.wins, raw.losses, raw.ties) == (1, 0, 1)
    assert [json.loads(line) for line in path.read_text().splitlines()] == filled


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"judge": "verifier"}, "needs true answers"),
        ({"judge": "verifier", "prompts": "p.jsonl"}, "--prompts needs --answer"),
        ({"judge": "implicit"}, "without a --judge-run"),
        ({"judge": "reward_model"}, "without a --reward-model"),
        ({"judge": "m", "reward_model": "rm"}, "There is no judge, or two"),
        ({"judge": "verifer"}, "Did you mean 'verifier'"),
        ({}, "There is no judge"),
    ],
)
def test_a_win_rate_without_a_judge_or_with_two(settings, says):
    with pytest.raises(UserError, match=says):
        rate(**settings)
