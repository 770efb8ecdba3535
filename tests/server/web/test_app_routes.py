"""The app's endpoints: what is read, written and searched for a session, and what goes out of it as files.

Numbers are those of `tokenq score` and `tokenq search` on the same models.
"""

import json
import re
import sqlite3

import pytest
from fastapi.testclient import TestClient
from tiny import CHATML
from web_apps import app_of, tiny_reader

from tokenq.data.examples import read_examples
from tokenq.data.files.local import read_file
from tokenq.records.traces import TokenTrace
from tokenq.server.web.page import OWN
from tokenq.server.web.reading import OTHER_TOKENS

PROMPT = "2 + 3 ="
HOSTILE = (
    "<script>alert(1)</script>",
    "</textarea><img src=x onerror=alert(1)>",
    "a\u0000b\u202e\u200b",
    "👩‍👩‍👧 שלום 你好",
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    reader, file = tiny_reader(), tmp_path_factory.mktemp("desk") / "sessions.sqlite"
    app, engine = app_of(reader, file)
    with TestClient(app) as client:
        yield client, reader, file
    engine.close()


@pytest.fixture
def client(desk):
    return desk[0]


@pytest.fixture
def reader(desk):
    return desk[1]


@pytest.fixture
def session(client, request):
    name = re.sub(r"\W", "", request.node.name)[:60]
    client.post("/app/sessions", json={"id": name, "name": "sums", "prompt": PROMPT}).raise_for_status()
    return f"/app/sessions/{name}"


def events(answer):
    parts = [part.split("\n") for part in answer.text.strip().split("\n\n")]
    return [(one[0].removeprefix("event: "), json.loads(one[1].removeprefix("data: "))) for one in parts]


def pasted(client, session, text, name="b1"):
    answer = client.post(f"{session}/branches", json={"id": name, "name": name, "text": text})
    assert answer.status_code == 200, answer.text
    return answer.json()


def written(client, session, **asked):
    body = {"run": "r1", "branches": ["w1"], "names": ["answer"], "max_new_tokens": 5, "seed": 7, **asked}
    answer = client.post(f"{session}/write", json=body)
    assert answer.status_code == 200, answer.text
    return events(answer)


def test_the_page_is_open_and_closed_to_scripts_of_others(client):
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"<script(?! type=\"application/json\")[^>]*>", page.text) == [
        '<script type="module" src="/static/app.js">'
    ]
    assert not re.search(r"(?:src|href)=\"https?:|\son\w+=|\sstyle=", page.text)
    script = client.get("/static/app.js").text
    assert "innerHTML" not in script
    assert "outerHTML" not in script
    assert "insertAdjacentHTML" not in script
    assert client.get("/static/app.css").headers["content-type"].startswith("text/css")
    assert client.get("/static/desk.py").status_code == 404
    assert "app.js" in OWN


def test_a_pasted_response_is_read_as_score_reads_it(client, session, reader):
    branch = pasted(client, session, "It is five.")
    own = reader.score(PROMPT, "It is five.").trace
    assert branch["total"] == pytest.approx(own.totals.implicit_reward, abs=1e-6)
    (line,) = client.get(f"{session}/traces.jsonl").text.splitlines()
    kept = TokenTrace.from_dict(json.loads(line))
    assert kept.tokens.texts() == own.tokens.texts()
    assert kept.tokens.columns["logp"] == pytest.approx(own.tokens.columns["logp"], abs=1e-6)
    assert {**json.loads(line), "id": ""} == {**json.loads(json.dumps(own.to_dict())), "id": ""}


def test_what_is_written_is_told_token_by_token_and_read_afterwards(client, session, reader):
    told = written(client, session)
    assert [name for name, _ in told] == ["start", *["token"] * 5, "branch", "done"]
    tokens = [data for name, data in told if name == "token"]
    branch = told[-2][1]["branch"]
    assert branch["ids"] == [one["id"] for one in tokens]
    (line,) = client.get(f"{session}/traces.jsonl").text.splitlines()
    trace = TokenTrace.from_dict(json.loads(line))
    assert trace.tokens.columns["id"].tolist() == branch["ids"]
    for name in ("logp", "ref_logp"):
        assert [one[name] for one in tokens] == pytest.approx(trace.tokens.columns[name].tolist(), abs=1e-5)
    assert [one["reward"] for one in tokens] == pytest.approx(
        trace.tokens.columns["implicit_reward"].tolist(), abs=1e-5
    )
    assert sum(one["reward"] for one in tokens) == pytest.approx(branch["total"], abs=1e-5)
    likely = trace.tokens[0].likely
    assert [one[0] for one in tokens[0]["top"]] == [one.id for one in likely]
    assert [one[2] for one in tokens[0]["top"]] == pytest.approx([one.logp for one in likely], abs=1e-5)
    assert [one[3] for one in tokens[0]["top"]] == pytest.approx([one.ref_logp for one in likely], abs=1e-5)


