"""Sixteen clients at once, long and short, some of whom go away: each has what a search and a reading say alone."""

import asyncio
import random

import anyio
import httpx
import pytest
from tiny import tiny_model, tiny_tokenizer

import tokenq

CLOSE = 1e-5
PROMPTS = [f"Question {one}: {'a b c ' * (one % 7)}what is {one}?" for one in range(24)]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def session(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for seed, name in enumerate("PR"):
        tiny_model(request.param, seed=seed).save_pretrained(folder / name)
        tiny_tokenizer("bytes").save_pretrained(folder / name)
    return tokenq.load(folder / "P", folder / "R", device="cpu")


async def asked(client, number):
    """Greedy text with log-probs of both models, and the log-probs of the prompt."""
    length = 3 + number * 5 % 29
    body = {"prompt": PROMPTS[number], "max_tokens": length, "temperature": 0, "logprobs": 0, "echo": True}
    body |= {"tokenq": {"rewards": True}, "return_token_ids": True}
    answer = await client.post("/v1/completions", json=body)
    answer.raise_for_status()
    return number, length, answer.json()["choices"][0]


async def gone(client, number, dice):
    """Begin a stream and go away."""
    body = {"prompt": PROMPTS[number], "max_tokens": 90, "stream": True, "n": 3, "tokenq": {"rewards": True}}
    with anyio.move_on_after(dice.uniform(0.01, 0.3)):
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for _ in answer.aiter_lines():
                pass


async def crowd(url):
    """Return what sixteen workers were answered to two rounds of all prompts, cancellations between them."""
    dice, found = random.Random(0), []
    turns = [(kind, number) for number in range(len(PROMPTS)) for kind in ("asked", "asked", "gone")]
    dice.shuffle(turns)
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def worker():
            while turns:
                kind, number = turns.pop()
                if kind == "gone":
                    await gone(client, number, dice)
                else:
                    found.append(await asked(client, number))

        await asyncio.gather(*(worker() for _ in range(16)))
    return found


@pytest.mark.slow
def test_each_has_what_search_and_score_say(session):
    with tokenq.serve(session, port=0) as server:
        found = asyncio.run(crowd(server.url))
    assert len(found) == 2 * len(PROMPTS)
    for number, length, choice in found:
        searched = session.decode(PROMPTS[number], method="greedy", max_new_tokens=length)[0].candidates[0]
        assert choice["token_ids"] == list(searched.token_ids)
        said = choice["logprobs"]["token_logprobs"][-len(searched.token_ids) :]
        assert said == pytest.approx(list(searched.logps), abs=CLOSE)
        assert choice["tokenq"]["ref_logprobs"] == pytest.approx(list(searched.ref_logps), abs=CLOSE)
        pairs = zip(searched.logps, searched.ref_logps, strict=True)
        assert choice["tokenq"]["implicit_rewards"] == pytest.approx([0.1 * (a - b) for a, b in pairs], abs=CLOSE)


@pytest.mark.slow
def test_log_probs_of_prompts_are_those_of_score(session):
    """A prompt is read as the response behind its first half: echoed log-probs are those of the trace."""
    with tokenq.serve(session, port=0) as server:
        found = {number: choice for number, _, choice in asyncio.run(crowd(server.url))}
    for number, choice in found.items():
        head, tail = PROMPTS[number][:9], PROMPTS[number][9:]
        own = session.score(head, tail).trace.tokens.numbers("logp").tolist()[: len(tail)]
        echoed = choice["logprobs"]["token_logprobs"]
        assert echoed[10 : 10 + len(tail)] == pytest.approx(own, abs=CLOSE)  # BOS and nine bytes before it
