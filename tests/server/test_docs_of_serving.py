"""What docs/serve.md shows runs as it stands: curl, the openai client, Python; its metrics are those of the server."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from test_docs_of_commands import blocks
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "serve.md"

CLIENT = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server of the page, and the folder of its models."""
    folder = tmp_path_factory.mktemp("served")
    for seed, name in enumerate("PR"):
        tiny_model("llama", layers=1, seed=seed).save_pretrained(folder / name)
        tiny_tokenizer("bytes").save_pretrained(folder / name)
    with tokenq.serve(tokenq.load(folder / "P", folder / "R", device="cpu"), port=0) as found:
        yield found, folder


def here(text, server):
    return text.replace("http://127.0.0.1:8000", server.url)


def test_the_command_is_one():
    (command,) = blocks(PAGE, "bash")[0].splitlines()
    assert main([*command.split()[1:], "--print-config"]) == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_curl_asks(server):
    answers = []
    for asked in re.split(r"(?<!\\)\n", blocks(PAGE, "bash")[1].strip()):
        done = subprocess.run(
            ["bash", "-c", here(asked, server[0])], capture_output=True, text=True, check=True, timeout=60
        )
        answers.append(done.stdout)
    plain, rewards, trace, ranking = map(json.loads, answers[:4])
    assert len(plain["choices"][0]["logprobs"]["token_logprobs"]) == 4
    assert len(rewards["choices"][0]["tokenq"]["implicit_rewards"]) == 4
    assert trace["response"] == " three"
    assert {one["index"] for one in ranking["results"]} == {0, 1}
    assert answers[4].rstrip().endswith("data: [DONE]")


@pytest.mark.integration
def test_python(server, monkeypatch):
    found, folder = server
    monkeypatch.chdir(folder)
    names = {}
    for block in blocks(PAGE, "python"):
        exec(compile(here(block, found), PAGE.name, "exec"), names)
    assert (names["name"], len(names["rewards"])) == ("P", 4)
    assert names["text"] == names["answer"].choices[0].text
    assert len(names["best"].choices) == 1
    assert names["url"].startswith("http://127.0.0.1:")


def test_every_metric_that_is_named_is_there(server):
    CLIENT.post(f"{server[0].url}/v1/completions", json={"prompt": "a", "max_tokens": 1})
    CLIENT.post(f"{server[0].url}/v1/completions", json={"no": 1})
    there = CLIENT.get(f"{server[0].url}/metrics").text
    told = PAGE.read_text().split("## Metrics")[1].split("\n## ")[0]
    names = re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", told)
    assert len(names) > 12
    assert [name for name in names if name not in there] == []
