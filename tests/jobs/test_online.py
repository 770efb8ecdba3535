"""`tokenq online` from prompts to a policy: what it leaves, what a kill at any moment costs, what it refuses."""

import inspect
import json
import os
import re
import shutil
import signal
from dataclasses import MISSING, fields

import pytest
import torch
from evaluation.stub_endpoint import StubEndpoint, said
from examples import cases, share_of
from forked import done, two_ranks
from safetensors.torch import load_file
from tiny import CHATML, tiny_model, tiny_tokenizer
from training.small_runs import lines_of
from transformers import AutoModelForCausalLM

import tokenq
from tokenq.cli.main import main
from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.frames import Frames
from tokenq.jobs.evaluation.judges import JUDGES
from tokenq.judge.answers import last_number
from tokenq.judge.kinds import Pointwise
from tokenq.records.rollouts import Rollout, read_pairs
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.methods import METHODS

pytestmark = pytest.mark.integration

ROWS = [{"prompt": f"What is {n} and {n}?", "answer": "What"} for n in range(6)]
OTHERS = [{"prompt": f"What is {n} and 9?", "answer": "What"} for n in range(5)]
PAIRS = [{"prompt": f"{n}?", "chosen": f" {n}.", "rejected": f" {n + 1}.", "calibration": " 7."} for n in range(6)]
SHORT = ["--rounds", "2", "--samples", "4", "--max-new-tokens", "8", "--learning-rate", "1e-2", "--device", "cpu"]
SHORT += ["--batch-size", "2", "--prompts-per-batch", "3"]
JUDGED = ["--answer", "regex:What", "--gold", "answer"]  # a random model says it in three responses of ten


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models with a vocabulary of few words, so that some answers are right, and rows in files."""
    root = tmp_path_factory.mktemp("online")
    for seed, name in ((3, "model"), (1, "reference")):
        tiny_model("llama", layers=1, seed=seed, vocab_size=32).save_pretrained(root / name)
        tiny_tokenizer("words", texts=("What is and ? 0 1 2 3 4 5 6 7 8 9 .",)).save_pretrained(root / name)
    for name, rows in (("prompts", ROWS), ("others", OTHERS), ("pairs", PAIRS), ("one", [{**ROWS[0], "answer": "77"}])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def words(place, output, *more, judged=JUDGED, prompts=None):
    named = ["--model", place / "model", "--prompts", prompts or place / "prompts.jsonl", "--output", output]
    return [str(word) for word in ("online", *named, *SHORT, *judged, *more)]


@pytest.fixture(scope="module")
def run(place):
    """A run with all defaults of iterative DPO."""
    assert main(words(place, place / "run")) == 0
    return place / "run"


def rollouts(run, number):
    lines = (run / "rounds" / f"{number:04d}" / "rollouts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def files_of(run):
    """Return what a run leaves, without times: the policy, the rounds, the numbers."""
    files = [path for path in (run / "rounds").rglob("*") if path.is_file() and path.name != "times.json"]
    found = {str(path.relative_to(run)): path.read_bytes() for path in files}
    policy = run / "policy" / "model.safetensors"
    return found, lines_of(run), policy.read_bytes() if policy.exists() else None


def test_its_keywords_are_the_flags_of_the_command():
    signature = inspect.signature(tokenq.online).parameters
    own = {"tokenizer": None, "listener": inspect.Parameter.empty}
    settings = {one.name: one for one in fields(OnlineConfig)}
    assert {*signature} == {*settings, *own}
    for name, one in settings.items():
        default = signature[name].default
        if one.default is MISSING and one.default_factory is MISSING:
            assert default is inspect.Parameter.empty
        else:
            known = one.default if one.default is not MISSING else one.default_factory()
            assert default == known or dict(default) == dict(known)


def test_a_line_a_response(run):
    for number, version in ((1, 0), (2, 3)):  # six prompts of at most one pair, in batches of two
        lines = rollouts(run, number)
        assert len(lines) == 24
        for line in lines:
            assert {"prompt", "response", "token_ids", "logps", "reward", "version"} <= line.keys()
            assert len(line["logps"]) == len(line["token_ids"])
            assert line["version"] == version
            assert (line["finish"] == "stop") == (line["token_ids"][-1] == 2)
            assert Rollout.from_dict(line).to_dict().keys() == line.keys()
    AutoModelForCausalLM.from_pretrained(run / "policy")


def test_pairs_of_rounds_have_strengths_by_segment(place, tmp_path, capsys):
    """A segment begins with " 6"; of equal strengths the policy is that of plain rounds, to the last byte."""
    short, split = ["--rounds", "1", "--loss", "dpo"], ["--segment-starts", "rest= 6", "--segments"]
    for name, more in (("plain", []), ("same", [*split, "head=.1,rest=.1"]), ("apart", [*split, "head=.1,rest=.9"])):
        assert main(words(place, tmp_path / name, *short, *more)) == 0
    plain, same, apart = (
        (tmp_path / name / "policy" / "model.safetensors").read_bytes() for name in ("plain", "same", "apart")
    )
    assert plain == same != apart
    line = next(line for line in lines_of(tmp_path / "apart") if "rewards/margins/rest" in line)
    parts = line["rewards/margins/head"] + line["rewards/margins/rest"]
    assert parts == pytest.approx(line["rewards/margins"], abs=1e-6)
    assert main(words(place, tmp_path / "ppo", "--method", "grpo", *split, "head=.1,rest=.1")) == 2
    assert "has no strengths by segment" in capsys.readouterr().err


def test_rewards_are_those_of_the_task(run):
    """1 where the answer is found, else 0, as an evaluation has it."""
    found = [line for number in (1, 2) for line in rollouts(run, number)]
    assert {line["reward"] for line in found} == {0.0, 1.0}
    assert all(line["reward"] == float("What" in line["response"]) for line in found)


def test_the_answer_may_be_the_last_number(place, tmp_path):
    rows = [{"prompt": row["prompt"], "answer": str(n % 3)} for n, row in enumerate(ROWS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = ["--answer", "last_number", "--gold", "answer"]
    assert main(words(place, tmp_path / "run", judged=judged, prompts=tmp_path / "rows.jsonl")) == 0
    for line in rollouts(tmp_path / "run", 1):
        assert line["reward"] == float(last_number(line["response"]) == rows[int(line["id"]) - 1]["answer"])


def test_log_probs_are_those_of_the_weights_that_wrote(run, place):
    """Round 1 was written by the model as it was: a forward of transformers gives the same log-probs."""
    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    for line in rollouts(run, 1)[:6]:
        ids = torch.tensor([line["prompt_ids"] + line["token_ids"]])
        logps = model(ids).logits.log_softmax(-1)[0, len(line["prompt_ids"]) - 1 : -1]
        found = logps[torch.arange(len(line["token_ids"])), torch.tensor(line["token_ids"])]
        assert found.tolist() == pytest.approx(line["logps"], abs=1e-4)


def test_pairs_are_the_best_against_the_worst(run):
    for number in (1, 2):
        by_prompt = {}
        for line in rollouts(run, number):
            by_prompt.setdefault(line["id"], []).append(line)
        expected = [some for some in by_prompt.values() if len({one["reward"] for one in some}) == 2]
        pairs = JsonLines(run / "rounds" / f"{number:04d}" / "pairs.jsonl").read()
        assert len(pairs) == len(expected)
        for pair, some in zip(pairs, expected, strict=True):
            rewards = [one["reward"] for one in some]
            chosen, rejected = some[rewards.index(1.0)], some[rewards.index(0.0)]
            assert (pair["chosen_ids"], pair["rejected_ids"]) == (chosen["token_ids"], rejected["token_ids"])
            assert (pair["chosen"], pair["score_chosen"]) == (chosen["response"], 1.0)
    assert len(pairs) > 0


def test_numbers_of_a_round_stand_among_those_of_the_steps(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line.get("round"), line.get("after_round")) for line in lines] == [
        *((0, 1, None), (1, None, None), (2, None, None), (3, None, None), (3, None, 1)),
        *((3, 2, None), (4, None, None), (5, None, None), (6, None, None), (6, None, 2)),
    ]
    first = lines[0]
    rewards = [line["reward"] for line in rollouts(run, 1)]
    assert first["round/reward"] == pytest.approx(sum(rewards) / len(rewards))
    assert first["round/kl"] == pytest.approx(0, abs=1e-4)  # nothing has moved yet
    assert lines[5]["round/kl"] != pytest.approx(0, abs=1e-3)
    assert first["round/reward_low"] <= first["round/reward"] <= first["round/reward_high"]


def test_a_page_shows_the_run(evaluated):
    text = (evaluated / "report" / "index.html").read_text()
    assert "evaluated: 2 of 2 rounds" in text
    assert "win rate on held-out prompts" in text
    assert "What round 2 learns from" in text


def test_the_time_of_a_round_is_parted_by_who_takes_it(run):
    """Writer, judge, trainer and the rest make up the round; what is outside has its share."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in (line for line in lines if "after_round" in line):
        parts = [line[f"seconds/{phase}"] for phase in ("writer", "judge", "trainer", "outside")]
        assert all(part > 0 for part in parts)
        assert line["seconds/outside_share"] == pytest.approx(parts[3] / sum(parts))


