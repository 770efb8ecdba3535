"""Judges of online runs: a person, an endpoint that dies, numbers that say nothing; none of them loses anything."""

import json
import os
import re
import signal
import sys
import threading
import time
from itertools import combinations

import pytest
from evaluation.stub_endpoint import StubEndpoint, failed, said
from models.tiny_ranker import by_hand, write_ranker
from tiny import tiny_model, tiny_tokenizer
from training.small_runs import lines_of

import tokenq.judge.person as person
from tokenq.cli.main import main
from tokenq.errors import UserError
from tokenq.jobs.evaluation.judges import JUDGES
from tokenq.judge.function import called, load_function
from tokenq.judge.kinds import Pointwise

pytestmark = pytest.mark.integration

ROWS = [{"prompt": f"What is {n} and {n}?", "answer": "What"} for n in range(4)]
SHORT = ["--rounds", "2", "--samples", "3", "--max-new-tokens", "6", "--learning-rate", "1e-2", "--device", "cpu"]
SHORT += ["--batch-size", "2", "--prompts-per-batch", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("judges")
    tiny_model("llama", layers=1, seed=0, vocab_size=32).save_pretrained(root / "model")
    tiny_tokenizer("words", texts=("What is and ? 0 1 2 3 4 5 6 7 8 9 .",)).save_pretrained(root / "model")
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return root


def words(place, output, *more):
    named = ["--model", place / "model", "--prompts", place / "prompts.jsonl", "--output", output]
    return [str(word) for word in ("online", *named, *SHORT, *more)]


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_prompt(run, number):
    found = {}
    for line in rows_of(run / "rounds" / f"{number:04d}" / "rollouts.jsonl"):
        found.setdefault(line["id"], []).append(line)
    return list(found.values())


def shares(lengths):
    """The share of the other responses that are shorter, by hand; the same length is a tie."""
    return [
        sum(
            1.0 if own > other else 0.5 if own == other else 0.0 for place, other in enumerate(lengths) if place != mine
        )
        / (len(lengths) - 1)
        for mine, own in enumerate(lengths)
    ]


def longer(a, b):
    return "tie" if len(a) == len(b) else "a" if len(a) > len(b) else "b"


class Reader(threading.Thread):
    """A person who prefers the longer response: fills in each file of comparisons as it comes, and may do more."""

    def __init__(self, run, then=lambda path, rows: None):
        super().__init__(daemon=True)
        self.run_folder, self.then, self.over = run, then, threading.Event()

    def run(self):
        while not self.over.wait(0.02):
            for path in sorted((self.run_folder / "rounds").glob("*/comparisons.jsonl")):
                rows = rows_of(path)
                if any(row["preferred"] is None for row in rows):
                    for row in rows:
                        row["preferred"] = longer(row["a"], row["b"])
                    self.then(path, rows)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def put(path, rows):
    path.with_suffix(".new").write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(path.with_suffix(".new"), path)  # as an editor saves


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(person, "PAUSE", 0.02)


@pytest.mark.usefixtures("quick")
def test_a_person_judges_and_ctrl_c_asks_nothing_twice(place, tmp_path, capsys):
    run, asked = tmp_path / "run", words(place, tmp_path / "run", "--judge", "ask")

    def half(path, rows):  # the first two answers, and then Ctrl-C
        put(path, [row if place < 2 else {**row, "preferred": None} for place, row in enumerate(rows)])
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    with Reader(run, half):
        assert main(asked) == 128 + signal.SIGINT
    place_1 = run / "rounds" / "0001"
    assert f"comparisons wait in {place_1 / 'comparisons.jsonl'}" in capsys.readouterr().err
    assert sum(row["preferred"] is not None for row in rows_of(place_1 / "comparisons.jsonl")) == 2
    before = [{**row, "preferred": None} for row in rows_of(place_1 / "comparisons.jsonl")]
    with Reader(run, put):
        assert main([*asked, "--resume"]) == 0
    assert [{**row, "preferred": None} for row in rows_of(place_1 / "comparisons.jsonl")] == before
    for number in (1, 2):
        for some in by_prompt(run, number):
            assert [one["reward"] for one in some] == pytest.approx(shares([len(one["response"]) for one in some]))
            assert {one["judge"] for one in some} == {"ask"}
    texts = [
        {frozenset(pair) for pair in combinations([one["response"] for one in some], 2)} for some in by_prompt(run, 1)
    ]
    assert len(before) == sum(len(pair) == 2 for some in texts for pair in some)


def test_an_endpoint_that_dies_amid_a_round_keeps_every_answer(place, tmp_path, capsys):
    """It dies after nine answers; the same command goes on, and no question is asked twice."""
    heard = []

    def answered(number, question):
        code = re.findall("END ([A-Z0-9]+)", question)[-1]
        a, b = re.findall(rf"RESPONSE [AB] {code} ===\n(.*?)\n\n===", question, re.DOTALL)
        return said(f"Verdict {code}: {longer(a, b).replace('a', 'A').replace('b', 'B')}")

    def dying(number, question):
        if len(heard) == 9:
            return failed(401, "the key has expired")
        heard.append(question)
        return answered(number, question)

    endpoint = StubEndpoint(dying)
    asked = words(place, tmp_path / "run", "--judge", "m", "--base-url", endpoint.url)
    try:
        assert main(asked) == 2
        assert "the key has expired" in capsys.readouterr().err
        (kept,) = (tmp_path / "run" / "rounds").glob("answers-*.jsonl")
        assert len(rows_of(kept)) == len(heard) == 9
        endpoint.behave = lambda number, question: (heard.append(question), answered(number, question))[1]
        assert main(asked) == 0
    finally:
        endpoint.close()
    assert len(heard) == len({*heard}) == len(rows_of(kept))
    for some in by_prompt(tmp_path / "run", 1):
        assert [one["reward"] for one in some] == pytest.approx(shares([len(one["response"]) for one in some]))
        assert {one["judge"] for one in some} == {"m"}


def test_a_judge_that_fails_keeps_what_it_has_judged(place, tmp_path, monkeypatch, capsys):
    heard = []

    def failing(number, some):
        if len(heard) == 1:
            heard.append(None)
            raise UserError("The judge is away.", "Wait.")
        heard.append([(one.id, one.number) for one in some])
        return [float(len(one.token_ids)) for one in some]

    monkeypatch.setitem(JUDGES, "reward_model", lambda bench: Pointwise(failing))
    asked = words(place, tmp_path / "run", "--reward-model", place / "model", "--rounds", "1")
    assert main(asked) == 2
    assert "The judge is away" in capsys.readouterr().err
    assert main(asked) == 0
    told = [each for some in heard if some for each in some]
    assert sorted(told) == sorted({*told})
    assert len(told) == 12


NOTHING = [
    (float("nan"), 1.0, None, "no number to any response"),
    (3.0, 0.0, 1.0, "all responses to a prompt one worth"),
]


@pytest.mark.parametrize(("value", "unusable", "ties", "said_of"), NOTHING)
def test_numbers_that_say_nothing_are_said_and_counted(
    place, tmp_path, monkeypatch, capsys, value, unusable, ties, said_of
):
    """NaN for all, or one value for all: no pair, on which the run goes on or stops as it is told."""
    monkeypatch.setitem(JUDGES, "reward_model", lambda bench: Pointwise(lambda number, some: [value] * len(some)))
    asked = words(place, tmp_path / "run", "--reward-model", place / "model", "--rounds", "1")
    assert main(asked) == 0
    assert f"round 1 gives no pair: the judge gave {said_of}" in capsys.readouterr().err
    numbers = lines_of(tmp_path / "run")[0]
    assert (numbers["round/unusable"], numbers["round/pairs"], numbers["round/without_signal"]) == (unusable, 0, 1)
    assert numbers.get("round/ties") == ties
    stops = words(
        place, tmp_path / "stops", "--reward-model", place / "model", "--rounds", "1", "--on-empty-round", "stop"
    )
    assert main(stops) == 2
    assert "Round 1 gives no pair" in capsys.readouterr().err


def budgeted(place, tmp_path, monkeypatch, budget):
    """Every response is worth the sum of its token ids: one judgement a response."""
    judge = Pointwise(lambda number, some: [float(sum(one.token_ids)) for one in some])
    monkeypatch.setitem(JUDGES, "reward_model", lambda bench: judge)
    return words(place, tmp_path / "run", "--reward-model", place / "model", "--rounds", "3", "--label-budget", budget)


def test_a_budget_of_labels_ends_the_run(place, tmp_path, monkeypatch, capsys):
    """Three rounds of four prompts × three responses are 36; twenty pay for a round and two prompts of the next."""
    asked = budgeted(place, tmp_path, monkeypatch, 20)
    assert main(asked) == 0
    said_of = capsys.readouterr().err
    assert "2 rounds of 4 prompts (the last of 2)" in said_of
    assert "the label budget ends the run after round 2 of 3" in said_of
    run = tmp_path / "run"
    assert [len(by_prompt(run, number)) for number in (1, 2)] == [4, 2]
    assert not (run / "rounds" / "0003").exists()
    numbers = [line for line in lines_of(run) if "round" in line]
    assert [(line["round/judgements"], line["round/judgements_so_far"]) for line in numbers] == [(12, 12), (6, 18)]
    before = (run / "policy" / "model.safetensors").read_bytes()
    assert main([*asked, "--resume"]) == 0
    assert (run / "policy" / "model.safetensors").read_bytes() == before
    assert main(budgeted(place, tmp_path / "less", monkeypatch, 2)) == 2
    assert "the responses to one prompt take up to 3 judgements" in capsys.readouterr().err


def test_labels_that_are_flipped(place, tmp_path, monkeypatch):
    """All of them, none, or half by a seed; whatever is flipped stands in the pair with its scores as they were."""
    flipped = {}
    for share in ("0", "0.5", "1"):
        asked = budgeted(place, tmp_path / share, monkeypatch, 36)
        assert main([*asked, "--flip-labels", share, "--pairs", "all"]) == 0
        run = tmp_path / share / "run"
        pairs = rows_of(run / "rounds" / "0001" / "pairs.jsonl")
        turned = [row["score_chosen"] < row["score_rejected"] for row in pairs]
        assert lines_of(run)[0].get("round/flipped", 0) == sum(turned)
        flipped[share] = turned
    assert not any(flipped["0"])
    assert all(flipped["1"])
    assert 0 < sum(flipped["0.5"]) < len(flipped["0.5"])


def test_a_function_of_the_users_judges_prompts_and_responses(place, tmp_path, capsys):
    """A reward by hand: three for each letter of the response, one for each of the prompt."""
    (tmp_path / "rewards.py").write_text(
        "def letters(prompts, responses):\n"
        "    return [len(p) + 3 * len(r) for p, r in zip(prompts, responses)]\n"
        "def broken(prompts, responses):\n"
        "    return 1 / 0\n"
    )
    assert main(words(place, tmp_path / "run", "--judge", f"{tmp_path}/rewards.py:letters")) == 0
    rows = [row for some in by_prompt(tmp_path / "run", 1) for row in some]
    assert [row["reward"] for row in rows] == [len(row["prompt"]) + 3 * len(row["response"]) for row in rows]
    capsys.readouterr()
    for name, message in (
        ("rewards.py:broken", r"rewards.py:broken failed on 6 responses: ZeroDivisionError"),
        ("rewards.py:lettres", r"Unknown function in .*rewards.py 'lettres'.\n.*Did you mean 'letters'"),
        ("reward.py:letters", r"there is no file .*reward.py"),
    ):
        assert main(words(place, tmp_path / name, "--judge", f"{tmp_path}/{name}")) == 2
        assert re.search(message, capsys.readouterr().err)


def test_a_function_stands_in_a_file_of_any_name(tmp_path):
    """Two files of one name are two functions, and a file of a library's name hides no library."""
    import json as known

    for folder, worth in (("one", 1), ("two", 2)):
        path = tmp_path / folder / "json.py"
        path.parent.mkdir()
        path.write_text(
            "from dataclasses import dataclass\n@dataclass\nclass Worth:\n    value: 'float'\n"
            f"def reward(prompts, responses):\n    return [Worth({worth}).value for _ in responses]\n"
        )
    found = [called(load_function(f"{tmp_path}/{one}/json.py:reward"), one, ["q"], ["r"]) for one in ("one", "two")]
    assert found == [[1.0], [2.0]]
    assert sys.modules["json"] is known


def test_optimism_without_a_minimum_is_warned_of(place, tmp_path, monkeypatch, capsys):
    """XPO's response of the reference wins or loses the only pair of its prompt: beyond the limit where it loses."""
    for alpha, every in (("1e-5", False), ("10", True), ("0", None)):
        asked = budgeted(place, tmp_path / alpha, monkeypatch, 36)
        more = ["--method", "xpo", "--samples", "2", "--loss-options", f"alpha={alpha}", "--rounds", "1"]
        assert main([*asked, *more]) == 0
        run, said_of = tmp_path / alpha / "run", capsys.readouterr().err
        (numbers,) = [line for line in lines_of(run) if "round" in line]
        pairs = rows_of(run / "rounds" / "0001" / "pairs.jsonl")
        if every is None:
            assert "round/beyond_optimism_limit" not in numbers
            continue
        lost = [every or row["chosen_ids"] != row["calibration_ids"] for row in pairs]
        assert numbers["round/beyond_optimism_limit"] == pytest.approx(sum(lost) / len(lost))
        assert (f"in {sum(lost)} of {len(lost)} prompts" in said_of) == (sum(lost) > 0)


def test_a_pairwise_ranker_judges_rounds(place, tmp_path, capsys):
    """Each response is worth the share of the others that it beats by log-odds, both orders averaged; by hand."""
    write_ranker(tmp_path)
    asked = words(place, tmp_path / "run", "--reward-model", tmp_path, "--rounds", "1", "--label-budget", 11)
    assert main(asked) == 0
    prompts = by_prompt(tmp_path / "run", 1)
    assert len(prompts) == 3  # of three comparisons each
    for some in prompts:
        for own in some:
            shares_won = []
            for other in (one for one in some if one is not own):
                texts = own["prompt"], own["response"], other["response"]
                odds = by_hand(tmp_path, *texts) - by_hand(tmp_path, texts[0], texts[2], texts[1])
                shares_won.append(0.5 if texts[1] == texts[2] else float(odds > 0))
            assert own["reward"] == pytest.approx(sum(shares_won) / 2)
            assert own["judge"] == "reward_model"
    assert main([*words(place, tmp_path / "other", "--reward-model", tmp_path), "--reward-weights", "helpful=1"]) == 2
    assert "it has no outputs" in capsys.readouterr().err
