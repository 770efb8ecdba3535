"""The chat judge against a server on the loopback interface: what it asks, keeps, repeats, and gives up on."""

import email.utils
import json
import logging
import sys
import threading
import time
import traceback
from dataclasses import replace

import pytest
from stub_endpoint import StubEndpoint, failed, said

from tokenq.errors import UserError
from tokenq.judge.chat import HOPELESS, ChatJudge
from tokenq.judge.endpoint import Endpoint
from tokenq.judge.judging import Comparison, reliability, shares
from tokenq.judge.prompt import Template

pytest.importorskip("openai")

KEY = "sk-very-secret-0123456789"
TEMPLATE = Template("{{prompt}}|{{first}}|{{second}}")
PAIRS = [Comparison(str(n), f"prompt {n}", f"good {n}", f"bad {n}") for n in range(6)]


@pytest.fixture(autouse=True)
def _no_account(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def serve():
    """Start stubs that are closed after the test."""
    stubs = []

    def start(behave):
        stubs.append(StubEndpoint(behave))
        return stubs[-1]

    yield start
    for stub in stubs:
        stub.close()


def judge_at(stub, tmp_path, *, parameters=None, **endpoint):
    patience = {"timeout": 5.0, "attempts": 3, "backoff": 0.001, **endpoint}
    chosen = {} if parameters is None else {"parameters": parameters}
    return ChatJudge(Endpoint("m", stub.url, **patience), tmp_path / "answers.jsonl", TEMPLATE, concurrency=2, **chosen)


def fair(number, question):
    """Name the response that says "good", wherever it stands."""
    _, a, _ = question.split("|")
    return said("It is better.\nVerdict: " + ("A" if a.startswith("good") else "B"))


def test_both_orders_are_asked_and_a_fair_judge_prefers_the_good_one(serve, tmp_path):
    stub = serve(fair)
    judgements = judge_at(stub, tmp_path)(PAIRS)
    assert [one.preference for one in judgements] == ["first"] * 6
    assert sorted(request["messages"][0]["content"] for request in stub.requests) == sorted(
        [f"prompt {n}|good {n}|bad {n}" for n in range(6)] + [f"prompt {n}|bad {n}|good {n}" for n in range(6)]
    )
    first = stub.requests[0]
    assert (first["path"], first["model"], first["temperature"], first["max_tokens"]) == (
        "/v1/chat/completions", "m", 0, 1024
    )  # fmt: skip
    how = reliability(judgements)
    assert (how.both_orders, how.inconsistent, how.position_bias) == (6, 0, 0.0)
    assert (how.prompt_tokens, how.response_tokens) == (12 * 40, 12 * 5)
    assert {answer.order for one in judgements for answer in one.answers} == {"given", "swapped"}


def test_a_judge_that_goes_by_position_ties_everything_and_is_found_out(serve, tmp_path):
    stub = serve(lambda number, question: said("Verdict: A"))
    judgements = judge_at(stub, tmp_path)(PAIRS)
    assert shares(judgements).tolist() == [0.5] * 6
    how = reliability(judgements)
    assert (how.inconsistent, how.named_first_shown, how.named_second_shown, how.position_bias) == (6, 6, 0, 1.0)


def test_nonsense_is_unusable_and_counted_and_never_a_tie(serve, tmp_path):
    def babble(number, question):
        return said("I like both, really.") if question.startswith("prompt 3") else fair(number, question)

    judgements = judge_at(serve(babble), tmp_path)(PAIRS)
    assert [one.preference for one in judgements] == ["first"] * 3 + [None] + ["first"] * 2
    assert judgements[3].answers[0].text == "I like both, really."
    how = reliability(judgements)
    assert (how.unusable, how.problems, how.both_orders) == (1, {"no verdict": 1}, 5)


def test_an_answer_in_one_order_only_is_not_half_a_judgement(serve, tmp_path):
    stub = serve(lambda number, question: said(None) if "|bad 0|" in question else fair(number, question))
    (judgement,) = judge_at(stub, tmp_path)(PAIRS[:1])
    assert (judgement.preference, judgement.problem) == (None, "an empty answer")


def test_identical_responses_are_a_tie_and_nobody_is_asked(serve, tmp_path):
    stub = serve(fair)
    judge = judge_at(stub, tmp_path)
    same = Comparison("same", "p", "text", "text")
    assert judge.estimate([same, PAIRS[0]]).requests == 2
    assert [one.preference for one in judge([same, PAIRS[0]])] == ["tie", "first"]
    assert len(stub.requests) == 2


def test_what_was_asked_is_not_asked_again_and_a_new_question_is(serve, tmp_path):
    stub = serve(fair)
    judge = judge_at(stub, tmp_path)
    before = judge(PAIRS[:2])
    assert judge(PAIRS[:2]) == before
    assert len(stub.requests) == 4
    judge(PAIRS[:3] * 2)  # twice the same question is one question
    assert len(stub.requests) == 6
    others = [
        replace(judge, template=Template("!{{prompt}}|{{first}}|{{second}}")),
        replace(judge, parameters={"temperature": 1}),
        replace(judge, endpoint=replace(judge.endpoint, model="n")),
    ]
    for count, other in enumerate(others, 1):
        other(PAIRS[:1])
        assert len(stub.requests) == 6 + 2 * count


def test_the_estimate_counts_what_is_left(serve, tmp_path):
    judge = judge_at(serve(fair), tmp_path, parameters={"max_tokens": 10})
    before = judge.estimate(PAIRS)
    # "prompt 0|good 0|bad 0" has 21 bytes: 12 questions of 21 bytes, four bytes per token.
    assert (before.comparisons, before.answered, before.requests) == (6, 0, 12)
    assert (before.prompt_tokens, before.response_tokens) == (63, 120)
    judge(PAIRS[:2])
    after = judge.estimate(PAIRS)
    assert (after.answered, after.requests, after.prompt_tokens, after.response_tokens) == (4, 8, 42, 80)
    assert replace(judge, parameters={}).estimate(PAIRS).response_tokens is None


def test_the_estimate_asks_nothing_and_needs_no_key(tmp_path):
    judge = ChatJudge(Endpoint("m"), tmp_path / "answers.jsonl")
    assert judge.estimate(PAIRS).requests == 12
    assert not (tmp_path / "answers.jsonl").exists()


def test_a_server_error_passes(serve, tmp_path):
    stub = serve(lambda number, question: failed(500) if number % 2 == 0 else fair(number, question))
    assert [one.preference for one in replace(judge_at(stub, tmp_path), concurrency=1)(PAIRS[:2])] == ["first"] * 2
    assert len(stub.requests) == 8  # four questions, each asked a second time


def test_no_question_is_asked_more_often_than_allowed(serve, tmp_path):
    stub = serve(lambda number, question: failed(500, "broken"))
    with pytest.raises(UserError, match=r"status 500: broken \(3 attempts\)"):
        replace(judge_at(stub, tmp_path), concurrency=1)(PAIRS)
    assert len(stub.requests) == 3


def test_retry_after_is_obeyed(serve, tmp_path):
    times = []

    def busy(number, question):
        times.append(time.monotonic())
        return failed(429, retry_after="0.3") if number == 0 else fair(number, question)

    replace(judge_at(serve(busy), tmp_path), concurrency=1)(PAIRS[:1])
    assert len(times) == 3
    assert times[1] - times[0] >= 0.3  # and not the thousandth of a second that the judge would wait by itself


def test_a_date_in_retry_after_is_obeyed(serve, tmp_path):
    in_an_hour = email.utils.formatdate(time.time() + 3600, usegmt=True)
    stub = serve(lambda number, question: failed(429, "slow down", retry_after=in_an_hour))
    with pytest.raises(UserError, match=r"status 429: slow down, and asks to wait 3[56]\d\d s"):
        judge_at(stub, tmp_path)(PAIRS)
    assert len(stub.requests) <= 2


def test_no_answer_in_time_is_tried_again(serve, tmp_path):
    release = threading.Event()

    def dawdle(number, question):
        if number == 0:
            release.wait(10)
        return fair(number, question)

    stub = serve(dawdle)
    judge = replace(judge_at(stub, tmp_path, timeout=0.3), concurrency=1)
    try:
        assert [one.preference for one in judge(PAIRS[:1])] == ["first"]
    finally:
        release.set()
    assert len(stub.requests) == 3


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"<html>busy</html>",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
    ],
    ids=str,
)
def test_a_malformed_answer_is_asked_again_and_then_counts_as_down(serve, tmp_path, body):
    stub = serve(lambda number, question: (200, {}, body))
    with pytest.raises(UserError, match=r"a malformed answer: .* \(3 attempts\)\. 0 of 2 answers are kept"):
        replace(judge_at(stub, tmp_path), concurrency=1)(PAIRS[:1])
    assert len(stub.requests) == 3
    stub.behave = fair
    assert [one.preference for one in judge_at(stub, tmp_path)(PAIRS[:1])] == ["first"]


