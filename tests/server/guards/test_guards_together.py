"""An application behind its guards: who comes in, with what, how much at once, and what is left behind."""

import asyncio
import json
import logging

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from tokenq.server.guards.gate import ADMIN
from tokenq.server.guards.guarded import Guards, guarded
from tokenq.server.guards.hosts import names_of
from tokenq.server.guards.keys import ADMIN_VARIABLE, API_VARIABLE, read_keys
from tokenq.server.guards.limits import Limits
from tokenq.server.guards.metrics import Metrics

KEY, ADMIN_KEY = "a-key-of-twenty-signs", "the-admin-key-of-the-house"
BOTH = {API_VARIABLE: KEY, ADMIN_VARIABLE: ADMIN_KEY}


def made(environ=BOTH, origins=(), **limits):
    """An application behind its guards, with its numbers."""
    app = FastAPI()

    @app.get("/")
    async def page():
        return "page"

    @app.get("/health")
    async def health():
        return "well"

    @app.post("/v1/echo/{name}")
    async def echo(name: str, request: Request):
        return {"size": len(await request.body()), "gone": await request.is_disconnected()}

    @app.post("/slow")
    async def slow():
        await asyncio.sleep(0.2)
        return "done"

    @app.post("/stream")
    async def stream():
        async def parts():
            for part in range(100):
                yield f"{part}\n"
                await asyncio.sleep(0.02)

        return StreamingResponse(parts())

    @app.post("/breaks")
    async def breaks():
        raise RuntimeError("the secret text of a prompt")

    for path in ADMIN:
        app.add_api_route(path, page, methods=["POST"])
    guards = Guards(read_keys(None, None, environ), names_of("127.0.0.1", [], origins), Limits(**limits))
    return guarded(app, guards, Metrics())


async def ask(app, method, path, key=KEY, **more):
    headers = ({} if key is None else {"authorization": f"Bearer {key}"}) | more.pop("headers", {})
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        return await client.request(method, path, headers=headers, **more)


def asked(app, method, path, **more):
    return asyncio.run(ask(app, method, path, **more))