def test_another_token_is_taken_and_the_policy_goes_on_behind_it(client, session):
    """At temperature 0 what follows the likeliest token is what followed it before; another one leads elsewhere."""
    first = written(client, session, temperature=0)[-2][1]["branch"]
    same = written(
        client, session, temperature=0, parent="w1", at=2, token=first["ids"][2], branches=["w2"], max_new_tokens=2
    )
    branch = same[-2][1]["branch"]
    assert (branch["parent"], branch["at"]) == ("w1", 2)
    assert branch["ids"] == first["ids"]
    other = (first["ids"][2] + 1) % 250 + 5
    led = written(client, session, temperature=0, parent="w1", at=2, token=other, branches=["w3"], max_new_tokens=2)
    assert led[0][1]["ids"] == [*first["ids"][:2], other]
    assert led[-2][1]["branch"]["ids"][:3] == [*first["ids"][:2], other]
    shown = client.get(f"{session}/reading", params={"branch": ["w1", "w3"]}).json()
    assert shown["pair"]["shared"] == 2
    assert shown["pair"]["margin"] == pytest.approx(first["total"] - led[-2][1]["branch"]["total"], abs=1e-4)
    assert [one["id"] for one in shown["traces"]] == ["answer", "answer"]
    words = shown["index"]["vocabulary"]
    assert len(words["bytes"]) == len(words["id"])


def test_several_answers_are_branches_each(client, session):
    told = written(client, session, branches=["a", "b", "c"], names=["one", "two", "three"], max_new_tokens=3)
    kept = [data["branch"] for name, data in told if name == "branch"]
    assert [one["name"] for one in kept] == ["one", "two", "three"]
    assert len({tuple(one["ids"]) for one in kept}) == 3
    assert [one["id"] for one in client.get(session).json()["branches"]] == ["a", "b", "c"]


def test_a_text_that_tokenises_otherwise_than_it_was_written_says_so():
    """ "bpe" merges pairs of letters; written letter by letter, they are other tokens than those of the text."""
    reader = tiny_reader(kind="bpe")
    app, engine = app_of(reader)
    with TestClient(app) as client:
        client.post("/app/sessions", json={"id": "s", "name": "s", "prompt": PROMPT}).raise_for_status()
        whole = pasted(client, "/app/sessions/s", "the sum the sum", "whole")
        assert whole["warnings"] == []
        letters = reader.tokenizer.convert_tokens_to_ids(list("the"))
        body = {"id": "x", "name": "x", "ids": letters, "origin": "written"}
        spelt = client.post("/app/sessions/s/branches", json=body).json()
        assert spelt["text"] == "the"
        assert OTHER_TOKENS in spelt["warnings"]
    engine.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_come_back_as_they_are(client, session, text):
    assert pasted(client, session, text)["text"] == text
    shown = client.get(f"{session}/reading", params={"branch": "b1"})
    assert "".join(shown.json()["traces"][0]["tokens"]["text"]) == text
    assert shown.headers["content-type"] == "application/json"


@pytest.mark.integration
def test_a_search_tells_its_tree_and_what_was_found(client, session, reader):
    body = {"run": "r1", "method": "beam", "settings": {"width": 3, "objective": "reward", "max_new_tokens": 4}}
    told = events(client.post(f"{session}/search", json=body))
    assert told[-1][0] == "done"
    result = told[-2][1]["result"]
    (own,) = reader.decode(PROMPT, method="beam", width=3, objective="reward", max_new_tokens=4)
    assert [one["id"] for one in result["candidates"]] == [list(one.token_ids) for one in own.candidates]
    assert result["tree"]["tokens"] == len(own.tree.parents) - 1
    kept = {"id": "k", "name": "beam 1", "ids": result["candidates"][0]["id"], "origin": "search"}
    branch = client.post(f"{session}/branches", json=kept).json()
    assert branch["total"] == pytest.approx(own.candidates[0].score, abs=1e-4) or not own.candidates[0].terminal


@pytest.mark.integration
def test_a_search_goes_on_behind_a_part_of_a_branch(client, session):
    """Greedy behind two greedy tokens finds the rest of the greedy text."""
    whole = written(client, session, temperature=0, max_new_tokens=5)[-2][1]["branch"]
    body = {"run": "r1", "method": "greedy", "parent": "w1", "at": 2, "settings": {"max_new_tokens": 3}}
    told = events(client.post(f"{session}/search", json=body))
    assert told[-2][1]["begun"] == whole["ids"][:2]
    assert told[-2][1]["result"]["candidates"][0]["id"] == whole["ids"][2:]


def test_the_better_branch_makes_a_pair_that_is_read_as_one(client, session, tmp_path):
    pasted(client, session, "It is five.", "b1")
    pasted(client, session, "It is <script>", "b2")
    client.put(f"{session}/pairs", json={"better": "b1", "worse": "b2"}).raise_for_status()
    (tmp_path / "pairs.jsonl").write_bytes(client.get(f"{session}/pairs.jsonl").content)
    (example,) = read_examples(read_file(tmp_path / "pairs.jsonl", "pairs.jsonl")).examples
    assert example.is_pair
    assert example.prompt == PROMPT
    assert [one.content for one in example.responses] == ["It is five.", "It is <script>"]
    assert client.get("/app/pairs.jsonl").content.count(b"\n") >= 1
    client.delete(f"{session}/pairs", params={"one": "b2", "other": "b1"}).raise_for_status()
    assert client.get(f"{session}/pairs.jsonl").text == ""


