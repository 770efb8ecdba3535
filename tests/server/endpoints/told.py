"""What answers say: asked, checked, and streams put together again."""

import itertools
import json

import numpy as np
import torch

from tokenq.core.packing import pack
from tokenq.models.forward.policy import logits_of
from tokenq.records.examples import TokenGroup, TokenResponse


def asked(client, path, **body):
    """Return the answer to a request that can be done."""
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client, path, status=400, **body):
    """Return the error of a request that cannot."""
    answer = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def chunks(client, path, **body):
    """Return the objects of a stream, which has come to its end."""
    with client.stream("POST", path, json={**body, "stream": True}) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert answer.status_code == 200, lines
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def table(lm, prompt, response):
    """[T, V] log-probs at each token of a response, from one forward over the whole row."""
    one = TokenResponse(np.array(response, np.int32), np.ones(len(response), np.bool_), terminal=False)
    batch = pack([TokenGroup(np.array(prompt, np.int32), (one,), False, "")])
    with torch.no_grad():
        return logits_of(lm)(batch).row(slice(None)).T.double().log_softmax(-1)


def of_tokens(rows, ids):
    return [float(row[one]) for row, one in zip(rows, ids, strict=True)]


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


def close(one, other):
    """Whether two objects are the same, numbers to 1e-5: what ran beside a request decides the last bits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-5
    return one == other