def test_other_commands_read_what_it_leaves(run, place, tmp_path):
    round_1 = run / "rounds" / "0001"
    score = ["score", "--policy", run / "policy", "--reference", place / "model", "--data", round_1 / "rollouts.jsonl"]
    score += ["--device", "cpu", "--bad-rows", "drop", "--output", tmp_path / "traces.jsonl"]
    assert main([str(word) for word in score]) == 0
    empty = {line["id"] for line in rollouts(run, 1) if not line["response"]}  # EOS alone has no text
    said = [line for line in rollouts(run, 1) if line["id"] not in empty]
    assert len((tmp_path / "traces.jsonl").read_text().splitlines()) == len(said) >= 20
    for name in ("rollouts", "pairs"):
        train = ["train", "--model", place / "model", "--data", round_1 / f"{name}.jsonl", "--output", tmp_path / name]
        train += ["--device", "cpu", "--max-steps", "1", "--bad-rows", "drop"]
        assert main([str(word) for word in train]) == 0
    preference = ["eval", "preference", "--run", run, "--data", round_1 / "pairs.jsonl", "--bad-rows", "drop"]
    preference += ["--device", "cpu", "--output", tmp_path / "preference.json"]
    assert main([str(word) for word in preference]) == 0
    assert main(["doctor", str(run), "--device", "cpu"]) in (0, 1)