def test_pairs_of_a_chat_model_are_turns(tmp_path):
    app, engine = app_of(tiny_reader(chat_template=CHATML))
    with TestClient(app) as client:
        client.post("/app/sessions", json={"id": "s", "name": "s", "prompt": "Hi"}).raise_for_status()
        pasted(client, "/app/sessions/s", "Hello.", "b1")
        told = written(client, "/app/sessions/s", branches=["b2"])
        assert [name for name, _ in told][-2:] == ["branch", "done"]
        client.put("/app/sessions/s/pairs", json={"better": "b1", "worse": "b2"}).raise_for_status()
        row = json.loads(client.get("/app/sessions/s/pairs.jsonl").text)
        assert row["prompt"] == [{"role": "user", "content": "Hi"}]
        assert row["chosen"] == [{"role": "assistant", "content": "Hello."}]
        shown = client.get("/app/sessions/s/reading", params={"branch": ["b1", "b2"]}).json()
        assert shown["pair"] is not None  # both have the same prompt, as text too
    engine.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("get", "/app/sessions/none", None, 404, "There is no session 'none'"),
        ("post", "{}/write", {"run": "r", "branches": ["w"], "names": ["x"], "parent": "no"}, 404, "no branch 'no'"),
        ("post", "{}/write", {"run": "r", "branches": ["w"], "names": ["x"], "token": 10**6}, 400, "no token 1000000"),
        ("post", "{}/write", {"run": "r", "branches": ["w"], "names": ["x"], "parent": "b1", "at": 99}, 400, "not 99"),
        ("post", "{}/write", {"run": "r", "branches": ["w"], "names": ["x"], "temperature": -1}, 400, "temperature"),
        ("post", "{}/write", {"run": "r", "branches": ["w"], "names": ["x"], "best_of": 3}, 400, "best_of"),
        ("post", "{}/write", {"run": "r", "branches": [], "names": ["x"]}, 400, "branches"),
        ("post", "{}/search", {"run": "r", "method": "bream"}, 400, "method"),
        ("post", "{}/branches", {"id": "x", "name": "x"}, 400, "a text, or tokens"),
        ("post", "{}/branches", {"id": "x", "name": "x", "text": ""}, 400, "token"),
        ("post", "{}/branches", {"id": "../x", "name": "x", "text": "a"}, 400, "id"),
        ("put", "{}/pairs", {"better": "b1", "worse": "b1"}, 400, "better than itself"),
        ("put", "{}/pairs", {"better": "b1", "worse": "b9"}, 404, "b9"),
    ],
)
def test_what_cannot_be_meant_is_said(client, session, method, path, body, status, said):
    pasted(client, session, "five", "b1")
    answer = client.request(method, path.format(session), json=body)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text
    assert [one["id"] for one in client.get(session).json()["branches"]] == ["b1"]


def test_a_session_of_other_models_is_looked_at_and_not_added_to(desk, session):
    client, _, file = desk
    pasted(client, session, "five", "b1")
    with sqlite3.connect(file) as others:
        others.execute("UPDATE sessions SET models = '{}' WHERE id = ?", (session.rsplit("/", 1)[1],))
    assert client.get(session).json()["other_models"] is True
    answer = client.post(f"{session}/branches", json={"id": "b2", "name": "x", "text": "six"})
    assert answer.status_code == 409
    assert "other models" in answer.json()["error"]["message"]
    assert client.get(f"{session}/reading", params={"branch": "b1"}).status_code == 200


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 3}, "n"),
        ({"widht": 3}, "Did you mean 'width'"),
        ({"reward_model": "/somewhere", "trust_remote_code": True}, "reward_model"),
        ({"max_new_tokens": 10**6}, "up to the 4096"),
        ({"max_new_tokens": "many"}, "up to the 4096"),
    ],
)
def test_a_search_takes_the_settings_of_its_method_alone(client, session, settings, said):
    answer = client.post(f"{session}/search", json={"run": "r", "method": "beam", "settings": settings})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


@pytest.mark.integration
def test_a_search_that_fails_says_so_at_its_end(client, session):
    body = {"run": "r", "method": "beam", "settings": {"width": 0}}
    told = events(client.post(f"{session}/search", json=body))
    assert [name for name, _ in told][-2:] == ["error", "done"]
    assert "width" in told[-2][1]["message"]


def test_a_text_beyond_the_context_is_read_with_a_warning(client, session):
    """The tiny model was made for 256 tokens, and its positions go on."""
    assert any("longer than 256 tokens" in one for one in pasted(client, session, "a" * 400)["warnings"])


def test_what_is_not_running_cannot_be_stopped(client):
    assert client.post("/app/stop/nothing").json() == {"stopped": False}
