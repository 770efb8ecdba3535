"""`tokenq.serve` and `tokenq serve`: what is refused before models are loaded, what is said, how it ends."""

import dataclasses
import inspect
import os
import signal
import socket
import time
import urllib.request

import forked
import httpx
import pytest
from tiny import tiny_model, tiny_tokenizer

import tokenq
import tokenq.server.site as site
from tokenq.cli.main import main
from tokenq.data.conditioning.control import Control, marked
from tokenq.errors import UserError
from tokenq.server.config import HttpOptions, ServeConfig, alphas_of, pairs_of

pytestmark = pytest.mark.integration

KEY, ADMIN_KEY = "a-key-of-twenty-signs", "the-admin-key-of-the-house"

CLIENT = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))


class Told:
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def __call__(self, event):
        pass


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("policy_of_mine", "reference")):
        tiny_model("llama", layers=1, seed=seed).save_pretrained(place / name)
        tiny_tokenizer("bytes").save_pretrained(place / name)
    return place


@pytest.fixture(scope="module")
def session(folders):
    return tokenq.load(folders / "policy_of_mine", folders / "reference", device="cpu")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    monkeypatch.delenv("TOKENQ_API_KEY", raising=False)
    monkeypatch.delenv("TOKENQ_ADMIN_KEY", raising=False)


def test_a_pair_is_served_and_what_it_is_is_said(session):
    told = Told()
    with tokenq.serve(session, port=0, listener=told) as server:
        assert CLIENT.get(f"{server.url}/health").status_code == 200
        assert [one["id"] for one in CLIENT.get(f"{server.url}/v1/models").json()["data"]] == ["policy_of_mine"]
        asked = {"prompt": "One", "max_tokens": 2, "tokenq": {"rewards": True}}
        choice = CLIENT.post(f"{server.url}/v1/completions", json=asked).json()["choices"][0]
        assert len(choice["tokenq"]["implicit_rewards"]) == 2
        numbers = CLIENT.get(f"{server.url}/metrics").text
        assert 'tokenq:http_requests_total{path="/v1/completions",status="200"} 1.0' in numbers
    assert len(told.said) == 1
    for part in ("serving policy_of_mine", "against", "reference", "β 0.1", "no key is needed", server.url):
        assert part in told.said[0]
    with pytest.raises(httpx.ConnectError):
        CLIENT.get(f"{server.url}/health")


def test_what_a_policy_wants_to_be_asked_for_is_said(session):
    told = Told()
    marked(session.tokenizer, Control(("clear", "brief"), 1, 5))
    try:
        with tokenq.serve(session, port=0, listener=told):
            pass
    finally:
        marked(session.tokenizer, None)
    assert any("[clear: 5, brief: 5] behind its prompt" in said for said in told.said)


def test_two_servers_of_one_pair_have_names_and_numbers_of_their_own(session):
    with (
        tokenq.serve(session, port=0, model_name="one") as one,
        tokenq.serve(session, port=0, model_name="two") as two,
    ):
        assert one.port != two.port
        for server, name in ((one, "one"), (two, "two")):
            assert CLIENT.get(f"{server.url}/v1/models").json()["data"][0]["id"] == name
        CLIENT.get(f"{one.url}/v1/models")
        counted = 'tokenq:http_requests_total{path="/v1/models",status="200"} '
        assert f"{counted}2.0" in CLIENT.get(f"{one.url}/metrics").text
        assert f"{counted}1.0" in CLIENT.get(f"{two.url}/metrics").text


def test_keys_are_of_the_environment_and_in_nothing_that_is_said(session, monkeypatch, caplog):
    monkeypatch.setenv("TOKENQ_API_KEY", KEY)
    monkeypatch.setenv("TOKENQ_ADMIN_KEY", ADMIN_KEY)
    told = Told()
    with tokenq.serve(session, port=0, listener=told) as server:
        asked = {"lora_name": "a", "lora_path": "/none"}
        statuses = []
        for key in (None, "wrong", KEY, ADMIN_KEY):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            models = CLIENT.get(f"{server.url}/v1/models", headers=headers)
            load = CLIENT.post(f"{server.url}/v1/load_lora_adapter", json=asked, headers=headers)
            statuses.append((models.status_code, load.status_code))
        assert statuses == [(401, 401), (401, 401), (200, 403), (200, 400)]
    assert "a key is needed" in told.said[0]
    for secret in (KEY, ADMIN_KEY):
        assert secret not in caplog.text + "".join(told.said) + repr(server)


