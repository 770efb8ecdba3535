"""Chains written by a stub behind an endpoint and by a tiny policy: forms, repairs, attempts, resumption, refusals."""

import inspect
import json
from dataclasses import MISSING, fields

import pytest
from evaluation.stub_endpoint import StubEndpoint, said
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.density import prompt
from tokenq.errors import UserError
from tokenq.jobs.density.config import DensifyConfig
from tokenq.jobs.density.densify import densify

pytestmark = pytest.mark.integration

ARTICLE = "A ferry ran aground near Hven on Tuesday. Captain Maja Lindholm blamed the owner, Oresund Lines."
SUMMARIES = ["A ship ran aground near an island.", "A ferry ran aground near Hven on Tuesday."]
CHAIN = [
    {"Missing_Entities": "", "Denser_Summary": SUMMARIES[0]},
    {"Missing_Entities": "Hven; Tuesday", "Denser_Summary": SUMMARIES[1]},
]


@pytest.fixture
def endpoint():
    stub = StubEndpoint(lambda number, question: said(json.dumps(CHAIN)))
    yield stub
    stub.close()


def asked(endpoint, **settings):
    own = {"steps": 2, "words": 8} | settings
    return densify(writer=endpoint.url, articles=[{"article": ARTICLE}], **own)


def test_its_keywords_are_the_flags_of_the_command():
    signature = inspect.signature(densify).parameters
    assert {*signature} == {one.name for one in fields(DensifyConfig)} | {"tokenizer", "listener"}
    for one in fields(DensifyConfig):
        known = one.default if one.default is not MISSING else one.default_factory()
        assert signature[one.name].default == known or dict(signature[one.name].default) == dict(known)
    assert tokenq.densify is densify


def test_a_chain_in_one_answer(endpoint):
    """Seven words and a point, then eight: no entities in 8 tokens, Hven and Tuesday in 9."""
    (row,) = asked(endpoint)
    assert row["summaries"] == SUMMARIES
    assert row["missing"] == [[], ["Hven", "Tuesday"]]
    assert row["entities"] == [[], ["Hven", "Tuesday"]]
    assert row["densities"] == [0.0, 2 / 9]
    assert row["words"] == [7, 8]
    assert row["length_kept"] == [False, True]  # 5 % of 8 words is less than one
    assert row["repairs"] == {}
    question = endpoint.requests[0]["messages"][0]["content"]
    assert ARTICLE in question
    assert "about 8 words" in question
    assert endpoint.requests[0]["temperature"] == 0.7


def test_what_cannot_be_read_is_asked_again_and_counted(endpoint):
    answers = ["I would rather not.", f"Sure:\n```json\n{json.dumps(CHAIN)}\n```"]
    endpoint.behave = lambda number, question: said(answers[number])
    (row,) = asked(endpoint, attempts=2)
    assert row["summaries"] == SUMMARIES
    assert row["repairs"] == {"in fences": 1, "beside prose": 1}
    assert row["questions"] == 2
    assert len({one["seed"] for one in endpoint.requests}) == 2


def test_an_article_without_a_chain_has_a_line_that_says_why(endpoint, tmp_path):
    endpoint.behave = lambda number, question: said("no")
    (row,) = asked(endpoint, output=tmp_path / "chains.jsonl")
    assert (row["summaries"], row["problem"]) == ([], "there is no list of records in it")


def stepwise(number, question):
    if question.rstrip().endswith("Missing:"):
        return said("Hven; Atlantis; the captain of a ferry with a name\nand more")
    return said(SUMMARIES[1] if "Missing:" in question else f"Summary: {SUMMARIES[0]}\n\nArticle: another")


def test_in_steps_only_what_the_article_has_is_taken(endpoint):
    endpoint.behave = stepwise
    (row,) = asked(endpoint, form="steps")
    assert row["summaries"] == SUMMARIES
    assert row["missing"] == [[], ["Hven"]]
    assert row["questions"] == 3


def test_guided_by_the_entities_of_the_article(endpoint):
    endpoint.behave = stepwise
    (row,) = asked(endpoint, form="guided", steps=3)
    assert row["missing"] == [[], ["Hven", "Tuesday"]]
    assert row["repairs"] == {"the same summary twice": 1}  # the writer gives the same answer to Maja Lindholm
    assert "Maja Lindholm; Oresund Lines" in endpoint.requests[-1]["messages"][0]["content"]


def test_the_best_of_several_attempts_has_the_length(endpoint):
    endpoint.behave = lambda number, question: said(" ".join(["word"] * (3, 8, 20)[number]))
    articles = [{"article": "nothing here"}]
    (row,) = densify(writer=endpoint.url, articles=articles, form="guided", steps=2, words=8, attempts=3)
    assert row["words"] == [8]
    assert row["repairs"] == {"no entities left": 1}
    assert row["questions"] == 2


