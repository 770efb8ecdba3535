"""`tokenq online` with a writer behind a server: the same run as with the local writer, and what is caught."""

import json
import math
import sys
import time

import pytest
from forked import ended, started, two_ranks
from rollout.stub_engine import Behaviour, StubEngine
from tiny import tiny_model, tiny_tokenizer

import tokenq.jobs.rollout.served as served
from tokenq.cli.main import main
from tokenq.judge.endpoint import Endpoint

pytestmark = pytest.mark.integration

ROWS = [{"prompt": f"What is {n} and {n}?", "answer": "What"} for n in range(6)]
SHORT = ["--rounds", "2", "--samples", "4", "--max-new-tokens", "8", "--learning-rate", "1e-2", "--device", "cpu"]
SHORT += ["--batch-size", "2", "--prompts-per-batch", "3", "--answer", "regex:What", "--gold", "answer"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("remote")
    tiny_model("llama", layers=1, seed=0, vocab_size=32).save_pretrained(root / "model")
    tiny_tokenizer("words", texts=("What is and ? 0 1 2 3 4 5 6 7 8 9 .",)).save_pretrained(root / "model")
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return root


@pytest.fixture
def engine(place, monkeypatch):
    patient = Endpoint("", role="writer", key_variable="VLLM_API_KEY", attempts=2, backoff=0.001)
    monkeypatch.setattr(served, "PATIENCE", patient)
    found = StubEngine(str(place / "model"))
    yield found
    found.close()


def words(place, output, *more):
    named = ["--model", place / "model", "--prompts", place / "prompts.jsonl", "--output", output]
    return [str(word) for word in ("online", *named, *SHORT, *more)]


def rollouts(run, number):
    return [json.loads(line) for line in (run / "rounds" / f"{number:04d}" / "rollouts.jsonl").read_text().splitlines()]


def test_greedy_runs_are_equal(place, engine, tmp_path):
    greedy = ["--method", "selm", "--samples", "2", "--temperature", "0.0001"]
    for name, more in (("local", []), ("remote", ["--writer", engine.url])):
        assert main(words(place, tmp_path / name, *greedy, *more)) == 0
    for number in (1, 2):
        own, other = (rollouts(tmp_path / name, number) for name in ("local", "remote"))
        assert [one["token_ids"] for one in own] == [one["token_ids"] for one in other]
        assert [one["reward"] for one in own] == [one["reward"] for one in other]
        assert [one["version"] for one in own] == [one["version"] for one in other]


def numbers(run):
    return [line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "round" in line]


@pytest.mark.slow
def test_sampled_rewards_are_equal_within_their_intervals(place, engine, tmp_path):
    """One round of 6 prompts × 32 samples each way: the 95 % intervals of the mean rewards overlap."""
    more = ["--rounds", "1", "--samples", "32"]
    for name, who in (("local", []), ("remote", ["--writer", engine.url])):
        assert main(words(place, tmp_path / name, *more, *who)) == 0
    (own,), (other,) = numbers(tmp_path / "local"), numbers(tmp_path / "remote")
    assert own["round/reward_low"] <= other["round/reward_high"]
    assert other["round/reward_low"] <= own["round/reward_high"]
    assert other["round/length"] == pytest.approx(own["round/length"], abs=0.5)
    assert {one["engine"] for one in rollouts(tmp_path / "remote", 1)} == {"stub 1.2 float32 tiny"}
    assert {one["logps_of"] for one in rollouts(tmp_path / "remote", 1)} == {"model"}


def test_a_server_that_dies_in_mid_round_costs_nothing_that_was_written(place, engine, tmp_path, capsys):
    """Two batches of three prompts a round: it dies after the first of the second round, and comes back."""
    asked = words(place, tmp_path / "run", "--writer", engine.url)
    engine.behaviour.dies_after = 2 * 2 + 6 + 3  # probes of two publications, a round, a batch
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert "does not answer: no connection" in said
    assert "--resume" in said
    assert "Traceback" not in said
    first = rollouts(tmp_path / "run", 1)
    engine.behaviour.dies_after, engine.dead = None, False
    before = engine.completions
    assert main([*asked, "--resume"]) == 0
    assert engine.completions - before == 2 + 3  # a publication, and the batch that is left
    assert rollouts(tmp_path / "run", 1) == first
    assert len(rollouts(tmp_path / "run", 2)) == 24


def test_an_adapter_goes_out_under_a_new_name_every_round(place, engine, tmp_path):
    assert main(words(place, tmp_path / "run", "--lora-rank", "2", "--writer", engine.url)) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds" / "writer.jsonl").read_text().splitlines()]
    assert [(line["version"], line["has"], line["sync"]) for line in lines] == [(0, 0, "lora"), (3, 3, "lora")]
    assert [f"-v00000{version}-" in line["model"] for version, line in zip((0, 3), lines, strict=True)] == [True, True]
    assert list(engine.adapters) == [lines[1]["model"]]
    assert {one["version"] for one in rollouts(tmp_path / "run", 2)} == {3}
    assert [place.name for place in (tmp_path / "run" / "writer").iterdir()] == ["v000003"]


PUSH = """
import json, shutil, sys, urllib.request as web
path, version, copies, url = sys.argv[1:]
shutil.copytree(path, f"{copies}/{version}")
reload = "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}}
for where, body in (("/pause?mode=keep", {}), reload, ("/reset_prefix_cache", {}), ("/resume", {})):
    web.urlopen(web.Request(url + where, json.dumps(body).encode(), method="POST"))
"""
"""What a user might write."""


@pytest.mark.slow
def test_a_command_of_the_users_brings_the_weights(place, engine, tmp_path, capsys):
    """It is run word by word, with the folder and the version; where it fails, the run ends in words."""
    (tmp_path / "push.py").write_text(PUSH)
    push = f"{sys.executable} {tmp_path}/push.py {{path}} {{version}} {tmp_path} {engine.url}"
    asked = ["--writer", engine.url, "--sync-command"]
    assert main(words(place, tmp_path / "run", *asked, push)) == 0
    assert (tmp_path / "0" / "model.safetensors").exists()
    assert (tmp_path / "3" / "model.safetensors").exists()
    fails = f"{sys.executable} -c 'import sys; sys.exit(\"no route\")' {{path}}"
    assert main(words(place, tmp_path / "fails", *asked, fails)) == 2
    assert "--sync-command ended with status 1: no route" in capsys.readouterr().err


def test_a_server_that_never_takes_new_weights_is_said_or_allowed(place, engine, tmp_path, capsys):
    engine.behaviour.syncs = False
    asked = ["--writer", engine.url]
    assert main(words(place, tmp_path / "run", *asked)) == 2
    assert "it has the weights of version 0, and version 3 was published" in capsys.readouterr().err
    assert main(words(place, tmp_path / "old", *asked, "--max-staleness", "3")) == 0
    assert {one["version"] for one in rollouts(tmp_path / "old", 2)} == {0}
    assert [line["round/stale"] for line in numbers(tmp_path / "old")] == [0.0, 0.0]


@pytest.mark.slow
def test_responses_of_older_weights_are_thrown_away_and_counted(place, engine, tmp_path, capsys):
    """Every third answer of the second round says that it is of version 1, two updates behind."""

    def stamp(version):
        return "1" if version == 3 and engine.completions % 3 == 0 else str(version)

    engine.behaviour.stamp = stamp
    asked = ["--writer", engine.url, "--max-staleness"]
    for name, most, kept in (("strict", "1", 16), ("lenient", "2", 24)):
        engine.completions = engine.version = 0
        assert main(words(place, tmp_path / name, *asked, most)) == 0
        second = rollouts(tmp_path / name, 2)
        assert len(second) == kept
        assert numbers(tmp_path / name)[1]["round/stale"] == 24 - kept
    assert {one["version"] for one in second} == {1, 3}
    engine.behaviour.stamp = lambda version: "0"
    engine.version = 0
    assert main(words(place, tmp_path / "none", *asked, "1")) == 2
    assert "Every response of a batch is more than 1 updates behind" in capsys.readouterr().err


def test_log_probs_of_what_was_drawn_from_are_recorded_as_such(place, engine, tmp_path, capsys):
    engine.behaviour = Behaviour(processed=True)
    more = ["--rounds", "1", "--top-p", "0.7", "--temperature", "0.8", "--writer", engine.url]
    assert main(words(place, tmp_path / "run", *more)) == 0
    assert {one["logps_of"] for one in rollouts(tmp_path / "run", 1)} == {"sampler"}
    assert "its log-probs are those of what it drew from (temperature 0.8, top_p 0.7)" in capsys.readouterr().err
    assert numbers(tmp_path / "run")[0]["round/kl"] == pytest.approx(0, abs=1e-4)  # the policy's own, and nothing moved


def test_advantages_are_weighed_by_what_the_server_drew_from(place, engine, tmp_path):
    """At temperature 0.8: the mean of min(π/π_T, 2) over tokens, π as this process has it."""
    engine.behaviour = Behaviour(processed=True)
    more = ["--method", "rloo", "--rounds", "1", "--temperature", "0.8", "--writer", engine.url]
    assert main(words(place, tmp_path / "run", *more, "--importance-correction", "token")) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/rounds/0001/advantages.jsonl").read_text().splitlines()]
    drawn = {(one["id"], one["number"]): one["logps"] for one in rollouts(tmp_path / "run", 1)}
    pairs = [pair for one in lines for pair in zip(one["old_logps"], drawn[one["id"], one["number"]], strict=True)]
    weights = [min(math.exp(own - other), 2) for own, other in pairs]
    (found,) = numbers(tmp_path / "run")
    assert found["round/importance_weight"] == pytest.approx(sum(weights) / len(weights), rel=1e-4)
    assert found["round/writer_gap"] == pytest.approx(sum(abs(a - b) for a, b in pairs) / len(pairs), rel=1e-4)
    assert found["round/writer_gap"] > 0.01


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--writer", "vllm"], "is no writer"),
        (["--sync", "lora"], "--sync is given, and the policy in this process writes"),
        (["--max-staleness", "2"], "--max-staleness is given"),
        (["--writer", "http://h", "--sync", "lora"], "no adapter is trained"),
        (["--writer", "http://h", "--sync-command", "push"], "needs a --sync-command with {path}"),
        (["--writer", "http://h", "--sync", "reload", "--sync-command", "push {path}"], "--sync is reload"),
    ],
)
def test_settings_of_a_writer_that_do_not_go_together(place, tmp_path, capsys, more, said):
    assert main(words(place, tmp_path / "run", *more)) == 2
    assert said in capsys.readouterr().err