def test_an_evaluation_of_answers_reads_the_samples_of_a_round_by_their_prompts(run, place):
    """Six prompts of four samples each: mean accuracy as the round has it, lengths in tokens, pass@4 counted out."""
    rows, rewards = rollouts(run, 1), {}
    for row in rows:
        rewards.setdefault(row["id"], []).append(row["reward"])
    told = {"results": [str(run / "rounds" / "0001" / "rollouts.jsonl")], "prompts": str(place / "prompts.jsonl")}
    told |= {"answer": "regex:What", "gold": "answer", "resamples": 50}
    numbers = tokenq.evaluate("generation", **told).numbers["rollouts"]
    assert numbers["quality"].value == pytest.approx(sum(row["reward"] for row in rows) / 24)
    assert numbers["quality"].n == 6
    several = tokenq.evaluate("best-of-n", **told).numbers["accuracy"]
    assert several["pass@n"][4].value == pytest.approx(sum(map(max, rewards.values())) / 6)


def looked_at(run, folder, change):
    """Return the findings about a copy of a run whose rollouts were changed."""
    shutil.copytree(run, folder)
    for path in (folder / "rounds").rglob("rollouts.jsonl"):
        rows = [change(row) or row for row in JsonLines(path).read()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = tokenq.examine(folder, device="cpu")
    assert not found.unseen
    return {one.name: one for one in found.findings if one.name in ("stale-rollouts", "template-drift")}


def test_rollouts_of_an_honest_run_are_what_they_say(run, tmp_path):
    """Log-probs of its first round are those of the model that it began from, to rounding."""
    assert looked_at(run, tmp_path / "copy", lambda row: None) == {}


def test_rollouts_of_other_weights_are_found(run, tmp_path):
    """Log-probs that are a tenth of a nat off; a version that lags behind; prompts in other tokens."""
    off = looked_at(run, tmp_path / "off", lambda row: {**row, "logps": [value - 0.1 for value in row["logps"]]})
    (gap,) = [one.value for one in off["stale-rollouts"].evidence if "Δ" in one.what]
    assert gap == pytest.approx(0.1, abs=1e-3)
    assert off["stale-rollouts"].severity == "warning"
    far = looked_at(run, tmp_path / "far", lambda row: {**row, "logps": [value - 1 for value in row["logps"]]})
    assert far["stale-rollouts"].severity == "error"
    old = looked_at(run, tmp_path / "old", lambda row: {**row, "version": 0})
    told = {one.what: one.value for one in old["stale-rollouts"].evidence}
    assert (told["of them written by weights older than their round"], told["responses of the policy"]) == (24, 24)
    assert told["updates that the oldest lag behind"] == 3
    other = looked_at(
        run, tmp_path / "other", lambda row: {**row, "prompt_ids": [3, *row["prompt_ids"]]} if row["id"] == "2" else row
    )
    told = {one.what: one.value for one in other["template-drift"].evidence}
    assert told == {"prompts in other tokens": 1, "prompts": 6, "the first of them": "2"}


def staged(place):
    """Return a method with every stage: a judge that recalls weights, prices of lengths, replay, evaluations."""
    named = ["--reference", place / "reference", "--data", place / "pairs.jsonl"]
    named += ["--eval-size", "2"]
    return ["--method", "dice", *named, "--save-steps", "1", "--samples", "3"]


@pytest.fixture(scope="module")
def whole(place):
    """What an uninterrupted run leaves, and how many writes it takes."""
    output = place / "whole"
    counted = done(lambda: watched(lambda _: None, words(place, output, *staged(place), judged=())), place / "printed")
    assert counted.code == 0, counted.text
    return files_of(output), int(counted.text.rsplit("writes: ", 1)[1])


def watched(look, asked):
    """Run a command, and call a function with n before its n-th write (a line, or a file that takes its place)."""
    count = 0

    def counting(write):
        def counted(*given, **more):
            nonlocal count
            count += 1
            look(count)
            return write(*given, **more)

        return counted

    JsonLines.append, Frames.append = counting(JsonLines.append), counting(Frames.append)
    os.replace = counting(os.replace)
    code = main(asked)
    print(f"writes: {count}")  # noqa: T201 (read by whoever started this process)
    return code


def moments(writes):
    """Return moments spread over a run: fifty, by default eight."""
    count = 50 if share_of(50) == 50 else 8
    return sorted({1 + writes * place // count for place in range(count)})


def test_a_kill_at_any_moment_costs_nothing(place, whole, tmp_path):
    """Files, numbers and weights are those of the uninterrupted run to the last bit, and no line is written twice.

    One run is killed; of another, what a kill would leave is set aside at each of many moments.
    """
    (expected, lines, policy), writes = whole
    assert writes > 60
    killed, *others = moments(writes)[::-1]

    def asked(name):
        return words(place, tmp_path / str(name), *staged(place), judged=())

    def aside(number):
        if number in others and (tmp_path / "run").exists():
            shutil.copytree(tmp_path / "run", tmp_path / str(number))

    assert done(lambda: watched(aside, asked("run")), tmp_path / "printed").code == 0
    assert done(lambda: watched(lambda n: n == killed and os._exit(9), asked(killed)), tmp_path / "printed").code == 9
    for moment in (killed, *others):
        assert main([*asked(moment), "--resume"]) == 0, moment
        found, found_lines, found_policy = files_of(tmp_path / str(moment))
        assert found == expected, moment
        assert found_policy == policy, moment
        assert found_lines == lines, moment


def test_what_is_on_disk_is_neither_written_nor_judged_again(place, tmp_path, monkeypatch):
    """A judge that fails in the first round: the responses stay, and the next start judges those that are left."""
    from tokenq.rollout.writer import LocalWriter

    asked = words(place, tmp_path / "run")
    told, written = [], []
    make, write = JUDGES["verifier"], LocalWriter.write

    def failing(bench):
        judge = make(bench)

        def once(number, some):
            told.append(len(some))
            if len(told) == 2:
                raise UserError("The judge is away.", "Wait.")
            return judge.score(number, some)

        return Pointwise(once)

    def noted(self, prompts, *given):
        written.append(len(prompts))
        return write(self, prompts, *given)

    monkeypatch.setitem(JUDGES, "verifier", failing)
    monkeypatch.setattr(LocalWriter, "write", noted)
    assert main(asked) == 2
    assert (written, told) == ([3, 3], [12, 12])
    assert main(asked) == 0  # nothing was learnt yet: the same command
    assert written == [3, 3, 3, 3]  # the second round alone
    assert told == [12, 12, 12, 12, 12]


def test_a_signal_while_a_round_is_written_stops_before_the_next_batch(place, run, tmp_path, monkeypatch, capsys):
    from tokenq.rollout.writer import LocalWriter

    write, calls = LocalWriter.write, []

    def signalled(self, *given):
        calls.append(1)
        if len(calls) == 3:  # the first batch of the second round
            os.kill(os.getpid(), signal.SIGTERM)
        return write(self, *given)

    asked = words(place, tmp_path / "run")
    monkeypatch.setattr(LocalWriter, "write", signalled)
    assert main(asked) == 128 + signal.SIGTERM
    assert len(calls) == 3
    assert "Stopped after step 3 of 6, with a checkpoint of it." in capsys.readouterr().err
    assert main([*asked, "--resume"]) == 0
    assert len(calls) == 4
    assert files_of(tmp_path / "run") == files_of(run)


@pytest.fixture(scope="module")
def evaluated(place):
    """The same run as `run`, evaluated on other prompts."""
    asked = words(place, place / "evaluated", "--eval-prompts", place / "others.jsonl")
    assert main(asked) == 0
    return place / "evaluated"


def evaluations(run):
    """Return the rows and the numbers of every evaluation, that of the start first."""
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    numbers = {line["after_round"]: line for line in lines if "after_round" in line}
    rows = [JsonLines(run / "rounds" / f"{number:04d}" / "eval.jsonl").read() for number in numbers]
    assert [*numbers] == [*range(len(numbers))]
    return list(zip(rows, numbers.values(), strict=True))


def test_evaluations_move_no_weight(run, evaluated):
    same = [(one / "policy" / "model.safetensors").read_bytes() for one in (run, evaluated)]
    assert same[0] == same[1]
    assert rollouts(run, 2) == rollouts(evaluated, 2)


def test_held_out_prompts_get_the_greedy_response_of_the_policy_as_it_is(evaluated, place):
    """Before the first round of the model as it was, after the last of the policy: token by token the likeliest."""
    for number, folder in ((0, place / "model"), (2, evaluated / "policy")):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        rows, numbers = evaluations(evaluated)[number]
        assert [row["id"] for row in rows] == [f"eval {n}" for n in range(1, 6)]
        assert (numbers["step"], {row["version"] for row in rows}) == (3 * number, {3 * number})
        for row in rows:
            ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
            best = model(ids).logits.argmax(-1)[0, len(row["prompt_ids"]) - 1 : -1]
            assert best.tolist() == row["token_ids"]


def test_numbers_of_an_evaluation_by_hand(evaluated):
    found = evaluations(evaluated)
    rewards = [[row["reward"] for row in rows] for rows, _ in found]
    for number, (rows, numbers) in enumerate(found):
        assert rewards[number] == [float("What" in row["response"]) for row in rows]
        assert rewards[number] == [row["correct"] for row in rows]
        assert numbers["eval/reward"] == numbers["eval/accuracy"] == sum(rewards[number]) / 5
        assert numbers["eval/prompts"] == 5
        for name, before in (("start", 0), ("last", number - 1)):
            won = [(1 + mine - other) / 2 for mine, other in zip(rewards[number], rewards[before], strict=True)]
            if not number:
                assert f"eval/won_{name}" not in numbers
                continue
            assert [row[f"won_{name}"] for row in rows] == won
            assert numbers[f"eval/won_{name}"] == pytest.approx(sum(won) / 5)
            assert numbers[f"eval/won_{name}_low"] <= sum(won) / 5 <= numbers[f"eval/won_{name}_high"]


def test_a_share_of_the_prompts_is_held_out_and_said(place, tmp_path, capsys):
    """Two of six: they are evaluated on and never written to in a round, and their pairs are not replayed."""
    more = ["--eval-size", "2", "--replay", "1", "--data", tmp_path / "pairs.jsonl"]
    pairs = [{**row, "chosen": " 7.", "rejected": " 8."} for row in ROWS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    assert main(words(place, tmp_path / "run", *more)) == 0
    assert "held out: 2 of them" in capsys.readouterr().err
    held = {row["prompt"] for row in evaluations(tmp_path / "run")[0][0]}
    written = {row["prompt"] for number in (1, 2) for row in rollouts(tmp_path / "run", number)}
    assert (len(held), len(written), held & written) == (2, 4, set())
    ids = {tuple(row["prompt_ids"]) for row in evaluations(tmp_path / "run")[0][0]}
    learnt = read_pairs(tmp_path / "run" / "rounds" / "0002" / "replay.jsonl")
    assert learnt
    assert not ids & {tuple(group.prompt_ids.tolist()) for group in learnt}


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.learns == "pairs" and not row.needs])
def test_every_method_runs(method, place, tmp_path):
    more = ["--method", method, "--reference", place / "reference"]
    assert main(words(place, tmp_path / "run", *more, "--pairs", "bradley_terry", "--samples", "2")) == 0
    pairs = read_pairs(tmp_path / "run" / "rounds" / "0001" / "pairs.jsonl")
    roles = ("chosen", "rejected", "calibration")[: 3 if METHODS[method].calibrates else 2]
    assert pairs
    assert all(tuple(one.role for one in group.responses) == roles for group in pairs)
    losses = [line["loss"] for line in lines_of(tmp_path / "run") if "loss" in line]
    assert losses


@pytest.mark.parametrize("method", cases(["selm", "vpo", "xpo"], ["vpo"]))
def test_optimism_of_weight_zero_is_iterative_dpo_to_the_bit(method, place, tmp_path):
    """By default of one method: they differ in the loss, which has tests of its own."""
    for name, more in (("zero", ["--loss-options", "alpha=0"]), ("dpo", ["--loss", "dpo"])):
        assert main(words(place, tmp_path / name, "--method", method, "--beta", "0.1", *more)) == 0
    weights = [(tmp_path / name / "policy" / "model.safetensors").read_bytes() for name in ("zero", "dpo")]
    assert weights[0] == weights[1]
    assert main(words(place, tmp_path / "one", "--method", method, "--beta", "0.1", "--loss-options", "alpha=1")) == 0
    assert (tmp_path / "one" / "policy" / "model.safetensors").read_bytes() != weights[0]


def test_what_the_reference_writes_loses_log_probability_to_optimism(place, tmp_path):
    """Before anything is learnt the two are one; what optimism pushes down is log π of what the reference writes."""
    asked = words(place, tmp_path / "run", "--method", "vpo", "--loss-options", "alpha=1")
    assert main(asked) == 0
    first, second = (line for line in lines_of(tmp_path / "run") if "round" in line)
    written = [sum(line["logps"]) for line in rollouts(tmp_path / "run", 1) if line["writer"] == "reference"]
    assert first["round/logps_of_reference"] == pytest.approx(sum(written) / 6, abs=1e-3)
    assert second["round/logps_of_reference"] < first["round/logps_of_reference"]


def test_the_reference_of_a_round_is_the_policy_at_its_start(place, tmp_path):
    """Moving: the first step of the second round starts at a loss of log 2 again; never: it does not."""
    for moves, starts_anew in (("round", True), ("never", False)):
        assert main(words(place, tmp_path / moves, "--reference-moves", moves)) == 0
        (second,) = [line["loss"] for line in lines_of(tmp_path / moves) if line["step"] == 4]
        assert (second == pytest.approx(0.693147, abs=1e-5)) == starts_anew


def test_replay_takes_pairs_of_earlier_rounds_and_of_the_data(place, tmp_path):
    assert main(words(place, tmp_path / "run", "--replay", "1", "--data", place / "pairs.jsonl")) == 0
    own = [len(read_pairs(tmp_path / "run" / "rounds" / f"000{n}" / "pairs.jsonl")) for n in (1, 2)]
    old = [read_pairs(tmp_path / "run" / "rounds" / f"000{n}" / "replay.jsonl") for n in (1, 2)]
    assert [len(some) for some in old] == [6, 6 + own[0]]
    assert old[0][0].where == f"{place}/pairs.jsonl, row 1" or "row 1" in old[0][0].where
    assert "round 1" in old[1][-1].where
    assert all("ref_logps" in one.token_columns for group in old[1] for one in group.responses)


def test_selm_ranks_its_greedy_response_beside_the_pair_of_the_data(place, tmp_path):
    pairs = [{**row, "chosen": "What", "rejected": f" {n}"} for n, row in enumerate(ROWS[:4])]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    more = ["--method", "selm", "--samples", "1", "--data", tmp_path / "pairs.jsonl", "--rounds", "1"]
    assert main(words(place, tmp_path / "run", *more)) == 0
    lines = rollouts(tmp_path / "run", 1)
    assert [line["id"] + line["writer"] for line in lines[:4]] == ["1policy", "1data", "1data", "2policy"]
    assert len(lines) == 4 * 3 + 2  # for two prompts there is no pair, and nothing to compare the greedy response with
    stored = [line for line in lines if line["writer"] == "data"]
    assert [line["reward"] for line in stored[:2]] == [1.0, 0.0]
    assert all(line["finish"] == "stop" and line["token_ids"][-1] == 2 for line in stored)
    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    ids = torch.tensor([stored[1]["prompt_ids"] + stored[1]["token_ids"]])
    with torch.no_grad():
        logps = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[-len(stored[1]["token_ids"]) :, 0]
    assert stored[1]["logps"] == pytest.approx(logps.tolist(), abs=1e-4)


def test_a_round_without_a_pair_is_said_and_goes_on_or_stops(place, tmp_path, capsys):
    one = place / "one.jsonl"
    assert main(words(place, tmp_path / "run", prompts=one)) == 0
    assert "round 1 gives no pair" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["round/pairs"] for line in lines if "round" in line] == [0.0, 0.0]
    assert [line["loss"] for line in lines if "loss" in line] == [None, None]
    before, after = (load_file(one / "model.safetensors") for one in (place / "model", tmp_path / "run" / "policy"))
    assert all(torch.equal(value, after[name]) for name, value in before.items())  # nothing has moved
    assert main(words(place, tmp_path / "stops", "--on-empty-round", "stop", prompts=one)) == 2
    assert "Round 1 gives no pair" in capsys.readouterr().err


def test_a_judge_that_gives_no_numbers_gives_no_pairs(place, tmp_path, monkeypatch, capsys):
    nothing = Pointwise(lambda number, some: [float("nan")] * len(some))
    monkeypatch.setitem(JUDGES, "verifier", lambda bench: nothing)
    assert main(words(place, tmp_path / "run")) == 0
    assert {line["reward"] for line in rollouts(tmp_path / "run", 1)} == {None}
    assert lines_of(tmp_path / "run")[0]["round/unusable"] == 1.0
    monkeypatch.setitem(JUDGES, "verifier", lambda bench: Pointwise(lambda number, some: [1.0]))
    assert main(words(place, tmp_path / "few")) == 2
    assert "The judge gave 1 rewards for 12 responses" in capsys.readouterr().err


def test_prompts_come_in_turn(place, tmp_path):
    """Two a round: three rounds see all six, the fourth begins anew."""
    assert main(words(place, tmp_path / "run", "--prompts-per-round", "2", "--rounds", "4")) == 0
    seen = [sorted({line["id"] for line in rollouts(tmp_path / "run", number)}) for number in (1, 2, 3, 4)]
    assert [len(some) for some in seen] == [2, 2, 2, 2]
    assert sorted({*seen[0], *seen[1], *seen[2]}) == ["1", "2", "3", "4", "5", "6"]


def test_conversations_are_written_to_and_an_adapter_is_judged_by_its_own_rewards(place, tmp_path, capsys):
    texts = ("What is and ? 0 1 2 3 4 5 6 7 8 9 . user assistant\n",)
    for seed, name in enumerate(("chat", "before")):
        tiny_model("llama", layers=1, seed=seed, vocab_size=32).save_pretrained(tmp_path / name)
        tiny_tokenizer("words", texts=texts, chat_template=CHATML).save_pretrained(tmp_path / name)
    turns = [{"messages": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    more = ["--method", "dice", "--lora-rank", "2", "--lora-dropout", "0.1", "--model", tmp_path / "chat"]
    asked = words(place, tmp_path / "run", *more, judged=(), prompts=tmp_path / "turns.jsonl")
    assert main([*asked, "--reference", str(tmp_path / "chat")]) == 2
    assert "--reference is the model itself" in capsys.readouterr().err
    assert main([*asked, "--reference", str(tmp_path / "before")]) == 0
    first, second = (rollouts(tmp_path / "run", number) for number in (1, 2))
    assert first[0]["prompt"] == turns[0]["messages"]
    sizes = [max(abs(line["reward"]) for line in some) for some in (first, second)]
    assert sizes[0] > 10 * sizes[1] > 0  # two models apart, and then one adapter's steps of a round


def test_a_run_judges_by_its_implicit_rewards(place, tmp_path):
    """β Σ log π/π_ref, as `tokenq.load(run)` reads the same tokens; whatever was learnt, in every round alike."""
    trained = ["--model", place / "model", "--data", place / "pairs.jsonl", "--output", tmp_path / "dpo"]
    trained += ["--beta", "0.3", "--learning-rate", "1e-2", "--max-steps", "3", "--device", "cpu"]
    assert main([str(word) for word in ("train", *trained)]) == 0
    more = ["--judge-run", tmp_path / "dpo", "--data", place / "pairs.jsonl", "--eval-size", "2"]
    assert main(words(place, tmp_path / "run", *more, judged=())) == 0
    pair = [
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32)
        for one in (tmp_path / "dpo" / "policy", place / "model")
    ]
    for number in (1, 2):
        for line in rollouts(tmp_path / "run", number)[:8]:
            ids = torch.tensor([line["prompt_ids"] + line["token_ids"]])
            start = len(line["prompt_ids"])
            with torch.no_grad():
                tables = [one(ids).logits.log_softmax(-1)[0, :-1] for one in pair]
            own, other = (table.gather(1, ids[0, 1:, None])[start - 1 :].sum().item() for table in tables)
            assert line["reward"] == pytest.approx(0.3 * (own - other), abs=1e-4)
            assert line["judge"] == "implicit"
    known = JsonLines(tmp_path / "run" / "rounds" / "0000" / "known_pairs.jsonl").read()
    texts = {row["prompt"]: (row["chosen"].strip(" ."), row["rejected"].strip(" .")) for row in PAIRS}  # no full stop
    assert [(row["chosen"].strip(), row["rejected"].strip()) for row in known] == [
        texts[row["prompt"]] for row in known
    ]
    scores = [(row["score_chosen"], row["score_rejected"]) for row in known]
    right = [(1 + (one > other) - (one < other)) / 2 for one, other in scores]
    assert [numbers["eval/judge_accuracy"] for _, numbers in evaluations(tmp_path / "run")] == [sum(right) / 2] * 3
    assert {numbers["eval/judge_pairs"] for _, numbers in evaluations(tmp_path / "run")} == {2}
    learnt = {row["prompt"] for row in known}
    assert len(learnt) == 2


def test_a_model_that_is_asked_judges_every_two_responses(place, tmp_path):
    """It names the longer one. Three responses of different lengths win all, half and none of their comparisons."""

    def longer(number, question):
        code = re.findall("END ([A-Z0-9]+)", question)[-1]
        first, second = re.findall(rf"RESPONSE [AB] {code} ===\n(.*?)\n\n===", question, re.DOTALL)
        verdict = "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
        return said(f"Verdict {code}: {verdict}")

    endpoint = StubEndpoint(longer)
    try:
        more = ["--judge", "m", "--base-url", endpoint.url, "--samples", "3", "--rounds", "1"]
        more += ["--eval-prompts", place / "others.jsonl"]
        assert main(words(place, tmp_path / "run", *more, judged=())) == 0
    finally:
        endpoint.close()
    by_prompt = {}
    for line in rollouts(tmp_path / "run", 1):
        by_prompt.setdefault(line["id"], []).append(line)
    for some in by_prompt.values():
        lengths = [len(one["response"]) for one in some]
        if len(set(lengths)) == 3:
            order = sorted(range(3), key=lengths.__getitem__)
            assert [some[place]["reward"] for place in order] == [0.0, 0.5, 1.0]
    assert any(len({len(one["response"]) for one in some}) == 3 for some in by_prompt.values())
    (before, _), (after, numbers) = evaluations(tmp_path / "run")  # it compares two policies, and rates none alone
    lengths = [(len(one["response"]), len(other["response"])) for one, other in zip(after, before, strict=True)]
    won = [(1 + (mine > other) - (mine < other)) / 2 for mine, other in lengths]
    assert [row["won_start"] for row in after] == [row["won_last"] for row in after] == won
    assert {row["reward"] for row in after} == {None}
    assert numbers["eval/won_start"] == sum(won) / 5
    assert "eval/reward" not in numbers


def test_an_adapter_learns_in_rounds(place, tmp_path):
    more = ["--lora-rank", "2", "--method", "vpo", "--top-p", "0.9"]
    assert main(words(place, tmp_path / "run", *more)) == 0
    assert (tmp_path / "run" / "policy" / "adapter_config.json").exists()
    lines = rollouts(tmp_path / "run", 2)
    written = {line["writer"]: line for line in lines}
    assert {*written} == {"policy", "reference"}
    assert all(0.9 <= mass <= 1.0 + 1e-6 for line in lines for mass in line["kept_mass"])


def test_python_takes_a_model_and_rows_in_memory(place, run, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    tokenizer = tiny_tokenizer("words", texts=("What is and ? 0 1 2 3 4 5 6 7 8 9 .",))
    made = tokenq.online(
        (model, tokenizer),
        ROWS,
        tmp_path / "run",
        answer="regex:What",
        gold="answer",
        rounds=2,
        samples=4,
        max_new_tokens=8,
        learning_rate=1e-2,
        batch_size=2,
        prompts_per_batch=3,
        device="cpu",
    )
    assert (made.policy / "model.safetensors").read_bytes() == (run / "policy" / "model.safetensors").read_bytes()


def test_a_finished_run_is_left_as_it_is(place, run):
    before = files_of(run)
    assert main([*words(place, run), "--resume"]) == 0
    assert files_of(run) == before
    assert main(words(place, run)) == 2
    assert main([*words(place, run, "--samples", "3"), "--resume"]) == 2


def test_a_round_that_is_gone_amid_its_steps_is_said(place, tmp_path, capsys):
    asked = words(place, tmp_path / "run", "--save-steps", "1", "--keep-checkpoints", "9")
    assert main(asked) == 0
    for gone in ("policy", "rounds/0002", "checkpoints/step-5", "checkpoints/step-6"):
        shutil.rmtree(tmp_path / "run" / gone)
    assert main([*asked, "--resume"]) == 2  # after step 4, and the second round began after step 3
    assert "0002 is incomplete, and the run has learnt from it" in capsys.readouterr().err


def test_a_prompt_without_a_true_answer_is_named(place, tmp_path, capsys):
    rows = [*ROWS, {"prompt": "What is 9?"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = words(place, tmp_path / "run", prompts=tmp_path / "rows.jsonl")
    assert main(asked) == 2
    assert "rows.jsonl, row 7" in capsys.readouterr().err
    assert main([*asked, "--bad-rows", "drop"]) == 0


def test_a_prompt_that_leaves_no_room_is_named(place, tmp_path, capsys):
    assert main(words(place, tmp_path / "run", "--max-length", "6")) == 2
    assert "--max-length is 6" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.slow
def test_two_processes_share_a_round(place, tmp_path):
    """Each writes and judges its prompts; both learn from all pairs, and a kill is made good by the same command."""
    output = tmp_path / "run"
    ended = two_ranks(lambda: main(words(place, output)), tmp_path)
    assert [one.code for one in ended] == [0, 0], ended
    assert len(rollouts(output, 2)) == 24
    assert len({(line["id"], line["number"]) for line in rollouts(output, 2)}) == 24
    before = files_of(output)
    ended = two_ranks(lambda: main([*words(place, output), "--resume"]), tmp_path)
    assert [one.code for one in ended] == [0, 0], ended
    assert files_of(output) == before