def test_a_text_that_is_gone_on_with(endpoint):
    answer = {"choices": [{"text": " Rain."}]}
    endpoint.behave = lambda number, question: (200, {}, json.dumps(answer).encode())
    (row,) = asked(endpoint, form="steps", writer_api="completions", eos=["\\n\\n"])
    assert row["summaries"] == ["Rain."]
    assert endpoint.requests[0]["path"] == "/v1/completions"
    assert endpoint.requests[0]["stop"] == ["\n\n"]


def test_what_was_written_is_not_asked_for_again(endpoint, tmp_path):
    articles, path = [{"article": f"{ARTICLE} {n}"} for n in range(4)], tmp_path / "chains.jsonl"
    settings = {"steps": 2, "words": 8, "batch_size": 1, "output": path}

    def dies(number, question):
        if number == 2:
            return 401, {}, b"{}"
        return said(json.dumps(CHAIN))

    endpoint.behave = dies
    with pytest.raises(UserError, match="status 401"):
        densify(writer=endpoint.url, articles=articles, **settings)
    assert not path.exists()
    endpoint.behave = lambda number, question: said(json.dumps(CHAIN))
    rows = densify(writer=endpoint.url, articles=articles, **settings)
    assert len(endpoint.requests) == 5  # two, the refused one, and the two that were left
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    record = json.loads((tmp_path / "chains.jsonl.provenance.json").read_text())
    assert (record["made_by"], record["records"]) == ("tokenq densify", 4)
    densify(writer=endpoint.url, articles=articles, **settings)
    assert len(endpoint.requests) == 5


def test_a_policy_writes_chains_that_are_read_again(tmp_path, monkeypatch):
    """Its context is short, and so are the questions; what random weights say is no matter."""
    monkeypatch.setattr(prompt, "FIRST", "{article}")
    monkeypatch.setattr(prompt, "DENSER", "{summary} {entities}")
    model, tokenizer = tiny_model("llama", layers=1), tiny_tokenizer("bytes")
    settings = {"form": "guided", "steps": 3, "words": 6, "device": "cpu", "max_new_tokens": 12}
    articles = [{"article": "Rain in Lyon on Monday.", "prompt": "Say it."}]
    (row,) = densify((model, tokenizer), articles, output=tmp_path / "chains.jsonl", **settings)
    assert row["prompt"] == "Say it."
    assert row["missing"][1:] == [["Lyon", "Monday"]] * (len(row["summaries"]) - 1)
    assert [one.content for one in read_examples([Row(row, "row 1")], selection="all").examples[0].responses]
    assert densify((model, tokenizer), articles, **settings) == [row]
    record = json.loads((tmp_path / "chains.jsonl.provenance.json").read_text())
    assert record["made_by"] == "tokenq densify"


def test_a_function_of_ones_own_finds_entities(endpoint, tmp_path):
    (tmp_path / "own.py").write_text(
        "def ships(text):\n    at = text.find('ferry')\n    return [(at, at + 5)] if at >= 0 else []\n"
        "def wrong(text):\n    return [(0, len(text) + 1)]\n"
    )
    (row,) = asked(endpoint, entities=f"{tmp_path}/own.py:ships")
    assert row["entities"] == [[], ["ferry"]]
    with pytest.raises(UserError, match="gave \\(0, "):
        asked(endpoint, entities=f"{tmp_path}/own.py:wrong")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"writer": "local"}, "nobody to write"),
        ({"policy": "p", "writer": "http://x"}, "nobody to write, or two"),
        ({"articles": []}, "--articles is missing"),
        ({"output": "x.json"}, "chains are lines of JSON"),
        ({"attempts": 2, "temperature": 0.0}, "nothing is drawn"),
        ({"prompt_file": "p.txt", "form": "steps"}, "question of --form chain"),
        ({"entities": "nltk"}, "nothing of this name finds entities"),
        ({"articles": [{"body": "x"}]}, "has no article"),
        ({"articles": [{"article": " "}]}, "is empty"),
        ({"steps": 1}, "--steps is 1"),
    ],
)
def test_what_is_refused(settings, says):
    with pytest.raises(UserError, match=says):
        densify(**{"writer": "http://127.0.0.1:1", "articles": [{"article": "x"}], **settings})


def test_the_command(endpoint, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps({"article": ARTICLE}) + "\n")
    output = tmp_path / "chains.jsonl"
    words = [
        "--writer",
        endpoint.url,
        "--articles",
        tmp_path / "a.jsonl",
        "--steps",
        2,
        "--words",
        8,
        "--output",
        output,
    ]
    assert main(["densify", *map(str, words)]) == 0
    shown = capsys.readouterr()
    assert "density by step, entities by rules: 0.000 0.222 (paper: 0.089" in shown.out + shown.err
    assert json.loads(output.read_text())["summaries"] == SUMMARIES