def test_an_endpoint_that_does_not_count_tokens_will_do(serve, tmp_path):
    stub = serve(lambda number, question: said("Verdict: tie", tokens=None))
    (judgement,) = judge_at(stub, tmp_path)(PAIRS[:1])
    assert judgement.preference == "tie"
    assert judgement.answers[0].prompt_tokens == 0


def test_half_a_character_in_an_answer_or_a_response_breaks_nothing(serve, tmp_path):
    stub = serve(lambda number, question: said("\ud83d\nVerdict: tie"))
    judge = judge_at(stub, tmp_path)
    odd = Comparison("\udc80", "p", "half \ud83d", "b")
    assert [one.preference for one in judge([odd])] == ["tie"]
    assert judge([odd])[0].answers[0].text == "?\nVerdict: tie"
    assert len(stub.requests) == 2


def test_a_run_whose_endpoint_goes_down_goes_on_later_and_loses_nothing(serve, tmp_path):
    asked = []

    def mortal(number, question):
        if number < 5:
            asked.append(question)
            return fair(number, question)
        return failed(503, "overloaded")

    stub = serve(mortal)
    judge = judge_at(stub, tmp_path)
    with pytest.raises(UserError) as told:
        judge(PAIRS)
    assert "does not answer: status 503: overloaded (3 attempts)" in told.value.message
    assert f"5 of 12 answers are kept in {tmp_path / 'answers.jsonl'}" in told.value.message
    assert told.value.hint == "Give the same command again when it is up: it goes on from there."
    stub.behave = lambda number, question: (asked.append(question), fair(number, question))[1]
    assert [one.preference for one in judge(PAIRS)] == ["first"] * 6
    assert len(asked) == len(set(asked)) == 12