def numbers_of(server):
    lines = CLIENT.get(f"{server.url}/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}


def test_tokens_are_counted_and_timed(session):
    """Two choices of four tokens behind eight: the first token of a request once, then three steps of each choice."""
    with tokenq.serve(session, port=0) as server:
        asked = {"prompt": "abcdefg", "max_tokens": 4, "n": 2, "seed": 1, "logit_bias": {"2": -100}}
        for _ in range(2):
            CLIENT.post(f"{server.url}/v1/completions", json=asked).raise_for_status()
        found = numbers_of(server)
    assert found["tokenq:generation_tokens_total"] == 16
    assert found["tokenq:prefix_cache_queries_total"] == 16
    assert 0 < found["tokenq:prefix_cache_hits_total"] < 8
    assert found["tokenq:time_to_first_token_seconds_count"] == 2
    assert found["tokenq:inter_token_latency_seconds_count"] == 12
    assert found['tokenq:request_success_total{finished_reason="length"}'] == 4
    assert (found["tokenq:num_requests_running"], found["tokenq:num_requests_waiting"]) == (0, 0)
    assert found["tokenq:kv_cache_kept_bytes"] > 0


def test_settings_in_python_are_the_flags():
    keywords = inspect.signature(tokenq.serve).parameters
    settings = {one.name: one.default for one in dataclasses.fields(HttpOptions)}
    assert {name: keywords[name].default for name in settings} == settings
    assert {*keywords} - {*settings} == {"session", "proxies", "listener"}


def test_prompts_responses_and_bodies_have_limits(session):
    with tokenq.serve(session, port=0, max_prompt_tokens=5, max_new_tokens=3, max_body_bytes=60) as server:

        def asked(prompt, tokens):
            answer = CLIENT.post(f"{server.url}/v1/completions", json={"prompt": prompt, "max_tokens": tokens})
            return answer.status_code, answer.json().get("error", {}).get("message")

        assert asked("abcd", 3) == (200, None)  # BOS and four bytes
        assert asked("abcde", 3) == (400, "The prompt has 6 tokens, and this server reads 5 at most.")
        assert asked("abcd", 4) == (400, "max_tokens: 4 tokens, and this server writes 3 at most.")
        assert asked("a" * 40, 3)[0] == 413


def test_the_app_and_its_files_come_without_a_key_and_its_data_do_not(session, monkeypatch):
    monkeypatch.setenv("TOKENQ_API_KEY", KEY)
    with tokenq.serve(session, port=0) as server:
        page = CLIENT.get(server.url)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "script-src" in page.headers["content-security-policy"]
        files = {one.split('"')[0] for one in page.text.split('="/static/')[1:]}
        assert len(files) >= 2
        assert {CLIENT.get(f"{server.url}/static/{name}").status_code for name in files} == {200}
        assert CLIENT.get(f"{server.url}/app/sessions").status_code == 401
        assert CLIENT.get(f"{server.url}/app/sessions", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_an_open_address_without_a_key_is_refused(session, host):
    with pytest.raises(UserError, match="can be reached from other machines, and there is no key") as refused:
        tokenq.serve(session, host=host, port=0)
    assert "TOKENQ_API_KEY" in str(refused.value)


def test_an_open_address_with_a_key_is_served(session, monkeypatch):
    monkeypatch.setenv("TOKENQ_API_KEY", KEY)
    with tokenq.serve(session, host="0.0.0.0", port=0) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert CLIENT.get(f"{server.url}/v1/models").status_code == 401
        rebound = {"Authorization": f"Bearer {KEY}", "Host": "evil.example"}
        assert CLIENT.get(f"{server.url}/v1/models", headers=rebound).status_code == 403


def test_what_is_missing_is_named_with_what_installs_it(session, monkeypatch):
    monkeypatch.setattr(site, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(UserError, match="A server needs uvicorn") as refused:
        tokenq.serve(session, port=0)
    assert "pip install 'tokenq[serve]'" in str(refused.value)


def test_a_reward_model_alone_is_no_pair(session, folders, tmp_path):
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_pretrained(folders / "reference", num_labels=1).save_pretrained(tmp_path)
    tiny_tokenizer("bytes").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="A reward model alone writes nothing"):
        tokenq.serve(tokenq.load(reward_model=tmp_path, device="cpu"), port=0)


def test_a_port_that_is_taken_is_told_before_models_are_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--policy", "no-such-model", "--reference", "none", "--port", str(port)]) == 2
    assert f"Nothing can listen at 127.0.0.1:{port}: Address already in use." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "There is nothing to serve, or too much.\n  Give --policy P --reference R, or --run RUN."),
        (["--policy", "p", "--run", "r"], "There is nothing to serve, or too much."),
        (["--policy", "p", "--api-key", KEY], "Unknown flag: --api-key.\n  Here: Keys are never on a command line"),
        (["--policy", "p", "--host", "0.0.0.0"], "there is no key"),
        (["--policy", "p", "--port", "70000"], "--port is 70000.\n  It must be from 0 to 65,535."),
        (["--policy", "p", "--proxy", "small=a"], "--proxy small=a: those are no pairs of models."),
        (["--policy", "p", "--proxy", "small=a,b", "--alpha", "smal=1"], "Did you mean 'small'?"),
        (["--policy", "p", "--proxy", "small=a,b", "--alpha", "small=1,2"], "--alpha small=1,2: those are no weights."),
        (["--policy", "p", "--reward-weights", "a=1"], "--reward-weights is given, and no --reward-model."),
        (["--policy", "p", "--allow-origin", "*"], "--allow-origin *: that is no address of a page."),
        (["--policy", "p", "--api-key-file", "/no/such"], "--api-key-file /no/such cannot be read"),
    ],
)
def test_what_cannot_be_meant_exits_with_2(words, says, capsys):
    assert main(["serve", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert KEY not in said


def test_small_pairs_by_name():
    config = ServeConfig(policy="p", proxy={"a": "t,u", "b": "v,w,x,y"}, alpha={"b": "0.5,-2"})
    assert pairs_of(config) == {"a": [("t", "u")], "b": [("v", "w"), ("x", "y")]}
    assert alphas_of(config) == {"a": [1.0], "b": [0.5, -2.0]}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def served(words, printed, port):
    """Start the command in a child, and return its number once it is ready."""
    child = forked.started(lambda: main(["serve", *map(str, words), "--port", str(port)]), printed)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return child
        except OSError:
            time.sleep(0.05)
    raise AssertionError(printed.read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_the_log_has_no_texts(folders, tmp_path, monkeypatch, number):
    monkeypatch.setenv("TOKENQ_API_KEY", KEY)
    port, printed = free_port(), tmp_path / "printed"
    models = ["--policy", folders / "policy_of_mine", "--reference", folders / "reference", "--device", "cpu"]
    child = served(models, printed, port)
    asked = {"prompt": "a text of mine", "max_tokens": 2}
    key = {"Authorization": f"Bearer {KEY}"}
    assert CLIENT.post(f"http://127.0.0.1:{port}/v1/completions?a=secret", json=asked, headers=key).status_code == 200
    assert CLIENT.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401
    os.kill(child, number)
    code, text = forked.ended(child, printed)
    assert code == 0, text
    assert f"http://127.0.0.1:{port} (Ctrl-C ends it)" in text.replace("\n", " ")
    assert "POST /v1/completions 200" in text
    assert "GET /v1/models 401" in text
    assert not [secret for secret in (KEY, "text of mine", "secret") if secret in text]


def test_a_second_signal_breaks_off_what_is_under_way(folders, tmp_path):
    port, printed = free_port(), tmp_path / "printed"
    models = ["--policy", folders / "policy_of_mine", "--reference", folders / "reference", "--device", "cpu"]
    child = served([*models, "--max-body-bytes", "100"], printed, port)
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\nx")
        time.sleep(0.3)
        os.kill(child, signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.HTTPStatusError, match="503"):
            CLIENT.get(f"http://127.0.0.1:{port}/health").raise_for_status()
        os.kill(child, signal.SIGTERM)
        code, text = forked.ended(child, printed)
    assert code == 128 + signal.SIGTERM, text
    assert "Requests under way: 1; they end first" in text
    assert "Requests broken off: 1." in text
