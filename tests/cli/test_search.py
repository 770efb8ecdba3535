"""`tokenq search` as a user types it, on tiny models, against each model's own forward and transformers' generate."""

import json
import os
import signal

import pytest
import torch
from tiny import CHATML, tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, GenerationConfig, LlamaConfig

import tokenq
from tokenq.cli.main import main
from tokenq.cli.search import interruptible
from tokenq.errors import UserError
from tokenq.frames import Frames
from tokenq.listener import SILENCE
from tokenq.records.results import SearchResult, read_results
from tokenq.search.config import USED, SearchConfig
from tokenq.search.methods import METHODS

PROMPTS = [
    {"prompt": "The sky is"},
    {"id": "sum", "prompt": "Two and two make"},
    {"question": "Once more?", "answer": "7"},
    {"messages": [{"role": "user", "content": "ignored"}], "prompt": "Go on:"},
]
EOS = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A policy, a reference, a model of other tokens, one with a chat template, a reward model, and prompts."""
    root = tmp_path_factory.mktemp("search")
    for name, family, kind in (
        ("policy", "llama", "bpe"),
        ("reference", "gpt_neox", "bpe"),
        ("small", "gemma3", "bpe"),
        ("other", "qwen3", "bytes"),
        ("chat", "llama", "bpe"),
    ):
        tiny_model(family, layers=1, vocab_size=320).save_pretrained(root / name)
        tokenizer = tiny_tokenizer(kind)
        if name == "chat":
            tokenizer.chat_template = CHATML
        tokenizer.save_pretrained(root / name)
    config = LlamaConfig(
        vocab_size=320, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=1
    )
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(root / "judge")
    tiny_tokenizer("bpe").save_pretrained(root / "judge")
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return root


def words(place, tmp_path, *more, policy="policy", output="out.jsonl"):
    given = ["search", "--policy", str(place / policy), "--prompts", str(place / "prompts.jsonl")]
    given += ["--output", str(tmp_path / output), "--device", "cpu"]
    return [*given, *([] if "--max-new-tokens" in more else ["--max-new-tokens", "8"]), *more]


def results(tmp_path, name="out.jsonl"):
    return list(read_results(tmp_path / name))


@torch.no_grad()
def own_logps(model, prompt, tokens):
    logps = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0].double().log_softmax(-1)
    return [float(logps[len(prompt) - 1 + i, token]) for i, token in enumerate(tokens)]


def encoded(text):
    return tiny_tokenizer("bpe")(text)["input_ids"]


@pytest.mark.integration
def test_a_line_a_prompt_with_what_each_model_says(place, tmp_path, capsys):
    reference = str(place / "reference")
    assert main(words(place, tmp_path, "--width", "3", "--reference", reference)) == 0
    found = results(tmp_path)
    assert [one.id for one in found] == ["1", "sum", "3", "4"]
    assert [one.prompt for one in found] == ["The sky is", "Two and two make", "Once more?\n", "Go on:"]
    models = [tiny_model(family, layers=1, vocab_size=320) for family in ("llama", "gpt_neox")]
    for one in found:
        prompt = encoded(one.prompt)
        assert len(one.candidates) == 3
        for candidate in one.candidates:
            own, other = (own_logps(model, prompt, candidate.token_ids) for model in models)
            assert candidate.logps == pytest.approx(own, abs=1e-4)
            assert candidate.ref_logps == pytest.approx(other, abs=1e-4)
            assert candidate.score == pytest.approx(sum(own) / len(own), abs=1e-4)
            assert candidate.terminal == (candidate.token_ids[-1] == EOS)
            ids = [*prompt, *candidate.token_ids]
            assert one.prompt + candidate.text == tiny_tokenizer("bpe").decode(ids, skip_special_tokens=True)
            assert "".join(candidate.pieces) == candidate.text
            assert len(candidate.pieces) == len(candidate.token_ids)
        written = [len(candidate.token_ids) for candidate in one.candidates]
        assert one.cost.reference_tokens == len(prompt) + sum(written) - 3
        assert one.cost.policy_tokens <= len(prompt) + 3 * 7
        assert one.cost.peak_memory > 1e7
    assert "4 prompts" in capsys.readouterr().err
    record = json.loads((tmp_path / "out.jsonl.provenance.json").read_text())
    assert record["reference"]["architecture"] == "GPTNeoXForCausalLM"
    assert record["config"]["method"] == "beam"


def test_beams_are_those_of_transformers(place, tmp_path):
    assert main(words(place, tmp_path, "--width", "4", "--length-penalty", "0")) == 0
    model = tiny_model("llama", layers=1, vocab_size=320)
    for one in results(tmp_path):
        prompt = encoded(one.prompt)
        config = GenerationConfig(
            eos_token_id=EOS,
            pad_token_id=0,
            num_beams=4,
            num_return_sequences=4,
            max_new_tokens=8,
            length_penalty=0.0,
            do_sample=False,
        )
        rows = model.generate(torch.tensor([prompt]), generation_config=config)[:, len(prompt) :].tolist()
        rows = [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]
        assert [list(candidate.token_ids) for candidate in one.candidates] == rows


@pytest.mark.integration
@pytest.mark.parametrize("method", METHODS)
def test_batches_and_order_do_not_matter(place, tmp_path, method):
    """Every method gives each prompt the same whatever is searched beside it; trees and lattices lead to candidates."""
    more = ["--method", method, "--reference", str(place / "reference"), "--seed", "3"]
    more += ["--answer", "text"] if method in ("majority", "weighted_vote") else []
    more += ["--simulations", "6"] if method == "mcts" else []
    assert main(words(place, tmp_path, *more, "--batch-size", "1", output="one.jsonl")) == 0
    assert main(words(place, tmp_path, *more, "--batch-size", "3", output="three.jsonl")) == 0
    for one, other in zip(results(tmp_path, "one.jsonl"), results(tmp_path, "three.jsonl"), strict=True):
        assert one.candidates
        assert [c.token_ids for c in one.candidates] == [c.token_ids for c in other.candidates]
        assert [c.score for c in one.candidates] == pytest.approx([c.score for c in other.candidates], abs=1e-4)
        assert (one.cost.policy_tokens, one.cost.reference_tokens) == (
            other.cost.policy_tokens,
            other.cost.reference_tokens,
        )
        assert (one.tree is not None) == (method in ("beam", "beam_sample", "chunk_beam", "lookahead", "mcts"))
        if one.tree is not None:
            paths = {-1: ()}
            for number, parent in enumerate(one.tree.parents):
                paths[number] = (*paths[parent], one.tree.token_ids[number]) if number else ()
            if method == "beam":
                ended = {path for path, ends in zip(list(paths.values())[1:], one.tree.ends, strict=True) if ends}
                assert {c.token_ids for c in one.candidates} <= ended


@pytest.mark.integration
def test_samples_differ_by_seed_alone(place, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(words(place, tmp_path, "--method", "sample", "--seed", seed, output=f"{name}.jsonl")) == 0
    a, b, c = ([[x.token_ids for x in r.candidates] for r in results(tmp_path, f"{n}.jsonl")] for n in "abc")
    assert a == b != c


def test_one_call_in_python(place):
    found = tokenq.decode(str(place / "policy"), ["The sky is"], method="greedy", max_new_tokens=5, device="cpu")
    model, prompt = tiny_model("llama", layers=1, vocab_size=320), encoded("The sky is")
    row = model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False, eos_token_id=EOS, pad_token_id=0)
    assert list(found[0].candidates[0].token_ids) == row[0, len(prompt) :].tolist()
    assert found[0].candidates[0].ref_logps is None
    turns = [{"role": "user", "content": "Hello"}]
    options = {"method": "greedy", "max_new_tokens": 3, "device": "cpu"}
    by_turns, by_text = tokenq.decode(str(place / "chat"), [turns, "Hello"], **options)
    assert by_turns.candidates == by_text.candidates
    text = tiny_tokenizer("bpe").decode(by_turns.candidates[0].token_ids)
    prompt = encoded("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    row = model.generate(torch.tensor([prompt]), max_new_tokens=3, do_sample=False, eos_token_id=EOS, pad_token_id=0)
    assert text == tiny_tokenizer("bpe").decode(row[0, len(prompt) :])


@pytest.mark.integration
def test_a_judge_ranks_and_leads(place):
    """By length alone: the shortest sample comes first; a heavy lookahead ends as soon as EOS is on offer."""

    def shortest(prompts, responses):
        assert set(prompts) == {"The sky is"}
        return [-float(len(response)) for response in responses]

    options = {"judge": shortest, "max_new_tokens": 6, "device": "cpu"}
    found = tokenq.decode(str(place / "policy"), ["The sky is"], method="best_of_n", ranking="value", **options)[0]
    lengths = [len(candidate.text) for candidate in found.candidates]
    assert lengths == sorted(lengths)
    assert [candidate.score for candidate in found.candidates] == [-length for length in lengths]
    options |= {"lookahead_top_k": 320, "lookahead_weight": 1e6, "width": 1}
    led = tokenq.decode(str(place / "policy"), ["The sky is"], method="lookahead", **options)[0]
    assert len(led.candidates[0].text) == 0
    assert led.cost.value_tokens > 0


@pytest.mark.integration
def test_a_reward_model_is_what_transformers_says(place, tmp_path):
    more = ["--method", "best_of_n", "--ranking", "value", "--reward-model", str(place / "judge"), "--n", "3"]
    assert main(words(place, tmp_path, *more)) == 0
    model = AutoModelForSequenceClassification.from_pretrained(place / "judge")
    for one in results(tmp_path):
        for candidate in one.candidates:
            ids = torch.tensor([encoded(one.prompt + candidate.text)])
            model.config.pad_token_id = -1
            assert candidate.score == pytest.approx(float(model(input_ids=ids).logits[0, 0].detach()), abs=1e-5)


@pytest.mark.integration
def test_proxies_add_log_ratios(place, tmp_path):
    """Greedy over log π + 0.5 (log π_tuned − log π_untuned), normalised; its reference is the large model itself."""
    more = ["--method", "greedy", "--proxy", str(place / "small"), str(place / "reference"), "--alpha", "0.5"]
    assert main(words(place, tmp_path, *more, "--max-new-tokens", "4")) == 0
    large, tuned, untuned = (tiny_model(family, layers=1, vocab_size=320) for family in ("llama", "gemma3", "gpt_neox"))
    for one in results(tmp_path):
        ids, candidate = encoded(one.prompt), one.candidates[0]
        for place_in, token in enumerate(candidate.token_ids):
            with torch.no_grad():
                rows = [
                    model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
                    for model in (large, tuned, untuned)
                ]
            total = (rows[0] + 0.5 * (rows[1] - rows[2])).log_softmax(-1)
            assert token == int(total.argmax())
            assert candidate.logps[place_in] == pytest.approx(float(total[token]), abs=1e-4)
            assert candidate.ref_logps[place_in] == pytest.approx(float(rows[0][token]), abs=1e-4)
            ids = [*ids, token]
        assert one.cost.reference_tokens == 2 * one.cost.policy_tokens


@pytest.mark.integration
def test_a_killed_search_goes_on_and_searches_no_prompt_twice(place, tmp_path, monkeypatch, capsys):
    assert main(words(place, tmp_path, output="whole.jsonl")) == 0
    real, written = Frames.append, []

    def stops(self, record):
        written.append(record)
        if len(written) == 4:  # the key, two results
            raise KeyboardInterrupt
        real(self, record)

    monkeypatch.setattr(Frames, "append", stops)
    assert main(words(place, tmp_path, "--batch-size", "1")) == 130
    monkeypatch.setattr(Frames, "append", real)
    assert not (tmp_path / "out.jsonl").exists()
    assert main(words(place, tmp_path, "--batch-size", "1")) == 0
    assert "going on after 2 of 4" in capsys.readouterr().err
    whole = [one.candidates for one in results(tmp_path, "whole.jsonl")]
    assert [[c.token_ids for c in one.candidates] for one in results(tmp_path)] == [
        [c.token_ids for c in candidates] for candidates in whole
    ]
    assert not list(tmp_path.glob(".out*"))


def test_a_search_that_was_done_is_not_done_again(place, tmp_path, capsys):
    assert main(words(place, tmp_path)) == 0
    before = (tmp_path / "out.jsonl").stat().st_mtime_ns
    assert main(words(place, tmp_path, "--batch-size", "2")) == 0
    assert "are in" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "out.jsonl").stat().st_mtime_ns == before
    assert main(words(place, tmp_path, "--width", "2")) == 0
    assert (tmp_path / "out.jsonl").stat().st_mtime_ns != before


def test_an_interrupted_search_keeps_what_it_has(place, tmp_path, monkeypatch, capsys):
    """Ctrl-C during the second prompt: its beams are ranked as they stand, and it is searched again afterwards."""
    from tokenq.search.branches import Walk

    steps, real = [], Walk.step

    def step(self, branches):
        steps.append(None)
        if len(steps) == 10:  # 7 steps of the first prompt, 3 of the second
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, branches)

    monkeypatch.setattr(Walk, "step", step)
    assert main(words(place, tmp_path, "--batch-size", "1", "--width", "2")) == 130
    err = capsys.readouterr().err
    assert "stopped: 2 of 4 prompts" in err
    first, second = results(tmp_path)
    assert (first.stopped, second.stopped) == (None, "interrupted")
    assert {len(candidate.token_ids) for candidate in second.candidates} == {4}
    monkeypatch.setattr(Walk, "step", real)
    assert main(words(place, tmp_path, "--batch-size", "1", "--width", "2")) == 0
    assert "going on after 1 of 4" in capsys.readouterr().err
    assert [one.stopped for one in results(tmp_path)] == [None] * 4


def test_a_second_interrupt_ends_at_once():
    with interruptible(SILENCE) as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_one_prompt_and_a_page(place, tmp_path, capsys):
    given = ["search", "--policy", str(place / "policy"), "--prompt", "The sky is", "--max-new-tokens", "4"]
    page = tmp_path / "new" / "tree.html"
    assert main([*given, "--html", str(page), "--width", "2", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "beam, likelihood" in out
    assert "The sky is" in page.read_text()


def test_a_budget_is_kept(place, tmp_path):
    assert main(words(place, tmp_path, "--budget", "40", "--width", "4", "--max-new-tokens", "30")) == 0
    for one in results(tmp_path):
        assert one.cost.policy_tokens <= 40
        assert one.stopped == "budget"
        assert not any(candidate.terminal for candidate in one.candidates if candidate.token_ids[-1] != EOS)


def test_results_survive_their_trip_to_disk(place, tmp_path):
    assert main(words(place, tmp_path, "--method", "mcts", "--simulations", "3")) == 0
    for one in results(tmp_path):
        assert SearchResult.from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 99}, "Update tokenq"),
        ({"schema": None}, "no schema version"),
        ({"cost": {}}, "no search result: it has no"),
        ({"id": 3}, "'id' is 3"),
    ],
)
def test_a_line_that_is_no_result(place, tmp_path, change, says):
    assert main(words(place, tmp_path, "--method", "greedy")) == 0
    record = {**results(tmp_path)[0].to_dict(), **change}
    (tmp_path / "bad.jsonl").write_text(json.dumps(record))
    with pytest.raises(UserError, match=says):
        results(tmp_path, "bad.jsonl")


def test_every_method_says_what_it_uses():
    assert set(USED) == set(METHODS)
    names = set(SearchConfig.__dataclass_fields__)
    assert {name for used in USED.values() for name in used} <= names


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--width", "0"], "--width is 0.\n"),
        (["--budget", "3"], "a budget of 3 tokens does not reach past the prompt's"),
        (["--objective", "reward"], "needs a reference"),
        (["--method", "best_of_n"], "needs a reference"),
        (["--method", "beams"], "Did you mean 'beam'"),
        (["--objective", "rewards"], "Did you mean 'reward'"),
        (["--method", "greedy", "--width", "3"], "--width has no effect on the method greedy"),
        (["--num-beams", "3"], "Did you mean --width"),
        (["--method", "majority"], "A vote needs answers"),
        (["--method", "majority", "--answer", "last"], "Did you mean 'last_number'"),
        (["--eos", "The sky is"], "not one"),
        (["--proxy", "POLICY"], "pairs of models"),
        (["--proxy", "OTHER", "OTHER"], "The reference"),
        (["--proxy", "POLICY", "POLICY", "--alpha", "much"], "--alpha takes numbers"),
        (["--reward-model", "JUDGE"], "--reward-model has no effect"),
        (["--method", "best_of_n", "--ranking", "value", "--reward-model", "POLICY"], "reward model"),
        (["--columns", "prompt=ask"], "ask"),
    ],
)
def test_bad_input(place, tmp_path, capsys, more, says):
    folders = {"POLICY": "policy", "OTHER": "other", "JUDGE": "judge"}
    more = [str(place / folders[word]) if word in folders else word for word in more]
    assert main(words(place, tmp_path, *more)) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err


def test_a_row_without_prompt_is_named(place, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "fine"}\n{"ask": "what"}\n')
    given = ["search", "--policy", str(place / "policy"), "--prompts", str(tmp_path / "bad.jsonl")]
    assert main([*given, "--output", str(tmp_path / "o.jsonl")]) == 2
    assert "bad.jsonl, row 2: it has no prompt (columns: 'ask')" in capsys.readouterr().err
