"""A stage of a round: batches that begin where they began before, each of their lines on disk before the next batch."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tokenq.data.prompts import Prompt
from tokenq.files import json_line
from tokenq.jobs.outputs import Parts
from tokenq.listener import Event, Listener
from tokenq.records.rollouts import Rollout
from tokenq.rollout.writer import Sample
from tokenq.search.settings import Sampling

T = TypeVar("T")


def in_batches(
    parts: Parts,
    own: Sequence[T],
    size: int,
    lines_of: Callable[[Sequence[T]], Sequence[Any]],
    heed: Callable[[], None],
    listener: Listener,
    stage: str,
) -> None:
    """Do what this process has to do, from where it stopped before.

    Args:
        parts: the file of the stage.
        own: the items of this process.
        size: items of a batch.
        lines_of: makes the lines of a batch, one an item.
        heed: called before every batch.
        listener: told how far it is.
        stage: its name.
    """
    done = parts.begin()
    for start in range(done // size * size, len(own), size):
        heed()
        lines = lines_of(own[start : start + size])
        for line in lines[max(0, done - start) :]:
            parts.append(json_line(line))
        listener(Event(stage, min(start + size, len(own)), len(own)))


def rollout_of(
    prompt: Prompt,
    ids: tuple[int, ...],
    sample: Sample,
    text: Callable[[Sequence[int], Sequence[int]], str],
    engine: str,
    sampling: Sampling,
    **more: Any,
) -> Rollout:
    """Return a response with all that is recorded of it.

    Args:
        prompt: what was written to.
        ids: the same in tokens.
        sample: what came back.
        text: (prompt, response) in tokens → the response's text.
        engine: what computed it.
        sampling: temperature and filters.
        more: what differs from the first response of the policy, to be compared.
    """
    how = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    told: dict[str, Any] = {"number": 0, "writer": "policy", "use": "compared"} | more | sample._asdict()
    if sample.version is None:
        told["version"] = more["version"]
    return Rollout(
        id=prompt.id,
        prompt=prompt.text,
        response=text(ids, sample.token_ids),
        prompt_ids=ids,
        sampling=how,
        engine=engine,
        condition=prompt.condition,
        **told,
    )
