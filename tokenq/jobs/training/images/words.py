"""What a refiner wrote for pictures, in tokens: as they were sampled where the data have them, else from its text."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tokenq.data.encoding import text_of
from tokenq.data.tokenize import refuse_bad, tokenize
from tokenq.diffusion.rows import PictureGroup
from tokenq.jobs.training.images.rows import PictureRow, Side
from tokenq.records.examples import Example, Message, Response, Text, TokenGroup, TokenResponse
from tokenq.training.config import TrainConfig


def _as_given(prompt: str, drawn: str) -> tuple[Text, Text]:
    return prompt, drawn


def _as_chat(prompt: str, drawn: str) -> tuple[Text, Text]:
    return (Message("user", prompt),), (Message("assistant", drawn),)


_STYLES = {"as_given": _as_given, "chat": _as_chat}


def with_words(
    groups: Sequence[PictureGroup], rows: Sequence[PictureRow], config: TrainConfig, tokenizer: Any
) -> list[PictureGroup]:
    """Return the groups with what a refiner read and wrote in tokens, without those that are too long.

    Ids that were sampled are taken as they are where this tokenizer makes the same prompt and the same words of them.
    Both sides may have been drawn from the same words: they differ in their pictures then.

    Args:
        groups: of pictures.
        rows: what each was made of.
        config: style and limits.
        tokenizer: the refiner's.
    """
    style, examples = _STYLES[config.style], []
    for group in groups:
        prompt = style(group.prompt, "")[0]
        responses = (Response(style("", one.drawn_prompt)[1], role=one.role) for one in group.responses)
        examples.append(Example(prompt, tuple(responses), is_pair=False, where=group.where))
    limits = {name: getattr(config, name) for name in ("max_length", "max_prompt_length", "truncation")}
    data = tokenize(examples, tokenizer, **limits)
    if config.bad_rows == "error":
        refuse_bad(data)
    found = {id(one.responses[0].given): one for one in data.groups}
    kept = []
    for group, row, example in zip(groups, rows, examples, strict=True):
        words = found.get(id(example.responses[0]))
        if words is not None:
            some = _sampled(words, row, config.max_length, tokenizer)
            written = tuple(replace(own, words=one) for own, one in zip(group.responses, some, strict=True))
            kept.append(replace(group, responses=written, prompt_ids=words.prompt_ids))
    return kept


def _sampled(words: TokenGroup, row: PictureRow, most: int | None, tokenizer: Any) -> list[TokenResponse]:
    """Return the responses of a group of words, in the ids that were sampled where these are the same text."""
    prompt = words.prompt_ids.tolist()

    def fits(side: Side) -> bool:
        known = bool(side.token_ids) and row.prompt_ids == tuple(prompt)
        return (
            known
            and (most is None or len(prompt) + len(side.token_ids) <= most)
            and text_of(tokenizer, prompt, side.token_ids).strip() == side.drawn_prompt
        )

    found = []
    for side, one in zip(row.sides, words.responses, strict=True):
        plain = replace(one, given=None)
        if fits(side):
            ids = np.array(side.token_ids, np.int32)
            ended = int(ids[-1]) == tokenizer.eos_token_id
            plain = replace(plain, ids=ids, mask=np.ones(len(ids), np.bool_), terminal=ended)
        found.append(plain)
    return found
