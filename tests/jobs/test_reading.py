"""`tokenq.load`, `jobs.score` and `tokenq.decode` from Python: the forms that they take, and what they leave behind."""

import inspect
import json
import random
from dataclasses import MISSING, fields

import datasets
import pandas
import pytest
import torch
from accelerate import Accelerator
from tiny import CHATML, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

import tokenq
from tokenq.cli.main import main
from tokenq.errors import UserError
from tokenq.evaluation.sweep_config import SweepConfig
from tokenq.jobs.inputs import Options
from tokenq.jobs.load import load
from tokenq.jobs.playing.play import play
from tokenq.jobs.score import score
from tokenq.jobs.search import search
from tokenq.jobs.sweep import sweep
from tokenq.models.load import add_lora
from tokenq.records.results import read_results
from tokenq.records.trace_files import read_traces
from tokenq.rollout.episodes.config import PlayConfig
from tokenq.score.config import ScoreConfig
from tokenq.search.config import SearchConfig

pytestmark = pytest.mark.integration

ROWS = [{"prompt": f"{n}?", "chosen": f" {n}.", "rejected": f" {n + 1}."} for n in range(3)]
PROMPTS = [{"prompt": f"{n}?", "answer": f"{n}"} for n in range(3)]
CPU = {"device": "cpu"}
FEW = {"method": "beam", "width": 2, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A policy and a reference in folders, rows in files, and a run."""
    root = tmp_path_factory.mktemp("reading")
    for name, family in (("policy", "llama"), ("reference", "gpt_neox"), ("chat", "llama")):
        tiny_model(family, layers=1).save_pretrained(root / name)
        tiny_tokenizer(chat_template=CHATML if name == "chat" else None).save_pretrained(root / name)
    for name, rows in (("rows", ROWS), ("prompts", PROMPTS)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenq.train(root / "policy", ROWS, root / "run", max_steps=2, batch_size=3, beta=0.3, keep_checkpoints=0, **CPU)
    return root


@pytest.mark.parametrize(
    ("job", "config", "own"),
    [
        (score, ScoreConfig, {"tokenizer", "listener"}),
        (search, SearchConfig, {"tokenizer", "listener", "judge", "interrupted"}),
        (play, PlayConfig, {"tokenizer", "listener"}),
        (sweep, SweepConfig, {"tokenizer", "listener", "quality", "interrupted"}),
    ],
)
def test_the_keywords_of_a_job_are_the_flags_of_its_command(job, config, own):
    signature = inspect.signature(job).parameters
    assert {*signature} == {one.name for one in fields(config)} | own
    for one in fields(config):
        known = one.default if one.default is not MISSING else one.default_factory()
        assert signature[one.name].default == known or dict(signature[one.name].default) == dict(known)


def test_the_keywords_of_load_are_its_options():
    signature = inspect.signature(load).parameters
    own = {"policy", "reference", "tokenizer", "reward_model", "reward_weights", "listener"}
    assert {*signature} == {one.name for one in fields(Options)} | own
    assert {
        one.name: signature[one.name].default
        for one in fields(Options)
        if signature[one.name].default != (one.default if one.default_factory is MISSING else one.default_factory())
    } == {"beta": None}  # of the run, else 0.1


def models(place):
    return [
        (AutoModelForCausalLM.from_pretrained(place / name, dtype=torch.float32), tiny_tokenizer())
        for name in ("policy", "reference")
    ]


def test_every_form_of_models_and_rows_is_read_to_the_same_numbers(place, tmp_path):
    words = ["--policy", str(place / "policy"), "--reference", str(place / "reference"), "--device", "cpu"]
    words += ["--data", str(place / "rows.jsonl"), "--output", str(tmp_path / "traces.jsonl")]
    assert main(["score", *words]) == 0
    by_command = [trace.totals for trace in read_traces(tmp_path / "traces.jsonl")]
    (policy, tokenizer), (reference, _) = models(place)
    pairs = {
        "folders": (load(place / "policy", str(place / "reference"), **CPU), place / "rows.jsonl"),
        "loaded": (load((policy, tokenizer), (reference, tokenizer)), ROWS),
        "apart": (load(policy, reference, tokenizer=tokenizer), datasets.Dataset.from_list(ROWS)),
        "mixed": (load((policy, tokenizer), place / "reference", **CPU), pandas.DataFrame(ROWS)),
    }
    for name, (reader, rows) in pairs.items():
        assert [trace.totals for trace in reader.score_all(rows)] == by_command, name
    in_memory = score((policy, tokenizer), ROWS, reference=(reference, tokenizer), device="cpu")
    assert [trace.totals for trace in in_memory] == by_command
    frame = in_memory.to_frame()
    assert list(frame["trace"].unique()) == [trace.id for trace in in_memory]
    assert frame.groupby("trace")["logp"].sum().tolist() == pytest.approx([one.logp for one in by_command])
    one = reader.score("0?", " 0.").to_frame()
    assert one["implicit_reward"].sum() == pytest.approx(by_command[0].implicit_reward, abs=1e-5)
    assert "<div" in in_memory._repr_html_()
    assert in_memory.html(tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_a_conversation_is_a_prompt(place):
    reader = load(place / "chat", place / "chat", **CPU)
    turns = [{"role": "user", "content": "0?"}]
    assert reader.score(turns, " 0.").totals == reader.score("0?", " 0.").totals
    longer = [*turns, {"role": "assistant", "content": "0"}, {"role": "user", "content": "Sure?"}]
    rows = [{"messages": [*longer, {"role": "assistant", "content": " 0."}]}]
    (by_row,) = reader.score_all(rows)
    turn = reader.score(longer, " 0.").tokens
    assert [token.logp for token in turn] == pytest.approx([t.logp for t in by_row.tokens if t.written][-len(turn) :])
    for prompt, response in ((["0?", "1?"], " 0."), ("0?", [" 0."])):
        with pytest.raises(UserError, match="A single response is a text behind one prompt"):
            reader.score(prompt, response)


def test_a_run_knows_its_reference_and_its_beta(place):
    run = tokenq.jobs.run.Run(place / "run")
    by_hand = load(place / "run" / "policy", place / "policy", beta=0.3, **CPU).score("1?", " 1.")
    for given in (run, place / "run", str(place / "run")):
        assert load(given, **CPU).score("1?", " 1.").totals == by_hand.totals
    found = [tokenq.decode(given, ["1?"], **FEW, **CPU) for given in (run, place / "run")]
    assert found[0][0].candidates == found[1][0].candidates
    assert found[0][0].candidates[0].ref_logps is not None


def test_what_is_loaded_searches_without_loading_again(place, monkeypatch):
    reader = load(place / "policy", place / "reference", **CPU)
    fresh = tokenq.decode(place / "policy", "0?", reference=str(place / "reference"), **FEW, **CPU)
    monkeypatch.setattr("tokenq.models.open.load_model", lambda *_: pytest.fail("loaded again"))
    found = reader.decode("0?", **FEW)
    assert found[0].candidates == fresh[0].candidates
    best = reader.decode(["0?", "1?"], method="best_of_n", n=3, max_new_tokens=4)
    rewards = [[sum(c.logps) - sum(c.ref_logps) for c in one.candidates] for one in best]
    complete = [[c.terminal for c in one.candidates] for one in best]
    assert all(r == sorted(r, reverse=True) for r, ended in zip(rewards, complete, strict=True) if len({*ended}) == 1)
    with pytest.raises(UserError, match="Unknown option of decode 'widht'"):
        reader.decode("0?", widht=3)


def test_an_adapter_in_memory_is_read_against_its_base(place):
    torch.manual_seed(0)
    adapted = add_lora(tiny_model("llama", layers=1), rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    reader = load((adapted, tiny_tokenizer()))
    own, base = (reader.score("0?", " 0.").totals, load(place / "policy", place / "policy", **CPU).score("0?", " 0."))
    assert own.ref_logp == pytest.approx(base.totals.logp, abs=1e-5)
    assert own.logp != pytest.approx(own.ref_logp, abs=1e-3)
    (found,) = reader.decode("0?", method="best_of_n", n=2, max_new_tokens=3)
    for one in found.candidates:
        again = load(place / "policy", place / "policy", **CPU)
        assert len(one.ref_logps) == len(one.token_ids)
        if one.terminal:
            assert sum(one.ref_logps) == pytest.approx(again.score("0?", one.text).totals.logp, abs=1e-4)
    (alone,) = tokenq.decode((adapted, tiny_tokenizer()), "0?", method="best_of_n", n=2, max_new_tokens=3)
    assert [one.token_ids for one in alone.candidates] == [one.token_ids for one in found.candidates]


def test_prompts_in_every_form(place, tmp_path):
    (policy, tokenizer), _ = models(place)
    by_file = tokenq.decode(place / "policy", place / "prompts.jsonl", **FEW, **CPU)
    forms = [
        PROMPTS,
        datasets.Dataset.from_list(PROMPTS),
        pandas.DataFrame(PROMPTS),
        [one["prompt"] for one in PROMPTS],
    ]
    for given in forms:
        found = tokenq.decode((policy, tokenizer), given, **FEW)
        assert [one.candidates for one in found] == [one.candidates for one in by_file]
        assert [one.id for one in found] == ["1", "2", "3"]
    turns = [[{"role": "user", "content": "0?"}], [{"role": "user", "content": "1?"}]]
    both = tokenq.decode(place / "chat", turns, **FEW, **CPU)
    one = tokenq.decode(place / "chat", turns[1], **FEW, **CPU)
    assert [c.token_ids for c in both[1].candidates] == [c.token_ids for c in one[0].candidates]
    assert len(both.to_frame()) == sum(len(found.candidates) for found in both)
    assert "0?" in both.html(tmp_path / "answers.html").read_text()
    assert "<table" in both._repr_html_()


def test_files_are_those_of_the_commands_to_the_bit(place, tmp_path):
    names = {"policy": place / "policy", "reference": place / "reference"}
    words = [f for name, path in names.items() for f in (f"--{name}", str(path))] + ["--device", "cpu"]
    score(**names, data=place / "rows.jsonl", output=tmp_path / "a.jsonl", **CPU)
    assert main(["score", *words, "--data", str(place / "rows.jsonl"), "--output", str(tmp_path / "b.jsonl")]) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    found = search(**names, prompts=place / "prompts.jsonl", output=tmp_path / "c.jsonl", method="greedy", **CPU)
    searched = ["search", *words, "--method", "greedy", "--prompts", str(place / "prompts.jsonl")]
    assert main([*searched, "--output", str(tmp_path / "d.jsonl")]) == 0
    assert [one.candidates for one in found] == [one.candidates for one in read_results(tmp_path / "d.jsonl")]
    keys = [json.loads((tmp_path / f"{name}.jsonl.provenance.json").read_text())["key"] for name in "abcd"]
    assert keys[0] == keys[1]
    assert keys[2] == keys[3]


def test_a_sweep_of_what_is_in_memory(place, tmp_path):
    (policy, tokenizer), (reference, _) = models(place)
    asked = {"settings": ["greedy", "best_of_n n=2"], "pool": 2, "max_new_tokens": 4, "device": "cpu"}
    swept = sweep(
        (policy, tokenizer),
        PROMPTS,
        tmp_path / "memory",
        reference=(reference, tokenizer),
        quality=lambda result, candidate: float(len(candidate.token_ids)),
        **asked,
    )
    assert [one.setting for one in swept.points] == ["greedy", "best_of_n n=2"]
    assert swept.to_frame()["length"].tolist() == pytest.approx(swept.to_frame()["quality"].tolist())
    words = ["--policy", str(place / "policy"), "--reference", str(place / "reference"), "--answer", "last_number"]
    words += ["--prompts", str(place / "prompts.jsonl"), "--gold", "answer", "--output", str(tmp_path / "files")]
    words += ["--pool", "2", "--max-new-tokens", "4", "--device", "cpu", "--settings", *asked["settings"]]
    assert main(["sweep", *words]) == 0
    for name in ("pool", "greedy"):
        one, two = (list(read_results(tmp_path / way / "results" / f"{name}.jsonl")) for way in ("memory", "files"))
        assert [[c.token_ids for c in result.candidates] for result in one] == [
            [c.token_ids for c in result.candidates] for result in two
        ]


def test_the_program_around_stays_as_it_was(place, tmp_path, capfd):
    host = Accelerator(cpu=True)
    state = dict(host.state.__dict__)
    (policy, tokenizer), _ = models(place)
    capfd.readouterr()
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(1)
    random.seed(5)
    torch.manual_seed(5)
    reader = load((policy, tokenizer), (policy, tokenizer))
    reader.score("0?", " 0.")
    reader.decode("0?", method="sample", n=2, max_new_tokens=3)
    tokenq.decode((policy, tokenizer), PROMPTS, method="sample", n=2, max_new_tokens=3)
    score((policy, tokenizer), ROWS, tmp_path / "a.jsonl", reference=(policy, tokenizer))
    assert (random.random(), torch.rand(1)) == expected
    assert dict(host.state.__dict__) == state
    assert all(weight.requires_grad for weight in policy.parameters())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda place: load(tiny_model("llama", layers=1)), "A loaded model is given without its tokenizer"),
        (lambda place: load(place / "policy", **CPU), "needs a --reference"),
        (lambda place: load(), "There is nothing to load"),
        (lambda place: load(7), "A int is no model"),
        (lambda place: load(place / "policy", tokenizer=tiny_tokenizer()), "A tokenizer is given for a model that is"),
        (lambda place: load((tiny_model("llama", layers=1), tiny_tokenizer())), "needs a --reference"),
        (lambda place: score(place / "policy", [{"a": "b"}], reference=place / "policy", **CPU), "no known format"),
        (lambda place: score(place / "policy", {"a": "b"}, reference=place / "policy"), "The data is one dictionary"),
        (lambda place: score(place / "policy", [1], reference=place / "policy"), "A int is no row of data"),
        (lambda place: score(data=ROWS), "Give either --policy or --run"),
        (lambda place: search(place / "policy", [{"a": "b"}], **CPU), "has no prompt"),
        (lambda place: tokenq.decode(place / "policy", datasets.Dataset.from_list([{"a": "b"}]), **CPU), "no prompt"),
        (lambda place: search(place / "policy", output="x.txt", prompt="a"), "the form is not known"),
    ],
)
def test_what_is_refused(call, said, place):
    with pytest.raises(UserError, match=said):
        call(place)


def test_two_jobs_do_not_write_one_file(place, tmp_path):
    from tokenq.locks import hold_file

    path, names = tmp_path / "a.jsonl", {"policy": place / "policy", "reference": place / "reference"}
    with hold_file(path), pytest.raises(UserError, match=r"a\.jsonl"):
        score(**names, data=ROWS, output=path, **CPU)
    path.write_text("mine")
    with pytest.raises(UserError, match="is there already, and tokenq score did not write it"):
        score(**names, data=ROWS, output=path, **CPU)
    assert path.read_text() == "mine"


def test_results_by_a_function_are_not_taken_for_anothers(place, tmp_path):
    asked = {"method": "best_of_n", "ranking": "value", "n": 4, "max_new_tokens": 4, "seed": 1, **CPU}
    firsts = []
    for sign in (1, -1):
        found = search(
            place / "policy",
            PROMPTS,
            tmp_path / "a.jsonl",
            judge=lambda _, texts, s=sign: [s * len(t) for t in texts],
            **asked,
        )
        firsts.append([[one.score for one in result.candidates] for result in found])
    assert firsts[0] != firsts[1]
