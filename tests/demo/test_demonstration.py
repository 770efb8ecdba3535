"""`tokenq demo` from the first post to the page, with a handful of posts; and what it refuses."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.demo import demonstration, posts, steps
from tokenq.demo.config import DemoConfig
from tokenq.demo.gold import GOLD, judge
from tokenq.demo.processes import in_turn
from tokenq.demo.settings import SHORT, DemoSettings, SftStage
from tokenq.demo.tldr import CLEAN, Difficulty
from tokenq.errors import UserError
from tokenq.jobs import sweep
from tokenq.records.results import read_results
from tokenq.records.trace_files import read_traces
from tokenq.report import figure_page

pytestmark = pytest.mark.integration

FEW = replace(
    DemoSettings(),
    difficulty=Difficulty(facts=(2, 3), asides=(2, 2), fillers=(0, 0)),
    sft_stages=(SftStage(40, SHORT, CLEAN, "cosine"),),
    pair_posts=16,
    held_out_posts=6,
    test_posts=3,
    corrupted_posts=5,
    dpo_batch_size=8,
)


@contextlib.contextmanager
def one_by_one(*_):
    """Do in this process, where things can be replaced, what is done in others."""
    yield in_turn


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return the folder of a demonstration with few posts, seed 3."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demonstration, "side_by_side", one_by_one)
        patch.setattr(posts.DemoSettings, "quick", classmethod(lambda _, seed: replace(FEW, seed=seed)))
        patch.setattr(posts, "quick_searches", lambda: posts.settings((2,), (2, 4), (2,)))
        patch.setattr(sweep, "save_sweep_figure", lambda *_: None)  # drawn in its own tests
        assert main(["demo", "--quick", "--seed", "3", "--output", str(folder)]) == 0
    return folder


def test_the_report_has_three_figures_with_their_numbers(place):
    numbers = json.loads((place / "report" / "numbers.json").read_text())
    assert list(numbers["sections"]) == ["credit", "search", "likelihood"]
    assert all(section["reading"] and section["exact"]["rows"] for section in numbers["sections"].values())
    assert numbers["config"]["seed"] == 3
    assert len(numbers["seconds"]) == 3
    assert min(numbers["seconds"].values()) > 0
    page = (place / "report" / "index.html").read_text()
    assert all(section["title"] in page for section in numbers["sections"].values())
    made = {path.name for path in (place / "report").iterdir()}
    assert {"credit-1.svg", "search-1.png", "likelihood-2.svg", "corrupted.html", "index.html"} <= made


def test_pairs_are_two_samples_of_the_policy_that_learnt_from_demonstrations(place):
    halves = [list(read_results(place / "samples" / f"pairs{half}.jsonl")) for half in (1, 2)]
    assert [len(half) for half in halves] == [FEW.pair_posts // 2] * 2
    samples = {one.prompt: {c.text for c in one.candidates} for half in halves for one in half}
    rows = [json.loads(line) for line in (place / "data" / "pairs.jsonl").read_text().splitlines()]
    assert rows
    assert all({row["chosen"], row["rejected"]} == samples[row["prompt"]] for row in rows)
    longer = [json.loads(line) for line in (place / "data" / "length_pairs.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in longer] == [row["prompt"] for row in rows]
    test = {json.loads(line)["prompt"] for line in (place / "data" / "test.jsonl").read_text().splitlines()}
    assert not test & {row["prompt"] for row in rows}


def test_the_rewards_of_the_summary_are_those_of_the_files(place):
    posts = {str(i): post for i, post in enumerate(replace(FEW, seed=3).for_test(), 1)}
    table = json.loads((place / "report" / "numbers.json").read_text())["summary"][0]
    by_name = {row[0]: row[1:] for row in table["rows"]}
    for name, path in (("DPO, greedy", "dpo/results/greedy.jsonl"), ("SFT, greedy", "sft_greedy.jsonl")):
        found = list(read_results(place / "search" / path))
        rewards = [GOLD(posts[one.id], one.candidates[0].text) for one in found]
        assert by_name[name][0]["value"] == pytest.approx(sum(rewards) / len(rewards))


def test_labelled_errors_are_the_wrong_facts_of_the_samples(place):
    posts = {post.prompt: post for post in replace(FEW, seed=3).for_test()}
    for kind in ("reference_errors", "policy_errors"):
        path = place / "data" / f"{kind}.jsonl"
        for row in map(json.loads, path.read_text().splitlines() if path.exists() else []):
            wrong = judge(posts[row["prompt"]], row["completion"]).wrong
            assert row["errors"] == [list(fact.span) for fact in wrong] != []
    corrupted = [json.loads(line) for line in (place / "data" / "corrupted.jsonl").read_text().splitlines()]
    traces = list(read_traces(place / "read" / "corrupted.traces.jsonl"))
    assert [trace.response for trace in traces] == [row["completion"] for row in corrupted]
    assert len(traces) == 5


def test_another_run_does_not_touch_the_first(place, tmp_path, capsys):
    before = (place / "report" / "numbers.json").read_bytes()
    assert main(["demo", "--output", str(place)]) == 2
    assert "seed was 3, now 0" in capsys.readouterr().err
    assert (place / "report" / "numbers.json").read_bytes() == before
    (tmp_path / "notes").write_text("mine")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "demo.json").write_text("[]")
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo" / "config.yaml").write_text("")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "was not written by tokenq demo" in capsys.readouterr().err


def test_a_demonstration_that_was_stopped_goes_on(place, tmp_path, monkeypatch, capsys):
    """The training that was under way begins again, and so does a search; what had ended is not done again."""
    folder, whole = place, tmp_path / "whole"
    shutil.copytree(place, whole)
    for name in ("report", "length_dpo", "search/length_dpo"):
        shutil.rmtree(folder / name)
    shutil.rmtree(folder / "dpo" / "policy")
    trained = []
    monkeypatch.setattr(demonstration, "side_by_side", one_by_one)
    monkeypatch.setattr(figure_page, "installed", lambda: False)  # the numbers are compared, not their pictures
    monkeypatch.setattr(sweep, "save_sweep_figure", lambda *_: None)
    real = steps.train
    monkeypatch.setattr(steps, "train", lambda output, **how: trained.append(output.name) or real(output=output, **how))
    monkeypatch.setattr(posts.DemoSettings, "quick", classmethod(lambda _, seed: replace(FEW, seed=seed)))
    monkeypatch.setattr(posts, "quick_searches", lambda: posts.settings((2,), (2, 4), (2,)))
    assert main(["demo", "--quick", "--seed", "3", "--output", str(folder)]) == 0
    assert sorted(trained) == ["dpo", "length_dpo"]
    assert "going on with the demonstration" in capsys.readouterr().err
    one, two = (json.loads((root / "report" / "numbers.json").read_text()) for root in (whole, folder))
    assert without_cost(two["sections"]) == without_cost(one["sections"])
    weights = [(root / "dpo" / "policy" / "model.safetensors").read_bytes() for root in (whole, folder)]
    assert weights[0] == weights[1]


def without_cost(value):
    if isinstance(value, dict):
        return {key: without_cost(item) for key, item in value.items() if "second" not in key}
    return [without_cost(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Return the folder of a demonstration with a tiny model and preferences of one's own."""
    root = tmp_path_factory.mktemp("own")
    tiny_model("llama", layers=1, vocab_size=320).save_pretrained(root / "model")
    tiny_tokenizer("bpe").save_pretrained(root / "model")
    rows = [
        {"ask": f"Q{n}: ", "good": f"the {n} is", "bad": f"no {n + 1}", "where": [[3, 3 + len(str(n + 1))]]}
        for n in range(14)
    ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["demo", "--model", str(root / "model"), "--data", str(root / "pairs.jsonl"), "--errors", "where"]
    words += ["--columns", "prompt=ask", "chosen=good", "rejected=bad", "--held-out", "5", "--prompts", "2"]
    words += ["--batch-size", "4", "--lora-rank", "2", "--max-new-tokens", "6", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure_page, "installed", lambda: False)  # the numbers are looked at, not their pictures
        assert main([*words, "--output", str(root / "run")]) == 0
    return root / "run"


def test_the_same_figures_for_a_model_of_ones_own(own):
    numbers = json.loads((own / "report" / "numbers.json").read_text())
    credit, search = numbers["sections"]["credit"], numbers["sections"]["search"]
    assert search["verdict"] == "not tested"
    assert [table["title"] for table in credit["tables"]] == ["labelled errors"]
    assert len(numbers["summary"]) == 2
    held_out = [json.loads(line) for line in (own / "data" / "held_out.jsonl").read_text().splitlines()]
    trained = [json.loads(line) for line in (own / "data" / "pairs.jsonl").read_text().splitlines()]
    assert (len(held_out), len(trained)) == (5, 9)
    assert not {row["prompt"] for row in held_out} & {row["prompt"] for row in trained}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "m"}, "--model needs --data"),
        ({"data": ["d"]}, "--data needs --model"),
        ({"lora_rank": 4}, "--lora-rank has no effect without --model"),
        ({"model": "m", "data": ["d"], "quick": True}, "--quick is for the tiny world"),
        ({"model": "m", "data": ["d"], "prompts": 0}, "--prompts is 0"),
        ({"model": "m", "data": ["d"], "prompts": 30, "held_out": 20}, "there are fewer"),
    ],
)
def test_flags_that_cannot_be_meant_together(given, said):
    with pytest.raises(UserError, match=said):
        DemoConfig(**given).check()


def test_a_column_that_is_not_there_and_too_few_pairs(tmp_path, capsys):
    rows = [json.dumps({"prompt": name, "chosen": "b", "rejected": "c"}) for name in "xyz"]
    (tmp_path / "d.jsonl").write_text("\n".join(rows))
    words = ["demo", "--model", "m", "--data", str(tmp_path / "d.jsonl"), "--output", str(tmp_path / "out")]
    assert main([*words, "--held-out", "1", "--prompts", "1", "--errors", "where"]) == 2
    assert "has no column 'where'" in capsys.readouterr().err
    assert main(words) == 2
    assert "too few to hold 100 of them out" in capsys.readouterr().err
