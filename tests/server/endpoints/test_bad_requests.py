"""What cannot be done is refused with the field's name, in OpenAI's shape, and nothing is left out silently."""

import pytest
from told import refused

from tokenq.server.engine.request import Closed, Full

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
P = {"prompt": "The cat"}
M = {"messages": [{"role": "user", "content": "The cat"}]}

BAD = [
    (TEXT, {**P, "maxtokens": 5}, "maxtokens", "Did you mean max_tokens?"),
    (TEXT, {**P, "tokenq": {"reward": True}}, "tokenq.reward", "Did you mean rewards?"),
    (TEXT, {}, "prompt", "Missing"),
    (TEXT, {"prompt": []}, "prompt", ""),
    (TEXT, {"prompt": 5}, "prompt", ""),
    (TEXT, {"prompt": [5, 100_000]}, "prompt", "288"),
    (TEXT, {"prompt": [-1]}, "prompt.0", ""),
    (TEXT, {"prompt": ["a"] * 9}, "prompt", "8"),
    (TEXT, {"prompt": "half \ud83d"}, "prompt", "half"),
    (TEXT, {"prompt": "x" * 300}, "prompt", "301 tokens, and the model's context is 256"),
    (TEXT, {"prompt": "x" * 255}, "prompt", "no room"),
    (TEXT, {**P, "max_tokens": 201}, "max_tokens", "200"),
    (TEXT, {"prompt": "x" * 100, "max_tokens": 200}, "max_tokens", "256"),
    (TEXT, {**P, "max_tokens": 0}, "max_tokens", "echo"),
    (TEXT, {**P, "max_tokens": -1}, "max_tokens", ""),
    (TEXT, {**P, "max_tokens": "5"}, "max_tokens", ""),
    (TEXT, {**P, "logprobs": 21}, "logprobs", "20"),
    (TEXT, {**P, "logprobs": True}, "logprobs", ""),
    (TEXT, {**P, "n": 0}, "n", ""),
    (TEXT, {**P, "n": 1000}, "n", "1000"),
    (TEXT, {**P, "best_of": 3}, "best_of", "best_of_n"),
    (TEXT, {**P, "suffix": "x"}, "suffix", "not supported"),
    (TEXT, {**P, "temperature": -1}, "temperature", ""),
    (TEXT, {**P, "temperature": 1e-9}, "temperature", ""),
    (TEXT, {**P, "top_p": 0}, "top_p", ""),
    (TEXT, {**P, "top_k": -2}, "top_k", ""),
    (TEXT, {**P, "min_p": 2}, "min_p", ""),
    (TEXT, {**P, "frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
    (TEXT, {**P, "repetition_penalty": 1.2}, "repetition_penalty", "not supported"),
    (TEXT, {**P, "logit_bias": {"the": 1}}, "logit_bias", "no token id"),
    (TEXT, {**P, "logit_bias": {"288": 1}}, "logit_bias", "287"),
    (TEXT, {**P, "logit_bias": {"5": 1000}}, "logit_bias.5", ""),
    (TEXT, {**P, "stop": ""}, "stop", "empty"),
    (TEXT, {**P, "stop": ["x"] * 17}, "stop", "16"),
    (TEXT, {**P, "stop_token_ids": [999]}, "stop_token_ids", "288"),
    (TEXT, {**P, "stream_options": {"include_usage": True}}, "stream_options", "stream"),
    (CHAT, {}, "messages", "Missing"),
    (CHAT, {"messages": []}, "messages", ""),
    (CHAT, {**M, "top_logprobs": 2}, "top_logprobs", "logprobs"),
    (CHAT, {**M, "tool_choice": "auto"}, "tool_choice", "tools"),
    (CHAT, {**M, "tool_choice": "required"}, "tool_choice", ""),
    (CHAT, {**M, "response_format": {"type": "json_object"}}, "response_format.type", ""),
    (CHAT, {**M, "max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "one number"),
    (CHAT, {**M, "chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template", ""),
    (CHAT, {**M, "store": True}, "store", "no effect"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, ""),
    ("/trace", {"prompt": "x"}, "response", "Missing"),
    ("/trace", {"messages": M["messages"]}, "messages", "assistant"),
    ("/trace", {"prompt": "x", "response": "y", "levels": ["verse"]}, None, "verse"),
    ("/rerank", {"query": "x", "documents": []}, "documents", ""),
    ("/rerank", {"query": "x", "documents": ["a"], "top_n": 2}, "top_n", "1 documents"),
    ("/rerank", {"query": "x", "documents": ["a"] * 17}, "documents", "16"),
    ("/rerank", {"query": "x", "documents": ["a"], "ranking": "value"}, None, "reward model"),
    (TEXT, {**P, "\ud83d": 1}, None, "Unknown"),
    ("/score", {"text_1": "x"}, "documents", "Missing"),
    ("/score", {"text_1": ["x", "y"], "text_2": ["a", "b", "c"]}, "documents", "2 queries and 3 documents"),
    ("/score", {"text_1": "x", "queries": "x", "text_2": "y"}, "text_1", "two names"),
    ("/classify", {"input": "x"}, None, "reward model"),
    ("/get_reward", {"query": ["xy"]}, "prompts", "Missing"),
    ("/get_reward", {"query": ["xy"], "prompts": ["z"]}, "prompts", "does not begin"),
    ("/tokenize", {}, "prompt", "either"),
    ("/detokenize", {"tokens": [5000]}, "tokens", "vocabulary"),
    ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/nowhere"}, "lora_path", "no adapter"),
    ("/collective_rpc", {"method": "exec", "kwargs": {"weights_path": "x"}}, "method", ""),
    (
        "/collective_rpc",
        {"method": "reload_weights", "kwargs": {"weights_path": "/nowhere"}},
        "kwargs.weights_path",
        "",
    ),
]


@pytest.mark.parametrize(("path", "body", "param", "said"), BAD, ids=[f"{n}{one[0]}" for n, one in enumerate(BAD)])
def test_it_is_refused_by_name(client, path, body, param, said):
    error = refused(client, path, **body)
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]
    if param is not None:
        assert error["param"] == param


def test_an_unknown_model_is_answered_with_those_that_are_served(client):
    for path, body in ((TEXT, P), (CHAT, M), ("/trace", {"prompt": "x", "response": "y"})):
        error = refused(client, path, 404, **body, model="tinny")
        assert (error["param"], error["code"]) == ("model", "model_not_found")
        assert "tiny" in error["message"]
    assert client.get("/v1/models/tinny").status_code == 404
    assert client.get("/v1/models/tiny").json()["id"] == "tiny"


@pytest.mark.parametrize(
    ("sent", "said"),
    [(b"{nope", "valid JSON"), (b"", "body"), (b"[]", ""), (b'{"prompt": "a", "top_p": NaN}', "top_p"), (b"\xff", "")],
)
def test_what_is_no_request_is_refused(client, sent, said):
    answer = client.post(TEXT, content=sent, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_other_paths_and_methods(client):
    assert client.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert client.get(TEXT).status_code == 405
    assert client.get(TEXT).json()["error"]["message"] == "/v1/completions does not take GET."


def test_a_full_engine_asks_to_come_again(scripted, monkeypatch):
    client = scripted("a")
    monkeypatch.setattr(client.engine, "generate", lambda *_: (_ for _ in ()).throw(Full()))
    for stream in (False, True):
        answer = client.post(TEXT, json={**P, "stream": stream})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    monkeypatch.setattr(client.engine, "generate", lambda *_: (_ for _ in ()).throw(Closed()))
    assert client.post(TEXT, json=P).status_code == 503


def test_a_defect_is_told_to_the_log_alone(scripted, monkeypatch, caplog):
    client = scripted("a")

    def fail(asked, deliver, client):
        deliver(ZeroDivisionError("secret"))
        deliver(None)

    monkeypatch.setattr(client.engine, "generate", fail)
    answer = client.post(TEXT, json=P)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "secret" in caplog.text
    streamed = client.post(TEXT, json={**P, "stream": True}).text.split("\n\n")
    assert '"server_error"' in streamed[0]