def test_a_refused_connection_is_told_and_the_run_goes_on_at_another_port(serve, tmp_path):
    stub = StubEndpoint(fair)
    judge = judge_at(stub, tmp_path)
    judge(PAIRS[:2])
    stub.close()
    with pytest.raises(UserError, match=r"no connection: .*refused.* \(3 attempts\)\. 4 of 12 answers"):
        judge(PAIRS)
    again = serve(fair)
    judge = replace(judge, endpoint=replace(judge.endpoint, base_url=again.url))
    assert [one.preference for one in judge(PAIRS)] == ["first"] * 6
    assert len(again.requests) == 8


def test_a_torn_last_line_is_asked_again(serve, tmp_path):
    stub = serve(fair)
    judge = judge_at(stub, tmp_path)
    judge(PAIRS)
    whole = judge.answers.read_bytes()
    judge.answers.write_bytes(whole[:-20])
    judge(PAIRS)
    assert len(stub.requests) == 13
    assert sorted(judge.answers.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{}", "line 1 is no answer of a judge"),
        ("7", "line 1: no JSON object"),
        (
            '{"key": "k", "text": "t", "cut": 0, "prompt_tokens": 1, "response_tokens": 1}',
            "line 1 is no answer of a judge",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, line, says):
    path = tmp_path / "answers.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=says):
        ChatJudge(Endpoint("m"), path).estimate(PAIRS)
    assert path.read_text() == line + "\n"


def test_a_folder_is_no_file_of_answers(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        ChatJudge(Endpoint("m"), tmp_path).estimate(PAIRS)


def test_a_question_that_is_refused_is_unusable_and_asked_again_next_time(serve, tmp_path):
    def strict(number, question):
        return failed(400, "too long") if "good 1|" in question else fair(number, question)

    stub = serve(strict)
    judge = judge_at(stub, tmp_path)
    first, second, *_ = judge(PAIRS)
    assert (first.preference, second.preference) == ("first", None)
    assert second.problem == "refused with status 400: too long"
    assert len(stub.requests) == 12  # no second attempts
    assert reliability([first, second]).unusable == 1
    assert judge(PAIRS)[1].preference is None  # also when nothing else is left to ask
    stub.behave = fair
    assert judge(PAIRS)[1].preference == "first"


def test_a_response_that_is_too_long_for_the_judge_is_judged_by_its_beginning(serve, tmp_path):
    """A judge of 10,000 characters: the losing response cannot leave the sample by its length."""

    def short_sighted(number, question):
        return failed(400, "too long") if len(question) > 10_000 else fair(number, question)

    long = [Comparison("long", "prompt", "good", "bad " * 20_000), *PAIRS[:1]]
    stub = serve(short_sighted)
    judge = judge_at(stub, tmp_path)
    found = judge(long)
    assert [one.preference for one in found] == ["first", "first"]
    assert [answer.shown for one in found for answer in one.answers] == [3000, 3000, None, None]
    assert reliability(found).shortened == 1
    questions = [request["messages"][0]["content"] for request in stub.requests]
    assert sum("[the rest, 77000 characters, is not shown]" in question for question in questions) == 2
    asked = len(stub.requests)
    assert [answer.shown for answer in judge(long)[0].answers] == [3000, 3000]  # kept with the answer
    assert len(stub.requests) == asked


def test_an_endpoint_that_refuses_everything_is_not_asked_on_and_on(serve, tmp_path):
    stub = serve(lambda number, question: failed(400, "temperature is not supported"))
    many = [Comparison(str(n), str(n), "a", "b") for n in range(200)]
    with pytest.raises(UserError, match=rf"refused all of the first {HOPELESS} questions; .*temperature is not sup"):
        judge_at(stub, tmp_path)(many)
    assert HOPELESS <= len(stub.requests) < 400


@pytest.mark.parametrize(("status", "hint"), [(401, "OPENAI_API_KEY"), (404, "/v1"), (402, "Check")])
def test_an_endpoint_that_answers_nobody_is_told_at_once(serve, tmp_path, status, hint):
    stub = serve(lambda number, question: failed(status, "go away"))
    with pytest.raises(UserError, match=rf"status {status}: go away") as told:
        judge_at(stub, tmp_path)(PAIRS)
    assert hint in told.value.hint
    assert len(stub.requests) <= 2


def test_no_more_questions_are_under_way_than_allowed(serve, tmp_path):
    together = threading.Barrier(3)

    def slow(number, question):
        if number < 3:
            together.wait(10)
        return fair(number, question)

    stub = serve(slow)
    replace(judge_at(stub, tmp_path), concurrency=3)(PAIRS)
    assert stub.most_at_once == 3


def test_breaking_off_keeps_the_answers_and_begins_nothing_new(serve, tmp_path):
    stub = serve(fair)

    def break_off(done, total):
        if done >= 3:
            raise KeyboardInterrupt

    judge = replace(judge_at(stub, tmp_path), concurrency=1, progress=break_off)
    many = [Comparison(str(n), str(n), "good", "bad") for n in range(200)]
    with pytest.raises(KeyboardInterrupt):
        judge(many)
    asked = len(stub.requests)
    assert 3 <= asked < 400
    assert replace(judge, progress=lambda *_: None).estimate(many).answered == asked


def test_breaking_off_does_not_wait_for_further_attempts(serve, tmp_path):
    waiting = threading.Event()

    def half(number, question):
        if number == 0:
            waiting.set()
            return failed(429, retry_after="60")
        waiting.wait(10)
        return fair(number, question)

    def break_off(done, total):
        if done:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        replace(judge_at(serve(half), tmp_path), progress=break_off)(PAIRS)
    assert time.monotonic() - began < 30


def test_progress_is_told(serve, tmp_path):
    heard = []
    judge = judge_at(serve(fair), tmp_path)
    judge(PAIRS[:1])
    replace(judge, progress=lambda done, total: heard.append((done, total)))(PAIRS[:2])
    assert heard == [(2, 4), (3, 4), (4, 4)]


class TestKey:
    def test_is_sent_from_the_environment_or_given(self, serve, tmp_path, monkeypatch):
        stub = serve(fair)
        monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
        judge_at(stub, tmp_path)(PAIRS[:1])
        judge_at(stub, tmp_path, api_key="mine")(PAIRS[1:2])
        assert set(stub.keys) == {f"Bearer {KEY}", "Bearer mine"}

    def test_base_url_comes_from_the_environment(self, serve, tmp_path, monkeypatch):
        stub = serve(fair)
        monkeypatch.setenv("OPENAI_BASE_URL", stub.url)
        ChatJudge(Endpoint("m"), tmp_path / "answers.jsonl", TEMPLATE)(PAIRS[:1])
        assert len(stub.requests) == 2

    @pytest.mark.parametrize("url", [None, "https://judge.example.org/v1", "http://8.8.8.8/v1"])
    def test_is_needed_elsewhere(self, tmp_path, url):
        with pytest.raises(UserError, match="needs a key") as told:
            ChatJudge(Endpoint("m", url), tmp_path / "answers.jsonl")(PAIRS)
        assert "OPENAI_API_KEY" in told.value.hint

    @pytest.mark.parametrize(
        "url",
        [
            "http://localhost:8000/v1",
            "http://127.0.0.1/v1",
            "http://[::1]:1/v1",
            "http://10.1.2.3/v1",
            "http://vllm/v1",
        ],
    )
    def test_is_not_needed_here(self, url):
        assert Endpoint("m", url).key() == "none"

    @pytest.mark.parametrize(
        "url", ["judge.example.org/v1", "ftp://x/v1", "http://", "http://x:y/v1", "http://[::1/v1"]
    )
    def test_and_a_base_url_must_be_one(self, url):
        with pytest.raises(UserError, match="is no web address"):
            Endpoint("m", url).key()

    @pytest.mark.parametrize("key", [KEY + "\nX: y", "schlüssel-" + KEY, "two " + KEY])
    def test_that_no_header_can_carry_is_refused_without_saying_it(self, key):
        with pytest.raises(UserError) as told:
            Endpoint("m", "https://judge.example.org/v1", api_key=key).key()
        assert KEY not in str(told.value)

    @pytest.mark.parametrize("status", [400, 401, 500])
    def test_is_in_no_message_log_or_file(self, serve, tmp_path, caplog, capfd, status):
        """Some servers repeat the key in their error, or its beginning."""
        stub = serve(lambda number, question: failed(status, f"Incorrect key {KEY} or {KEY[:10]}***"))
        judge = judge_at(stub, tmp_path, api_key=KEY)
        with caplog.at_level(logging.DEBUG), pytest.raises(UserError) as told:
            judge(PAIRS)
        trace = "".join(traceback.format_exception(told.value))
        assert "Incorrect key [key] or [key]" in told.value.message
        for text in (trace, caplog.text, repr(judge), "".join(capfd.readouterr())):
            assert KEY[:10] not in text
        stub.behave = lambda number, question: said("Verdict: tie")
        judge(PAIRS)
        assert KEY[:10] not in judge.answers.read_text()

    def test_in_the_address_is_not_shown(self):
        assert Endpoint("m", "https://user:pass@judge.example.org:8/v1?k=1").shown == "https://judge.example.org:8/v1"


def test_without_the_client_the_install_command_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match="needs the openai client") as told:
        ChatJudge(Endpoint("m", "http://localhost/v1"), tmp_path / "answers.jsonl")(PAIRS)
    assert told.value.hint == "pip install 'tokenq[judge]'"


def test_the_file_of_answers_holds_no_prompts(serve, tmp_path):
    judge = judge_at(serve(fair), tmp_path)
    judge(PAIRS)
    records = [json.loads(line) for line in judge.answers.read_text().splitlines()]
    assert all(
        record.keys()
        == {"key", "model", "comparison", "order", "text", "cut", "prompt_tokens", "response_tokens", "shown"}
        for record in records
    )
    assert "prompt 1" not in judge.answers.read_text()