def served_apart(model, folder):
    """Serve from a process of its own until a file says stop, and then write down what was asked."""
    engine = StubEngine(model)
    (folder / "url").write_text(engine.url)
    while not (folder / "stop").exists():
        time.sleep(0.02)
    (folder / "asked").write_text("\n".join(path for path, _ in engine.requests))
    return 0


@pytest.mark.slow
def test_the_first_process_publishes_and_both_write(place, tmp_path):
    """The server is no thread of this process: what is forked from one that has threads may hang when it ends."""
    serving = started(lambda: served_apart(str(place / "model"), tmp_path), tmp_path / "served")
    while not (tmp_path / "url").exists():
        time.sleep(0.02)
    asked = words(place, tmp_path / "run", "--writer", (tmp_path / "url").read_text())
    ranks = two_ranks(lambda: main(asked), tmp_path)
    (tmp_path / "stop").touch()
    assert ended(serving, tmp_path / "served").code == 0
    assert [one.code for one in ranks] == [0, 0], ranks
    assert (tmp_path / "asked").read_text().split().count("/collective_rpc") == 2
    assert [len(rollouts(tmp_path / "run", number)) for number in (1, 2)] == [24, 24]
    assert {one["version"] for one in rollouts(tmp_path / "run", 2)} == {3}
