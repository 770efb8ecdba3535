"""The chat judge against a real OpenAI-compatible server: llama-cpp-python, with a model file that the caller has.

    pip install 'llama-cpp-python[server]'
    export TOKENQ_GGUF=gemma-3-270m-q4_k_m.gguf
    python -m pytest -m slow --log-cli-level=INFO tests/evaluation/test_judge_server.py

The model is far too small to judge; what is tested is that a real server is asked, understood, counted and resumed.
"""

import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from tokenq.errors import UserError
from tokenq.judge.chat import ChatJudge
from tokenq.judge.endpoint import Endpoint
from tokenq.judge.judging import Comparison, reliability, shares
from tokenq.stats.win_rate import win_rate

pytestmark = pytest.mark.slow
LOG = logging.getLogger(__name__)

GRAMMAR = 'root ::= "Verdict: " ("A" | "B" | "tie")'
"""llama.cpp's own field of a request: the server can write nothing else."""

PAIRS = [
    Comparison("capital", "What is the capital of France?", "Paris.", "I like trains."),
    Comparison("sum", "What is 2 + 2?", "Five, I think, or seven.", "4"),
    Comparison("colour", "Name a colour.", "Blue", "Blue"),
    Comparison("haiku", "Write a haiku about rain.", "Rain on the tin roof,\nthe cat sleeps.", "No."),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Start the server on a free port of the loopback interface, and end it after the tests."""
    model = os.environ.get("TOKENQ_GGUF")
    if not model:
        pytest.skip("TOKENQ_GGUF names no model file")
    pytest.importorskip("llama_cpp.server.app")
    pytest.importorskip("openai")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(Path(model).resolve())]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "2048", "--n_threads", "2", "--verbose", "false"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.fail(f"the server ended: {log.read_text()[-2000:]}")
            try:
                urllib.request.urlopen(f"{url}/models", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(autouse=True)
def _no_account(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_verdicts_of_a_real_server(server, tmp_path):
    parameters = {"temperature": 0, "max_tokens": 16, "grammar": GRAMMAR}
    judge = ChatJudge(Endpoint("gemma", server), tmp_path / "answers.jsonl", parameters=parameters, concurrency=2)
    estimate = judge.estimate(PAIRS)
    assert (estimate.requests, estimate.identical) == (6, 1)
    judgements = judge(PAIRS)
    found = reliability(judgements)
    LOG.info("%s\n%s\n%s", estimate, found, win_rate(shares(judgements)))
    assert found.unusable == 0
    assert judgements[2].preference == "tie"
    texts = {answer.text for one in judgements for answer in one.answers}
    assert texts <= {"Verdict: A", "Verdict: B", "Verdict: tie"}
    # The server counts tokens; the estimate goes by bytes.
    assert found.prompt_tokens == pytest.approx(estimate.prompt_tokens, rel=0.4)
    assert 0 < found.response_tokens <= 6 * 16
    began = time.monotonic()
    assert judge(PAIRS) == judgements
    assert time.monotonic() - began < 0.5
    assert judge.estimate(PAIRS).requests == 0


def test_what_a_base_model_rambles_is_unusable_or_a_clean_verdict(server, tmp_path):
    judge = ChatJudge(
        Endpoint("gemma", server), tmp_path / "answers.jsonl", parameters={"temperature": 0, "max_tokens": 48}
    )
    judgements = judge(PAIRS[:2])
    for judgement in judgements:
        for answer in judgement.answers:
            LOG.info("%s: %s: %r", answer.order, answer.verdict or answer.problem, answer.text)
            assert (answer.verdict is None) == bool(answer.problem)
            assert answer.response_tokens > 0
    assert sum(reliability(judgements).problems.values()) == reliability(judgements).unusable


def test_a_question_longer_than_the_context_is_unusable_and_the_others_are_judged(server, tmp_path):
    parameters = {"temperature": 0, "max_tokens": 16, "grammar": GRAMMAR}
    judge = ChatJudge(
        Endpoint("gemma", server, attempts=2, backoff=0.1), tmp_path / "answers.jsonl", parameters=parameters
    )
    long = Comparison("long", "Go on. " * 3000, "a", "b")
    first, second = judge([PAIRS[0], long])
    LOG.info("%s", second.problem)
    assert first.preference is not None
    assert second.preference is None
    assert "status 400" in second.problem


def test_a_server_that_is_gone_is_told_and_the_answers_are_kept(server, tmp_path):
    parameters = {"temperature": 0, "max_tokens": 16, "grammar": GRAMMAR}
    judge = ChatJudge(Endpoint("gemma", server), tmp_path / "answers.jsonl", parameters=parameters)
    judge(PAIRS[:1])
    gone = replace(judge, endpoint=Endpoint("gemma", "http://127.0.0.1:9/v1", attempts=2, backoff=0.01))
    with pytest.raises(UserError, match=r"2 of 6 answers are kept") as told:
        gone(PAIRS)
    LOG.info("%s", told.value)
    assert [one.id for one in judge(PAIRS)] == [one.id for one in PAIRS]