def error(answer):
    """The error in an answer, in OpenAI's shape."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()["error"]
    assert {*body} == {"message", "type", "param", "code"}
    return body


@pytest.mark.parametrize("key", [None, "", "wrong", KEY[:-1], f"{KEY}x", KEY.upper()])
def test_no_key_no_data(key):
    app = made()
    for method, path in [("POST", "/v1/echo/a"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/no/such")]:
        answer = asked(app, method, path, key=key)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert error(answer)["code"] == "invalid_api_key"
    for path in ("/", "/health"):
        assert asked(app, "GET", path, key=key).status_code == 200


def test_with_a_key_one_may_ask_and_with_the_admin_key_load():
    app = made()
    assert asked(app, "POST", "/v1/echo/a", content=b"12345").json() == {"size": 5, "gone": False}
    assert asked(app, "POST", "/v1/echo/a", key=ADMIN_KEY).status_code == 200
    for path in ADMIN:
        assert asked(app, "POST", path, key=ADMIN_KEY).status_code == 200
        assert error(asked(app, "POST", path))["code"] == "admin_key_needed"


def test_without_an_admin_key_nothing_can_be_loaded():
    answer = asked(made({}), "POST", ADMIN[0], key=None)
    assert answer.status_code == 403
    assert "TOKENQ_ADMIN_KEY" in error(answer)["message"]


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter/", "//v1/load_lora_adapter", "/v1/load%5Flora_adapter"])
def test_another_spelling_of_a_path_is_no_way_around(path):
    assert asked(made(), "POST", path).status_code in (307, 403, 404)
    assert asked(made(), "POST", path, follow_redirects=True).status_code in (403, 404)


def test_another_host_is_refused_before_the_key_is_looked_at():
    answer = asked(made(), "GET", "/", headers={"host": "evil.example:8000"})
    assert (answer.status_code, error(answer)["code"]) == (403, "unknown_host")


def test_pages_of_others_are_refused_unless_they_are_known():
    page = {"origin": "https://pages.example.org"}
    answer = asked(made(), "POST", "/v1/echo/a", headers=page)
    assert (answer.status_code, error(answer)["code"]) == (403, "unknown_origin")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert asked(made(), "POST", "/v1/echo/a", headers={"origin": "http://localhost:8000"}).status_code == 200
    app = made(origins=["https://pages.example.org"])
    answer = asked(app, "POST", "/v1/echo/a", headers=page)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://pages.example.org")
    assert "access-control-allow-credentials" not in answer.headers
    assert asked(app, "POST", "/v1/echo/a", headers={"origin": "https://evil.example"}).status_code == 403
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    assert asked(app, "OPTIONS", "/v1/echo/a", key=None, headers=page | asks).status_code == 200
    evil = {"origin": "https://evil.example"}
    refused = asked(app, "OPTIONS", "/v1/echo/a", key=None, headers=evil | asks)
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


def test_answers_say_what_a_browser_may_do_with_them():
    for path in ("/", "/metrics", "/no/such"):
        headers = asked(made(), "GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize("told", [True, False])
def test_a_body_over_the_limit_is_refused_whether_its_length_is_told_or_not(told):
    app = made(body_bytes=1000)

    async def parts(size):
        for _ in range(size // 100):
            yield b"x" * 100

    def content(size):
        return b"x" * size if told else parts(size)

    assert asked(app, "POST", "/v1/echo/a", content=content(1000)).json()["size"] == 1000
    answer = asked(app, "POST", "/v1/echo/a", content=content(1100))
    assert (answer.status_code, error(answer)["code"]) == (413, "request_too_large")
    assert "1,000 bytes" in error(answer)["message"]


@pytest.mark.integration
def test_a_client_has_so_many_requests_at_once_and_others_are_not_hindered():
    app = made(of_a_client=2)

    async def all_at_once():
        mine = [ask(app, "POST", "/slow") for _ in range(5)]
        return await asyncio.gather(*mine, ask(app, "POST", "/slow", key=ADMIN_KEY), ask(app, "GET", "/health"))

    answers = asyncio.run(all_at_once())
    assert sorted(one.status_code for one in answers[:5]) == [200, 200, 429, 429, 429]
    assert {one.headers["retry-after"] for one in answers[:5] if one.status_code == 429} == {"1"}
    assert [one.status_code for one in answers[5:]] == [200, 200]
    assert (app.gate.running, app.gate.inside) == (0, {})


def test_a_request_that_takes_too_long_is_given_up():
    app = made(seconds=0.05)
    answer = asked(app, "POST", "/slow")
    assert (answer.status_code, error(answer)["code"]) == (504, "timeout")
    assert app.gate.running == 0


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch):
    app = made()
    object.__setattr__(app.gate.app, "patience", 0.05)

    async def never():
        yield b"x"
        await asyncio.sleep(5)

    answer = asked(app, "POST", "/v1/echo/a", content=never())
    assert (answer.status_code, error(answer)["code"]) == (408, "request_timeout")


@pytest.mark.integration
def test_a_server_that_ends_takes_nothing_new():
    app = made()

    async def ending():
        under_way = asyncio.create_task(ask(app, "POST", "/slow"))
        await asyncio.sleep(0.05)
        app.gate.draining = True
        late, health, numbers = await asyncio.gather(
            ask(app, "POST", "/v1/echo/a"), ask(app, "GET", "/health"), ask(app, "GET", "/metrics")
        )
        return await under_way, late, health, numbers

    under_way, late, health, numbers = asyncio.run(ending())
    assert (under_way.status_code, late.status_code, health.status_code, numbers.status_code) == (200, 503, 503, 200)
    assert (error(late)["code"], late.headers["retry-after"]) == ("shutting_down", "5")


def numbers_of(app):
    lines = asked(app, "GET", "/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}


def test_metrics_count_by_path_and_type_and_apps_do_not_count_for_each_other():
    app, other = made(), made()
    app.metrics.watch(lambda: {"running": 3, "waiting": 2, "prefix_hits": 7, "a_number_of_another_day": 1})
    for _ in range(3):
        asked(app, "POST", "/v1/echo/a")
    asked(app, "POST", "/v1/echo/b", key="wrong")
    asked(app, "GET", "/no/such/path")
    asked(app, "POST", "/breaks")
    found = numbers_of(app)
    assert found['tokenq:http_requests_total{path="/v1/echo/{name}",status="200"}'] == 3
    assert found['tokenq:http_requests_total{path="other",status="404"}'] == 1
    assert found['tokenq:http_requests_total{path="other",status="401"}'] == 1
    assert found['tokenq:request_errors_total{type="key"}'] == 1
    assert found['tokenq:request_errors_total{type="server"}'] == 1
    assert found['tokenq:e2e_request_latency_seconds_count{path="/v1/echo/{name}"}'] == 3
    assert found["tokenq:num_requests_running"] == 3
    assert found["tokenq:num_requests_waiting"] == 2
    assert found["tokenq:prefix_cache_hits_total"] == 7
    assert found["process_resident_memory_bytes"] > 1e6
    assert not [name for name in numbers_of(other) if "http_requests_total" in name]


def test_the_log_has_neither_keys_nor_texts_nor_lines_of_others(caplog):
    app = made()
    with caplog.at_level(logging.INFO, logger="tokenq.access"):
        asked(app, "POST", "/v1/echo/a?api_key=a-secret-of-mine", content=b"a text of mine")
        asked(app, "POST", "/v1/echo/a", key="a-wrong-key-of-mine")
        asked(app, "GET", "/line%0Abreak%1b[31m")
        asked(app, "GET", "/health")
        asked(app, "POST", "/breaks")
    said = [record.getMessage() for record in caplog.records if record.name == "tokenq.access"]
    assert [line.split()[1:4] for line in said] == [
        ["POST", "/v1/echo/a", "200"],
        ["POST", "/v1/echo/a", "401"],
        ["GET", "/line%0Abreak%1B%5B31m", "404"],
        ["POST", "/breaks", "500"],
    ]
    assert not [line for line in said for secret in (KEY, "mine", "secret") if secret in line]


def test_a_socket_of_the_web_is_closed():
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [], "scheme": "ws"}
    asyncio.run(made()(scope, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_bodies_are_whole_and_read_once():
    async def parts():
        for part in (b'{"a"', b": [1,", b" 2]}"):
            yield part

    app = FastAPI()

    @app.post("/json")
    async def given(request: Request):
        return await request.json()

    answer = asked(guarded(app, Guards(), Metrics()), "POST", "/json", content=parts(), key=None)
    assert json.loads(answer.text) == {"a": [1, 2]}
