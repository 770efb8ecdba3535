"""Clients that others have written, at a real server; and clients that go before they are answered."""

import asyncio
import contextlib
import json
import time

import httpx
import openai
import pytest
from conftest import Scripted, listening
from told import close

from tokenq.server.app import create_app

pytestmark = pytest.mark.integration

MESSAGES = [{"role": "user", "content": "The cat"}]
HOW = {"model": "tiny", "max_tokens": 4, "seed": 3}


@pytest.fixture(scope="module")
def sync(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_lists_models(sync):
    assert [one.id for one in sync.models.list()] == ["tiny"]
    assert sync.models.retrieve("tiny").owned_by == "tokenq"


def test_openai_completes_and_streams_alike(sync):
    whole = sync.completions.create(**HOW, prompt="The cat", logprobs=1, n=2)
    parts = {0: "", 1: ""}
    for chunk in sync.completions.create(**HOW, prompt="The cat", n=2, stream=True):
        parts[chunk.choices[0].index] += chunk.choices[0].text
    assert [one.text for one in whole.choices] == [parts[0], parts[1]]
    assert all(one.logprobs is not None and len(one.logprobs.tokens) == 4 for one in whole.choices)


def test_openai_chats_and_reads_rewards(sync):
    extra = {"tokenq": {"rewards": True}}
    whole = sync.chat.completions.create(**HOW, messages=MESSAGES, extra_body=extra, logprobs=True, top_logprobs=2)
    rewards = whole.choices[0].model_extra["tokenq"]
    assert len(rewards["implicit_rewards"]) == len(rewards["ref_logprobs"]) == whole.usage.completion_tokens
    assert rewards["sequence_reward"] == pytest.approx(sum(rewards["implicit_rewards"]))
    told, text = [], ""
    stream = sync.chat.completions.create(
        **HOW, messages=MESSAGES, extra_body=extra, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            told += (choice.model_extra.get("tokenq") or {"implicit_rewards": []})["implicit_rewards"]
    assert text == whole.choices[0].message.content
    assert close(told, rewards["implicit_rewards"])
    assert chunk.usage == whole.usage


def test_many_at_once_through_the_asynchronous_client(url, sync):
    prompts = [f"{'The cat sat. ' * (n % 4)}{n}" for n in range(16)]

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            every = (client.completions.create(**HOW, prompt=one, temperature=0) for one in prompts)
            return [one.choices[0].text for one in await asyncio.gather(*every)]

    alone = [sync.completions.create(**HOW, prompt=one, temperature=0).choices[0].text for one in prompts]
    assert asyncio.run(ask()) == alone


def test_openai_raises_its_own_errors(sync):
    with pytest.raises(openai.NotFoundError, match="tiny"):
        sync.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match="Unknown parameter: nonsense") as caught:
        sync.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={"nonsense": 1})
    assert caught.value.param == "nonsense"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_goes_frees_what_it_asked_for(pair, settings, stream):
    engine = Scripted(pair, [[75, 76]], hangs=True)
    body = {"prompt": "The cat", "stream": stream, "max_tokens": 9}
    with listening(create_app(engine, settings)) as url:
        with (
            contextlib.suppress(httpx.ReadTimeout),
            httpx.Client(timeout=0.3) as client,
            client.stream("POST", f"{url}/v1/completions", json=body) as answer,
        ):
            assert json.loads(next(answer.iter_lines()).removeprefix("data: "))["choices"]
        end = time.monotonic() + 5
        while not (engine.slips and engine.slips[0].cancelled) and time.monotonic() < end:
            time.sleep(0.01)
    assert engine.slips[0].cancelled
